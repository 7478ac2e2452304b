"""Instructions out, answers in: between what a strategy says and what the low-level driver does.

Owned here: a phase's time limits, and that results are fetched and checked in the background, out of order, while the strategy
folds those that came before.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property, partial
from typing import Protocol, TypeAlias, TypeVar

from hedgerow.aggregation.updates import UpdateSpec
from hedgerow.driver.answers import (
    LATE,
    TIME_IS_UP,
    Download,
    Ins,
    evaluate_res,
    failure_again,
    failure_of,
    fit_res,
    get_parameters_res,
    get_properties_res,
    kind_of,
    late,
    reason_of,
    unfetched,
)
from hedgerow.driver.asynchronous import Flights
from hedgerow.driver.config import ServerConfig
from hedgerow.driver.daemon_pool import DaemonPool
from hedgerow.driver.driver import Driver
from hedgerow.driver.flights import DriverFlights
from hedgerow.driver.journal import Journal, Unfolded
from hedgerow.driver.results import Measure, Results
from hedgerow.driver.sent import Again, SentBatches
from hedgerow.errors import BadUpdate, ConfigError, InvalidArgument, TaskFailed, WaitTimeout
from hedgerow.records import (
    Blob,
    Config,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Kind,
    Node,
    Outcome,
    Parameters,
    Reply,
    Task,
    TaskResult,
)
from hedgerow.strategy.clients import ClientManager, ClientProxy
from hedgerow.waits import Limit, wait_future

log = logging.getLogger(__name__)

R = TypeVar("R", FitRes, EvaluateRes)
I = TypeVar("I", FitIns, EvaluateIns)  # noqa: E741
Answer: TypeAlias = Callable[[Reply, Download], R]
DOWNLOADS_AT_ONCE = 4


class Exchange(Protocol):
    """What carries a server's instructions to clients."""

    @property
    def run_seed(self) -> int:
        """The run's seed."""

    def start_round(self, server_round: int) -> None:
        """What is asked from now on belongs to this round; 0 is before the first."""

    def sent_fit(self, parameters: Parameters) -> list[tuple[ClientProxy, FitIns]] | None:
        """How an earlier process of this run has let clients train in this round; None if it has not.

        Asked once before each training and each evaluation, with the run's parameters.
        """

    def sent_evaluate(self, parameters: Parameters) -> list[tuple[ClientProxy, EvaluateIns]] | None:
        """The same for evaluation."""

    def fit(
        self, instructions: Sequence[tuple[ClientProxy, FitIns]], specs: Sequence[UpdateSpec], timeout: float | None
    ) -> Results[FitRes]:
        """Let clients train; each update must be as its specification says."""

    def evaluate(self, instructions: Sequence[tuple[ClientProxy, EvaluateIns]], timeout: float | None) -> Results[EvaluateRes]:
        """Let clients evaluate."""

    @property
    def flights(self) -> Flights:
        """The tasks that are under way in an asynchronous run."""

    def finish_round(self, server_round: int, manifest: str = "", oldest_open: int | None = None) -> None:
        """The round's results are not needed any longer. The manifest says what came of whom.

        Tasks of the round ``oldest_open`` and later ones may still be under way (None: of none).
        """


class NodeProxy(ClientProxy):
    """A client at the other side of the server. Each method pushes one task and waits for its result.

    Methods raise :class:`~hedgerow.errors.TaskFailed` when the client fails (reason "late" after ``timeout`` seconds) and
    :class:`~hedgerow.errors.BadUpdate` when its answer cannot be used. A client without the method answers with that status.

    Attributes:
        cid: The node's name.
        node_id: The node's id.
    """

    def __init__(self, node: Node, exchange: DriverExchange) -> None:
        super().__init__(node.name)
        self.node = node
        self.node_id = node.node_id
        self._exchange = exchange

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None) -> GetPropertiesRes:
        """Ask the client for its properties."""
        reply = self._exchange.ask(self, ins, timeout, accept=(Outcome.OK, Outcome.NOT_IMPLEMENTED))
        return get_properties_res(reply)

    def get_parameters(self, ins: GetParametersIns, timeout: float | None) -> GetParametersRes:
        """Ask the client for its parameters."""
        reply = self._exchange.ask(self, ins, timeout, accept=(Outcome.OK, Outcome.NOT_IMPLEMENTED))
        return get_parameters_res(reply, self._exchange.driver.download)

    def fit(self, ins: FitIns, timeout: float | None) -> FitRes:
        """Let the client train."""
        return fit_res(self._exchange.ask(self, ins, timeout), self._exchange.driver.download, UpdateSpec(finite=False))

    def evaluate(self, ins: EvaluateIns, timeout: float | None) -> EvaluateRes:
        """Let the client evaluate."""
        return evaluate_res(self._exchange.ask(self, ins, timeout))


class DriverExchange:
    """Carries instructions out as tasks of the driver's run.

    Args:
        driver: The run.
        manager: Who is available.
        journal: Where batches are noted before they are sent, so that the run can be taken up again.
        config: When a round waits no longer for stragglers.
    """

    def __init__(
        self,
        driver: Driver,
        manager: ClientManager | None = None,
        journal: Journal | None = None,
        config: ServerConfig | None = None,
    ) -> None:
        self.driver = driver
        self._config = config or ServerConfig()
        self._round = 0
        self._pool = DaemonPool(DOWNLOADS_AT_ONCE, "hedgerow-download")
        self._manager = manager
        self._journal = journal
        self._sent = SentBatches(driver, journal, manager)
        self._again: Again | None = None

    @property
    def run_seed(self) -> int:
        """The run's seed."""
        return self.driver.seed

    def start_round(self, server_round: int) -> None:
        """What is asked from now on belongs to this round."""
        self._round = server_round
        self.driver.start_round(server_round)

    @cached_property
    def flights(self) -> DriverFlights:
        """The tasks that are under way in an asynchronous run.

        Raises:
            ConfigError: There is no client manager.
        """
        if self._manager is None:
            raise ConfigError("An asynchronous run needs a client manager.")
        pool = DaemonPool(DOWNLOADS_AT_ONCE, "hedgerow-download")
        return DriverFlights(self.driver, self._manager, lambda c: _node_proxy(c).node, self._proxy, self._journal, pool)

    def finish_round(self, server_round: int, manifest: str = "", oldest_open: int | None = None) -> None:
        """Clients may drop the results of rounds of which nothing is open, and the server their blobs; it keeps the manifest."""
        released = server_round if oldest_open is None else min(server_round, oldest_open - 1)
        self.driver.acknowledge(released, manifest, server_round, self._sent.payloads(), later=True)

    def close(self) -> None:
        """Forget what has not been fetched yet."""
        self._pool.clear()

    def ask(self, client: NodeProxy, ins: Ins, timeout: float | None, accept: Sequence[Outcome] = (Outcome.OK,)) -> Reply:
        """Push one task and wait for its reply.

        Raises:
            TaskFailed: The client failed, or did not answer in time.
            RunEnded: The run was ended meanwhile.
        """
        task = self._task(client, ins)
        self.driver.push([task])
        try:
            limit = Limit("timeout", timeout)
            reply = wait_future(self.driver.expect(task), limit, f"{task.instruction.kind} of {client.cid}").reply
        except WaitTimeout:
            self.driver.cancel([task], "no answer in time")
            raise late(client.cid, task.instruction.kind, f"{timeout:g} s") from None
        if reply.outcome not in accept:
            raise failure_of(client.cid, task.instruction.kind, reply)
        return reply

    def sent_fit(self, parameters: Parameters) -> list[tuple[ClientProxy, FitIns]] | None:
        """How an earlier process of this run has let clients train in this round."""
        return self._recall(Kind.FIT, parameters, FitIns)

    def sent_evaluate(self, parameters: Parameters) -> list[tuple[ClientProxy, EvaluateIns]] | None:
        """How an earlier process of this run has let clients evaluate in this round."""
        return self._recall(Kind.EVALUATE, parameters, EvaluateIns)

    def _recall(
        self, kind: Kind, parameters: Parameters, make: Callable[[Parameters, Config], I]
    ) -> list[tuple[ClientProxy, I]] | None:
        self._again = again = self._sent.recall(self._round, kind, parameters)
        if again is None:
            return None
        instructions = [make(one, config) for one, config in again.instructions]
        clients = {} if self._manager is None else self._manager.all()
        return [(self._proxy(node, clients), instructions[index]) for node, index in again.nodes]

    def _proxy(self, node: Node, clients: Mapping[str, ClientProxy] | None = None) -> NodeProxy:
        """The client as the manager knows it, or one of its own where it is not available now."""
        if clients is None:
            clients = {} if self._manager is None else self._manager.all()
        known = clients.get(node.name)
        return known if isinstance(known, NodeProxy) and known.node_id == node.node_id else NodeProxy(node, self)

    def fit(
        self, instructions: Sequence[tuple[ClientProxy, FitIns]], specs: Sequence[UpdateSpec], timeout: float | None
    ) -> Results[FitRes]:
        """Let clients train. The deadline counts from when the tasks are at the server."""
        answers: list[Answer[FitRes]] = [partial(fit_res, spec=spec) for spec in specs]
        return self._ask_all(Kind.FIT, instructions, answers, timeout)

    def evaluate(self, instructions: Sequence[tuple[ClientProxy, EvaluateIns]], timeout: float | None) -> Results[EvaluateRes]:
        """Let clients evaluate. The deadline counts from when the tasks are at the server."""
        answers: list[Answer[EvaluateRes]] = [lambda reply, download: evaluate_res(reply)] * len(instructions)
        return self._ask_all(Kind.EVALUATE, instructions, answers, timeout)

    def _ask_all(
        self,
        kind: Kind,
        instructions: Sequence[tuple[ClientProxy, FitIns | EvaluateIns]],
        answers: Sequence[Answer[R]],
        timeout: float | None,
    ) -> Results[R]:
        # Threads of its own: those of the phase before may hang in transfers that nobody wants any longer.
        self._pool = DaemonPool(DOWNLOADS_AT_ONCE, "hedgerow-download")
        clients = [_node_proxy(client) for client, _ in instructions]
        sequences = self.driver.sequences(self._round)
        tasks = [self._task(client, ins) for client, (_, ins) in zip(clients, instructions, strict=True)]
        again, self._again = self._again, None
        closed = None if again is None else again.closed
        if again is None:
            noted = [(c.node, ins, task.instruction) for c, (_, ins), task in zip(clients, instructions, tasks, strict=True)]
            not_asked = self._sent.note(self._round, kind, noted, sequences)
        else:
            not_asked = again.not_asked
        results: Results[R] = self._results(kind, clients, tasks, closed is not None)
        results.not_asked = not_asked
        self.driver.push(tasks)
        if closed is not None:
            for one in closed:
                self._leave_out(results, one, kind)
            # The earlier process may have died before the server heard of it.
            self.driver.cancel([tasks[one.index] for one in closed if one.reason == LATE], TIME_IS_UP)
        elif timeout is not None:
            within = f"{timeout:g} s"
            errors = partial(late, kind=kind, within=within), partial(unfetched, kind=kind, within=within)
            self._expire_later(timeout, weakref.ref(results), tasks, *errors)
        for index, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
            # A future keeps its callbacks when it is done; the list lets go of the results.
            self.driver.expect(task).add_done_callback(partial(self._arrived, [results], index, clients[index].cid, answer))
        return results

    @staticmethod
    def _leave_out(results: Results[R], one: Unfolded, kind: Kind) -> None:
        """Who was not folded before the driver was restarted is not folded now."""
        if one.bytes is not None and one.seconds is not None:
            results.measures[one.index] = Measure(one.bytes, one.seconds)
        results.fail(one.index, failure_again(results.client(one.index).cid, kind, one.reason, one.message))

    def _results(self, kind: Kind, clients: Sequence[NodeProxy], tasks: Sequence[Task], closed: bool) -> Results[R]:
        """An empty sequence of results, which waits for stragglers no longer than the grace time.

        A phase that was closed before has no such limit: its results are at the server.
        """
        quorum, grace_s = min(self._config.quorum(len(clients)), len(clients)), self._config.grace_s
        itself: list[weakref.ref[Results[R]]] = []

        def reached() -> None:
            assert grace_s is not None
            within = f"{grace_s:g} s after {quorum} of {len(clients)} clients"
            self._expire_later(grace_s, itself[0], tasks, partial(late, kind=kind, within=within))

        results: Results[R] = Results(
            clients,
            partial(_log_completed, kind, self._round),
            partial(_log_failed, kind, self._round),
            None if closed or grace_s is None else quorum,
            reached,
            (lambda failed, measures: None) if closed else partial(self._sent.close, self._round, kind),
        )
        itself.append(weakref.ref(results))
        return results

    def _task(self, client: NodeProxy, ins: Ins) -> Task:
        parameters: Parameters | None = getattr(ins, "parameters", None)
        return self.driver.task(client.node, kind_of(ins), round=self._round, config=ins.config, parameters=parameters)

    def _expire_later(
        self,
        seconds: float,
        expiring: weakref.ref[Results[R]],
        tasks: Sequence[Task],
        error: Callable[[str], TaskFailed],
        on_its_way: Callable[[str], TaskFailed] | None = None,
    ) -> None:
        """After some seconds, whoever has not answered is late. The timer outlives the round; it does not keep its results."""

        def expire() -> None:
            results = expiring()
            if results is not None:
                fetching = None if on_its_way is None else lambda client: on_its_way(client.cid)
                indices = results.expire(lambda client: error(client.cid), fetching)
                self.driver.cancel([tasks[index] for index in indices], TIME_IS_UP)

        self.driver.call_later(seconds, expire)

    def _arrived(self, holder: list[Results[R]], index: int, node: str, answer: Answer[R], future: Future[TaskResult]) -> None:
        """A task's future is done: runs on the connection's thread, which must not wait for a download."""
        results = holder.pop()
        error = future.exception(0)
        if error is not None:
            results.abort(error)
            return
        result = future.result(0)
        if not results.arrived(index):
            if result.reply.outcome is Outcome.OK:
                log.info("%s_round %s: the result of %s came too late and is not used", result.kind, result.round, node)
            return
        payload = result.reply.parameters
        size = payload.size if isinstance(payload, Blob) else len(payload or b"")
        results.measures[index] = Measure(size, result.reply.duration_s)
        if result.reply.outcome is not Outcome.OK:
            results.fail(index, failure_of(node, result.kind, result.reply))
        elif isinstance(result.reply.parameters, Blob):
            self._pool.submit(lambda: self._finish(results, index, answer, result.reply))
        else:
            self._finish(results, index, answer, result.reply)

    def _finish(self, results: Results[R], index: int, answer: Answer[R], reply: Reply) -> None:
        if results.complete.is_set():
            return  # its time was up before its turn came
        try:
            results.put(index, answer(reply, partial(self.driver.download, given_up=results.complete)))
        except (BadUpdate, TaskFailed) as error:
            results.fail(index, error.with_traceback(None))  # a traceback would keep the update's arrays alive
        except Exception as error:  # noqa: BLE001 (raised where the strategy waits: it is not the client's fault)
            results.abort(error)


def _node_proxy(client: ClientProxy) -> NodeProxy:
    if not isinstance(client, NodeProxy):
        raise InvalidArgument(f"{client!r} is not a client of this run; take clients from the client manager.")
    return client


def _log_completed(kind: Kind, server_round: int, results: int, failures: int) -> None:
    log.debug("%s_round %s received %s results and %s failures", kind, server_round, results, failures)


def _log_failed(kind: Kind, server_round: int, client: ClientProxy, error: Exception) -> None:
    traceback = error.traceback if isinstance(error, TaskFailed) else ""
    log.warning(
        "%s_round %s: client %s failed (%s): %s%s",
        kind,
        server_round,
        client.cid,
        reason_of(error),
        error,
        f"\n{traceback.rstrip()}" if traceback else "",
        extra={"action": "client_failed", "node": client.cid, "reason": reason_of(error)},
    )
