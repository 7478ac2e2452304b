"""Reports: CSV and TensorBoard hold the whole history, also of a run that was taken up."""

from __future__ import annotations

import builtins
import csv
import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from hedgerow.driver import CsvReport, History, RoundEnd, TensorBoardReport
from hedgerow.errors import ConfigError
from tests.unit.driver.fakes import model


def history(rounds: int) -> History:
    made = History()
    for number in range(rounds + 1):
        made.add_loss_centralized(number, 1.0 / (number + 1))
        if number % 2:
            made.add_metrics_distributed(number, {"accuracy": number / 10, "who": "a, b"})
    return made


def tell(report: Any, rounds: range) -> None:
    for number in rounds:
        report.on_round_end(RoundEnd(number, model(0.0), history(number)))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def events(folder: Path) -> list[Event]:
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack_from("<Q", data)
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """As TensorBoard reads them: a session that starts at a step supersedes what was written from that step on."""
    found: dict[str, dict[int, float]] = {}
    for event in events(folder):
        if event.HasField("session_log"):
            found = {name: {s: v for s, v in values.items() if s < event.step} for name, values in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = round(value.simple_value, 6)
    return found


def test_csv_has_a_row_for_each_round_and_a_column_for_each_series(tmp_path: Path) -> None:
    path = tmp_path / "made" / "run.csv"
    tell(CsvReport(path), range(4))
    found = rows(path)
    assert list(found[0]) == ["round", "losses_centralized", "metrics_distributed/accuracy", "metrics_distributed/who"]
    assert [row["round"] for row in found] == ["0", "1", "2", "3"]
    assert list(found[1].values()) == ["1", "0.5", "0.1", "a, b"]
    assert list(found[2].values()) == ["2", str(1 / 3), "", ""]
    assert [p.name for p in path.parent.iterdir()] == ["run.csv"]


def test_csv_of_a_run_that_was_taken_up_is_whole(tmp_path: Path) -> None:
    tell(CsvReport(tmp_path / "one.csv"), range(6))
    tell(CsvReport(tmp_path / "two.csv"), range(3))
    tell(CsvReport(tmp_path / "two.csv"), range(2, 6))
    tell(CsvReport(tmp_path / "elsewhere.csv"), range(4, 6))
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "two.csv").read_text() == (tmp_path / "elsewhere.csv").read_text()


def test_tensorboard_has_the_numbers_of_the_history(tmp_path: Path) -> None:
    report = TensorBoardReport(tmp_path / "events")
    tell(report, range(4))
    report.on_run_end(history(3))
    assert scalars(tmp_path / "events") == {
        "losses_centralized": {0: 1.0, 1: 0.5, 2: 0.333333, 3: 0.25},
        "metrics_distributed/accuracy": {1: 0.1, 3: 0.3},
    }
    assert sum(len(event.summary.value) for event in events(tmp_path / "events")) == 6, "each value is written once"


def test_tensorboard_of_a_run_that_was_taken_up_is_whole(tmp_path: Path) -> None:
    for rounds in (range(3), range(2, 4)):
        report = TensorBoardReport(tmp_path / "events")
        tell(report, rounds)
        report.on_run_end(history(3))
    assert scalars(tmp_path / "events")["losses_centralized"] == {0: 1.0, 1: 0.5, 2: 0.333333, 3: 0.25}


def test_tensorboard_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("tensorboardX"):
            raise ImportError("No module named 'tensorboardX'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"hedgerow\[tensorboard\]"):
        TensorBoardReport(tmp_path)


def test_nothing_is_left_of_a_run_without_rounds(tmp_path: Path) -> None:
    TensorBoardReport(tmp_path / "events").on_run_end(History())
    assert list(tmp_path.iterdir()) == []
