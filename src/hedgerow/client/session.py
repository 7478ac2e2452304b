"""One session: the stream on which the server pushes tasks and both sides say that they are alive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import grpc.aio

from hedgerow.errors import (
    AlreadyExists,
    HedgerowError,
    InvalidArgument,
    PermissionDenied,
    ProtocolMismatch,
    Unauthenticated,
    Unavailable,
    WaitTimeout,
)
from hedgerow.records import DataPlane
from hedgerow.security import Identity
from hedgerow.waits import Limit, pause, wait
from hedgerow.wire.convert import data_plane_from_proto
from hedgerow.wire.proto import fleet_pb2, fleet_pb2_grpc, records_pb2
from hedgerow.wire.status import from_rpc_error, from_words

log = logging.getLogger(__name__)

WELCOME = Limit("welcome_s", 30.0)
LEAVE = Limit("leave_s", 1.0)
ANSWER = Limit("answer_s", 30.0)
A_TURN = Limit("write_turn", None)
"""A stream that takes nothing ends by its beats or by keepalive, and so does every write on it."""
SILENT_BEATS = 3
MIN_BEAT_INTERVAL_S = 0.05
GREETINGS = 3
"""So often a call is made whose refusal gRPC forgets."""
_Call: TypeAlias = "grpc.aio.StreamStreamCall[fleet_pb2.SessionUp, fleet_pb2.SessionDown]"
MAX_RECONNECT_WITHIN_S = 600.0
MAX_COME_BACK_AFTER_S = 600.0
"""A server cannot send its clients away for longer, whatever it says."""


@dataclass(frozen=True)
class Standing:
    """What the client says of itself when a session opens."""

    name: str
    software: str
    running: Sequence[str]
    finished: Sequence[str]
    transport_dtypes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How the server wants its clients to behave, which depends on how many there are.

    Attributes:
        beat_interval_s: Seconds between beats, both ways.
        reconnect_within_s: Before it opens a session again, a client waits for a random part of so many seconds.
    """

    beat_interval_s: float
    reconnect_within_s: float

    @classmethod
    def told(cls, message: fleet_pb2.Welcome | fleet_pb2.Beat) -> Rhythm:
        """As the server said it."""
        within_s = min(MAX_RECONNECT_WITHIN_S, max(0.0, message.reconnect_within_s))
        return cls(max(MIN_BEAT_INTERVAL_S, message.beat_interval_s), within_s)


class Session:
    """An open session.

    Attributes:
        server_id: Identifies the server's state.
        epoch: Higher than that of every earlier session of this node.
        data_plane: Where blobs travel.
        rhythm: What the server said last about how to behave.
    """

    def __init__(self, call: _Call, welcome: fleet_pb2.Welcome) -> None:
        self.server_id = welcome.server_id
        self.epoch = welcome.epoch
        self.data_plane: DataPlane = data_plane_from_proto(welcome.data_plane)
        self.rhythm = Rhythm.told(welcome)
        self._call = call
        self._writing = asyncio.Lock()
        self._ended = asyncio.Event()
        self._answers: dict[str, asyncio.Future[fleet_pb2.Completed | None]] = {}
        self._beating = asyncio.get_running_loop().create_task(self._beat())

    @classmethod
    async def open(cls, stub: fleet_pb2_grpc.FleetAsyncStub, identity: Identity, standing: Standing) -> Session:
        """Say hello and wait for the welcome.

        Raises:
            HedgerowError: The server refuses; the class says why.
            Unavailable: There is no server, or it does not answer.
        """
        hello = fleet_pb2.Hello(
            node_id=identity.id,
            name=standing.name,
            software=standing.software,
            running=standing.running,
            finished=standing.finished,
            transport_dtypes=standing.transport_dtypes,
        )
        call, first = await _greeted(stub, identity, hello)
        try:
            if first is grpc.aio.EOF or not isinstance(first, fleet_pb2.SessionDown):
                raise Unavailable("The server ended the session before it had begun.")
            if first.WhichOneof("event") == "goodbye":
                after_s = min(MAX_COME_BACK_AFTER_S, max(0.0, first.goodbye.come_back_after_s))
                raise Unavailable(f"The server takes no sessions now: {first.goodbye.reason}.", come_back_after_s=after_s)
            if first.WhichOneof("event") != "welcome":
                raise Unavailable("The server's first message was not a welcome.")
        except Unavailable:
            call.cancel()
            raise
        return cls(call, first.welcome)

    async def events(self) -> AsyncIterator[fleet_pb2.SessionDown]:
        """What the server pushes, until it ends the session.

        Raises:
            WaitTimeout: It has been silent for three beats.
            HedgerowError: The connection is lost, or the server refuses to go on.
        """
        try:
            while True:
                silent = Limit("session_silent_s", SILENT_BEATS * self.rhythm.beat_interval_s)
                message = await wait(self._call.read(), silent, "a sign of life from the server")
                if message is grpc.aio.EOF or not isinstance(message, fleet_pb2.SessionDown):
                    return
                for completed in message.completed:
                    self._answered(completed)
                if message.WhichOneof("event") == "beat" and message.beat.beat_interval_s:
                    self.rhythm = Rhythm.told(message.beat)
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            self.close()

    async def complete(self, task_id: str, reply: records_pb2.Reply) -> fleet_pb2.Completed:
        """Hand in a result, and wait for what becomes of it; events must be read meanwhile.

        Raises:
            HedgerowError: The server refuses, or the session is over.
            WaitTimeout: It does not answer.
        """
        answer: asyncio.Future[fleet_pb2.Completed | None] = asyncio.get_running_loop().create_future()
        self._answers[task_id] = answer
        try:
            await self._say(fleet_pb2.SessionUp(complete=fleet_pb2.Complete(task_id=task_id, reply=reply)))
            completed = await wait(answer, ANSWER, "the server's answer to a result")
        finally:
            if self._answers.get(task_id) is answer:
                del self._answers[task_id]
        if completed is None:
            raise _over()
        if completed.HasField("refusal"):
            raise from_words(completed.refusal.error, completed.refusal.message)
        return completed

    def _answered(self, completed: fleet_pb2.Completed) -> None:
        answer = self._answers.get(completed.task_id)
        if answer is not None and not answer.done():
            answer.set_result(completed)

    async def _say(self, message: fleet_pb2.SessionUp) -> None:
        """Write a message. gRPC ends a stream on which a write is cancelled; so who is cancelled here leaves the write alone.

        Raises:
            Unavailable: The session is over; why, the reader is told.
        """
        await wait(self._writing.acquire(), A_TURN, "the turn to write")
        await asyncio.shield(asyncio.get_running_loop().create_task(self._write(message)))

    async def _write(self, message: fleet_pb2.SessionUp) -> None:
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise _over() from None
        except asyncio.CancelledError:
            if not self._ended.is_set():
                raise
            raise _over() from None
        finally:
            self._writing.release()

    async def leave(self, reason: str, handed_back: Sequence[str]) -> None:
        """Tell the server that the client is stopping, and wait a moment for it to end the session; events must still be read."""
        try:
            async with self._writing:
                await wait(
                    self._call.write(fleet_pb2.SessionUp(leave=fleet_pb2.Leave(reason=reason, handed_back=handed_back))),
                    LEAVE,
                    "saying that the client leaves",
                )
                await wait(self._call.done_writing(), LEAVE, "the end of the stream")
            await wait(self._ended.wait(), LEAVE, "the server to end the session")
        except (WaitTimeout, grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            log.debug("Left without the server's answer: %s", error)

    def close(self) -> None:
        """Drop the connection's stream."""
        self._ended.set()
        self._beating.cancel()
        self._call.cancel()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(None)

    async def _beat(self) -> None:
        while True:
            await pause(self.rhythm.beat_interval_s, "the interval between beats")
            try:
                await self._say(fleet_pb2.SessionUp(beat=fleet_pb2.Beat()))
            except Unavailable:
                return


def _over() -> Unavailable:
    return Unavailable("The session is over.")


async def _greeted(stub: fleet_pb2_grpc.FleetAsyncStub, identity: Identity, hello: fleet_pb2.Hello) -> tuple[_Call, object]:
    """A call on which hello was said, and the server's first message.

    A server that refuses does so before it has read anything. Where that comes before gRPC has sent the hello, gRPC reports that
    it could not send, and forgets the reason: then it is asked for again.
    """
    for attempt in range(GREETINGS):
        call = stub.Session(metadata=identity.metadata())
        try:
            return call, await wait(_greet(call, hello), WELCOME, "the server's welcome")
        except grpc.aio.AioRpcError as error:
            forgotten = error.code() is grpc.StatusCode.INTERNAL and not error.trailing_metadata()
            if not forgotten or attempt == GREETINGS - 1:
                raise from_rpc_error(error) from None
        except BaseException:
            call.cancel()
            raise
    raise AssertionError("the last attempt raises")


async def _greet(call: _Call, hello: fleet_pb2.Hello) -> object:
    await call.write(fleet_pb2.SessionUp(hello=hello))
    return await call.read()


def is_refusal(error: HedgerowError) -> bool:
    """Whether trying again cannot help as long as nobody changes anything at the client."""
    return isinstance(error, AlreadyExists | InvalidArgument | PermissionDenied | ProtocolMismatch | Unauthenticated)
