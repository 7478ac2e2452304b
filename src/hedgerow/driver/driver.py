"""The low-level driver: one run, its tasks and its results. For people who write their own loop; the rest builds on it.

::

    with Driver("127.0.0.1:9092", seed=1) as driver:
        driver.wait_for_nodes(2)
        tasks = [driver.task(node, Kind.FIT, round=1, parameters=parameters) for node in driver.nodes()]
        for result in driver.results(driver.push(tasks)):
            update = driver.download(result.reply.parameters)
        driver.acknowledge(1)
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType

from hedgerow.certificates import Tls
from hedgerow.driver.acknowledgements import Acknowledgements
from hedgerow.driver.config import DriverLimits
from hedgerow.driver.connection import Connection
from hedgerow.driver.parameter_files import ParameterFiles
from hedgerow.driver.payloads import Payloads
from hedgerow.driver.restored import Retold
from hedgerow.driver.watcher import Mirror, NodesChanged, Watcher
from hedgerow.errors import CorruptData, HedgerowError, NotFound, PermissionDenied, RunEnded
from hedgerow.records import Blob, Instruction, Node, NodeState, Parameters, Payload, RunState, Scalar, Task, TaskResult
from hedgerow.sampling import task_id, task_seed
from hedgerow.security import Identity, Role
from hedgerow.waits import Backoff, Limit, wait_condition
from hedgerow.wire import convert
from hedgerow.wire.channel import Address
from hedgerow.wire.narrow import NarrowParameters, check_transport_dtype
from hedgerow.wire.proto import driver_pb2

log = logging.getLogger(__name__)

DEFAULT_SERVER_ADDRESS = "127.0.0.1:9092"
DEFAULT_PORT = 9092
PUSH_MAX_BYTES = 4 * 1024 * 1024
PUSH_MAX_TASKS = 1000
END_AFTER_ERROR = Limit("end_after_error_s", 10.0)


class Driver:
    """One run at one server. All methods block and may be called from any thread.

    Args:
        server_address: ``host:port`` of the Driver API.
        tls: What to connect with; None for a connection without TLS.
        run_name: For people: shown in the server's log and tables.
        seed: The run's seed; None for a random one.
        limits: How long to wait for what.
        run_id: The run; None for a new one.
        identity: Who the driver is; None for a new identity. A run belongs to the driver that opened it.
        server_id: The state of the server at which the run was opened; "" where that is not known yet.
        after_result: Results up to this cursor are not needed any longer.
        files: Where large parameters of the driver lie; None for a folder of its own. Closed with the driver.
        transport_dtype: "bfloat16" or "float16": parameters travel in that, to and from clients that know it. None: as they are.

    Attributes:
        files: The same.
        transport_dtype: The same, "" for None.

    Raises:
        ConfigError: An argument is wrong.
    """

    def __init__(
        self,
        server_address: str = DEFAULT_SERVER_ADDRESS,
        *,
        tls: Tls | None = None,
        run_name: str = "",
        seed: int | None = None,
        limits: DriverLimits | None = None,
        run_id: str | None = None,
        identity: Identity | None = None,
        server_id: str = "",
        after_result: int = 0,
        files: ParameterFiles | None = None,
        transport_dtype: str | None = None,
    ) -> None:
        self.limits = limits or DriverLimits()
        self.address = Address.parse(server_address, DEFAULT_PORT)
        self.run_id = run_id or secrets.token_hex(16)
        self.run_name = run_name
        self.seed = secrets.randbits(63) if seed is None else seed
        self.identity = identity or Identity.fresh(Role.DRIVER)
        self._server_id = server_id
        self._after_result = after_result
        self.files = files or ParameterFiles()
        self.transport_dtype = check_transport_dtype(transport_dtype)
        self._warned: set[str] = set()
        self._tls = None if tls is None else tls.check(Role.DRIVER, Role.OPERATOR)
        self._reconnect = self.limits.limit("reconnect_s")
        self._connection = Connection(self.address, tls, self.identity, self.limits.call_s)
        self._payloads: Payloads | None = None
        self._watcher: Watcher | None = None
        # Of the last round that is over, and of later ones.
        self._sequences: defaultdict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
        self._lock = threading.Lock()
        self._over = False
        self._retold = Retold()
        self._untold: list[tuple[int, str]] = []
        self._acknowledgements = Acknowledgements(self._connection, self._reconnect, lambda error: self.mirror.abort(error))

    def connect(self) -> None:
        """Connect and open the run. Keeps trying for ``connect_s`` while the server is not there.

        Raises:
            WaitTimeout: The server did not come.
            HedgerowError: The server refused.
        """
        self._payloads = Payloads(self._connection, self.run_id, self._tls, self._reconnect, self.files)
        request = driver_pb2.CreateRunRequest(run_id=self.run_id, name=self.run_name, seed=self.seed, server_id=self._server_id)
        silent = self.limits.limit("watch_silent_s")
        self._watcher = Watcher(
            self._connection, request, silent, self._reconnect, self._payloads.use, self._moved, self._after_result
        )
        connect = self.limits.limit("connect_s")
        try:
            self._connection.open()
            if self._tls is not None:
                log.info("Opened secure gRPC connection using certificates")
            else:
                log.info("Opened insecure gRPC connection (no certificates were passed)")
            self._connection.run(self._watcher.open_run(connect), "the run to be opened")
            self._connection.spawn(self._watcher.follow())
            self._watcher.mirror.wait_for_nodes(0, connect)
        except BaseException:
            self.close()
            raise
        log.info("[Driver] Connected to %s", self.address.text, extra={"action": "driver_connected", "run": self.run_id})

    @property
    def mirror(self) -> Mirror:
        """Nodes and results as the server pushes them."""
        return self.watcher.mirror

    @property
    def watcher(self) -> Watcher:
        """What follows the run."""
        assert self._watcher is not None, "connect() comes first"
        return self._watcher

    def nodes(self) -> list[Node]:
        """The available nodes, ordered by name."""
        return self.mirror.nodes()

    def wait_for_nodes(self, count: int) -> None:
        """Block until so many nodes are available, for at most ``wait_for_clients_s``.

        Raises:
            WaitTimeout: They did not come.
            RunEnded: The run was ended meanwhile.
        """
        self.mirror.wait_for_nodes(count, self.limits.limit("wait_for_clients_s"))

    def subscribe(self, changed: NodesChanged, aborted: Callable[[BaseException], None]) -> None:
        """Call ``changed`` with the ids of all nodes now, and whenever some change with theirs; ``aborted`` when the run ends.

        Both must be quick.
        """
        self.mirror.subscribe(changed, aborted)

    def start_round(self, round: int) -> None:
        """Count this round's tasks from the beginning, so that a restarted driver derives the same ids again."""
        with self._lock:
            self._sequences.pop(round, None)

    def sequences(self, round: int) -> list[tuple[str, str, int]]:
        """How many tasks of this round were made so far: node id, kind, number."""
        with self._lock:
            return [(node_id, kind, count) for (node_id, kind), count in self._sequences.get(round, {}).items()]

    def continue_round(self, round: int, sequences: Iterable[tuple[str, str, int]]) -> None:
        """Count this round's tasks on from where another process of the same run was."""
        with self._lock:
            for node_id, kind, count in sequences:
                self._sequences[round][node_id, kind] = count

    def task(
        self,
        node: Node,
        kind: str,
        *,
        round: int,
        config: Mapping[str, Scalar] | None = None,
        parameters: Parameters | None = None,
    ) -> Task:
        """Make a task; parameters are uploaded unless they are at the server already. Its id and seed follow from the run's.

        Raises:
            InvalidArgument: A tensor cannot be sent, or has a value that is too large for the ``transport_dtype``.
            HedgerowError: The server refused, or was away for too long.
        """
        transport_dtype = "" if parameters is None else self._transport_dtype(node)
        payload = None if parameters is None else self.upload(parameters, transport_dtype)
        with self._lock:
            counts = self._sequences[round]
            sequence = counts[node.node_id, str(kind)]
            counts[node.node_id, str(kind)] += 1
        return Task(
            task_id=task_id(self.run_id, round, node.node_id, str(kind), sequence),
            run_id=self.run_id,
            node_id=node.node_id,
            round=round,
            sequence=sequence,
            seed=task_seed(self.seed, round, node.name, str(kind), sequence),
            instruction=Instruction(str(kind), dict(config or {}), payload, transport_dtype),
        )

    def _transport_dtype(self, node: Node) -> str:
        """The 16-bit float in which parameters travel to a node and back, if the run has one and the node's client knows it."""
        wanted = self.transport_dtype
        # The client may have come back as another version since the caller got the node.
        if not wanted or wanted in self.mirror.find([node.node_id]).get(node.node_id, node).transport_dtypes:
            return wanted
        with self._lock:
            told, self._warned = node.node_id in self._warned, self._warned | {node.node_id}
        if not told:
            log.warning(
                "The client of node %s does not know %s: parameters travel to it, and back, in full precision",
                *(node.name, wanted),
                extra={"action": "full_precision", "node": node.name},
            )
        return ""

    def push(self, tasks: Sequence[Task]) -> list[Task]:
        """Queue tasks at the server, and return them. Pushing a task twice is the same as pushing it once.

        Raises:
            RunEnded: The run was ended meanwhile.
            InvalidArgument: A task cannot be sent.
        """
        for task in tasks:
            self.mirror.expect(task.task_id)
        self._log_away({task.node_id for task in tasks})
        self._retold.pushed(tasks)
        self._acknowledgements.settle_before(min((task.round for task in tasks), default=0))
        self._push_all(tasks)
        return list(tasks)

    def _push_all(self, tasks: Sequence[Task]) -> None:
        request = driver_pb2.PushTasksRequest(run_id=self.run_id)
        size = 0
        for message in map(convert.task_to_proto, tasks):
            if request.tasks and (size + message.ByteSize() > PUSH_MAX_BYTES or len(request.tasks) >= PUSH_MAX_TASKS):
                self._push(request)
                request, size = driver_pb2.PushTasksRequest(run_id=self.run_id), 0
            request.tasks.append(message)
            size += message.ByteSize()
        if request.tasks:
            self._push(request)

    def _log_away(self, node_ids: set[str]) -> None:
        for node in self.mirror.find(node_ids).values():
            if node.state is NodeState.AWAY:
                log.warning("Node %s is not connected now: its task waits until it comes back or counts as lost", node.name)

    def expect(self, task: Task) -> Future[TaskResult]:
        """The future of a task's result, which cannot be cancelled; it fails with :class:`RunEnded` and the like."""
        return self.mirror.expect(task.task_id)

    def results(self, tasks: Sequence[Task], limit: Limit | None = None) -> Iterator[TaskResult]:
        """The tasks' results as they arrive.

        Args:
            tasks: Tasks that were pushed.
            limit: How long to wait for the next one; None for as long as it takes.

        Raises:
            WaitTimeout: The limit was reached.
            RunEnded: The run was ended meanwhile.
        """
        condition = threading.Condition()
        done: deque[Future[TaskResult]] = deque()

        def arrived(future: Future[TaskResult]) -> None:
            with condition:
                done.append(future)
                condition.notify()

        for task in tasks:
            self.expect(task).add_done_callback(arrived)
        limit = limit or Limit("results_s", None)
        for _ in tasks:
            with condition:
                wait_condition(condition, lambda: bool(done), limit, f"a result of run {self.run_id}")
                future = done.popleft()
            yield future.result(0)

    def upload(self, parameters: Parameters, transport_dtype: str = "") -> Payload:
        """Bring parameters to the server, once for each object, and return what names them in an instruction.

        Args:
            parameters: What is sent.
            transport_dtype: The 16-bit float in which they travel; "" for their own dtypes.
        """
        assert self._payloads is not None, "connect() comes first"
        return self._retold.named(parameters, self._payloads.upload(parameters, transport_dtype))

    def adopt(self, parameters: Parameters, payload: Payload, transport_dtype: str = "") -> None:
        """These parameters are at the server under this name already: an earlier process of the run brought them there."""
        assert self._payloads is not None, "connect() comes first"
        self._payloads.adopt(parameters, self._retold.named(parameters, payload), transport_dtype)

    def forget(self, parameters: Parameters) -> None:
        """These parameters are not at the server, whatever :meth:`adopt` said."""
        assert self._payloads is not None, "connect() comes first"
        self._payloads.forget(parameters)

    def download(self, payload: Payload, given_up: threading.Event | None = None) -> Parameters:
        """The parameters that a result names, as read-only views; who sets ``given_up`` does not want them any longer.

        Those that travelled in the run's 16-bit float are :class:`~hedgerow.wire.narrow.NarrowParameters`.

        Raises:
            CorruptData: The bytes are no parameters, or travelled in another 16-bit float than the run's.
            HedgerowError: The server refused, or was away for too long.
        """
        assert self._payloads is not None, "connect() comes first"
        given_up, backoff = given_up or threading.Event(), Backoff()
        while True:
            try:
                parameters = self._payloads.download(payload, given_up)
                break
            except (NotFound, PermissionDenied):
                # At a server that was restored, the blob is there again when its client has handed in the result again.
                if given_up.is_set() or not self._is_settling():
                    raise
            given_up.wait(backoff.next())
        if isinstance(parameters, NarrowParameters) and parameters.transport_dtype != self.transport_dtype:
            wanted = self.transport_dtype or "no 16-bit float"
            raise CorruptData(f"They travelled as {parameters.transport_dtype}; {wanted} was asked for.")
        self._retold.named(parameters, payload)
        return parameters

    def cancel(self, tasks: Sequence[Task], reason: str) -> None:
        """End tasks that have no result yet; does not wait for the server's answer."""
        ids = [task.task_id for task in tasks]
        self._retold.cancelled(ids)
        if ids:
            self._connection.spawn(self._cancel(driver_pb2.CancelTasksRequest(run_id=self.run_id, task_ids=ids, reason=reason)))

    def acknowledge(
        self,
        round: int,
        manifest: str = "",
        manifest_round: int | None = None,
        keep: Iterable[Payload] = (),
        *,
        later: bool = False,
    ) -> None:
        """The results of this round, and those before it, are safe here: clients and server may drop them.

        With ``later`` this does not wait for the server, which is told a moment later, of several rounds at once where these are
        short; a refusal then ends the run's waits. Where parameters travel as blobs it waits all the same: those of a round
        are gone before those of the next one come.

        Blobs stay whose parameters are in use here still, and those to keep. The manifest, one line of JSON, stays at the server;
        it is that of ``manifest_round``, if given: an asynchronous run gets on while tasks of earlier rounds are under way.
        """
        assert self._payloads is not None, "connect() comes first"
        digests = {payload.digest for payload in keep if isinstance(payload, Blob)}.union(self._payloads.digests())
        request = driver_pb2.AcknowledgeRoundRequest(
            run_id=self.run_id,
            round=round,
            keep=sorted(digests),
        )
        lines, self._untold = self._untold, []
        if manifest:
            lines.append((round if manifest_round is None else manifest_round, manifest))
        request.manifest.extend(driver_pb2.ManifestLine(round=at, line=line) for at, line in lines)
        self._retold.acknowledged(round)
        with self._lock:
            # Not of this one: who makes a task of it now must not get the id of an earlier one.
            for over in [counted for counted in self._sequences if counted < round]:
                del self._sequences[over]
        self._acknowledgements.owe(request)
        if not later or self._payloads.has_blobs:
            self._acknowledgements.settle(self._reconnect)
        self.mirror.forget(round)

    def tell_manifest(self, lines: Iterable[tuple[int, str]]) -> None:
        """With the next acknowledgement, tell these lines, with their rounds, which an earlier process may not have told."""
        self._untold.extend(lines)

    def end(self, state: RunState, message: str = "") -> None:
        """End the run, unless it has ended already.

        Raises:
            WaitTimeout: The server was away for longer than ``end_run_s`` (10 s when the run did not finish).
        """
        if self._over:
            return
        limit = self.limits.limit("end_run_s") if state is RunState.FINISHED else END_AFTER_ERROR
        try:
            self._acknowledgements.settle(limit)
        except HedgerowError:
            if state is RunState.FINISHED:
                raise
        request = driver_pb2.EndRunRequest(run_id=self.run_id, state=convert.run_state_to_proto(state), message=message[:2000])
        self._connection.call_blocking("EndRun", request, limit)
        self._over = True

    def close(self) -> None:
        """Close the connection; does not end the run. Doing it twice is the same as doing it once."""
        self._acknowledgements.drop()
        if self._watcher is not None:
            self.mirror.abort(HedgerowError("The driver was closed."))
        if self._payloads is not None:
            self._payloads.close()
        self.files.close()
        self._connection.close()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back on the connection's thread after some seconds."""
        self._connection.call_later(seconds, callback)

    def __enter__(self) -> Driver:
        if self._watcher is None:
            self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.end_with(error)
        finally:
            self.close()

    def end_with(self, error: BaseException | None) -> None:
        """End the run as its driver ended: FINISHED, FAILED with the error, or STOPPED after Ctrl-C or what came as such.

        A server that cannot be told does not matter any more: that is logged, not raised.
        """
        if error is None:
            state, message = RunState.FINISHED, ""
        elif isinstance(error, KeyboardInterrupt):
            state, message = RunState.STOPPED, f"stopped by {str(error) or 'Ctrl-C'} at the driver"
        else:
            state, message = RunState.FAILED, f"{type(error).__name__}: {error}"
        if isinstance(error, RunEnded) or self.watcher.unknown:
            return
        try:
            self.end(state, message)
        except HedgerowError as problem:
            log.warning("The server could not be told that run %s is %s: %s", self.run_id, state, problem)

    async def _cancel(self, request: driver_pb2.CancelTasksRequest) -> None:
        try:
            await self._connection.call("CancelTasks", request, self._reconnect)
        except HedgerowError as error:
            log.warning("%d tasks could not be cancelled: %s", len(request.task_ids), error)

    def _push(self, request: driver_pb2.PushTasksRequest) -> None:
        try:
            self._connection.call_blocking("PushTasks", request, self._reconnect)
        except PermissionDenied:
            # The server has another state now, or an earlier process of the run died before the tasks were pushed, and the
            # server has dropped what they name meanwhile: bring it there again.
            self._is_settling()
            named = {(task.instruction.parameters.blob.digest, task.instruction.transport_dtype) for task in request.tasks}
            for digest, transport_dtype in named:
                if not digest:
                    continue  # the parameters are in the message
                source = self._retold.source(digest)
                if source is None:
                    raise
                self.forget(source)
                self.upload(source, transport_dtype)
            self._connection.call_blocking("PushTasks", request, self._reconnect)

    # --- a server that was restored from a backup -------------------------------------------------------------------------

    def _is_settling(self) -> bool:
        """Whether the run was taken up at a server with another state a short while ago; a refusal may be the first sign."""
        self._connection.run(self.watcher.open_run(self._reconnect), "the run to be taken up")
        return self._retold.settling

    def _moved(self) -> None:
        """The server has another state: runs on the connection's thread."""
        for parameters in self._retold.moved():
            self.forget(parameters)
        threading.Thread(target=self._tell_again, name="hedgerow-tell-again", daemon=True).start()

    def _tell_again(self) -> None:
        """Which rounds are over, and the tasks of the round that is not: those that the server knows change nothing."""
        acknowledged, tasks = self._retold.all()
        try:
            if acknowledged >= 0:
                request = driver_pb2.AcknowledgeRoundRequest(run_id=self.run_id, round=acknowledged)
                self._connection.call_blocking("AcknowledgeRound", request, self._reconnect)
            # A task whose result is here is told for the sake of the result's blob; not at the price of the round.
            self._push_all([task for task in tasks if not self.expect(task).done() or self._has_parameters(task)])
        except HedgerowError as error:
            self.mirror.abort(error)

    def _has_parameters(self, task: Task) -> bool:
        payload = task.instruction.parameters
        return not isinstance(payload, Blob) or self._retold.source(payload.digest) is not None
