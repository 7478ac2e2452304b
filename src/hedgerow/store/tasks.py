"""Tasks and their results: statements on one connection, inside the caller's transaction.

The state of a task changes only through :func:`hedgerow.task_states.after`: :func:`move` between open states, :func:`finish`
into a final one, with the result that goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, insert, select, update

from hedgerow.errors import AlreadyExists, Fenced, HedgerowError, InvalidArgument, NotFound
from hedgerow.records import Blob, NodeState, Outcome, Reply, RunState, Task, TaskResult
from hedgerow.security import Identity
from hedgerow.store import phases, references, schema
from hedgerow.store.changes import Assignment, Cancelled, Completed, Expired, Notice, Pushed
from hedgerow.store.notes import note
from hedgerow.store.quotas import Quotas
from hedgerow.store.runs import mark_running, open_run, own_run
from hedgerow.store.schema import Row
from hedgerow.task_states import OPEN, Event, TaskState, after, event_of
from hedgerow.wire import convert
from hedgerow.wire.proto import records_pb2

IDS_A_STATEMENT = 5_000
NEVER = float("-inf")
_TASKS, _NODES, _RESULTS = schema.tasks.c, schema.nodes.c, schema.results.c
_OPEN = sorted(state.value for state in OPEN)

# Statements that run for every task are built once.
_ADD_TASKS = insert(schema.tasks)
_ADD_RESULTS = insert(schema.results).returning(_RESULTS.cursor, sort_by_parameter_order=True)
_MOVE = (
    update(schema.tasks)
    .where(_TASKS.task_id == bindparam("moved"), _TASKS.state == bindparam("was"))
    .values(state=bindparam("becomes"), sent_at=bindparam("at"))
)
_FINISH = (
    update(schema.tasks)
    .where(_TASKS.task_id == bindparam("ended"), _TASKS.state == bindparam("was"))
    .values(state=bindparam("becomes"), ended_at=bindparam("at"), body=None)
)
_BY_IDS = (
    select(schema.tasks, schema.runs.c.acknowledged_round, schema.runs.c.state.label("run_state"))
    .join(schema.runs, schema.runs.c.run_id == _TASKS.run_id)
    .where(_TASKS.task_id.in_(bindparam("ids", expanding=True)))
)
_ENDING = (
    select(
        schema.tasks, schema.runs.c.acknowledged_round, schema.runs.c.state.label("run_state"), _NODES.epoch.label("node_epoch")
    )
    .join(schema.runs, schema.runs.c.run_id == _TASKS.run_id)
    .join(schema.nodes, _NODES.node_id == _TASKS.node_id)
    .where(_TASKS.task_id.in_(bindparam("ids", expanding=True)))
)
_NODES_BY_IDS = select(_NODES.node_id, _NODES.state, _NODES.epoch).where(_NODES.node_id.in_(bindparam("ids", expanding=True)))
_NODES_WITH_OPEN = _NODES_BY_IDS.add_columns(
    select(func.count())
    .where(_TASKS.node_id == _NODES.node_id, _TASKS.state.in_(_OPEN))
    .correlate(schema.nodes)
    .scalar_subquery()
    .label("open_tasks")
)
_OPEN_OF_NODE = (
    select(schema.tasks).where(_TASKS.node_id == bindparam("node_id"), _TASKS.state.in_(_OPEN)).order_by(_TASKS.position)
)
_OPEN_OF_RUN = (
    select(schema.tasks)
    .where(_TASKS.run_id == bindparam("run"), _TASKS.round <= bindparam("last"), _TASKS.state.in_(_OPEN))
    .order_by(_TASKS.position)
)
_RESULTS_AFTER = (
    select(schema.results)
    .where(_RESULTS.run_id == bindparam("run_id"), _RESULTS.cursor > bindparam("after_cursor"))
    .order_by(_RESULTS.cursor)
    .limit(bindparam("most"))
)


@dataclass(frozen=True, slots=True)
class Ending:
    """Who completes which task, in which session, with what, and when."""

    node_id: str
    epoch: int
    task_id: str
    reply: Reply
    now: float


@dataclass(frozen=True, slots=True)
class Push:
    """When tasks are pushed, and whether nodes that are not here may come back.

    Open tasks from before ``restored_at`` have waited for this: their driver wants them still.
    """

    now: float
    settling: bool = False
    restored_at: float = NEVER
    limits: Quotas = field(default_factory=Quotas)


@dataclass(frozen=True, slots=True)
class Why:
    """The reason of a cancellation and its time."""

    reason: str
    now: float


# --- the two ways in which a task's state changes -------------------------------------------------------------------------


def move(connection: Connection, rows: Sequence[Row], event: Event, now: float) -> None:
    """Move open tasks to the open state that the event leads to.

    The time that a task may take counts from when it was first sent: a client that connects anew does not get more of it.
    """
    if not rows:
        return

    def sent_at(row: Row) -> float | None:
        if event is not Event.SENT:
            return None
        return now if row.sent_at is None else float(row.sent_at)

    changes = [
        {"moved": row.task_id, "was": row.state, "becomes": after(TaskState(row.state), event).value, "at": sent_at(row)}
        for row in rows
    ]
    connection.execute(_MOVE, changes)


@dataclass(frozen=True, slots=True)
class Finish:
    """How an open task ends. ``released``: nobody needs to keep the result."""

    row: Row
    reply: Reply
    now: float
    released: bool = False


def finish(connection: Connection, rows: Sequence[Row], reply: Reply, now: float, *, released: bool = False) -> None:
    """Move open tasks to the final state that the reply leads to, and store it as the result of each."""
    _finish(connection, [Finish(row, reply, now, released) for row in rows])
    for run_id in dict.fromkeys(row.run_id for row in rows):
        note(connection, run_id, None)


def finish_each(connection: Connection, ends: Sequence[Finish]) -> None:
    """Move open tasks to the final states that their replies lead to, store the results, and note them."""
    cursors = _finish(connection, ends)
    for cursor, end in zip(cursors, ends, strict=True):
        row = end.row
        note(connection, row.run_id, TaskResult(cursor, row.task_id, row.node_id, row.round, row.kind, end.reply))


def _finish(connection: Connection, ends: Sequence[Finish]) -> list[int]:
    """The cursors of the results."""
    if not ends:
        return []
    changes = [
        {
            "ended": end.row.task_id,
            "was": end.row.state,
            "becomes": after(TaskState(end.row.state), event_of(end.reply.outcome)).value,
            "at": end.now,
        }
        for end in ends
    ]
    connection.execute(_FINISH, changes)
    return list(connection.execute(_ADD_RESULTS, [_result_values(end) for end in ends]).scalars())


def _result_values(end: Finish) -> dict[str, object]:
    row, reply = end.row, end.reply
    inline = reply.parameters if isinstance(reply.parameters, bytes) else None
    kept = reply if inline is None else replace(reply, parameters=None)
    return {
        "task_id": row.task_id,
        "run_id": row.run_id,
        "node_id": row.node_id,
        "round": row.round,
        "kind": row.kind,
        "outcome": reply.outcome.value,
        "reply": convert.reply_to_proto(kept).SerializeToString(),
        "inline": inline,
        "released": end.released,
    }


# --- reading --------------------------------------------------------------------------------------------------------------


def read_task(row: Row) -> Task:
    """The task that an open row holds."""
    return convert.task_from_proto(records_pb2.Task.FromString(row.body))


def portions(ids: Iterable[str]) -> Iterator[list[str]]:
    """Ids in portions that fit into one statement, each id once, sorted."""
    every = sorted(set(ids))
    for start in range(0, len(every), IDS_A_STATEMENT):
        yield every[start : start + IDS_A_STATEMENT]


def rows_by_id(connection: Connection, ids: Iterable[str]) -> list[Row]:
    """Rows of tasks with their run's ``acknowledged_round`` and ``run_state``; unknown ids are left out."""
    return [row for some in portions(ids) for row in connection.execute(_BY_IDS, {"ids": some})]


def open_tasks_of_node(connection: Connection, node_id: str) -> Sequence[Row]:
    """Rows of a node's open tasks, oldest first."""
    return connection.execute(_OPEN_OF_NODE, {"node_id": node_id}).all()


def tasks_of_absent_nodes(connection: Connection, created_before: float, most: int) -> Sequence[Row]:
    """Rows of open tasks from before that time for nodes that are lost or were never here, so many at most."""
    which = (
        select(schema.tasks)
        .join(schema.nodes, _NODES.node_id == _TASKS.node_id, isouter=True)
        .where(_TASKS.state.in_(_OPEN), _TASKS.created_at < created_before)
        .where(_NODES.node_id.is_(None) | (_NODES.state == NodeState.LOST.value))
    )
    return connection.execute(which.order_by(_TASKS.position).limit(most)).all()


def open_tasks_of_run(connection: Connection, run_id: str, last_round: int) -> Sequence[Row]:
    """Rows of a run's open tasks up to this round, oldest first."""
    return connection.execute(_OPEN_OF_RUN, {"run": run_id, "last": last_round}).all()


def online_epochs(connection: Connection, node_ids: Iterable[str]) -> dict[str, int]:
    """The session's epoch of each of these nodes that is online."""
    return {i: row.epoch for i, row in _nodes_by_id(connection, node_ids).items() if row.state == NodeState.ONLINE}


def notices(connection: Connection, rows: Sequence[Row]) -> list[Notice]:
    """Whom to tell that these tasks, as they were before, need not be finished: nodes online that were sent them."""
    sent = [row for row in rows if row.state == TaskState.SENT]
    epochs = online_epochs(connection, (row.node_id for row in sent))
    return [(row.node_id, epochs[row.node_id], row.task_id) for row in sent if row.node_id in epochs]


def _nodes_by_id(connection: Connection, ids: Iterable[str], query: Select[Any] = _NODES_BY_IDS) -> dict[str, Row]:
    return {row.node_id: row for some in portions(ids) for row in connection.execute(query, {"ids": some})}


# --- the store's methods --------------------------------------------------------------------------------------------------


def push_tasks(connection: Connection, who: Identity, run_id: str, new: Sequence[Task], push: Push) -> Pushed:
    """See :meth:`hedgerow.store.store.Store.push_tasks`."""
    run = open_run(connection, who, run_id)
    known = {row.task_id: row for row in rows_by_id(connection, (task.task_id for task in new))}
    fresh = _not_known(known, run_id, new)
    known_nodes = _nodes_by_id(connection, (task.node_id for task in new), _NODES_WITH_OPEN)
    push.limits.check_tasks(fresh, known_nodes)
    _take_blobs(connection, references.owner(who), run_id, fresh)
    mark_running(connection, run)
    values, counted, assign, unreachable = [], [], [], []
    again = _wanted_again(connection, known.values(), known_nodes, push)
    for task in fresh:
        node = known_nodes.get(task.node_id)
        state = TaskState.QUEUED
        if node is None or node.state == NodeState.LOST:
            if not push.settling:
                unreachable.append(task.task_id)
        else:
            counted.append(task)
            if node.state == NodeState.ONLINE:
                state = after(state, Event.SENT)
                assign.append(Assignment(task.node_id, node.epoch, task))
        values.append(_task_values(task, state, push.now))
    origins = phases.count(connection, run, counted)
    if values:
        connection.execute(_ADD_TASKS, values)
    gone = Reply(Outcome.NODE_LOST, "The node is lost or was never here.")
    finish(connection, rows_by_id(connection, unreachable), gone, push.now)
    if again:
        origins |= phases.origins(connection, (one.task for one in again))
    return Pushed(len(fresh), again + assign, bool(unreachable), origins)


def _task_values(task: Task, state: TaskState, now: float) -> dict[str, object]:
    payload = task.instruction.parameters
    return {
        "task_id": task.task_id,
        "run_id": task.run_id,
        "node_id": task.node_id,
        "round": task.round,
        "sequence": task.sequence,
        "kind": task.instruction.kind,
        "state": state.value,
        "digest": payload.digest if isinstance(payload, Blob) else None,
        "body": convert.task_to_proto(task).SerializeToString(),
        "created_at": now,
        "sent_at": now if state is TaskState.SENT else None,
    }


def _wanted_again(connection: Connection, known: Iterable[Row], nodes: Mapping[str, Row], push: Push) -> list[Assignment]:
    """Let tasks go that have waited for their driver since the server was restored; those to send now."""
    rows = [row for row in known if TaskState(row.state) in OPEN and row.created_at < push.restored_at]
    for some in portions(row.task_id for row in rows):
        connection.execute(update(schema.tasks).where(_TASKS.task_id.in_(some)).values(created_at=push.now))
    here = [row for row in rows if row.node_id in nodes and nodes[row.node_id].state == NodeState.ONLINE]
    move(connection, here, Event.SENT, push.now)
    return [Assignment(row.node_id, nodes[row.node_id].epoch, read_task(row)) for row in here]


def _not_known(known: Mapping[str, Row], run_id: str, new: Sequence[Task]) -> list[Task]:
    """Those of the tasks that are not stored yet, each once."""
    for task in new:
        if task.run_id != run_id:
            raise InvalidArgument(f"The task {task.task_id} belongs to the run {task.run_id}, not to {run_id}.")
    for task_id, row in known.items():
        if row.run_id != run_id:
            raise AlreadyExists(f"The task id {task_id} is taken by another run. Derive ids from the run's id.")
    fresh = {task.task_id: task for task in reversed(new) if task.task_id not in known}
    return list(reversed(fresh.values()))


def _take_blobs(connection: Connection, who: str, run_id: str, fresh: Sequence[Task]) -> None:
    used: dict[tuple[Blob, int], None] = {}
    for task in fresh:
        if isinstance(task.instruction.parameters, Blob):
            used[task.instruction.parameters, task.round] = None
    for blob, round in used:
        references.take(connection, who, blob, references.Use(run_id, round))


def complete_tasks(connection: Connection, endings: Sequence[Ending]) -> list[Completed | HedgerowError]:
    """See :meth:`hedgerow.store.store.Store.complete_task`; an error stands in the place of the ending that it concerns."""
    ids = portions(ending.task_id for ending in endings)
    rows = {row.task_id: row for some in ids for row in connection.execute(_ENDING, {"ids": some})}
    answers: list[Completed | HedgerowError] = []
    ends: dict[str, Finish] = {}
    for ending in endings:
        try:
            row = _checked(rows.get(ending.task_id), ending)
            over = RunState(row.run_state).final or row.round <= row.acknowledged_round
            accepted = ending.task_id not in ends and _take_result(connection, row, ending)
        except HedgerowError as error:
            answers.append(error)
        else:
            if accepted:
                ends[ending.task_id] = Finish(row, ending.reply, ending.now, released=over)
            answers.append(Completed(accepted, row.run_id, over))
    finish_each(connection, list(ends.values()))
    return answers


def _checked(row: Row | None, ending: Ending) -> Row:
    if row is None or row.node_id != ending.node_id:
        raise NotFound(f"The node {ending.node_id} has no task {ending.task_id}. Drop it.")
    if row.node_epoch != ending.epoch:
        raise Fenced(f"The node {ending.node_id} has a newer session ({row.node_epoch}) than {ending.epoch}. Stop this process.")
    return row


def _take_result(connection: Connection, row: Row, ending: Ending) -> bool:
    """Let the result name its blob; False where the task had ended before."""
    blob, who = ending.reply.parameters, f"client/{ending.node_id}"
    is_open = TaskState(row.state) in OPEN
    if isinstance(blob, Blob) and not is_open:
        references.named_again(connection, who, blob.digest, row.run_id)
    elif isinstance(blob, Blob) and blob.digest != row.digest:  # what the task itself named, the node may name too
        references.take(connection, who, blob, references.Use(row.run_id, row.round))
    return is_open


def cancel_tasks(connection: Connection, who: Identity, run_id: str, task_ids: Sequence[str], why: Why) -> Cancelled:
    """See :meth:`hedgerow.store.store.Store.cancel_tasks`."""
    own_run(connection, who, run_id)
    rows = [r for r in rows_by_id(connection, task_ids) if r.run_id == run_id and TaskState(r.state) in OPEN]
    finish(connection, rows, Reply(Outcome.CANCELLED, why.reason), why.now)
    return Cancelled(len(rows), notices(connection, rows))


def expire_tasks(connection: Connection, sent_before: float, now: float) -> Expired:
    """See :meth:`hedgerow.store.store.Store.expire_tasks`."""
    late = select(schema.tasks).where(_TASKS.state == TaskState.SENT.value, _TASKS.sent_at < sent_before)
    rows = connection.execute(late.order_by(_TASKS.position)).all()
    finish(connection, rows, Reply(Outcome.EXPIRED, "The task took longer than max_task_s."), now)
    return Expired(list(dict.fromkeys(row.run_id for row in rows)), notices(connection, rows))


def results_after(connection: Connection, run_id: str, cursor: int, limit: int) -> list[TaskResult]:
    """See :meth:`hedgerow.store.store.Store.results_after`."""
    rows = connection.execute(_RESULTS_AFTER, {"run_id": run_id, "after_cursor": cursor, "most": limit})
    return [_result(row) for row in rows]


def _result(row: Row) -> TaskResult:
    reply = convert.reply_from_proto(records_pb2.Reply.FromString(row.reply))
    if row.inline is not None:
        reply = replace(reply, parameters=row.inline)
    return TaskResult(row.cursor, row.task_id, row.node_id, row.round, row.kind, reply)
