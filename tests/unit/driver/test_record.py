"""Rounds are kept one after the other, while the next round goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from hedgerow.driver.checkpoint import Checkpoint, PreparedCheckpoint
from hedgerow.driver.driver import Driver
from hedgerow.driver.history import History
from hedgerow.driver.parameter_files import MIN_BYTES, ParameterFiles
from hedgerow.driver.record import FolderRecord
from hedgerow.driver.run_folder import RunFolder, RunRecord
from hedgerow.records import Parameters
from hedgerow.security import Identity, Role

BLOCKED = 10.0


class Stalling(RunFolder):
    """Writes a checkpoint when it may."""

    may = threading.Event()
    begun: list[int]
    error: Exception | None = None

    def write_checkpoint(self, prepared: PreparedCheckpoint, passed_over: Sequence[str] = ()) -> None:
        self.begun.append(prepared.checkpoint.round)
        assert self.may.wait(BLOCKED)
        if self.error is not None:
            raise self.error
        super().write_checkpoint(prepared, passed_over)


class Rounds:
    """A record of a run's folder, and the driver around it."""

    def __init__(self, tmp_path: Path) -> None:
        identity = Identity.fresh(Role.DRIVER)
        self.folder = cast(Stalling, Stalling.create(tmp_path / "run", RunRecord("run00000001", "demo", 1, identity)))
        self.folder.may, self.folder.begun = threading.Event(), []
        self.files = ParameterFiles(tmp_path / "run")
        self.driver = SimpleNamespace(
            files=self.files, mirror=SimpleNamespace(cursor=3), watcher=SimpleNamespace(server_id="server0000000001")
        )
        self.record = FolderRecord(self.folder, cast(Driver, self.driver))
        self.kept: list[int] = []

    def write(self, number: int, parameters: Parameters, **changes: Any) -> None:
        made: dict[str, Any] = {"strategy": "FedAvg", "strategy_state": {}, "history": History().state_dict(), **changes}
        self.record.write(Checkpoint(number, parameters, **made), lambda: self.kept.append(number))

    def large(self) -> Parameters:
        return self.files.filed(Parameters({"w": np.zeros(MIN_BYTES, np.uint8)}))


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    made = Rounds(tmp_path)
    yield made
    made.folder.may.set()
    made.record.close()
    made.folder.close()


def test_a_large_round_is_acknowledged_when_it_is_on_the_disk_and_the_next_one_need_not_wait(rounds: Rounds) -> None:
    rounds.write(1, rounds.large())
    rounds.driver.mirror.cursor = 9  # answers of the next round
    assert rounds.kept == []
    rounds.folder.may.set()
    rounds.record.settle()
    assert rounds.kept == [1]
    found = rounds.folder.read_checkpoint()
    assert found is not None
    assert (found.round, found.cursor) == (1, 3), "what came later is not of this round"


def test_rounds_are_kept_in_their_order(rounds: Rounds) -> None:
    rounds.folder.may.set()
    for number in range(1, 5):
        rounds.write(number, rounds.large() if number % 2 else Parameters({}))
    rounds.record.settle()
    assert rounds.kept == [1, 2, 3, 4]


def test_a_round_of_an_asynchronous_run_is_kept_at_once(rounds: Rounds) -> None:
    rounds.folder.may.set()
    rounds.write(1, rounds.large(), cursor=2)
    assert rounds.kept == [1]


def test_a_small_round_is_kept_as_it_was(rounds: Rounds) -> None:
    w = np.zeros(3)
    rounds.write(1, Parameters({"w": w}), strategy_state={"m": w})
    w += 1.0
    rounds.folder.may.set()
    rounds.record.settle()
    found = rounds.folder.read_checkpoint()
    assert found is not None
    np.testing.assert_array_equal(found.parameters["w"], np.zeros(3))
    np.testing.assert_array_equal(found.strategy_state["m"], np.zeros(3))


def test_an_error_is_raised_where_the_next_round_is_to_be_kept(rounds: Rounds) -> None:
    rounds.folder.error = OSError("disk full")
    rounds.folder.may.set()
    rounds.write(1, rounds.large())
    with pytest.raises(OSError, match="disk full"):
        rounds.write(2, rounds.large())
    assert rounds.kept == []


def test_closing_waits_and_only_tells_of_an_error(rounds: Rounds, caplog: pytest.LogCaptureFixture) -> None:
    rounds.folder.error = OSError("disk full")
    rounds.folder.may.set()
    rounds.write(1, rounds.large())
    rounds.record.close()
    assert "disk full" in caplog.text


def test_of_small_rounds_that_come_fast_the_newest_is_kept_and_all_are_acknowledged(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 5):
        rounds.write(number, Parameters({"w": np.full(3, number)}), manifest=f'{{"round":{number}}}')
    rounds.folder.may.set()
    rounds.record.settle()
    assert rounds.kept == [1, 2, 3, 4]
    assert rounds.folder.begun[-1] == 4
    assert len(rounds.folder.begun) < 4, "those that waited went together"
    found = rounds.folder.read_checkpoint()
    assert found is not None
    assert (found.round, found.parameters["w"].tolist()) == (4, [4, 4, 4])
    assert rounds.folder.manifest_from(3) == [(3, '{"round":3}'), (4, '{"round":4}')]
    monkeypatch.setattr("hedgerow.driver.run_folder.MAX_LINES_BYTES", 20)
    assert rounds.folder.manifest_from(3) == [(4, '{"round":4}')], "no more than go in a message"


def test_an_error_of_a_round_that_stood_for_others_is_raised_and_none_is_acknowledged(rounds: Rounds) -> None:
    rounds.folder.error = OSError("disk full")
    for number in range(1, 4):
        rounds.write(number, Parameters({}))
    rounds.folder.may.set()
    with pytest.raises(OSError, match="disk full"):
        rounds.record.settle()
    assert rounds.kept == []
