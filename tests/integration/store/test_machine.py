"""Random sequences of events against a store on disk and a plain model of it, which is a few dictionaries.

Held after every step: a task is in exactly the state that the model says, so a final state stays final; the stream of results
only grows, each task is in it once, with the reply that was taken first; what was acknowledged is there after the database was
closed, or copied as a kill would have left it, and opened again; in a batch, one bad item fails alone.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hedgerow.errors import Fenced, HedgerowError, NotFound, RunEnded
from hedgerow.records import NodeState, Outcome, Reply, RunState, TaskResult
from hedgerow.store.store import Store
from hedgerow.task_states import FINAL, OPEN, TaskState, after, event_of
from tests.integration.store.conftest import RUN, HeldClock, client, driver, fit

T = TypeVar("T")
NODES = [client(n) for n in range(1, 4)]
STRANGER = client(9)
DRIVER = driver()
LOST_AFTER_S = 600.0
LEFT_FOR_S = 60.0
OUTCOMES = st.sampled_from([Outcome.OK, Outcome.OK, Outcome.USER_ERROR, Outcome.WORKER_DIED, Outcome.EXPIRED])
node_numbers = st.integers(0, len(NODES) - 1)


@dataclass
class ModelNode:
    state: NodeState
    epoch: int = 0
    away_since: float = 0.0


@dataclass
class ModelTask:
    node_id: str
    round: int
    state: TaskState
    outcome: Outcome | None = None


class StoreMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="hedgerow-machine-"))
        self.generation = itertools.count()
        self.sequence = itertools.count()
        self.clock = HeldClock()
        self.runner = asyncio.Runner()
        self.path = self.folder / "hedgerow.sqlite3"
        self.nodes: dict[str, ModelNode] = {}
        self.tasks: dict[str, ModelTask] = {}
        self.acknowledged = -1
        self.ended = False
        self.seen: list[TaskResult] = []
        self._open()

    def _open(self) -> None:
        self.store = Store.open(f"sqlite:///{self.path}", self.clock)
        self.opened_at = self.clock.now()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.store.close()
        self.runner.close()
        shutil.rmtree(self.folder)

    # --- the model's own moves --------------------------------------------------------------------------------------------

    def _end(self, task: ModelTask, outcome: Outcome) -> None:
        assert task.state in OPEN
        task.outcome = outcome
        task.state = after(task.state, event_of(outcome))

    def _lose(self, node_id: str) -> None:
        self.nodes[node_id].state = NodeState.LOST
        for task in self._open_tasks(node_id):
            self._end(task, Outcome.NODE_LOST)

    def _open_tasks(self, node_id: str | None = None) -> list[ModelTask]:
        return [t for t in self.tasks.values() if t.state in OPEN and node_id in (None, t.node_id)]

    def _completion(self, task_id: str, lag: int, outcome: Outcome) -> tuple[Awaitable[Any], Callable[[Any], None]]:
        """A call that hands a result in, and what must come of it."""
        task = self.tasks[task_id]
        node = self.nodes.get(task.node_id, ModelNode(NodeState.LOST))
        reply = Reply(outcome, "from a client", num_examples=next(self.sequence))
        call = self.store.complete_task(task.node_id, node.epoch - lag, task_id, reply)

        def check(answer: Any) -> None:
            if task.node_id not in self.nodes:
                assert isinstance(answer, NotFound)
            elif lag:
                assert isinstance(answer, Fenced)
            else:
                assert answer.accepted == (task.state in OPEN)
                assert answer.release == (self.ended or task.round <= self.acknowledged)
                if answer.accepted:
                    self._end(task, outcome)

        return call, check

    # --- events -----------------------------------------------------------------------------------------------------------

    @initialize(online=st.sets(node_numbers), numbers=st.lists(node_numbers, min_size=2, max_size=5), round=st.integers(0, 4))
    def create_run(self, online: set[int], numbers: list[int], round: int) -> None:
        """Begin where something can happen."""
        self.run(self.store.create_run(DRIVER, RUN, "machine", 1))
        for number in online:
            self._open_session(number, [], [])
        self.push_tasks(numbers, round, again=False)

    @rule(number=node_numbers, data=st.data())
    def open_session(self, number: int, data: st.DataObject) -> None:
        who = NODES[number]
        mine = sorted(i for i, t in self.tasks.items() if t.node_id == who.id)
        in_hand = data.draw(st.lists(st.sampled_from(mine), unique=True)) if mine else []
        finished = [i for i in in_hand if data.draw(st.booleans())]
        self._open_session(number, [i for i in in_hand if i not in finished], finished)

    def _open_session(self, number: int, running: list[str], finished: list[str]) -> None:
        who, in_hand = NODES[number], running + finished
        opened = self.run(self.store.open_session(who, f"hospital_{number}", running, finished))
        node = self.nodes.setdefault(who.id, ModelNode(NodeState.ONLINE))
        node.state, node.epoch = NodeState.ONLINE, node.epoch + 1
        assert opened.epoch == node.epoch
        assert [t.task_id for t in opened.assign] == [
            i for i, t in self.tasks.items() if t.node_id == who.id and t.state in OPEN and i not in in_hand
        ]
        assert opened.cancel == sorted(i for i in running if self.tasks[i].state in FINAL)
        over = [i for i in finished if self.ended or self.tasks[i].round <= self.acknowledged]
        assert opened.release == sorted(i for i in over if self.tasks[i].state in FINAL)
        for task_id, task in self.tasks.items():
            if task.node_id == who.id and task.state in OPEN and task_id not in finished:
                task.state = TaskState.SENT

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), lag=st.sampled_from([0, 0, 1]), hand_back=st.booleans(), left=st.booleans())
    def close_session(self, data: st.DataObject, lag: int, hand_back: bool, left: bool) -> None:
        node_id = data.draw(st.sampled_from(sorted(self.nodes)))
        node = self.nodes[node_id]
        back = [i for i, t in self.tasks.items() if t.node_id == node_id] if hand_back else []
        self.run(self.store.close_session(node_id, node.epoch - lag, back, left=left))
        if not lag and node.state is NodeState.ONLINE:
            node.state, node.away_since = NodeState.LEFT if left else NodeState.AWAY, self.clock.now()
            for task_id in back:
                if self.tasks[task_id].state is TaskState.SENT:
                    self.tasks[task_id].state = TaskState.QUEUED

    @rule(seconds=st.sampled_from([1.0, 100.0, 700.0]))
    def time_passes_and_nodes_are_lost(self, seconds: float) -> None:
        self.clock.advance(seconds)
        limits = {NodeState.AWAY: self.clock.now() - LOST_AFTER_S, NodeState.LEFT: self.clock.now() - LEFT_FOR_S}
        lost = self.run(self.store.lose_nodes(*limits.values()))
        gone = [(i, n.away_since, limits[n.state]) for i, n in self.nodes.items() if n.state in limits]
        expected = {i for i, away_since, limit in gone if away_since < limit and self.opened_at < limit}
        assert {n.node_id for n in lost.nodes} == expected
        for node_id in expected:
            self._lose(node_id)

    @rule(numbers=st.lists(node_numbers, min_size=1, max_size=4), round=st.integers(0, 4), again=st.booleans())
    def push_tasks(self, numbers: list[int], round: int, again: bool) -> None:
        tasks = [fit(NODES[n], round=round, sequence=next(self.sequence), payload=b"inline") for n in numbers]
        try:
            pushed = self.run(self.store.push_tasks(DRIVER, RUN, tasks))
            if again:
                assert self.run(self.store.push_tasks(DRIVER, RUN, tasks)).created == 0
        except RunEnded:
            assert self.ended
            return
        assert not self.ended
        assert pushed.created == len(tasks)
        for task in tasks:
            node = self.nodes.get(task.node_id, ModelNode(NodeState.LOST))
            state = TaskState.SENT if node.state is NodeState.ONLINE else TaskState.QUEUED
            self.tasks[task.task_id] = ModelTask(task.node_id, task.round, state)
            if node.state is NodeState.LOST:
                self._end(self.tasks[task.task_id], Outcome.NODE_LOST)
        assert [a.task for a in pushed.assign] == [t for t in tasks if self.tasks[t.task_id].state is TaskState.SENT]
        assert pushed.failed == any(self.tasks[t.task_id].state in FINAL for t in tasks)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), lag=st.sampled_from([0, 0, 0, 1]), outcome=OUTCOMES)
    def complete_task(self, data: st.DataObject, lag: int, outcome: Outcome) -> None:
        call, check = self._completion(data.draw(st.sampled_from(list(self.tasks))), lag, outcome)
        check(self.run(_answer(call)))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def batch_with_bad_items(self, data: st.DataObject) -> None:
        """Several completions at once, in one commit or a few; some of them are refused."""
        some = data.draw(st.lists(st.tuples(st.sampled_from(list(self.tasks)), st.sampled_from([0, 0, 1]), OUTCOMES), min_size=2))
        items = [self._completion(task_id, lag, outcome) for task_id, lag, outcome in some]

        async def together() -> list[Any]:
            bad = asyncio.ensure_future(_answer(self.store.complete_task(STRANGER.id, 1, "0" * 32, Reply(Outcome.OK))))
            answers = await asyncio.gather(*(_answer(call) for call, _ in items))
            assert isinstance(await bad, NotFound)
            return answers

        for (_, check), answer in zip(items, self.run(together()), strict=True):
            check(answer)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def cancel_tasks(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(list(self.tasks)), unique=True))
        tasks = [self.tasks[i] for i in ids if self.tasks[i].state in OPEN]
        assert self.run(self.store.cancel_tasks(DRIVER, RUN, [*ids, "0" * 32], "late")).count == len(tasks)
        for task in tasks:
            self._end(task, Outcome.CANCELLED)

    @rule(round=st.integers(0, 4))
    def acknowledge_round(self, round: int) -> None:
        late = [t for t in self._open_tasks() if t.round <= round]
        self.run(self.store.acknowledge_round(DRIVER, RUN, round, []))
        if not self.ended:
            self.acknowledged = max(self.acknowledged, round)
            for task in late:
                self._end(task, Outcome.CANCELLED)

    @precondition(lambda self: len(self.tasks) > 8)
    @rule()
    def end_run(self) -> None:
        self.run(self.store.end_run(DRIVER, RUN, RunState.FINISHED, "done"))
        self.ended = True
        for task in self._open_tasks():
            self._end(task, Outcome.CANCELLED)

    @rule(killed=st.booleans(), seconds=st.sampled_from([0.0, 5_000.0]))
    def reopen(self, killed: bool, seconds: float) -> None:
        if killed:  # what lies on the disk at this moment, log and all
            place = self.folder / str(next(self.generation))
            place.mkdir()
            for file in (self.path, self.path.with_name(f"{self.path.name}-wal")):
                shutil.copy(file, place / file.name)
            self.store.close()
            self.path = place / self.path.name
        else:
            self.store.close()
        self.clock.advance(seconds)
        self._open()
        for node in self.nodes.values():
            if node.state is NodeState.ONLINE:
                node.state, node.away_since = NodeState.AWAY, self.clock.now()

    # --- what holds -------------------------------------------------------------------------------------------------------

    @invariant()
    def tasks_are_in_the_models_states(self) -> None:
        counts = self.run(self.store.counts())
        found = Counter({state: number for state, number in counts.tasks.items() if number})
        assert found == Counter(task.state for task in self.tasks.values())

    @invariant()
    def results_grow_and_each_final_task_has_one(self) -> None:
        results = self.run(self.store.results_after(RUN, 0, 10_000))
        for before, now in zip(self.seen, results, strict=False):
            assert before.cursor == now.cursor
            assert before.reply == now.reply
        assert len(results) >= len(self.seen)
        self.seen = results
        outcomes = {r.task_id: r.reply.outcome for r in results}
        assert len(outcomes) == len(results)
        assert outcomes == {i: t.outcome for i, t in self.tasks.items() if t.state in FINAL}

    @invariant()
    def nodes_are_in_the_models_states(self) -> None:
        nodes = self.run(self.store.nodes_after(0, 100))
        assert {n.node_id: n.state for n in nodes} == {i: n.state for i, n in self.nodes.items()}
        assert len({n.version for n in nodes}) == len(nodes)


async def _answer(call: Awaitable[Any]) -> Any:
    """The answer, or the error as a value."""
    try:
        return await call
    except HedgerowError as error:
        return error


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
