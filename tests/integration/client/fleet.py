"""A Fleet API that does what the test says, and a client in the test's own event loop with real workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from hedgerow import errors
from hedgerow.client.jobs import Rules
from hedgerow.client.link import Link
from hedgerow.client.policy import Policy
from hedgerow.client.state_dir import StateDir
from hedgerow.client.worker_pool import WorkerPool
from hedgerow.client.worker_process import ChildWorker, WorkerCommand
from hedgerow.records import Config, Instruction, Outcome, Parameters, Payload, Reply, Task
from hedgerow.waits import Limit, wait
from hedgerow.wire import convert, tensors
from hedgerow.wire.channel import SERVER_OPTIONS, Address
from hedgerow.wire.proto import fleet_pb2, fleet_pb2_grpc, records_pb2
from hedgerow.wire.status import to_status, to_words

SOON = Limit("test_s", 30.0)
RUN = "run00001"


class FakeSession:
    """One session, as the server sees it."""

    def __init__(self, hello: fleet_pb2.Hello) -> None:
        self.hello = hello
        self.leave: fleet_pb2.Leave | None = None
        self.beats = 0
        self.open = True
        self.queue: asyncio.Queue[fleet_pb2.SessionDown | None] = asyncio.Queue()

    def push(self, **event: Any) -> None:
        self.queue.put_nowait(fleet_pb2.SessionDown(**event))


class FakeFleet(fleet_pb2_grpc.FleetServicer):
    """Keeps nothing but what it saw.

    Attributes:
        refuse: Errors by call's name, or "complete" for results; the first is raised and removed.
        inline_max_bytes: What clients are told.
        asked: Which blobs they wanted.
    """

    def __init__(self) -> None:
        self.beat_interval_s = 15.0
        self.inline_max_bytes = 64 * 1024
        self.server_id = "server0001"
        self.sessions: list[FakeSession] = []
        self.completed: list[fleet_pb2.Complete] = []
        self.asked: list[records_pb2.ResolveBlobRequest] = []
        self.refuse: dict[str, list[errors.HedgerowError]] = {}
        self.epoch = 0
        self.port = 0
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        fleet_pb2_grpc.add_FleetServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        assert self.port
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def until(self, predicate: Callable[[], Any], what: str) -> None:
        async with self._changed:
            await wait(self._changed.wait_for(lambda: bool(predicate())), SOON, what)

    async def notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def session(self, count: int = 1) -> FakeSession:
        """The newest session, when there have been so many and it is open."""
        await self.until(lambda: len(self.sessions) >= count and self.sessions[-1].open, f"session {count}")
        return self.sessions[-1]

    async def replies(self, count: int = 1) -> list[Reply]:
        """The replies to the tasks, in the order in which they came."""
        await self.until(lambda: len(self.completed) >= count, f"{count} results")
        return [convert.reply_from_proto(request.reply) for request in self.completed]

    async def _refuse(self, call: str, context: Any) -> None:
        if self.refuse.get(call):
            await context.abort(*to_status(self.refuse[call].pop(0)))

    async def Session(self, _: object, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        hello = (await context.read()).hello  # first, as the real server does: who is cut off while speaking may not hear why
        await self._refuse("Session", context)
        session = FakeSession(hello)
        self.epoch += 1
        plane = records_pb2.DataPlane(blob_port=1, inline_max_bytes=self.inline_max_bytes)
        welcome = fleet_pb2.Welcome(
            server_id=self.server_id, epoch=self.epoch, beat_interval_s=self.beat_interval_s, data_plane=plane
        )
        await context.write(fleet_pb2.SessionDown(welcome=welcome))
        self.sessions.append(session)
        await self.notify()
        reading = asyncio.create_task(self._read(session, context))
        try:
            while (message := await wait(session.queue.get(), Limit("pushes", None), "a push")) is not None:
                await context.write(message)
        finally:
            reading.cancel()
            session.open = False

    async def _read(self, session: FakeSession, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            event = message.WhichOneof("event")
            if event == "leave":
                session.leave = message.leave
            elif event == "complete":
                session.push(completed=[self._complete(message.complete)])
            else:
                session.beats += 1
            await self.notify()
        session.queue.put_nowait(None)

    def _complete(self, message: fleet_pb2.Complete) -> fleet_pb2.Completed:
        if self.refuse.get("complete"):
            error, why = to_words(self.refuse["complete"].pop(0))
            return fleet_pb2.Completed(task_id=message.task_id, refusal=fleet_pb2.Refusal(error=error, message=why))
        known = any(message.task_id == done.task_id for done in self.completed)
        self.completed.append(message)
        return fleet_pb2.Completed(task_id=message.task_id, accepted=not known)

    async def StartUpload(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    async def ResolveBlob(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append(request)
        await self._refuse("ResolveBlob", context)
        raise NotImplementedError


def task(number: int, kind: str = "fit", config: Config | None = None, parameters: Payload | None = b"", round: int = 1) -> Any:
    """A task as the server pushes it; parameters are small ones unless others are given."""
    if parameters == b"":
        parameters = tensors.dumps(Parameters({"w": np.zeros(3, np.float32)})) if kind in ("fit", "evaluate") else None
    instruction = Instruction(kind, config or {}, parameters)
    return convert.task_to_proto(Task(f"task{number:04d}", RUN, "node0001", round, 0, number, instruction))


def parameters_of(reply: Reply) -> Parameters:
    """The parameters that came inside the message."""
    assert reply.outcome is Outcome.OK, reply
    assert isinstance(reply.parameters, bytes)
    return tensors.view(reply.parameters)


class Site:
    """A client with real workers whose link runs in the test's event loop."""

    def __init__(self, folder: Path, fleet: FakeFleet, text: str, policy: Policy | None = None) -> None:
        self.folder = folder
        self.fleet = fleet
        self.rules = Rules(policy or Policy())
        (folder / "client.py").write_text(text)
        self.running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        command = WorkerCommand("client:site", self.folder)

        async def start() -> ChildWorker:
            return await ChildWorker.start(command)

        self.worker = await start()
        self.pool = WorkerPool(start, self.worker, 1)
        self.state = StateDir.open(self.folder / "state")
        self.link = Link(Address("127.0.0.1", self.fleet.port), None, "site", self.state, self.pool, self.rules)
        self.running = asyncio.create_task(self.link.run())

    async def stop(self) -> None:
        """End without leaving, as a death would."""
        if self.running is not None:
            self.running.cancel()
            await self.link.close()
            await self.pool.close()
            self.state.close()
            await asyncio.gather(self.running, return_exceptions=True)
            self.running = None

    def outbox(self) -> set[str]:
        return {path.name for path in (self.folder / "state" / "outbox").iterdir() if "." not in path.name}


@contextlib.asynccontextmanager
async def fleet_server() -> AsyncIterator[FakeFleet]:
    fleet = FakeFleet()
    await fleet.start()
    try:
        yield fleet
    finally:
        for session in fleet.sessions:
            session.queue.put_nowait(None)
        await fleet.stop()


@contextlib.asynccontextmanager
async def site_of(folder: Path, fleet: FakeFleet, text: str) -> AsyncIterator[Site]:
    """A started client, ended afterwards with its workers."""
    site = Site(folder, fleet, text)
    await site.start()
    try:
        yield site
    finally:
        await site.stop()


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
