"""Callbacks: when they are called, what ends a run, what is kept of it; and that a run that is taken up goes on with it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.driver import BestModel, Callback, EarlyStopping, History, RoundEnd, Server, SimpleClientManager
from hedgerow.driver.callbacks import Monitor
from hedgerow.driver.checkpoint import Checkpoint
from hedgerow.errors import InvalidArgument
from hedgerow.strategy import FedAvg
from tests.unit.driver.fakes import FakeClient, FakeExchange, fitted, model

LOSSES = [5.0, 4.0, 3.0, 3.5, 3.2, 3.1, 1.0, 0.5]


class Notes(Callback):
    def __init__(self, stop_after: int = 99) -> None:
        self.calls: list[Any] = []
        self.ends: list[RoundEnd] = []
        self.stop_after = stop_after

    def on_round_end(self, end: RoundEnd) -> str | None:
        self.calls.append(end.server_round)
        self.ends.append(end)
        return "enough" if end.server_round >= self.stop_after else None

    def on_run_end(self, history: History) -> None:
        self.calls.append("end")


class Record:
    """Keeps the checkpoints of a run, and notes in which order things happen."""

    def __init__(self, notes: Notes | None = None) -> None:
        self.checkpoints: list[Checkpoint] = []
        self.notes = notes

    def write(self, checkpoint: Checkpoint, kept: Callable[[], None]) -> None:
        self.checkpoints.append(checkpoint)
        if self.notes is not None:
            self.notes.calls.append(f"checkpoint {checkpoint.round}")
        kept()

    def settle(self) -> None:
        pass


class LaterRecord(Record):
    """Keeps a round when somebody waits for that."""

    def __init__(self, notes: Notes) -> None:
        super().__init__(notes)
        self._waiting: list[tuple[Checkpoint, Callable[[], None]]] = []

    def write(self, checkpoint: Checkpoint, kept: Callable[[], None]) -> None:
        self.settle()
        self._waiting.append((checkpoint, kept))

    def settle(self) -> None:
        while self._waiting:
            super().write(*self._waiting.pop())


def run(
    *callbacks: Callback,
    rounds: int = 7,
    after: Checkpoint | None = None,
    record: Record | None = None,
    losses: list[float] = LOSSES,
) -> Server:
    """A run whose central loss is that of the list, and whose model is 2 from round 1 on; perhaps taken up."""
    clients = SimpleClientManager(wait_for_clients_s=0.0)
    for name in ("a", "b"):
        clients.register(FakeClient(name, fitted(2.0)))
    strategy = FedAvg(
        fraction_evaluate=0.0,
        initial_parameters=model(1.0),
        evaluate_fn=lambda r, a, c: (losses[r], {"accuracy": 1.0 - losses[r]}),
    )
    server = Server(client_manager=clients, strategy=strategy)
    server.attach(FakeExchange(), record)
    server.call_back(callbacks)
    if after is not None:
        server.take_up(after)
    server.fit(rounds, None)
    return server


@pytest.mark.parametrize("kind", [Record, LaterRecord])
def test_callbacks_are_called_when_the_round_is_kept(kind: Callable[[Notes], Record]) -> None:
    notes = Notes()
    run(notes, rounds=2, record=kind(notes))
    assert notes.calls == ["checkpoint 0", 0, "checkpoint 1", 1, "checkpoint 2", 2, "end"]


def test_callbacks_get_the_model_the_history_and_the_manifest() -> None:
    notes = Notes()
    server = run(notes, rounds=1)
    before, after = notes.ends
    assert (before.parameters["w"].tolist(), after.parameters["w"].tolist()) == ([1.0], [2.0])
    assert (before.manifest, after.manifest["round"]) == ({}, 1)
    assert [entry["node"] for entry in after.manifest["fit"]] == ["a", "b"]
    assert after.history is server.history


def test_any_callback_may_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    notes, other = Notes(stop_after=2), Notes()
    server = run(other, notes)
    assert other.calls == notes.calls == [0, 1, 2, "end"]
    assert "Stopped after round 2: enough" in caplog.text
    assert [r for r, _ in server.history.losses_centralized] == [0, 1, 2]


def test_callbacks_are_told_the_end_also_when_the_run_fails() -> None:
    notes = Notes()
    with pytest.raises(IndexError):
        run(notes, rounds=9)
    assert notes.calls[-1] == "end"


def test_error_of_a_callback_is_one_of_the_run() -> None:
    class Broken(Callback):
        def on_round_end(self, end: RoundEnd) -> str | None:
            raise ZeroDivisionError("user code")

    with pytest.raises(ZeroDivisionError, match="user code"):
        run(Broken())


def test_run_that_is_taken_up_tells_of_its_last_round_again() -> None:
    record, notes = Record(), Notes()
    run(record=record, rounds=3)
    run(notes, rounds=5, after=record.checkpoints[3])
    assert notes.calls == [3, 4, 5, "end"]
    assert notes.ends[0].manifest["round"] == 3
    assert notes.ends[0].parameters["w"].tolist() == [2.0]


@pytest.mark.parametrize(("patience", "last"), [(1, 3), (2, 4), (3, 5), (4, 7)])
def test_run_ends_when_the_best_is_so_many_rounds_ago(patience: int, last: int) -> None:
    server = run(EarlyStopping("losses_centralized", patience=patience))
    assert server.history.losses_centralized[-1][0] == last


def test_more_may_be_better() -> None:
    server = run(EarlyStopping("metrics_centralized/accuracy", patience=1, mode="max"))
    assert server.history.losses_centralized[-1][0] == 3


def test_too_little_better_is_not_better() -> None:
    server = run(EarlyStopping("losses_centralized", patience=2, min_delta=2.0), losses=[9, 8, 7, 5, 4.5, 4, 3.5, 3])
    assert server.history.losses_centralized[-1][0] == 2


def test_nan_is_never_better() -> None:
    stopping = EarlyStopping("losses_centralized", patience=3)
    assert run(stopping, losses=[math.nan, 3.0, math.nan, math.nan, math.nan, 1.0]).history.losses_centralized[-1][0] == 4
    assert run(stopping, losses=[math.nan] * 9).history.losses_centralized[-1][0] == 2


@pytest.mark.parametrize("killed_after", range(6))
def test_run_that_was_killed_stops_in_the_same_round(killed_after: int) -> None:
    record = Record()
    run(record=record, rounds=5)
    server = run(EarlyStopping("losses_centralized", patience=3), after=record.checkpoints[killed_after])
    assert server.history.losses_centralized[-1][0] == 5


def test_run_that_was_over_is_known_to_be() -> None:
    record = Record()
    run(record=record, rounds=5)
    for done, callbacks, expected in (
        (5, [EarlyStopping("losses_centralized", patience=3)], True),
        (5, [], False),
        (4, [], False),
    ):
        server = Server(strategy=FedAvg())
        server.call_back(callbacks)
        server.take_up(record.checkpoints[done])
        assert server.is_over(num_rounds=7) is expected
        assert server.is_over(num_rounds=done)
    assert not Server().is_over(0)


def test_series_that_is_never_there_is_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    run(EarlyStopping("loss", patience=1), BestModel(tmp_path / "best", monitor="losses"), rounds=1)
    assert "The history has no loss, only losses_centralized, metrics_centralized/accuracy" in caplog.text
    assert "The history has no losses, only" in caplog.text


def test_best_model_is_kept(tmp_path: Path) -> None:
    best = BestModel(tmp_path / "made" / "best.safetensors", monitor="losses_centralized")
    history = History()
    for number, loss in enumerate([3.0, 1.0, 1.0, 2.0]):
        history.add_loss_centralized(number, loss)
        best.on_round_end(RoundEnd(number, model(float(number)), history))
    assert (best.server_round, best.value, best.parameters["w"].tolist()) == (1, 1.0, [1.0])
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["best.safetensors"]


def test_round_without_a_value_is_not_the_best(tmp_path: Path) -> None:
    best, history = BestModel(tmp_path / "best", monitor="losses_centralized"), History()
    best.on_round_end(RoundEnd(0, model(0.0), history))
    with pytest.raises(FileNotFoundError):
        best.parameters  # noqa: B018
    history.add_loss_centralized(1, 3.0)
    best.on_round_end(RoundEnd(1, model(1.0), history))
    best.on_round_end(RoundEnd(2, model(2.0), history))
    assert best.parameters["w"].tolist() == [1.0]


@pytest.mark.parametrize("killed_after", range(8))
def test_best_model_of_a_run_that_was_killed_is_the_same(killed_after: int, tmp_path: Path) -> None:
    record = Record()
    losses = [5.0, 4.0, 1.0, 3.5, 3.2, 3.1, 1.5, 2.5]
    run(BestModel(tmp_path / "best", monitor="losses_centralized"), record=record, rounds=killed_after, losses=losses)
    best = BestModel(tmp_path / "best", monitor="losses_centralized")
    run(best, after=record.checkpoints[killed_after], losses=losses)
    assert (best.server_round, best.parameters["w"].tolist()) == (2, [2.0])


@given(st.lists(st.floats(-5, 5) | st.just(math.nan), max_size=30), st.sampled_from(["min", "max"]), st.sampled_from([0.0, 0.5]))
def test_bests_are_those_of_a_slow_look_back(values: list[float], mode: str, min_delta: float) -> None:
    history = History()
    for number, value in enumerate(values):
        history.add_loss_centralized(number, value)
    expected: list[tuple[int, float]] = []
    for number, value in enumerate(values):
        bounds = [kept - min_delta if mode == "min" else kept + min_delta for _, kept in expected]
        if not math.isnan(value) and all(value < bound if mode == "min" else value > bound for bound in bounds):
            expected.append((number, value))
    assert Monitor("losses_centralized", mode, min_delta).bests(history) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyStopping("x", patience=0),
        lambda: EarlyStopping("x", patience=1, mode="best"),
        lambda: EarlyStopping("x", patience=1, min_delta=-1.0),
        lambda: BestModel("x", monitor="x", mode="least"),
    ],
)
def test_values_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(InvalidArgument):
        make()
