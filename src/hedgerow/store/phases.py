"""How many nodes are asked for the same, and by whom: statements on one connection, inside the caller's transaction.

A number for each phase (run, round and kind) is kept up to date while tasks are pushed, so that no push has to count them all.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, and_, bindparam, func, insert, select, update

from hedgerow.records import Origin, RunState, Task
from hedgerow.store import schema
from hedgerow.store.changes import Phase, phase_of
from hedgerow.store.schema import Row
from hedgerow.task_states import TaskState

_PHASES, _TASKS, _RUNS = schema.phases.c, schema.tasks.c, schema.runs.c
_THIS = (_PHASES.run_id == bindparam("run"), _PHASES.round == bindparam("at"), _PHASES.kind == bindparam("of"))
_ADD = insert(schema.phases)
_SET = update(schema.phases).where(*_THIS).values(sites=bindparam("now"))
_ASKED_BEFORE = (
    select(func.count(_TASKS.node_id.distinct()))
    .where(_TASKS.run_id == bindparam("run"), _TASKS.round == bindparam("at"), _TASKS.kind == bindparam("of"))
    .where(_TASKS.node_id.in_(bindparam("nodes", expanding=True)))
)
_BEFORE = select(_PHASES.sites, _ASKED_BEFORE.scalar_subquery().label("known")).where(*_THIS)
# Naming every state lets the index find the node's tasks.
_PHASES_OF_NODE = (
    select(_TASKS.run_id.label("run"), _TASKS.round.label("at"), _TASKS.kind.label("of"))
    .distinct()
    .join(schema.runs, _RUNS.run_id == _TASKS.run_id)
    .where(_TASKS.node_id == bindparam("node"), _TASKS.state.in_([state.value for state in TaskState]))
    .where(_RUNS.state.in_([state.value for state in RunState if not state.final]))
)
_ONE_LESS = update(schema.phases).where(*_THIS, _PHASES.sites > 0).values(sites=_PHASES.sites - 1)
_ORIGIN = (
    select(_RUNS.owner_id, _RUNS.certificate, _PHASES.sites)
    .join(schema.phases, and_(*_THIS), isouter=True)
    .where(_RUNS.run_id == bindparam("run"))
)


def count(connection: Connection, run: Row, new: Iterable[Task]) -> dict[Phase, Origin]:
    """Count the nodes of a run's tasks that are about to be stored; each counts once in a phase, however often it is asked.

    Returns:
        The origin of these tasks, by phase.
    """
    nodes: dict[Phase, dict[str, None]] = {}
    for task in new:
        nodes.setdefault(phase_of(task), {})[task.node_id] = None
    found: dict[Phase, Origin] = {}
    for phase, asked in nodes.items():
        which = _which(phase)
        before = connection.execute(_BEFORE, {**which, "nodes": list(asked)}).one_or_none()
        if before is None:
            sites = len(asked)
            connection.execute(_ADD, {"run_id": phase[0], "round": phase[1], "kind": phase[2], "sites": sites})
        else:
            sites = before.sites + len(asked) - before.known
            if sites != before.sites:
                connection.execute(_SET, {**which, "now": sites})
        found[phase] = _origin(run, sites)
    return found


def uncount(connection: Connection, node_id: str) -> None:
    """Another node took this one's name, and so its place: a site counts once, however many nodes it has been."""
    found = connection.execute(_PHASES_OF_NODE, {"node": node_id}).all()
    if found:
        connection.execute(_ONE_LESS, [{"run": row.run, "at": row.at, "of": row.of} for row in found])


def origins(connection: Connection, tasks: Iterable[Task]) -> dict[Phase, Origin]:
    """The origin of stored tasks that are about to be sent, by phase."""
    found: dict[Phase, Origin] = {}
    for phase in dict.fromkeys(phase_of(task) for task in tasks):
        row = connection.execute(_ORIGIN, _which(phase)).one()
        # No number: all its nodes came after the backup on which this server was started.
        found[phase] = _origin(row, row.sites or 0)
    return found


def _origin(run: Row, sites: int) -> Origin:
    return Origin(run.certificate or f"driver/{run.owner_id}", sites)


def _which(phase: Phase) -> dict[str, object]:
    run_id, round, kind = phase
    return {"run": run_id, "at": round, "of": kind}
