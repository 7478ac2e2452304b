"""What people ask about runs and nodes: reading statements on one connection. Nothing is changed here."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, func, select

from hedgerow.errors import InvalidArgument, NotFound
from hedgerow.records import Node, NodeState, Outcome
from hedgerow.store import schema
from hedgerow.store.changes import NodeOverview, RoundTasks, RunDetail, RunFailure, RunOverview
from hedgerow.store.runs import run_info
from hedgerow.store.schema import Row
from hedgerow.task_states import OPEN, TaskState
from hedgerow.wire import convert
from hedgerow.wire.proto import records_pb2

MAX_MATCHES_TOLD = 4
MAX_ROUND_ROWS = 40
MAX_FAILURES = 20
_RUNS, _TASKS, _NODES, _RESULTS = schema.runs.c, schema.tasks.c, schema.nodes.c, schema.results.c


def list_runs(connection: Connection, limit: int) -> list[RunOverview]:
    """See :meth:`hedgerow.store.store.Store.list_runs`."""
    newest = select(schema.runs).order_by(_RUNS.created_at.desc(), _RUNS.run_id).limit(limit)
    return _overviews(connection, connection.execute(newest).all())


def find_run(connection: Connection, beginning: str) -> RunOverview:
    """See :meth:`hedgerow.store.store.Store.find_run`."""
    return _overviews(connection, [_find(connection, beginning)])[0]


def _find(connection: Connection, beginning: str) -> Row:
    if not (beginning.isascii() and beginning.isalnum() and len(beginning) <= 64):
        raise InvalidArgument(f"{beginning[:80]!r} is not a run's id or the beginning of one: letters and digits.")
    # An id is letters and digits, so that everything that begins so lies between these two.
    those = select(schema.runs).where(_RUNS.run_id >= beginning, _RUNS.run_id < beginning + "\x7f").order_by(_RUNS.run_id)
    rows = connection.execute(those.limit(MAX_MATCHES_TOLD + 1)).all()
    if not rows:
        raise NotFound(f"There is no run whose id is or begins with {beginning!r}. `hedgerow runs` lists them.")
    if len(rows) > 1 and rows[0].run_id != beginning:
        told = ", ".join(row.run_id for row in rows[:MAX_MATCHES_TOLD]) + (", ..." if len(rows) > MAX_MATCHES_TOLD else "")
        raise InvalidArgument(f"The ids of several runs begin with {beginning!r}: {told}. Write more of it.")
    return rows[0]


def _overviews(connection: Connection, rows: Iterable[Row]) -> list[RunOverview]:
    infos = [run_info(row) for row in rows]
    tasks: dict[str, dict[TaskState, int]] = {info.run_id: dict.fromkeys(TaskState, 0) for info in infos}
    rounds = dict.fromkeys(tasks, 0)
    counted = (
        select(_TASKS.run_id, _TASKS.state, func.count().label("number"), func.max(_TASKS.round).label("newest"))
        .where(_TASKS.run_id.in_(list(tasks)))
        .group_by(_TASKS.run_id, _TASKS.state)
    )
    for row in connection.execute(counted):
        tasks[row.run_id][TaskState(row.state)] = row.number
        rounds[row.run_id] = max(rounds[row.run_id], row.newest)
    return [RunOverview(info, rounds[info.run_id], tasks[info.run_id]) for info in infos]


def run_detail(connection: Connection, beginning: str) -> RunDetail:
    """See :meth:`hedgerow.store.store.Store.run_detail`."""
    (run,) = _overviews(connection, [_find(connection, beginning)])
    run_id = run.info.run_id
    used = select(schema.blob_refs.c.digest).where(schema.blob_refs.c.run_id == run_id)
    size = func.coalesce(func.sum(schema.blobs.c.size), 0)
    blobs, blob_bytes = connection.execute(select(func.count(), size).where(schema.blobs.c.digest.in_(used))).one()
    return RunDetail(run, _rounds(connection, run_id), _failures(connection, run_id), blobs, int(blob_bytes))


def _rounds(connection: Connection, run_id: str) -> list[RoundTasks]:
    first = func.min(_TASKS.position).label("first")
    counted = (
        select(_TASKS.round, _TASKS.kind, _TASKS.state, func.count().label("number"), first)
        .where(_TASKS.run_id == run_id)
        .group_by(_TASKS.round, _TASKS.kind, _TASKS.state)
        .order_by(_TASKS.round, first)
    )
    rounds: dict[tuple[int, str], dict[TaskState, int]] = {}
    for row in connection.execute(counted):
        rounds.setdefault((row.round, row.kind), dict.fromkeys(TaskState, 0))[TaskState(row.state)] = row.number
    return [RoundTasks(round, kind, tasks) for (round, kind), tasks in rounds.items()][-MAX_ROUND_ROWS:]


def _failures(connection: Connection, run_id: str) -> list[RunFailure]:
    newest = (
        select(schema.results, _NODES.name)
        .join(schema.nodes, _NODES.node_id == _RESULTS.node_id, isouter=True)
        .where(_RESULTS.run_id == run_id, _RESULTS.outcome.not_in([Outcome.OK.value, Outcome.NOT_IMPLEMENTED.value]))
        .order_by(_RESULTS.cursor.desc())
        .limit(MAX_FAILURES)
    )
    found = []
    for row in connection.execute(newest):
        reply = convert.reply_from_proto(records_pb2.Reply.FromString(row.reply))
        found.append(RunFailure(row.task_id, row.name or row.node_id, row.round, row.kind, reply.outcome, reply.message))
    return found[::-1]


def list_nodes(connection: Connection) -> list[NodeOverview]:
    """See :meth:`hedgerow.store.store.Store.list_nodes`."""
    waiting = (
        select(_TASKS.node_id, func.count().label("number"))
        .where(_TASKS.state.in_([state.value for state in OPEN]))
        .group_by(_TASKS.node_id)
    )
    numbers = {row.node_id: row.number for row in connection.execute(waiting)}
    return [
        NodeOverview(
            Node(row.node_id, row.name, NodeState(row.state), row.version, row.last_seen),
            row.created_at,
            numbers.get(row.node_id, 0),
        )
        for row in connection.execute(select(schema.nodes).order_by(_NODES.name))
    ]
