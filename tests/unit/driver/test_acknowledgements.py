"""Telling the server which rounds are over: several at once, a moment later, and refusals reach who waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from hedgerow.driver.acknowledgements import Acknowledgements
from hedgerow.errors import HedgerowError, PermissionDenied, WaitTimeout
from hedgerow.waits import Limit, wait_future
from hedgerow.wire.proto import driver_pb2

BRIEF = Limit("brief_s", 0.0)
LONG = Limit("long_s", 10.0)


class Wire:
    """Stands for the connection: notes calls, and answers when the test lets it."""

    def __init__(self) -> None:
        self.rounds: list[int] = []
        self.requests: list[driver_pb2.AcknowledgeRoundRequest] = []
        self.timers: list[Callable[[], None]] = []
        self.answers = threading.Event()
        self.refusal: Exception | None = None
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    async def call(self, method: str, request: driver_pb2.AcknowledgeRoundRequest, limit: Limit) -> None:
        """The call of the Driver API."""
        assert method == "AcknowledgeRound"
        self.rounds.append(request.round)
        self.requests.append(request)
        await asyncio.to_thread(self.answers.wait, 10)
        if self.refusal is not None:
            raise self.refusal

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run on the loop."""
        asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def let_begin(self) -> None:
        """Wait until what was spawned has begun."""

        async def begun() -> None:
            """Comes after what was spawned."""

        wait_future(asyncio.run_coroutine_threadsafe(begun(), self.loop), LONG, "what was spawned to begin")

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Keep the timer for the test to fire."""
        self.timers.append(callback)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A wire that answers at once unless the test says otherwise."""
    wire = Wire()
    wire.answers.set()
    yield wire
    wire.answers.set()

    wire.let_begin()
    wire.loop.call_soon_threadsafe(wire.loop.stop)


def owed(wire: Wire, failed: Callable[[Exception], None] = lambda error: None) -> Acknowledgements:
    return Acknowledgements(wire, LONG, failed)  # type: ignore[arg-type]


def over(round: int) -> driver_pb2.AcknowledgeRoundRequest:
    manifest = [driver_pb2.ManifestLine(round=round, line=f"line {round}")]
    return driver_pb2.AcknowledgeRoundRequest(run_id="run00000001", round=round, keep=[f"kept by {round}"], manifest=manifest)


def test_nothing_is_told_before_the_timer(wire: Wire) -> None:
    acknowledgements = owed(wire)
    acknowledgements.owe(over(1))
    assert wire.rounds == []
    acknowledgements.tell()
    acknowledgements.settle(LONG)
    assert wire.rounds == [1]
    wire.timers[0]()
    acknowledgements.settle(LONG)
    assert wire.rounds == [1], "told once"


def test_timer_tells_what_is_owed(wire: Wire) -> None:
    acknowledgements = owed(wire)
    acknowledgements.owe(over(1))
    wire.timers[0]()
    acknowledgements.settle(LONG)
    assert wire.rounds == [1]


def test_settling_takes_no_longer_than_its_limit(wire: Wire) -> None:
    wire.answers.clear()
    acknowledgements = owed(wire)
    acknowledgements.owe(over(1))
    with pytest.raises(WaitTimeout, match="AcknowledgeRound"):
        acknowledgements.settle(BRIEF)
    wire.answers.set()
    acknowledgements.settle(LONG)


def test_refusal_reaches_who_settles_and_who_watches(wire: Wire) -> None:
    wire.refusal = PermissionDenied("not yours")
    failures: list[Exception] = []
    acknowledgements = owed(wire, failures.append)
    acknowledgements.owe(over(1))
    with pytest.raises(PermissionDenied, match="not yours"):
        acknowledgements.settle(LONG)
    with pytest.raises(PermissionDenied, match="not yours"):
        acknowledgements.owe(over(2))
    assert failures == [wire.refusal]
    assert wire.rounds == [1]


def test_who_waits_when_the_connection_is_closed_is_told(wire: Wire) -> None:
    wire.answers.clear()
    acknowledgements = owed(wire)
    acknowledgements.owe(over(1))
    acknowledgements.tell()
    acknowledgements.drop()
    with pytest.raises(HedgerowError, match="closed"):
        acknowledgements.settle(BRIEF)


def test_error_of_another_kind_is_no_answer(wire: Wire) -> None:
    wire.refusal = TypeError("a slip")
    acknowledgements = owed(wire)
    acknowledgements.owe(over(1))
    with pytest.raises(TypeError, match="a slip"):
        acknowledgements.settle(LONG)


def test_what_is_dropped_is_not_told(wire: Wire) -> None:
    acknowledgements = owed(wire)
    acknowledgements.owe(over(1))
    acknowledgements.drop()
    wire.timers[0]()
    acknowledgements.tell()
    assert wire.rounds == []


def test_rounds_that_are_over_meanwhile_are_told_together(wire: Wire) -> None:
    acknowledgements = owed(wire)
    for round in (1, 2, 3):
        acknowledgements.owe(over(round))
    acknowledgements.settle(LONG)
    assert wire.rounds == [3]
    (told,) = wire.requests
    assert [(one.round, one.line) for one in told.manifest] == [(1, "line 1"), (2, "line 2"), (3, "line 3")]
    assert list(told.keep) == ["kept by 3"]


def test_what_is_owed_while_another_is_told_is_told_after_it(wire: Wire) -> None:
    wire.answers.clear()
    acknowledgements = owed(wire)
    acknowledgements.owe(over(1))
    acknowledgements.tell()
    wire.let_begin()
    acknowledgements.owe(over(2))
    acknowledgements.tell()
    wire.answers.set()
    acknowledgements.settle(LONG)
    assert wire.rounds == [1, 2]


def test_with_much_to_tell_the_next_one_waits(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.driver.acknowledgements.MAX_MANIFEST_BYTES", 10)
    acknowledgements = owed(wire)
    for round in (1, 2, 3):
        acknowledgements.owe(over(round))
    acknowledgements.settle(LONG)
    assert wire.rounds == [1, 2, 3]


def test_tasks_of_a_round_that_is_over_wait_until_that_is_told(wire: Wire) -> None:
    acknowledgements = owed(wire)
    acknowledgements.owe(over(1))
    acknowledgements.settle_before(2)
    assert wire.rounds == [], "tasks of later rounds do not wait"
    acknowledgements.settle_before(1)
    assert wire.rounds == [1]
    wire.answers.clear()
    acknowledgements.settle_before(1)
