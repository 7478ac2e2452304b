"""Follows a run: the nodes and results that the server pushes, as the driver knows them.

Owned here: the mirror of nodes and results, and the cursors from which the stream goes on after a cut. Whoever waits for a result
holds a future; whoever wants to know about nodes subscribes. Callbacks run on the connection's thread and must be quick.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from concurrent.futures import Future
from typing import Any, TypeAlias

import grpc.aio

from hedgerow.driver.connection import Connection, error_of
from hedgerow.errors import HedgerowError, InvalidTransition, NotFound, RunEnded, Unavailable
from hedgerow.records import DataPlane, Node, TaskResult
from hedgerow.waits import Backoff, Limit, pause, wait, wait_condition
from hedgerow.wire import convert
from hedgerow.wire.proto import driver_pb2

log = logging.getLogger(__name__)


NodesChanged: TypeAlias = Callable[[Collection[str]], None]
"""Told the ids of the nodes that have changed; what has become of them is to be asked, so that it is the newest."""


class Mirror:
    """Nodes and results as far as the server has told. Safe to use from any thread."""

    def __init__(self) -> None:
        self.cursor = 0
        self.node_version = 0
        self._condition = threading.Condition()
        self._nodes: dict[str, Node] = {}
        self._complete = False
        self._futures: dict[str, Future[TaskResult]] = {}
        self._error: BaseException | None = None
        self._subscribers: list[tuple[NodesChanged, Callable[[BaseException], None]]] = []
        self._untold: set[str] = set()
        self._renewing = False

    def renew(self) -> None:
        """The server has another state: cursors start anew, and the next list of nodes takes the place of this one."""
        with self._condition:
            self.cursor = self.node_version = 0
            self._complete, self._renewing = False, True

    def add_nodes(self, nodes: list[Node], complete: bool) -> None:
        """The server told about nodes, ordered by version."""
        with self._condition:
            if self._renewing:
                self._untold.update(self._nodes)
                self._nodes, self._renewing = {}, False
            self._untold.update(node.node_id for node in nodes)
            for node in nodes:
                self._nodes[node.node_id] = node
                self.node_version = max(self.node_version, node.version)
            self._complete |= complete
            self._condition.notify_all()
            if not self._complete:
                return
            untold, self._untold = self._untold, set()
            subscribers = list(self._subscribers)
        for changed, _ in subscribers:
            changed(untold)

    def add_results(self, results: list[TaskResult]) -> None:
        """Tasks ended; those that came before are known already."""
        for result in results:
            self.cursor = max(self.cursor, result.cursor)
            future = self.expect(result.task_id)
            if not future.done():
                future.set_result(result)

    def abort(self, error: BaseException) -> None:
        """Nothing more will come: everybody who waits gets this error."""
        with self._condition:
            if self._error is not None:
                return
            self._error = error
            self._condition.notify_all()
            futures, subscribers = list(self._futures.values()), list(self._subscribers)
        for future in futures:
            if not future.done():
                future.set_exception(error)
        for _, aborted in subscribers:
            aborted(error)

    def expect(self, task_id: str) -> Future[TaskResult]:
        """The future of a task's result; it may be done already."""
        with self._condition:
            future = self._futures.get(task_id)
            if future is None:
                future = self._futures[task_id] = Future()
                # A waiter that gives up must not take the result from others: a running future cannot be cancelled.
                future.set_running_or_notify_cancel()
                if self._error is not None:
                    future.set_exception(self._error)
            return future

    def forget(self, round: int) -> None:
        """Drop results of this round and those before it."""
        with self._condition:
            self._futures = {
                task_id: future
                for task_id, future in self._futures.items()
                if not future.done() or future.exception() is not None or future.result().round > round
            }

    def nodes(self) -> list[Node]:
        """The available nodes, ordered by name.

        Raises:
            HedgerowError: The run has ended.
        """
        with self._condition:
            self._check()
            return sorted((n for n in self._nodes.values() if n.state.available), key=lambda n: (n.name, n.node_id))

    def find(self, node_ids: Iterable[str]) -> dict[str, Node]:
        """Those of these nodes that are known, by id, whatever their state.

        Raises:
            HedgerowError: The run has ended.
        """
        with self._condition:
            self._check()
            return {node_id: self._nodes[node_id] for node_id in node_ids if node_id in self._nodes}

    def name_of(self, node_id: str) -> str:
        """The node's name, or its id where the name is not known."""
        with self._condition:
            node = self._nodes.get(node_id)
            return node.name if node is not None else node_id

    def subscribe(self, changed: NodesChanged, aborted: Callable[[BaseException], None]) -> None:
        """Call ``changed`` with all nodes now, and whenever some change with these; ``aborted`` when the run cannot go on."""
        with self._condition:
            self._subscribers.append((changed, aborted))
            complete, error, known = self._complete, self._error, set(self._nodes)
        if error is not None:
            aborted(error)
        elif complete:
            changed(known)

    def wait_for_nodes(self, count: int, limit: Limit) -> None:
        """Block until the list of nodes is complete and so many are available.

        Raises:
            WaitTimeout: The limit was reached.
            HedgerowError: The run has ended.
        """
        with self._condition:
            wait_condition(self._condition, lambda: self._enough(count), limit, f"{count} nodes to be available")
            self._check()

    def _enough(self, count: int) -> bool:
        there = self._complete and sum(node.state.available for node in self._nodes.values()) >= count
        return there or self._error is not None

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


class Watcher:
    """Keeps the stream of a run open for as long as the connection lives, and fills the mirror from it.

    Args:
        connection: The way to the server.
        request: Opens the run, and takes it up again after every cut.
        silent: How long the stream may say nothing.
        reconnect: How long the server may be away.
        data_plane_changed: Told where blobs travel whenever the run has been opened or taken up.
        moved: Told when the run has been taken up at a server with another state, one that was restored from a backup.
        after_result: Results up to this cursor are not needed.

    Attributes:
        server_id: Identifies the server's state.
        unknown: Whether the server does not know the run.
        acknowledged_rounds: How many rounds the server knows to be safe with the driver, counting round 0.
    """

    def __init__(
        self,
        connection: Connection,
        request: driver_pb2.CreateRunRequest,
        silent: Limit,
        reconnect: Limit,
        data_plane_changed: Callable[[DataPlane], None],
        moved: Callable[[], None],
        after_result: int = 0,
    ) -> None:
        self.mirror = Mirror()
        self.mirror.cursor = after_result
        self._connection = connection
        self._request = request
        self._silent = silent
        self._reconnect = reconnect
        self._data_plane_changed = data_plane_changed
        self._moved = moved
        self.server_id = request.server_id
        self.unknown = False
        self.acknowledged_rounds = 0
        self._heard = False

    async def open_run(self, limit: Limit) -> None:
        """Open the run, or take it up again.

        Raises:
            NotFound: The server has another state, which does not hold the run.
            WaitTimeout: The server was away for longer than the limit.
        """
        # A new run is refused by a server that is full; one that goes on waits for space.
        try:
            reply = await self._connection.call("CreateRun", self._request, limit, patient=bool(self.server_id))
        except NotFound:
            self.unknown = True
            raise
        moved = self.server_id not in ("", reply.server_id)
        self.server_id = self._request.server_id = reply.server_id
        self.acknowledged_rounds = reply.acknowledged_rounds
        self._data_plane_changed(convert.data_plane_from_proto(reply.data_plane))
        if moved:
            log.warning(
                "The server at %s has another state now, and knows run %s: it was restored from a backup. The run goes on there",
                *(self._connection.address.text, self._request.run_id),
                extra={"action": "run_moved", "run": self._request.run_id},
            )
            self.mirror.renew()
            self._moved()

    async def follow(self) -> None:
        """Read the stream, and open it again after every cut, until the run has ended."""
        backoff = Backoff()
        try:
            while True:
                self._heard = False
                try:
                    await self._read()
                except Unavailable as error:
                    log.debug("The stream of run %s was cut: %s", self._request.run_id, error)
                if self._heard:
                    backoff.reset()
                await pause(backoff.next(), "before the stream is opened again")
                await self._reopen()
        except HedgerowError as error:
            self.mirror.abort(error)
        except Exception as error:
            log.exception("Following the run %s failed", self._request.run_id)
            self.mirror.abort(error)

    async def _reopen(self) -> None:
        try:
            await self.open_run(self._reconnect)
        except InvalidTransition as error:
            raise RunEnded(f"The run {self._request.run_id} is over: {error}") from None

    async def _read(self) -> None:
        server_id = self.server_id
        async for event in self._events():
            if self.server_id != server_id:
                raise Unavailable("The stream is from the state that the server had before.")
            self._heard = True
            match event.WhichOneof("event"):
                case "nodes":
                    self.mirror.add_nodes([convert.node_from_proto(node) for node in event.nodes.nodes], event.nodes.complete)
                case "results":
                    self.mirror.add_results([convert.result_from_proto(result) for result in event.results.results])
                case "ended":
                    state = convert.run_state_from_proto(event.ended.state)
                    why = event.ended.message or "no reason given"
                    raise RunEnded(f"The run {self._request.run_id} was ended by somebody else ({state}): {why}")

    async def _events(self) -> AsyncIterator[driver_pb2.WatchEvent]:
        request = driver_pb2.WatchRequest(
            run_id=self._request.run_id, after_result=self.mirror.cursor, after_node_version=self.mirror.node_version
        )
        call: Any = self._connection.stub.Watch(request, metadata=self._connection.metadata)
        try:
            while True:
                try:
                    event = await wait(call.read(), self._silent, "a sign of life from the server")
                except grpc.aio.AioRpcError as error:
                    raise error_of(error) from None
                except TimeoutError as error:  # WaitTimeout: silence, which another stream may end
                    raise Unavailable(str(error)) from None
                if event is grpc.aio.EOF:
                    raise Unavailable("The server closed the stream.")
                yield event
        finally:
            call.cancel()
