"""The journal of a round: what was asked comes back in order, and is forgotten when the round is over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hedgerow.driver.durable import write_sealed
from hedgerow.driver.journal import Asked, Batch, Journal, SentIns, Unfolded
from hedgerow.errors import ConfigError, CorruptData
from hedgerow.records import Blob

BATCH = Batch(
    3,
    "fit",
    [Asked("node0002", "b", 0), Asked("node0001", "a", 1), Asked("node0003", "c", 0)],
    [SentIns({"lr": 0.1, "raw": b"\0", "n": True}, Blob("a" * 64, 5), True), SentIns({}, b"inline", False)],
    ["d"],
    [("node0001", "get_properties", 2)],
    {"samples": 1},
)


INS_JSON: dict[str, object] = {"config": {"dict": []}, "payload": {"inline": ""}, "current": True}
BATCH_JSON: dict[str, object] = {
    "format": 2,
    "run_id": "run00000001",
    "asked": [["node0001", "a", 0]],
    "instructions": [INS_JSON],
    "not_asked": [],
    "sequences": [],
    "manager": {},
}


def test_batch_comes_back_as_it_was(tmp_path: Path) -> None:
    Journal(tmp_path).write(BATCH)
    assert Journal(tmp_path).read(3, "fit") == BATCH


def test_numpy_values_of_a_config_come_back_as_they_were_sent(tmp_path: Path) -> None:
    Journal(tmp_path).write(Batch(1, "fit", [], [SentIns({"lr": np.float32(0.5)}, b"", True)]))  # type: ignore[dict-item]
    batch = Journal(tmp_path).read(1, "fit")
    assert batch is not None
    assert batch.instructions[0].config == {"lr": 0.5}


def test_phase_that_was_not_sent_has_none(tmp_path: Path) -> None:
    Journal(tmp_path).write(BATCH)
    assert Journal(tmp_path).read(3, "evaluate") is None
    assert Journal(tmp_path).read(4, "fit") is None


def test_rounds_that_are_over_are_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for round, kind in ((9, "fit"), (10, "fit"), (10, "evaluate"), (11, "fit")):
        journal.write(Batch(round, kind, [], []))
    journal.forget(10)
    assert [path.name for path in tmp_path.iterdir()] == ["round-000011-fit.json"]


def test_damaged_batch_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path).write(BATCH)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace("node0002", "node0009"))
    with pytest.raises(CorruptData, match="is damaged"):
        Journal(tmp_path).read(3, "fit")


def test_closing_note_comes_back_and_goes_with_its_round(tmp_path: Path) -> None:
    journal, unfolded = Journal(tmp_path), [Unfolded(1, "late", "no answer"), Unfolded(2, "bad_update", "nan", 5, 0.5)]
    journal.write(BATCH)
    assert journal.closed(3, "fit") is None
    journal.close(3, "fit", unfolded)
    assert journal.closed(3, "fit") == unfolded
    assert journal.read(3, "fit") == BATCH
    assert journal.closed(3, "evaluate") is None
    journal.check()
    journal.forget(3)
    assert list(tmp_path.iterdir()) == []


def test_payloads_of_all_that_is_noted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(BATCH)
    journal.close(3, "fit", [])
    assert journal.payloads() == [Blob("a" * 64, 5), b"inline"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("round-000003-evaluate.json", {"format": 1}, ConfigError),
        ("round-000003-evaluate.json", {"format": 2, "run_id": "run00000002", "asked": []}, ConfigError),
        ("round-000003-evaluate.json", {"format": 2, "run_id": "run00000001"}, CorruptData),
        ("round-000003-fit-closed.json", {"format": 2, "run_id": "run00000001", "unfolded": [[1]]}, CorruptData),
        ("round-000003-evaluate.json", BATCH_JSON | {"asked": [["node0001", "a", 1]]}, CorruptData),
        ("round-000003-evaluate.json", BATCH_JSON | {"asked": [["node0001", "a", -1]]}, CorruptData),
        ("round-000003-evaluate.json", BATCH_JSON | {"sequences": [[1, 2, 3]]}, CorruptData),
        ("round-000003-evaluate.json", BATCH_JSON | {"manager": {"samples": "many"}}, CorruptData),
        (
            "round-000003-evaluate.json",
            BATCH_JSON | {"instructions": [INS_JSON | {"payload": {"digest": "../x", "size": 1}}]},
            CorruptData,
        ),
        ("round-000003-evaluate.json", BATCH_JSON | {"instructions": [INS_JSON | {"payload": {"inline": "!"}}]}, CorruptData),
        ("round-000003-evaluate.json", BATCH_JSON | {"instructions": [INS_JSON | {"config": [1]}]}, CorruptData),
        (
            "round-000003-fit-closed.json",
            {"format": 2, "run_id": "run00000001", "unfolded": [[1, "late", 5, None, None]]},
            CorruptData,
        ),
        (
            "round-000003-fit-closed.json",
            {"format": 2, "run_id": "run00000001", "unfolded": [[1, "a", "b", 1, "s"]]},
            CorruptData,
        ),
        ("round-000003-fit-closed.json", [], CorruptData),
        ("notes.txt", {}, ConfigError),
    ],
)
def test_file_that_is_none_of_the_journals_is_found(tmp_path: Path, name: str, content: object, error: type[Exception]) -> None:
    journal = Journal(tmp_path, "run00000001")
    journal.write(BATCH)
    journal.check()
    write_sealed(tmp_path / name, content)
    with pytest.raises(error, match=name):
        journal.check()


def test_tasks_that_are_still_under_way_are_kept_when_their_round_is_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for round, kind in ((1, "fit-000000"), (1, "fit-000001"), (2, "fit-000000"), (3, "fit-000000")):
        journal.write(Batch(round, kind, [], []))
    journal.forget(2, [(1, "fit-000001")])
    assert journal.names() == [(1, "fit-000001"), (3, "fit-000000")]
    assert journal.noted((1, "fit-000001")).round == 1
    with pytest.raises(CorruptData, match="is missing"):
        journal.noted((1, "fit-000000"))
