"""What the number of sessions means for the pace of all."""

from __future__ import annotations

import pytest

from hedgerow.security import Identity, Role
from hedgerow.server.sessions import NodeSession, Sessions
from hedgerow.waits import Limit
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
