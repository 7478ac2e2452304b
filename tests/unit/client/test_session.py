"""How a session begins that the server refuses, and what becomes of results when it ends or they are not wanted."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from hedgerow.client.session import GREETINGS, Session, Standing
from hedgerow.errors import HedgerowError, PermissionDenied, Unauthenticated, Unavailable
from hedgerow.security import Identity, Role
from hedgerow.waits import Limit, pause, wait
from hedgerow.wire.proto import fleet_pb2, records_pb2
from hedgerow.wire.status import to_status

SOON = Limit("soon_s", 10.0)

FORGOTTEN = (grpc.StatusCode.INTERNAL, "Internal error from Core", ())


class Refusing:
    """A stub whose calls end like this, one after the other, before hello could be said."""

    def __init__(self, *ends: tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]) -> None:
        self.ends = list(ends)

    def Session(self, metadata: object) -> Refusing:  # noqa: N802 (named by the protocol)
        return self

    async def write(self, message: object) -> None:
        code, details, trailing = self.ends.pop(0)
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


async def refusal(stub: Any) -> HedgerowError:
    with pytest.raises(HedgerowError) as refused:
        await Session.open(stub, Identity.fresh(Role.CLIENT), Standing("a", "test", [], []))
    return refused.value


async def test_a_refusal_that_grpc_forgot_is_asked_for_again() -> None:
    stub = Refusing(FORGOTTEN, to_status(PermissionDenied("This API is for others.")))
    error = await refusal(stub)
    assert (type(error), str(error), stub.ends) == (PermissionDenied, "This API is for others.", [])


async def test_nobody_is_asked_for_ever_and_what_the_server_says_itself_holds() -> None:
    stub = Refusing(*[FORGOTTEN] * (GREETINGS + 1))
    assert str(await refusal(stub)) == "Internal error from Core"
    assert len(stub.ends) == 1
    failing = Refusing(to_status(HedgerowError("The server failed.")), FORGOTTEN)
    assert str(await refusal(failing)) == "The server failed."
    assert len(failing.ends) == 1


class Call:
    """Stands for the stream: a message is written when the test lets it; as in gRPC, who is cancelled at that ends the stream."""

    def __init__(self) -> None:
        self.written: list[fleet_pb2.SessionUp] = []
        self.may = asyncio.Event()
        self.ended = False
        self.failure: BaseException | None = None

    async def write(self, message: fleet_pb2.SessionUp) -> None:
        try:
            await wait(self.may.wait(), SOON, "the test to let it be written")
        except asyncio.CancelledError:
            self.ended = True
            raise
        if self.failure is not None:
            raise self.failure
        self.written.append(message)

    def cancel(self) -> None:
        self.ended = True
        self.failure = asyncio.CancelledError()
        self.may.set()


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    """A stream; nothing that fails on it may be left for the event loop to report."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    yield Call()
    await turns()
    gc.collect()
    assert reported == []


def session_on(call: Any) -> Session:
    return Session(call, fleet_pb2.Welcome(beat_interval_s=3600.0))


async def hand_in(session: Session, task_id: str) -> asyncio.Task[fleet_pb2.Completed]:
    """Begin to hand in a result: it has come as far as it can."""
    handing = asyncio.get_running_loop().create_task(session.complete(task_id, records_pb2.Reply()))
    await turns()
    return handing


async def turns() -> None:
    """Let everything come as far as it can."""
    for _ in range(10):
        await pause(0.0, "a turn of the event loop")


async def test_a_result_that_need_not_be_sent_any_longer_does_not_end_the_session(call: Call) -> None:
    session = session_on(call)
    first, second, third = [await hand_in(session, f"task000{i}") for i in range(3)]
    first.cancel()
    second.cancel()
    await turns()
    call.may.set()
    await turns()
    assert not call.ended
    assert [message.complete.task_id for message in call.written] == ["task0000", "task0002"], "one was not begun"
    session._answered(fleet_pb2.Completed(task_id="task0002", accepted=True))
    assert (await wait(third, SOON, "the answer")).accepted
    session.close()


async def test_what_ends_the_session_is_no_refusal_of_a_result(call: Call) -> None:
    session = session_on(call)
    handing = await hand_in(session, "task0001")
    code, details, trailing = to_status(Unauthenticated("The certificate has been revoked."))
    call.failure = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)
    call.may.set()
    with pytest.raises(Unavailable):
        await wait(handing, SOON, "the end")
    session.close()


@pytest.mark.parametrize("written", [True, False])
async def test_a_result_is_told_that_the_session_is_over(call: Call, written: bool) -> None:
    session = session_on(call)
    if written:
        call.may.set()
    handing = await hand_in(session, "task0001")
    assert len(call.written) == written
    session.close()
    with pytest.raises(Unavailable):
        await wait(handing, SOON, "the end")
