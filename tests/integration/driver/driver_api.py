"""A Driver API in a thread; the clients behind it are one function. It can be told to fail."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from hedgerow.records import Node, NodeState, Outcome, Reply, RunState, Task, TaskResult
from hedgerow.waits import Limit, wait_future
from hedgerow.wire import convert
from hedgerow.wire.proto import driver_pb2, driver_pb2_grpc, records_pb2

SOON = Limit("test_s", 20.0)
Answer = Callable[[Task], Reply | None]
"""What a client makes of a task; None: it never answers."""


class FakeDriverApi(driver_pb2_grpc.DriverServicer):
    """Keeps runs in memory. ``refuse`` holds calls by name that fail with UNAVAILABLE so many times."""

    def __init__(self, answer: Answer, names: list[str]) -> None:
        self.answer = answer
        self.nodes = [Node(f"node{i:04d}", name, NodeState.ONLINE, i + 1, 0.0) for i, name in enumerate(names)]
        self.results: list[TaskResult] = []
        self.tasks: dict[str, Task] = {}
        self.calls: list[str] = []
        self.refuse: dict[str, int] = {}
        self.ended: tuple[RunState, str] | None = None
        self.keep: dict[int, list[str]] = {}
        self.manifests: dict[int, str] = {}
        self.cancelled: list[str] = []
        self.too_late: Answer = lambda task: None  # what has come for a task in the moment before it is cancelled
        self.results_held = False
        self.no_blob: dict[str, grpc.StatusCode] = {}  # why a blob cannot be had, by digest
        self.cut = 0
        self.server_id = "abc"
        self.forgotten = False
        self.acknowledged_rounds = 0
        self.news = asyncio.Event()

    def ring(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    async def _note(self, name: str, context: Any) -> None:
        self.calls.append(name)
        if self.refuse.get(name, 0):
            self.refuse[name] -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    async def CreateRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._note("CreateRun", context)
        if self.forgotten:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such run")
        self.ended = None
        plane = records_pb2.DataPlane(blob_port=1, inline_max_bytes=1 << 20)
        return driver_pb2.CreateRunReply(
            server_id=self.server_id,
            state=driver_pb2.RUN_STATE_PENDING,
            data_plane=plane,
            acknowledged_rounds=self.acknowledged_rounds,
        )

    async def PushTasks(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._note("PushTasks", context)
        for task in map(convert.task_from_proto, request.tasks):
            if task.task_id not in self.tasks:
                self.tasks[task.task_id] = task
                reply = self.answer(task)
                if reply is not None:
                    self.finish(task, reply)
        return driver_pb2.PushTasksReply(created=len(request.tasks))

    def finish(self, task: Task, reply: Reply) -> None:
        cursor = len(self.results) + 1
        self.results.append(TaskResult(cursor, task.task_id, task.node_id, task.round, task.instruction.kind, reply))
        self.ring()

    async def CancelTasks(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._note("CancelTasks", context)
        self.cancelled += request.task_ids
        for task_id in request.task_ids:
            task = self.tasks[task_id]
            if any(result.task_id == task_id for result in self.results):
                continue
            self.finish(task, self.too_late(task) or Reply(Outcome.CANCELLED, request.reason))
        return driver_pb2.CancelTasksReply(cancelled=len(request.task_ids))

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        await self._note("Watch", context)
        cursor, version, first, cut = request.after_result, request.after_node_version, True, self.cut
        while True:
            news = self.news
            if cut != self.cut:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            nodes = sorted((n for n in self.nodes if n.version > version), key=lambda n: n.version)
            if nodes or first:
                version, first = max([version, *(n.version for n in nodes)]), False
                changes = driver_pb2.NodeChanges(nodes=map(convert.node_to_proto, nodes), complete=True)
                yield driver_pb2.WatchEvent(nodes=changes)
            results = [] if self.results_held else self.results[cursor:]
            cursor += len(results)
            if results:
                yield driver_pb2.WatchEvent(results=driver_pb2.Results(results=map(convert.result_to_proto, results)))
            if self.ended is not None:
                ended = driver_pb2.RunEnded(state=convert.run_state_to_proto(self.ended[0]), message=self.ended[1])
                yield driver_pb2.WatchEvent(ended=ended)
                return
            await news.wait()

    async def StartUpload(self, request: Any, context: Any) -> Any:  # noqa: N802
        raise NotImplementedError

    async def ResolveBlob(self, request: Any, context: Any) -> Any:  # noqa: N802
        await context.abort(self.no_blob.get(request.digest, grpc.StatusCode.NOT_FOUND), "no such blob here")

    async def AcknowledgeRound(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._note("AcknowledgeRound", context)
        self.keep[request.round] = list(request.keep)
        self.manifests.update((one.round, one.line) for one in request.manifest)
        return driver_pb2.AcknowledgeRoundReply()

    async def EndRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._note("EndRun", context)
        self.ended = (convert.run_state_from_proto(request.state), request.message)
        return driver_pb2.EndRunReply()


class FakeServer:
    """Runs a :class:`FakeDriverApi` on a thread and a port of its own."""

    def __init__(self, answer: Answer, names: list[str]) -> None:
        self._made: tuple[Answer, list[str]] = (answer, names)
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.port = 0

    def __enter__(self) -> FakeServer:
        threading.Thread(target=self._main, daemon=True).start()
        wait_future(self._started, SOON, "the fake server to start")
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        wait_future(self._ended, SOON, "the fake server to end")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def do(self, action: Callable[[], Any]) -> Any:
        """Run something on the server's loop."""

        async def run() -> Any:
            return action()

        return wait_future(asyncio.run_coroutine_threadsafe(run(), self.loop), SOON, "the fake server")

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001
            for future in (self._started, self._ended):
                with contextlib.suppress(concurrent.futures.InvalidStateError):
                    future.set_exception(error)
        else:
            self._ended.set_result(None)

    async def _serve(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        self.api = FakeDriverApi(*self._made)
        server = grpc.aio.server()
        driver_pb2_grpc.add_DriverServicer_to_server(self.api, server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._started.set_result(None)
        await self.stop.wait()
        await server.stop(0)
