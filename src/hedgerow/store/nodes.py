"""Nodes and their sessions: statements on one connection, inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, insert, select, update

from hedgerow.errors import AlreadyExists, NotFound
from hedgerow.records import Node, NodeState, Outcome, Reply, RunState, Task
from hedgerow.security import Identity, check_secret
from hedgerow.store import lost_blobs, phases, schema
from hedgerow.store.changes import Lost, SessionOpened
from hedgerow.store.schema import Row
from hedgerow.store.tasks import NEVER, finish, move, open_tasks_of_node, read_task, rows_by_id, tasks_of_absent_nodes
from hedgerow.task_states import OPEN, Event, TaskState

_NODES = schema.nodes.c
LOST_AT_ONCE = 100
"""So many nodes are lost in one change at most: thousands would keep the changes of everybody else waiting for seconds."""

# Statements that run for every session are built once.
_ALL = schema.nodes.alias("all_nodes")
_NEXT_VERSION = select(func.coalesce(func.max(_ALL.c.version), 0) + 1).scalar_subquery()
_BY_ID = select(schema.nodes).where(_NODES.node_id == bindparam("id"))
_BY_ID_OR_NAME = select(schema.nodes).where((_NODES.node_id == bindparam("id")) | (_NODES.name == bindparam("wanted")))
_ADD = insert(schema.nodes).values(version=_NEXT_VERSION)
_CHANGE = (
    update(schema.nodes)
    .where(_NODES.node_id == bindparam("id"))
    .values(
        name=bindparam("called"),
        state=bindparam("becomes"),
        version=_NEXT_VERSION,
        epoch=bindparam("session"),
        last_seen=bindparam("seen"),
        away_since=bindparam("since"),
        transport_dtypes=bindparam("dtypes"),
    )
)
_AFTER = select(schema.nodes).where(_NODES.version > bindparam("known")).order_by(_NODES.version).limit(bindparam("most"))


@dataclass(frozen=True, slots=True)
class InHand:
    """Ids of the tasks that a client says it has: running or queued there, and finished in its outbox.

    ``keep_unknown``: Those that are not known here may become known. ``restored_at``: Open tasks from before that time wait
    until their driver names them again; it may have their results, or not want them any longer.
    """

    running: frozenset[str]
    finished: frozenset[str]
    keep_unknown: bool = False
    restored_at: float = NEVER


@dataclass(frozen=True, slots=True)
class Gone:
    """A session that ended, and the state that its node has then."""

    node_id: str
    epoch: int
    state: NodeState


def open_session(
    connection: Connection, who: Identity, name: str, in_hand: InHand, now: float, transport_dtypes: Sequence[str] = ()
) -> SessionOpened:
    """See :meth:`hedgerow.store.store.Store.open_session`."""
    rows = {row.node_id: row for row in connection.execute(_BY_ID_OR_NAME, {"id": who.id, "wanted": name})}
    known = rows.pop(who.id, None)
    if known is not None:
        check_secret(known.secret_hash, who)
    run_ids = [run_id for holder in rows.values() for run_id in _take_name(connection, holder, name, now)]
    epoch = 1 if known is None else known.epoch + 1
    if known is None:
        new = {"node_id": who.id, "secret_hash": who.secret_hash, "created_at": now, "name": name, "epoch": epoch}
        online = {"state": NodeState.ONLINE.value, "last_seen": now, "away_since": None}
        connection.execute(_ADD, new | online | {"transport_dtypes": " ".join(transport_dtypes)})
    else:
        values = {"id": who.id, "called": name, "becomes": NodeState.ONLINE.value, "session": epoch, "seen": now, "since": None}
        connection.execute(_CHANGE, values | {"dtypes": " ".join(transport_dtypes)})
    assign = _resume(connection, who.id, in_hand, now) + lost_blobs.ask_again(connection, who.id, in_hand.finished)
    cancel, release = _to_drop(connection, who.id, in_hand)
    return SessionOpened(epoch, assign, cancel, release, run_ids, phases.origins(connection, assign))


def _take_name(connection: Connection, holder: Row, name: str, now: float) -> list[str]:
    """Take the name from the node that holds it; the runs whose tasks failed with that node."""
    if holder.state == NodeState.ONLINE:
        raise AlreadyExists(
            f"The name {name!r} belongs to the node {holder.node_id}, which is online. Choose another name, or stop that client."
        )
    for other in (f"{name}~{holder.node_id[:8]}", f"{name}~{holder.node_id}"):
        if connection.execute(select(_NODES.node_id).where(_NODES.name == other)).first() is None:
            break
    else:
        raise AlreadyExists(
            f"The name {name!r} was held by the node {holder.node_id}, and so were its substitutes. Choose another."
        )
    connection.execute(update(schema.nodes).where(_NODES.node_id == holder.node_id).values(name=other))
    phases.uncount(connection, holder.node_id)
    return _lose(connection, [holder], f"Another node took the name {name!r}.", now)


def _resume(connection: Connection, node_id: str, in_hand: InHand, now: float) -> list[Task]:
    """Mark what the node has or gets as sent; the tasks that it gets."""
    assign, running = [], []
    for row in open_tasks_of_node(connection, node_id):
        if row.task_id in in_hand.finished:
            continue
        if row.task_id not in in_hand.running:
            if row.created_at >= in_hand.restored_at:
                assign.append(row)
        elif row.state == TaskState.QUEUED:
            running.append(row)
    move(connection, assign + running, Event.SENT, now)
    return [read_task(row) for row in assign]


def _to_drop(connection: Connection, node_id: str, in_hand: InHand) -> tuple[list[str], list[str]]:
    """Which running tasks are to be cancelled, and which outbox entries may go."""
    rows = {row.task_id: row for row in rows_by_id(connection, in_hand.running | in_hand.finished) if row.node_id == node_id}

    def over(task_id: str) -> bool:
        row = rows.get(task_id)
        return row is None or row.round <= row.acknowledged_round or RunState(row.run_state).final

    def final(task_id: str) -> bool:
        return not in_hand.keep_unknown if task_id not in rows else TaskState(rows[task_id].state) not in OPEN

    return sorted(filter(final, in_hand.running)), sorted(i for i in in_hand.finished if over(i) and final(i))


def close_session(connection: Connection, gone: Gone, handed_back: Sequence[str], now: float) -> None:
    """See :meth:`hedgerow.store.store.Store.close_session`."""
    node_id = gone.node_id
    node = connection.execute(_BY_ID, {"id": node_id}).one_or_none()
    if node is None or node.epoch != gone.epoch or node.state != NodeState.ONLINE:
        return
    away = {"id": node_id, "called": node.name, "becomes": gone.state.value, "session": node.epoch, "seen": now, "since": now}
    connection.execute(_CHANGE, away | {"dtypes": node.transport_dtypes})
    back = frozenset(handed_back)
    given = (
        [r for r in open_tasks_of_node(connection, node_id) if r.task_id in back and r.state == TaskState.SENT] if back else []
    )
    move(connection, given, Event.HANDED_BACK, now)


def lose_nodes(connection: Connection, away_before: float, left_before: float, now: float) -> Lost:
    """See :meth:`hedgerow.store.store.Store.lose_nodes`."""
    rows: list[Row] = []
    run_ids: list[str] = []
    for state, before, why in (
        (NodeState.AWAY, away_before, "The node stayed away for too long."),
        (NodeState.LEFT, left_before, "The client was stopped, and not started again in time."),
    ):
        gone = select(schema.nodes).where(_NODES.state == state.value, _NODES.away_since < before)
        found = connection.execute(gone.order_by(_NODES.version).limit(LOST_AT_ONCE - len(rows))).all()
        run_ids += _lose(connection, found, why, now)
        rows += found
    absent = tasks_of_absent_nodes(connection, away_before, LOST_AT_ONCE)
    finish(connection, absent, Reply(Outcome.NODE_LOST, "The node did not come back."), now)
    run_ids = list(dict.fromkeys([*run_ids, *(task.run_id for task in absent)]))
    ids = [row.node_id for row in rows]
    lost = connection.execute(select(schema.nodes).where(_NODES.node_id.in_(ids)).order_by(_NODES.version)).all() if ids else []
    return Lost([_node(row) for row in lost], run_ids, more=LOST_AT_ONCE in (len(rows), len(absent)))


def _lose(connection: Connection, rows: Iterable[Row], why: str, now: float) -> list[str]:
    """These nodes are lost and their open tasks fail; the runs concerned."""
    run_ids: dict[str, None] = {}
    for row in rows:
        values = {"state": NodeState.LOST.value, "version": _NEXT_VERSION}
        connection.execute(update(schema.nodes).where(_NODES.node_id == row.node_id).values(values))
        open_tasks = open_tasks_of_node(connection, row.node_id)
        finish(connection, open_tasks, Reply(Outcome.NODE_LOST, f"{row.name}: {why}"), now)
        lost_blobs.ask_again(connection, row.node_id, ())  # nobody can be asked any longer
        run_ids.update(dict.fromkeys(task.run_id for task in open_tasks))
    return list(run_ids)


def nodes_after(connection: Connection, version: int, limit: int) -> list[Node]:
    """See :meth:`hedgerow.store.store.Store.nodes_after`."""
    return [_node(row) for row in connection.execute(_AFTER, {"known": version, "most": limit})]


def check_node(connection: Connection, who: Identity) -> Node:
    """See :meth:`hedgerow.store.store.Store.check_node`."""
    row = connection.execute(_BY_ID, {"id": who.id}).one_or_none()
    if row is None:
        raise NotFound(f"The node {who.id} is not known here. Open a session first.")
    check_secret(row.secret_hash, who)
    return _node(row)


def _node(row: Row) -> Node:
    known = tuple(row.transport_dtypes.split())
    return Node(row.node_id, row.name, NodeState(row.state), row.version, row.last_seen, known)
