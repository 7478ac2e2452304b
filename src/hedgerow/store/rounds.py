"""What ends: a round that is acknowledged, a run that is over. Statements on one connection, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, insert, select, update

from hedgerow.errors import InvalidArgument
from hedgerow.records import Outcome, Reply, RunState
from hedgerow.security import Identity
from hedgerow.store import references, schema
from hedgerow.store.changes import Acknowledged, Ended, Release
from hedgerow.store.runs import find_run, own_run
from hedgerow.store.tasks import finish, notices, online_epochs, open_tasks_of_run

_RUNS, _RESULTS, _LINES = schema.runs.c, schema.results.c, schema.manifests.c
_NO_ROUND = 2**62

# Statements that run in every round are built once.
_GET_ON = update(schema.runs).where(_RUNS.run_id == bindparam("run")).values(acknowledged_round=bindparam("over"))
_LINE = select(_LINES.round).where(_LINES.run_id == bindparam("run"), _LINES.round == bindparam("at"))
_ADD_LINE = insert(schema.manifests)
_KEPT = (_RESULTS.run_id == bindparam("run"), _RESULTS.released.is_(False), _RESULTS.round <= bindparam("over"))
_TO_RELEASE = select(_RESULTS.node_id, _RESULTS.task_id).where(*_KEPT).order_by(_RESULTS.cursor)
_RELEASE = update(schema.results).where(*_KEPT).values(released=True, inline=None)
ROUND_IS_OVER = "the round is over"
"""The reason with which tasks end that are still open when their round is acknowledged."""


@dataclass(frozen=True, slots=True)
class End:
    """How a run ends."""

    state: RunState
    message: str


@dataclass(frozen=True, slots=True)
class Over:
    """A round that is safe with its driver, and those before it: blobs to keep, and lines of the manifest with their rounds."""

    round: int
    keep: Sequence[str]
    manifest: Sequence[tuple[int, str]]


def acknowledge_round(connection: Connection, who: Identity, run_id: str, over: Over, now: float) -> Acknowledged:
    """See :meth:`hedgerow.store.store.Store.acknowledge_round`."""
    run = own_run(connection, who, run_id)
    if RunState(run.state).final:
        return Acknowledged([], [], [])  # everything is released already
    round = over.round
    for at, line in over.manifest:
        _keep_manifest(connection, run_id, at, line)
    if round > run.acknowledged_round:
        connection.execute(_GET_ON, {"run": run_id, "over": round})
    late = open_tasks_of_run(connection, run_id, round)
    notify = notices(connection, late)
    finish(connection, late, Reply(Outcome.CANCELLED, ROUND_IS_OVER), now, released=True)
    released = _release(connection, run_id, round)
    return Acknowledged(notify, released, references.drop(connection, run_id, round, frozenset(over.keep)))


def manifest(connection: Connection, run_id: str, after_round: int, limit: int) -> list[tuple[int, str]]:
    """See :meth:`hedgerow.store.store.Store.manifest`."""
    which = (_LINES.run_id == run_id, _LINES.round > after_round)
    lines = select(_LINES.round, _LINES.line).where(*which).order_by(_LINES.round).limit(limit)
    return [(row.round, row.line) for row in connection.execute(lines)]


def _keep_manifest(connection: Connection, run_id: str, round: int, line: str) -> None:
    """The line that came first stays."""
    if connection.execute(_LINE, {"run": run_id, "at": round}).first() is None:
        connection.execute(_ADD_LINE, {"run_id": run_id, "round": round, "line": line})


def end_run(connection: Connection, who: Identity | None, run_id: str, end: End, now: float) -> Ended:
    """See :meth:`hedgerow.store.store.Store.end_run`."""
    if not end.state.final:
        raise InvalidArgument(f"A run cannot end as {end.state}; it ends as finished, failed or stopped.")
    run = find_run(connection, run_id) if who is None else own_run(connection, who, run_id)
    if RunState(run.state).final:
        return Ended([], [], [], changed=False)
    values = {"state": end.state.value, "message": end.message, "ended_at": now, "watched": False}
    if who is not None:
        values["last_seen"] = now
    connection.execute(update(schema.runs).where(_RUNS.run_id == run_id).values(values))
    rows = open_tasks_of_run(connection, run_id, _NO_ROUND)
    finish(connection, rows, Reply(Outcome.CANCELLED, f"The run is {end.state}."), now)
    released = _release(connection, run_id, _NO_ROUND)
    return Ended(notices(connection, rows), released, references.drop(connection, run_id, _NO_ROUND, frozenset()))


def _release(connection: Connection, run_id: str, round: int) -> list[Release]:
    """Results of these rounds need not be kept by anybody: their inline parameters go, and their nodes are to be told."""
    which = {"run": run_id, "over": round}
    task_ids: dict[str, list[str]] = {}
    for row in connection.execute(_TO_RELEASE, which):
        task_ids.setdefault(row.node_id, []).append(row.task_id)
    if task_ids:
        connection.execute(_RELEASE, which)
    epochs = online_epochs(connection, task_ids)
    return [(node_id, epochs[node_id], ids) for node_id, ids in task_ids.items() if node_id in epochs]
