"""How much of everything the store keeps for one run, node or driver: the limits, and what is counted against them.

What a run holds stands in its row and changes in the transaction in which an upload is announced or forgotten, so that no check
counts uploads. An upload counts with the size that was announced, from then on until its blob is released.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, func, select, update

from hedgerow.errors import ConfigError, InvalidArgument, LimitReached
from hedgerow.records import RunState, Task
from hedgerow.security import Identity
from hedgerow.store import schema
from hedgerow.store.schema import Row

_RUNS, _UPLOADS = schema.runs.c, schema.uploads.c
_OPEN_RUNS = [state.value for state in RunState if not state.final]
_HOLD = (
    update(schema.runs)
    .where(_RUNS.run_id == bindparam("of_run"))
    .values(held_blobs=_RUNS.held_blobs + bindparam("blobs"), held_bytes=_RUNS.held_bytes + bindparam("size"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """What one run, node or driver may have at most.

    Attributes:
        max_run_blobs: Blobs that are kept for a run at one time, those on their way included.
        max_run_bytes: Their bytes together.
        max_node_tasks: Tasks of a node that are queued or sent.
        max_driver_runs: Runs of a driver that are not over, interrupted ones included. A driver is its certificate; without
            certificates every program is a driver of its own.

    Raises:
        ConfigError: One of them is not above 0.
    """

    max_run_blobs: int = 100_000
    max_run_bytes: int = 1024**4
    max_node_tasks: int = 1_000
    max_driver_runs: int = 1_000

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be more than 0, not {getattr(self, name)}.")

    def check_driver(self, connection: Connection, who: Identity) -> None:
        """Refuse a driver one run more than it may have.

        Raises:
            LimitReached: It has as many as it may.
        """
        number = connection.execute(runs_not_over(who)).scalar_one()
        if number >= self.max_driver_runs:
            raise LimitReached(
                f"The driver {who.certificate or who.id} has {number:,} runs that are not over; this server allows "
                f"{self.max_driver_runs:,} (--max-driver-runs). Let some finish, or end them: hedgerow stop RUN."
            )

    def check_upload(self, run: Row, size: int) -> None:
        """Refuse an upload that is more than its run may hold.

        Raises:
            LimitReached: The run holds too much now.
        """
        if run.held_blobs >= self.max_run_blobs:
            raise LimitReached(
                f"The run {run.run_id} holds {run.held_blobs:,} blobs; this server allows {self.max_run_blobs:,} "
                "(--max-run-blobs). Blobs go when their round is over; give fewer clients work at once, or ask the server's "
                "operator for more."
            )
        if run.held_bytes + size > self.max_run_bytes:
            raise LimitReached(
                f"The run {run.run_id} holds {run.held_bytes:,} bytes and was to be given {size:,} more; this server allows "
                f"{self.max_run_bytes:,} (--max-run-bytes). Blobs go when their round is over; give fewer clients work at once, "
                "or ask the server's operator for more."
            )

    def check_tasks(self, new: Sequence[Task], nodes: Mapping[str, Row]) -> None:
        """Refuse tasks that are more than their nodes may have; ``nodes`` are rows with ``open_tasks``.

        Nodes that are not known here have none: any number of them could be made up.

        Raises:
            InvalidArgument: They would be too many for an idle node, too.
            LimitReached: One of the nodes has too many open tasks now.
        """
        for node_id, number in Counter(task.node_id for task in new).items():
            limit = f"this server allows a node {self.max_node_tasks:,} open tasks (--max-node-tasks)"
            if number > self.max_node_tasks:
                raise InvalidArgument(f"{number:,} tasks for the node {node_id} are in one call; {limit}. Send fewer at once.")
            waiting = nodes[node_id].open_tasks if node_id in nodes else 0
            if waiting + number > self.max_node_tasks:
                raise LimitReached(
                    f"The node {node_id} has {waiting:,} open tasks and was to be given {number:,} more; {limit}. "
                    "Wait until some have ended, or cancel them."
                )


def runs_not_over(who: Identity) -> Select[int]:
    """How many runs of this driver are not over."""
    owner = _RUNS.certificate == who.certificate if who.certificate else _RUNS.owner_id == who.id
    return select(func.count()).select_from(schema.runs).where(_RUNS.state.in_(_OPEN_RUNS), owner)


def hold(connection: Connection, run_id: str, size: int) -> None:
    """An upload of ``size`` bytes was announced for the run."""
    connection.execute(_HOLD, {"of_run": run_id, "blobs": 1, "size": size})


def forget_uploads(connection: Connection, *which: ColumnElement[bool]) -> list[str]:
    """Delete these uploads; their runs hold less. Returns their ids, sorted."""
    gone = connection.execute(
        delete(schema.uploads).where(*which).returning(_UPLOADS.upload_id, _UPLOADS.run_id, _UPLOADS.size)
    ).all()
    blobs, size = Counter[str](), Counter[str]()
    for row in gone:
        blobs[row.run_id] += 1
        size[row.run_id] += row.size
    for run_id, number in blobs.items():
        connection.execute(_HOLD, {"of_run": run_id, "blobs": -number, "size": -size[run_id]})
    return sorted(row.upload_id for row in gone)
