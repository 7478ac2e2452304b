"""Runs and whose they are: statements on one connection, inside the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Table, bindparam, case, func, insert, select, update

from hedgerow.errors import AlreadyExists, InvalidTransition, NotFound, PermissionDenied, RunEnded
from hedgerow.records import NodeState, RunState
from hedgerow.security import Identity, Role, check_secret
from hedgerow.store import schema
from hedgerow.store.changes import Counts, RunInfo
from hedgerow.store.quotas import Quotas
from hedgerow.store.schema import Row
from hedgerow.task_states import TaskState

_RUNS = schema.runs.c
_FIND = select(schema.runs).where(_RUNS.run_id == bindparam("run_id"))  # runs with every call: built once
_LIVE = (RunState.PENDING.value, RunState.RUNNING.value)


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a driver says of the run that it opens, or, where it was opened at another state of the server, takes up."""

    run_id: str
    name: str
    seed: int
    known: bool = False


def find_run(connection: Connection, run_id: str) -> Row:
    """The run's row.

    Raises:
        NotFound: There is no such run.
    """
    row = connection.execute(_FIND, {"run_id": run_id}).one_or_none()
    if row is None:
        raise NotFound(f"There is no run {run_id}. Create it first.")
    return row


def own_run(connection: Connection, who: Identity, run_id: str) -> Row:
    """The row of the driver's own run.

    Raises:
        NotFound: There is no such run.
        PermissionDenied: It is another driver's.
        Unauthenticated: The driver is known with another secret.
    """
    row = find_run(connection, run_id)
    _check_owner(row, who)
    return row


def open_run(connection: Connection, who: Identity, run_id: str) -> Row:
    """As :func:`own_run`, for what a run that is over does not allow.

    Raises:
        RunEnded: The run is over.
    """
    row = own_run(connection, who, run_id)
    if RunState(row.state).final:
        raise RunEnded(f"The run {run_id} is {row.state}" + (f": {row.message}" if row.message else "."))
    return row


def _check_owner(row: Row, who: Identity) -> None:
    if who.role is not Role.DRIVER or row.owner_id != who.id:
        raise PermissionDenied(f"The run {row.run_id} was opened by another driver.")
    check_secret(row.secret_hash, who)


def create_run(connection: Connection, who: Identity, new: NewRun, limits: Quotas, now: float) -> RunState:
    """See :meth:`hedgerow.store.store.Store.create_run`."""
    row = connection.execute(_FIND, {"run_id": new.run_id}).one_or_none()
    if row is None:
        if new.known:
            raise NotFound(
                f"The run {new.run_id} was opened at a server with another state; this one does not know it. Give the address of "
                "that server. If this one was started on a backup from before the run, start it on a newer backup and resume the "
                "run, or start a new run."
            )
        limits.check_driver(connection, who)
        values = {
            "run_id": new.run_id,
            "name": new.name,
            "seed": str(new.seed),
            "owner_id": who.id,
            "secret_hash": who.secret_hash,
            "certificate": who.certificate,
            "state": RunState.PENDING.value,
            "created_at": now,
            "last_seen": now,
            "watched": False,
        }
        connection.execute(insert(schema.runs).values(values))
        return RunState.PENDING
    _check_owner(row, who)
    state = RunState(row.state)
    if state.final:
        raise InvalidTransition(f"The run {new.run_id} is {state} and cannot be taken up again. Start a new run.")
    if row.seed != str(new.seed):
        raise AlreadyExists(f"The run {new.run_id} was opened with the seed {row.seed}, not {new.seed}. Use its own seed.")
    if state is RunState.INTERRUPTED:
        state = _taken_up(connection, new.run_id)
    connection.execute(update(schema.runs).where(_RUNS.run_id == new.run_id).values(state=state.value, last_seen=now))
    return state


def _taken_up(connection: Connection, run_id: str) -> RunState:
    """The state of an interrupted run whose driver is back."""
    has_tasks = connection.execute(select(schema.tasks.c.position).where(schema.tasks.c.run_id == run_id).limit(1)).first()
    return RunState.PENDING if has_tasks is None else RunState.RUNNING


def mark_running(connection: Connection, run: Row) -> None:
    """The run has tasks now."""
    if run.state != RunState.RUNNING:
        connection.execute(update(schema.runs).where(_RUNS.run_id == run.run_id).values(state=RunState.RUNNING.value))


def run_seen(connection: Connection, run_id: str, watched: bool, now: float) -> None:
    """See :meth:`hedgerow.store.store.Store.run_seen`. Being watched again ends an interruption."""
    row = connection.execute(select(_RUNS.state).where(_RUNS.run_id == run_id)).one_or_none()
    if row is None or RunState(row.state).final:
        return
    interrupted = watched and row.state == RunState.INTERRUPTED
    state = _taken_up(connection, run_id) if interrupted else RunState(row.state)
    values = {"watched": watched, "last_seen": now, "state": state.value}
    connection.execute(update(schema.runs).where(_RUNS.run_id == run_id).values(values))


def see_watched_runs(connection: Connection, now: float) -> None:
    """See :meth:`hedgerow.store.store.Store.see_watched_runs`."""
    connection.execute(update(schema.runs).where(_RUNS.watched).values(last_seen=now))


def interrupt_runs(connection: Connection, unseen_before: float) -> list[str]:
    """See :meth:`hedgerow.store.store.Store.interrupt_runs`."""
    gone = (_RUNS.state.in_(_LIVE), _RUNS.watched.is_(False), _RUNS.last_seen < unseen_before)
    run_ids = list(connection.execute(select(_RUNS.run_id).where(*gone).order_by(_RUNS.created_at)).scalars())
    if run_ids:
        connection.execute(update(schema.runs).where(*gone).values(state=RunState.INTERRUPTED.value))
    return run_ids


def abandoned_runs(connection: Connection, unseen_before: float) -> list[str]:
    """See :meth:`hedgerow.store.store.Store.abandoned_runs`."""
    abandoned = (_RUNS.state == RunState.INTERRUPTED.value, _RUNS.last_seen < unseen_before)
    return list(connection.execute(select(_RUNS.run_id).where(*abandoned).order_by(_RUNS.created_at)).scalars())


def run_info(row: Row) -> RunInfo:
    """A run as people see it."""
    return RunInfo(
        row.run_id,
        row.name,
        int(row.seed),
        RunState(row.state),
        row.message,
        row.created_at,
        row.ended_at,
        row.last_seen,
        row.watched,
        row.acknowledged_round,
    )


def counts(connection: Connection) -> Counts:
    """See :meth:`hedgerow.store.store.Store.counts`."""

    def by_state(table: Table) -> dict[str, int]:
        states = select(table.c.state, func.count().label("number")).group_by(table.c.state)
        return {row.state: row.number for row in connection.execute(states)}

    nodes, runs, tasks = by_state(schema.nodes), by_state(schema.runs), by_state(schema.tasks)
    size = func.sum(schema.blobs.c.size)
    number, total = connection.execute(
        select(func.count(), case((size.is_(None), 0), else_=size)).select_from(schema.blobs)
    ).one()
    return Counts(
        {state: nodes.get(state.value, 0) for state in NodeState},
        {state: runs.get(state.value, 0) for state in RunState},
        {state: tasks.get(state.value, 0) for state in TaskState},
        number,
        int(total),
    )
