"""What the number of sessions means for the pace of all, how one session is served, and what it keeps for a client."""

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
    assert sessions.beat_interval_s() == 60.0  # 50 beats a second
    assert sessions.reconnect_within_s() == pytest.approx(6.0)  # 500 sessions a second


def test_clients_come_back_more_slowly_where_each_needs_a_handshake() -> None:
    sessions = Sessions(tls=True)
    for _ in range(1_000):
        sessions.add(NodeSession(Identity.fresh(Role.CLIENT)))
    assert sessions.reconnect_within_s() == pytest.approx(5.0)  # 200 sessions a second


class FakeStream:
    """What a session writes to and reads from: nothing comes until the test says so, and nothing is taken while it is stuck."""

    def __init__(self) -> None:
        self.messages: list[fleet_pb2.SessionDown] = []
        self.client_ends, self.free, self.wrote = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.free.set()
        self.broken: Exception | None = None

    async def read(self) -> None:
        await wait(self.client_ends.wait(), SOON, "the test")

    async def write(self, message: fleet_pb2.SessionDown) -> None:
        await wait(self.free.wait(), SOON, "the test")
        if self.broken is not None:
            raise self.broken
        self.messages.append(message)
        self.wrote.set()

    @property
    def written(self) -> list[str]:
        return [str(message.WhichOneof("event")) for message in self.messages]

    async def until(self, count: int) -> None:
        """Wait until so many messages were written."""
        while len(self.messages) < count:
            self.wrote.clear()
            await wait(self.wrote.wait(), SOON, "a message")


CANCEL = fleet_pb2.SessionDown(cancel=fleet_pb2.Cancel(task_id="t"))
BEAT = fleet_pb2.SessionDown(beat=fleet_pb2.Beat())


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await pause(0, "other tasks")


async def served() -> tuple[NodeSession, FakeStream, asyncio.Task[None]]:
    session, stream = NodeSession(Identity.fresh(Role.CLIENT)), FakeStream()
    session.beat_interval_s = 15.0
    serving = asyncio.create_task(session.serve(stream.read, stream.write))
    await turns()
    return session, stream, serving


async def test_what_was_pushed_before_a_session_is_served_comes_first_and_the_goodbye_last() -> None:
    session, stream = NodeSession(Identity.fresh(Role.CLIENT)), FakeStream()
    session.push(CANCEL)
    session.push(BEAT)
    session.end(fleet_pb2.Goodbye(reason="enough"))
    await wait(session.serve(stream.read, stream.write), SOON, "the session to end")
    assert stream.written == ["cancel", "beat", "goodbye"]


async def test_what_is_queued_is_written_when_the_client_has_said_its_last() -> None:
    session, stream, serving = await served()
    stream.free.clear()
    session.push(CANCEL)
    stream.client_ends.set()
    await turns()
    assert not serving.done()
    stream.free.set()
    await wait(serving, SOON, "the session to end")
    assert stream.written == ["cancel"]


async def test_client_that_takes_nothing_gets_one_beat_for_all_of_its_own() -> None:
    session, stream, serving = await served()
    stream.free.clear()
    for _ in range(1000):
        session.answer(lambda _: BEAT)
    stream.free.set()
    session.end()
    await wait(serving, SOON, "the session to end")
    assert stream.written == ["beat"]


async def test_silent_client_loses_its_session_even_if_it_takes_nothing() -> None:
    session, stream, serving = await served()
    sessions = Sessions()
    sessions.add(session)
    stream.free.clear()
    session.push(CANCEL)
    await turns()
    assert sessions.end_silent(session.last_heard + 44.0) == []
    assert sessions.end_silent(session.last_heard + 46.0) == [session]
    await wait(serving, SOON, "the session to end")
    assert stream.written == []


async def test_whoever_serves_learns_that_nothing_can_be_written() -> None:
    session, stream, serving = await served()
    stream.broken = ConnectionError("gone")
    session.push(BEAT)
    with pytest.raises(ConnectionError, match="gone"):
        await wait(serving, SOON, "the session to end")


async def test_call_that_is_cancelled_ends_as_cancelled_and_writes_no_more() -> None:
    session, stream, serving = await served()
    stream.free.clear()
    session.push(BEAT)
    await turns()
    session.end()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    stream.free.set()
    session.push(CANCEL)
    await turns()
    assert stream.written == []


async def test_what_became_of_results_travels_with_the_next_message() -> None:
    session, stream, serving = await served()
    session.completed(fleet_pb2.Completed(task_id="task0002", accepted=True))
    session.release(["task0001", "task0002"])
    session.push(fleet_pb2.SessionDown(assign=records_pb2.Task(task_id="task0003")))
    await turns()
    (message,) = stream.messages
    assert message.assign.task_id == "task0003"
    assert list(message.completed) == [fleet_pb2.Completed(task_id="task0002", accepted=True, release=True)]
    assert list(message.release) == ["task0001"], "the other one is told in one piece"
    session.push(BEAT)
    await turns()
    assert stream.messages[1:] == [BEAT], "told once"
    session.end()
    await wait(serving, SOON, "the session to end")


async def test_what_became_of_results_does_not_wait_for_a_message_that_does_not_come() -> None:
    session, stream, serving = await served()
    session.release(["task0001"])
    await stream.until(1)
    session.completed(fleet_pb2.Completed(task_id="task0002"))
    await stream.until(2)
    session.end()
    await wait(serving, SOON, "the session to end")
    completed = fleet_pb2.SessionDown(completed=[fleet_pb2.Completed(task_id="task0002")])
    assert stream.messages == [fleet_pb2.SessionDown(release=["task0001"]), completed]


async def test_session_ends_after_what_became_of_results() -> None:
    session, stream, serving = await served()
    session.completed(fleet_pb2.Completed(task_id="task0001"))
    session.end()
    await wait(serving, SOON, "the session to end")
    assert stream.messages == [fleet_pb2.SessionDown(completed=[fleet_pb2.Completed(task_id="task0001")])]


async def test_client_that_is_told_nothing_can_hand_in_no_more_than_so_many_results() -> None:
    session, stream, serving = await served()
    stream.free.clear()
    session.push(CANCEL)  # which it does not take
    await turns()
    for number in range(RESULTS_AT_ONCE):
        await wait(session.place(), SOON, "a place")
        if number % 2:
            session.completed(fleet_pb2.Completed(task_id=f"task{number % 4:04d}"))  # the same ones again and again
    another = asyncio.create_task(session.place())
    await turns()
    assert not another.done()
    stream.free.set()
    await stream.until(2)
    assert [completed.task_id for completed in stream.messages[1].completed] == ["task0001", "task0003"]
    await wait(another, SOON, "a place")
    session.end()
    await wait(serving, SOON, "the session to end")


async def test_client_that_has_as_many_results_in_hand_as_it_may_is_not_silent() -> None:
    session, _, serving = await served()
    later = session.last_heard + 1_000.0
    assert session.is_silent(later)
    for _ in range(RESULTS_AT_ONCE):
        await wait(session.place(), SOON, "a place")
    assert not session.is_silent(later), "nobody listens to it"
    session.end()
    await wait(serving, SOON, "the session to end")


async def test_many_answers_do_not_wait_for_a_message_to_travel_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.server.sessions.ANSWERS_WAIT_S", 3600.0)
    session, stream, serving = await served()
    for number in range(RESULTS_AT_ONCE // 2):
        session.completed(fleet_pb2.Completed(task_id=f"task{number:04d}"))
    await stream.until(1)
    assert len(stream.messages[0].completed) == RESULTS_AT_ONCE // 2
    session.end()
    await wait(serving, SOON, "the session to end")


async def test_release_is_not_lost_in_a_refusal() -> None:
    session, stream, serving = await served()
    refused = fleet_pb2.Completed(task_id="task0001", refusal=fleet_pb2.Refusal(error="LimitReached"))
    session.completed(refused)
    session.release(["task0001"])
    await stream.until(1)
    assert stream.messages == [fleet_pb2.SessionDown(completed=[refused], release=["task0001"])]
    session.end()
    await wait(serving, SOON, "the session to end")
