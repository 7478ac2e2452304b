"""What the store's methods give back: plain values, complete when they are handed over. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from hedgerow.records import Blob, Node, NodeState, Origin, Outcome, RunState, Task
from hedgerow.task_states import TaskState

Notice: TypeAlias = tuple[str, int, str]
"""Node id, epoch of its open session, task id: tell the node that this task need not be finished."""

Release: TypeAlias = tuple[str, int, list[str]]
"""Node id, epoch of its open session, task ids: tell the node that these outbox entries may go."""


Phase: TypeAlias = tuple[str, int, str]
"""Run, round and kind: what the tasks have in common that ask several nodes for the same."""


def phase_of(task: Task) -> Phase:
    """The phase that a task belongs to."""
    return task.run_id, task.round, task.instruction.kind


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A session's epoch, and what the client must be told: tasks to carry out, tasks to drop, outbox entries to drop.

    ``origins`` has the origin of each task to carry out, by its phase.
    ``run_ids`` are runs whose tasks failed because this node took the name of one that is gone: their drivers' bells must ring.
    """

    epoch: int
    assign: list[Task]
    cancel: list[str]
    release: list[str]
    run_ids: list[str] = field(default_factory=list)
    origins: Mapping[Phase, Origin] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lost:
    """Nodes that are lost now, and the runs that have failed tasks from it; ``more``: there may be more such nodes."""

    nodes: list[Node]
    run_ids: list[str]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task to send to a node in its session of this epoch."""

    node_id: str
    epoch: int
    task: Task


@dataclass(frozen=True, slots=True)
class Pushed:
    """How many tasks were new, those to send now, and whether some of them failed at once (there are results to read).

    ``origins`` has the origin of each task to send, by its phase.
    """

    created: int
    assign: list[Assignment]
    failed: bool
    origins: Mapping[Phase, Origin] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Completed:
    """Whether the result was taken, the run it belongs to, and whether the client may drop its outbox entry at once."""

    accepted: bool
    run_id: str
    release: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """How many tasks were open and are cancelled now, and whom to tell."""

    count: int
    notify: list[Notice]


@dataclass(frozen=True, slots=True)
class Expired:
    """The runs that have expired tasks, and whom to tell."""

    run_ids: list[str]
    notify: list[Notice]


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Tasks to cancel at their nodes, outbox entries that may go, and blob files whose rows are gone: the caller unlinks them."""

    notify: list[Notice]
    release: list[Release]
    files: list[str]


@dataclass(frozen=True, slots=True)
class Ended:
    """Tasks to cancel at their nodes, outbox entries that may go, blob files to unlink, and whether it was not over before."""

    notify: list[Notice]
    release: list[Release]
    files: list[str]
    changed: bool = True


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as people see it. Times are Unix time in seconds; ``ended_at`` is None while it is open.

    ``last_seen`` is the last sign of life of its driver, ``watched`` whether that is connected now.
    ``acknowledged_round`` and all rounds before it are safe with the driver; -1 for none.
    """

    run_id: str
    name: str
    seed: int
    state: RunState
    message: str
    created_at: float
    ended_at: float | None
    last_seen: float
    watched: bool
    acknowledged_round: int = -1


@dataclass(frozen=True, slots=True)
class RoundTasks:
    """The tasks of one kind in one round, by state."""

    round: int
    kind: str
    tasks: Mapping[TaskState, int]


@dataclass(frozen=True, slots=True)
class RunOverview:
    """A run with its newest round and its tasks by state."""

    info: RunInfo
    round: int
    tasks: Mapping[TaskState, int]


@dataclass(frozen=True, slots=True)
class RunFailure:
    """A task of a run that ended without a result; ``node`` is the node's name, or its id where the name is not known."""

    task_id: str
    node: str
    round: int
    kind: str
    outcome: Outcome
    message: str


@dataclass(frozen=True, slots=True)
class RunDetail:
    """One run in detail: its rounds and its newest failures, the newest last, and the blobs that are kept for it."""

    run: RunOverview
    rounds: list[RoundTasks]
    failures: list[RunFailure]
    blobs: int
    blob_bytes: int


@dataclass(frozen=True, slots=True)
class NodeOverview:
    """A node, when it was here first, and how many tasks it has that are not final."""

    node: Node
    created_at: float
    open_tasks: int


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload by ``who`` (``"role/id"``) of ``size`` bytes; ``done`` is the blob when all of it has arrived."""

    upload_id: str
    who: str
    size: int
    done: Blob | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of everything there is."""

    nodes: Mapping[NodeState, int]
    runs: Mapping[RunState, int]
    tasks: Mapping[TaskState, int]
    blobs: int
    blob_bytes: int


@dataclass(frozen=True, slots=True)
class CommitTotals:
    """What the writer did since it started.

    Attributes:
        commits: How many.
        changes: How many changes were in them.
        seconds: From begin to commit's end, all together.
        failures: Commits that the database refused.
        problem: Why it refused the last one; empty when that went well.
    """

    commits: int
    changes: int
    seconds: float
    failures: int = 0
    problem: str = ""
