"""Tasks of an asynchronous run that are under way: one client, one model that it started from, one answer.

Owned here: noting each task in the run's journal before it is sent, taking up those that an earlier process of the run had sent,
and handing out answers in the order in which the server stored them. That order, and what each task started from, is all that the
run's parameters depend on: so a driver that takes the run up comes to the same ones.
"""

from __future__ import annotations

import heapq
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from functools import partial

from hedgerow.aggregation.updates import UpdateSpec
from hedgerow.driver.answers import TIME_IS_UP, failure_of, fit_res
from hedgerow.driver.asynchronous import Flight, Landing, SpecOf
from hedgerow.driver.daemon_pool import DaemonPool
from hedgerow.driver.driver import Driver
from hedgerow.driver.journal import Asked, Batch, Journal, SentIns
from hedgerow.driver.results import Measure
from hedgerow.driver.sent import are_those_of
from hedgerow.errors import BadUpdate, TaskFailed
from hedgerow.records import Blob, FitIns, FitRes, Kind, Node, NodeState, Outcome, Parameters, Payload, Task, TaskResult
from hedgerow.strategy.clients import ClientManager, ClientProxy
from hedgerow.waits import Limit, wait_condition, wait_future

log = logging.getLogger(__name__)

ANSWERS = Limit("round_timeout", None)
"""Waiting for an answer has no limit of its own: ``round_timeout``, if there is one, ends tasks that take longer."""
RUN_IS_OVER = "the run is over"


class DriverFlights:
    """All tasks of a run that are under way.

    Args:
        driver: The run.
        manager: Who is available, and how many choices were made among them.
        node_of: The node of a client.
        proxy: The client of a node.
        journal: Where tasks are noted before they are sent; None where the run has no folder.
        pool: Runs downloads.
    """

    def __init__(
        self,
        driver: Driver,
        manager: ClientManager,
        node_of: Callable[[ClientProxy], Node],
        proxy: Callable[[Node], ClientProxy],
        journal: Journal | None,
        pool: DaemonPool,
    ) -> None:
        self._driver = driver
        self._manager = manager
        self._node_of = node_of
        self._proxy = proxy
        self._journal = journal
        self._pool = pool
        self._condition = threading.Condition()
        self._open: dict[str, tuple[Flight, Task]] = {}
        self._landed: list[tuple[int, str, Future[FitRes], Measure]] = []
        self._as_sent_before: weakref.WeakKeyDictionary[Parameters, Parameters] = weakref.WeakKeyDictionary()
        self._error: BaseException | None = None
        self._nodes_changed = False
        self._round = self._number = 0
        driver.subscribe(self._changed, self._abort)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def pending(self) -> list[tuple[int, str]]:
        """The journal's names of all that are under way."""
        return sorted((flight.round, flight.key) for flight, _ in self._open.values())

    @property
    def oldest_round(self) -> int | None:
        """The first round of which a task is under way."""
        return min((flight.round for flight, _ in self._open.values()), default=None)

    def busy(self) -> set[str]:
        """Names of the clients that are at work."""
        return {flight.client.cid for flight, _ in self._open.values()}

    def send(self, server_round: int, client: ClientProxy, ins: FitIns, spec: UpdateSpec, timeout: float | None) -> None:
        """Let one client train, for at most ``timeout`` seconds."""
        node = self._node_of(client)
        sequences = [one for one in self._driver.sequences(server_round) if one[0] == node.node_id]
        task = self._task(server_round, node, ins)
        if server_round != self._round:
            self._round, self._number = server_round, 0
        key = f"{Kind.FIT}-{self._number:06d}"
        self._number += 1
        if self._journal is not None:
            assert task.instruction.parameters is not None, "fit carries parameters"
            sent = SentIns(ins.config, task.instruction.parameters, False, task.instruction.transport_dtype)
            asked = Asked(node.node_id, node.name, 0)
            self._journal.write(Batch(server_round, key, [asked], [sent], (), sequences, self._manager.state_dict()))
        ins = self._as_sent(ins, task.instruction.parameters, task.instruction.transport_dtype)
        self._launch(Flight(client, ins, server_round, key, spec), task, timeout)

    def take_up(
        self, pending: Sequence[tuple[int, str]], next_round: int, current: Parameters, spec_of: SpecOf, timeout: float | None
    ) -> None:
        """Take up what an earlier process of the run has sent; what has ended by now lands again, in its order.

        Args:
            pending: What was under way when the last round was over.
            next_round: The round that begins now; most of its tasks started from the model that there is now.
            current: That model.
            spec_of: What answers must look like.
            timeout: Seconds for each task, counted anew.
        """
        if self._journal is None:
            return
        noted = (name for name in self._journal.names() if name[0] >= next_round and name[1].startswith(f"{Kind.FIT}-"))
        names = sorted({*pending, *noted})
        bases: dict[tuple[int, Payload], Parameters] = {}
        launched: list[tuple[Flight, Task]] = []
        for batch in map(self._journal.noted, names):
            (asked,), (sent,) = batch.asked, batch.instructions
            base = bases.get((batch.round, sent.payload))
            if base is None:
                if batch.round == next_round and are_those_of(sent, current):
                    self._driver.adopt(current, sent.payload, sent.transport_dtype)
                    base = current
                else:
                    base = self._driver.download(sent.payload)
                bases[batch.round, sent.payload] = base
            if batch.round == next_round:
                self._round, self._number = batch.round, int(batch.kind.rpartition("-")[2]) + 1
                self._manager.load_state_dict(batch.manager)
            self._driver.continue_round(batch.round, batch.sequences or [(asked.node_id, str(Kind.FIT), 0)])
            node, ins = Node(asked.node_id, asked.name, NodeState.AWAY, 0, 0.0), FitIns(base, sent.config)
            task = self._task(batch.round, node, ins)
            ins = self._as_sent(ins, sent.payload, sent.transport_dtype)
            launched.append((Flight(self._proxy(node), ins, batch.round, batch.kind, spec_of(batch.round, ins)), task))
        if launched:
            log.info("Taking up %s tasks that were sent before", len(launched), extra={"action": "tasks_taken_up"})
        for flight, task in launched:
            self._launch(flight, task, timeout)

    def next(self) -> Landing | None:
        """The next answer in the order of the server; None when clients have come or gone.

        Raises:
            RunEnded: The run was ended by somebody else; and whatever else makes it impossible to go on.
        """
        with self._condition:
            wait_condition(
                self._condition,
                lambda: bool(self._landed or self._error or self._nodes_changed),
                ANSWERS,
                f"one of {len(self._open)} answers, or another client",
            )
            if self._error is not None:
                raise self._error
            if not self._landed:
                self._nodes_changed = False
                return None
            cursor, task_id, future, measure = heapq.heappop(self._landed)
            flight, _ = self._open.pop(task_id)
        answer: FitRes | Exception
        try:
            answer = wait_future(future, ANSWERS, f"the update of {flight.client.cid}")
        except (TaskFailed, BadUpdate) as error:
            answer = error.with_traceback(None)  # a traceback would keep the update's arrays alive
        return Landing(flight, answer, measure, cursor)

    def cancel_all(self) -> list[Flight]:
        """End everything that is under way; returns it."""
        with self._condition:
            under_way = [self._open[task_id] for task_id in sorted(self._open)]
            self._open.clear()
            self._landed.clear()
        self._driver.cancel([task for _, task in under_way], RUN_IS_OVER)
        return sorted((flight for flight, _ in under_way), key=lambda flight: (flight.round, flight.key))

    def _task(self, server_round: int, node: Node, ins: FitIns) -> Task:
        return self._driver.task(node, Kind.FIT, round=server_round, config=ins.config, parameters=ins.parameters)

    def _as_sent(self, ins: FitIns, payload: Payload | None, transport_dtype: str) -> FitIns:
        """The instruction with the model that the client really starts from: its change is counted from there.

        An earlier version is known to a driver that takes the run up as it was sent alone: so every driver counts alike.
        """
        if not transport_dtype or payload is None:
            return ins
        base = self._as_sent_before.get(ins.parameters)
        if base is None:
            base = self._driver.files.as_sent(ins.parameters, transport_dtype)
            if base is ins.parameters:  # noted, it would keep itself alive
                return ins
            self._as_sent_before[ins.parameters] = base
            self._driver.adopt(base, payload, transport_dtype)  # it may outlive what it was made of
        return FitIns(base, ins.config)

    def _launch(self, flight: Flight, task: Task, timeout: float | None) -> None:
        with self._condition:
            self._open[task.task_id] = flight, task
        self._driver.expect(task).add_done_callback(partial(self._arrived, flight, task.task_id))
        self._driver.push([task])
        if timeout is not None:
            self._driver.call_later(timeout, partial(self._time_is_up, task))

    def _time_is_up(self, task: Task) -> None:
        """Its end comes as every other: from the server, in its place among the answers."""
        with self._condition:
            under_way = task.task_id in self._open
        if under_way:
            self._driver.cancel([task], TIME_IS_UP)

    def _arrived(self, flight: Flight, task_id: str, future: Future[TaskResult]) -> None:
        """A task has ended: runs on the connection's thread, which must not wait for a download."""
        error = future.exception(0)
        if error is not None:
            self._abort(error)
            return
        result = future.result(0)
        payload = result.reply.parameters
        size = payload.size if isinstance(payload, Blob) else len(payload or b"")
        update: Future[FitRes] = Future()
        with self._condition:
            if task_id not in self._open:
                return
            heapq.heappush(self._landed, (result.cursor, task_id, update, Measure(size, result.reply.duration_s)))
            self._condition.notify_all()
        if result.reply.outcome is not Outcome.OK:
            update.set_exception(failure_of(flight.client.cid, Kind.FIT, result.reply))
        elif isinstance(payload, Blob):
            self._pool.submit(lambda: self._fetch(flight, result, update))
        else:
            self._fetch(flight, result, update)

    def _fetch(self, flight: Flight, result: TaskResult, update: Future[FitRes]) -> None:
        try:
            update.set_result(fit_res(result.reply, self._driver.download, flight.spec))
        except Exception as error:  # noqa: BLE001 (raised where the update is wanted)
            update.set_exception(error.with_traceback(None))

    def _changed(self, node_ids: Collection[str]) -> None:
        with self._condition:
            self._nodes_changed = True
            self._condition.notify_all()

    def _abort(self, error: BaseException) -> None:
        with self._condition:
            self._error = self._error or error
            self._condition.notify_all()
