"""What the number of sessions means for the pace of all, and what a session keeps for a client."""

from __future__ import annotations

import asyncio

import pytest

from hedgerow.security import Identity, Role
from hedgerow.server.sessions import RESULTS_AT_ONCE, NodeSession, Sessions
from hedgerow.waits import Limit, pause, wait
from hedgerow.wire.proto import fleet_pb2, records_pb2

SOON = Limit("soon_s", 10.0)


def test_beats_and_reconnections_are_spread_over_more_time_with_more_sessions() -> None:
    sessions = Sessions()
    assert (sessions.beat_interval_s(), sessions.reconnect_within_s()) == (15.0, 0.0)
    for _ in range(3_000):
        sessions.add(NodeSession(Identity.fresh(Role.CLIENT)))
    assert sessions.beat_interval_s() == 30.0  # 100 beats a second
    assert sessions.reconnect_within_s() == pytest.approx(6.0)  # 500 sessions a second


async def test_what_became_of_results_travels_with_the_next_message() -> None:
    session = NodeSession(Identity.fresh(Role.CLIENT))
    session.completed(fleet_pb2.Completed(task_id="task0002", accepted=True))
    session.release(["task0001", "task0002"])
    session.push(fleet_pb2.SessionDown(assign=records_pb2.Task(task_id="task0003")))
    message = await session.next(SOON)
    assert message is not None
    assert message.assign.task_id == "task0003"
    assert list(message.completed) == [fleet_pb2.Completed(task_id="task0002", accepted=True, release=True)]
    assert list(message.release) == ["task0001"], "the other one is told in one piece"
    session.push(fleet_pb2.SessionDown(beat=fleet_pb2.Beat()))
    assert await session.next(SOON) == fleet_pb2.SessionDown(beat=fleet_pb2.Beat()), "told once"


async def test_what_became_of_results_does_not_wait_for_a_message_that_does_not_come() -> None:
    session = NodeSession(Identity.fresh(Role.CLIENT))
    session.release(["task0001"])
    assert await session.next(SOON) == fleet_pb2.SessionDown(release=["task0001"])
    session.completed(fleet_pb2.Completed(task_id="task0002"))
    assert await session.next(SOON) == fleet_pb2.SessionDown(completed=[fleet_pb2.Completed(task_id="task0002")])


async def test_session_ends_after_what_became_of_results() -> None:
    session = NodeSession(Identity.fresh(Role.CLIENT))
    session.completed(fleet_pb2.Completed(task_id="task0001"))
    session.end()
    assert await session.next(SOON) == fleet_pb2.SessionDown(completed=[fleet_pb2.Completed(task_id="task0001")])
    assert await session.next(SOON) is None


async def test_client_that_is_told_nothing_can_hand_in_no_more_than_so_many_results() -> None:
    session = NodeSession(Identity.fresh(Role.CLIENT))
    for number in range(RESULTS_AT_ONCE):
        await wait(session.place(), SOON, "a place")
        if number % 2:
            session.completed(fleet_pb2.Completed(task_id=f"task{number % 4:04d}"))  # the same ones again and again
    another = asyncio.get_running_loop().create_task(session.place())
    for _ in range(10):
        await pause(0.0, "a turn of the event loop")
    assert not another.done()
    message = await session.next(SOON)
    assert message is not None
    assert [completed.task_id for completed in message.completed] == ["task0001", "task0003"]
    await wait(another, SOON, "a place")


async def test_client_that_has_as_many_results_in_hand_as_it_may_is_not_silent() -> None:
    session = NodeSession(Identity.fresh(Role.CLIENT))
    assert session.silent_s() > 0.0, "it has never said anything"
    for _ in range(RESULTS_AT_ONCE):
        await wait(session.place(), SOON, "a place")
    assert session.silent_s() == pytest.approx(0.0, abs=1.0), "nobody listens to it"


async def test_many_answers_do_not_wait_for_a_message_to_travel_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.server.sessions.ANSWERS_WAIT_S", 3600.0)
    session = NodeSession(Identity.fresh(Role.CLIENT))
    for number in range(RESULTS_AT_ONCE // 2):
        session.completed(fleet_pb2.Completed(task_id=f"task{number:04d}"))
    message = await session.next(SOON)
    assert message is not None
    assert len(message.completed) == RESULTS_AT_ONCE // 2


async def test_release_is_not_lost_in_a_refusal() -> None:
    session = NodeSession(Identity.fresh(Role.CLIENT))
    refused = fleet_pb2.Completed(task_id="task0001", refusal=fleet_pb2.Refusal(error="LimitReached"))
    session.completed(refused)
    session.release(["task0001"])
    assert await session.next(SOON) == fleet_pb2.SessionDown(completed=[refused], release=["task0001"])
