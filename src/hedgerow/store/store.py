"""The store: what the server keeps, behind one asynchronous face.

Every method that changes something is one change in the writer's batch: it is carried out whole or not at all, and when it
returns it is on disk. Every method that only reads runs on the reader's own connection and sees what is committed. Both can be
awaited from any event loop. An awaiter that is cancelled does not take its change back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from sqlalchemy import Connection, Engine

from hedgerow.clock import Clock
from hedgerow.records import Blob, Node, NodeState, Reply, RunState, Task, TaskResult
from hedgerow.security import Identity
from hedgerow.store import lost_blobs, nodes, overview, references, rounds, runs, schema, tasks, uploads
from hedgerow.store.changes import (
    Acknowledged,
    Cancelled,
    CommitTotals,
    Completed,
    Counts,
    Ended,
    Expired,
    Lost,
    NodeOverview,
    Pushed,
    RunDetail,
    RunInfo,
    RunOverview,
    SessionOpened,
    Upload,
)
from hedgerow.store.notes import Note
from hedgerow.store.quotas import Quotas
from hedgerow.store.writer import Lane

T = TypeVar("T")

RESTORED_GRACE_S = 3600.0
"""So long after a server was started on a backup, what it does not know may still be named by a driver that comes back."""


class Store:
    """See the module. Open one with :meth:`open`; a database has one store at a time.

    Attributes:
        server_id: Random, made when the database is created.
        url_key: 32 random bytes, made when the database is created; signs blob URLs.
    """

    def __init__(self, writing: Engine, reading: Engine, clock: Clock, found: schema.Found, limits: Quotas) -> None:
        self.server_id: str = found.server_id
        self.url_key: bytes = found.url_key
        self._restored_at = tasks.NEVER if found.restored_at is None else found.restored_at
        self._clock = clock
        self._limits = limits
        self._opened_at = clock.now()
        self._engines = (writing, reading)
        self._watcher: tuple[asyncio.AbstractEventLoop, Callable[[str, list[TaskResult] | None], None]] | None = None
        self._writer = Lane("writer", writing.connect(), savepoints=True, committed=self._committed)
        self._reader = Lane("reader", reading.connect(), savepoints=False)

    @classmethod
    def open(cls, url: str, clock: Clock, limits: Quotas | None = None) -> Store:
        """Open the database, making it when it is not there; nodes that were online are away now. Blocking.

        Args:
            url: ``sqlite:////absolute/path/hedgerow.sqlite3``.
            clock: Tells the time.
            limits: How much one run, node or driver may have.

        Raises:
            ConfigError: The URL cannot be used, or what lies there is of another version or no database of Hedgerow.
        """
        writing, reading, found = schema.open_database(url, clock.now())
        return cls(writing, reading, clock, found, limits or Quotas())

    @property
    def settling(self) -> bool:
        """Whether this is a backup that was put in use a short while ago: peers may know of tasks and nodes that it does not."""
        return self._clock.now() < self._restored_at + RESTORED_GRACE_S

    def close(self) -> None:
        """Carry out what is waiting, then close the database. Blocking."""
        self._writer.close()
        self._reader.close()
        for engine in self._engines:
            engine.dispose()

    def watch(self, told: Callable[[str, list[TaskResult] | None], None]) -> None:
        """Have ``told`` called on the running event loop for each run that a commit has given results.

        It gets them in the order of their cursors, or None where they are to be read, before whoever made the change hears of it.
        """
        self._watcher = asyncio.get_running_loop(), told

    def _committed(self, noted: list[Note]) -> None:
        """On the writer's thread."""
        if self._watcher is None:
            return
        loop, told = self._watcher
        by_run: dict[str, list[TaskResult] | None] = {}
        for run_id, result in noted:
            results = by_run.setdefault(run_id, [])
            if result is None:
                by_run[run_id] = None
            elif results is not None:
                results.append(result)
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody watches
            loop.call_soon_threadsafe(lambda: [told(run_id, results) for run_id, results in by_run.items()])

    async def _write(self, change: Callable[[Connection], T]) -> T:
        return await self._writer.run(change)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        return await self._reader.run(query)

    # --- nodes and sessions -----------------------------------------------------------------------------------------------

    async def open_session(
        self, who: Identity, name: str, running: Sequence[str], finished: Sequence[str], transport_dtypes: Sequence[str] = ()
    ) -> SessionOpened:
        """Create or resume a node: it is online, its epoch one higher, and it has or will be sent all its open tasks.

        Args:
            who: The client.
            name: The node's human name.
            running: Ids of tasks that the client has in hand.
            finished: Ids of tasks whose results are in the client's outbox.
            transport_dtypes: Names of the 16-bit floats that the client knows.

        Raises:
            Unauthenticated: The node is known with another secret.
            AlreadyExists: Another node of that name is online.
        """
        now = self._clock.now()
        in_hand = nodes.InHand(frozenset(running), frozenset(finished), self.settling, self._restored_at)
        return await self._write(lambda c: nodes.open_session(c, who, name, in_hand, now, transport_dtypes))

    async def close_session(self, node_id: str, epoch: int, handed_back: Sequence[str] = (), *, left: bool = False) -> None:
        """The session ended: the node is away; tasks that it handed back are queued. Ignored when the epoch is not current.

        Args:
            node_id: The node.
            epoch: The session's epoch.
            handed_back: Ids of tasks that the client will not finish.
            left: The client is stopping: the node does not count as available.
        """
        now = self._clock.now()
        state = NodeState.LEFT if left else NodeState.AWAY
        await self._write(lambda c: nodes.close_session(c, nodes.Gone(node_id, epoch, state), handed_back, now))

    async def lose_nodes(self, away_before: float, left_before: float) -> Lost:
        """Nodes away, or left, since before that time (and since before this store was opened) are lost; their open tasks fail.

        So do open tasks from before ``away_before`` whose nodes never came. One call loses a limited number, so that it holds
        nobody up: ask again while there are more.
        """
        now = self._clock.now()
        # Nobody could come back while the server was down.
        away, left = (before if self._opened_at < before else tasks.NEVER for before in (away_before, left_before))
        if away == left == tasks.NEVER:
            return Lost([], [])
        return await self._write(lambda c: nodes.lose_nodes(c, away, left, now))

    async def nodes_after(self, version: int, limit: int) -> list[Node]:
        """Nodes that changed after this version, ordered by version."""
        return await self._read(lambda c: nodes.nodes_after(c, version, limit))

    async def check_node(self, who: Identity) -> Node:
        """The node that a client claims to be.

        Raises:
            NotFound: The node never opened a session here.
            Unauthenticated: It is known with another secret.
        """
        return await self._read(lambda c: nodes.check_node(c, who))

    # --- runs -------------------------------------------------------------------------------------------------------------

    async def create_run(self, who: Identity, run_id: str, name: str, seed: int, *, known: bool = False) -> RunState:
        """Open a run, or take it up again. Idempotent.

        Args:
            who: The driver.
            run_id: The run.
            name: For people.
            seed: The run's seed.
            known: Only take it up: it was opened at a server with another state.

        Raises:
            NotFound: It is to be taken up and is not here.
            PermissionDenied: The run is another driver's.
            Unauthenticated: The driver is known with another secret.
            AlreadyExists: The run was opened with another seed.
            InvalidTransition: The run is over.
            LimitReached: The driver has too many runs that are not over.
        """
        now = self._clock.now()
        return await self._write(lambda c: runs.create_run(c, who, runs.NewRun(run_id, name, seed, known), self._limits, now))

    async def check_run(self, who: Identity, run_id: str) -> RunInfo:
        """The driver's own run.

        Raises:
            NotFound: There is no such run.
            PermissionDenied: It is another driver's.
            Unauthenticated: The driver is known with another secret.
        """
        return await self._read(lambda c: runs.run_info(runs.own_run(c, who, run_id)))

    async def run_seen(self, run_id: str, watched: bool) -> None:
        """A sign of life of the run's driver; while it is watched, no sweep interrupts it."""
        now = self._clock.now()
        await self._write(lambda c: runs.run_seen(c, run_id, watched, now))

    async def interrupt_runs(self, unseen_before: float) -> list[str]:
        """Open runs that nobody watches, not seen since that time (nor since this store was opened), are interrupted."""
        if self._opened_at >= unseen_before:
            return []
        return await self._write(lambda c: runs.interrupt_runs(c, unseen_before))

    async def abandoned_runs(self, unseen_before: float) -> list[str]:
        """Interrupted runs whose driver was not seen since that time; the caller ends them."""
        return await self._read(lambda c: runs.abandoned_runs(c, unseen_before))

    async def see_watched_runs(self) -> None:
        """A sign of life of every run that is watched; so a server that dies leaves a time that is not long past."""
        now = self._clock.now()
        await self._write(lambda c: runs.see_watched_runs(c, now))

    async def end_run(self, who: Identity | None, run_id: str, state: RunState, message: str) -> Ended:
        """End a run: open tasks are cancelled, blobs and outbox entries released. A run that is over stays as it is.

        Args:
            who: The driver, or None when the server or an operator ends it.
            run_id: The run.
            state: A final one.
            message: Why, for people.

        Raises:
            InvalidArgument: The state is not final.
            NotFound: There is no such run.
            PermissionDenied: It is another driver's.
            Unauthenticated: The driver is known with another secret.
        """
        now = self._clock.now()
        return await self._write(lambda c: rounds.end_run(c, who, run_id, rounds.End(state, message), now))

    async def acknowledge_round(
        self, who: Identity, run_id: str, round: int, keep: Sequence[str], manifest: Sequence[tuple[int, str]] = ()
    ) -> Acknowledged:
        """This round and all before it are safe with the driver: outbox entries and blobs not in ``keep`` may go.

        Tasks of these rounds that are still open are cancelled. The manifest's lines, each with its round, are kept with the run;
        of several of a round the first stays.

        Raises:
            NotFound: There is no such run.
            PermissionDenied: It is another driver's.
            Unauthenticated: The driver is known with another secret.
        """
        now = self._clock.now()
        over = rounds.Over(round, keep, manifest)
        return await self._write(lambda c: rounds.acknowledge_round(c, who, run_id, over, now))

    async def manifest(self, run_id: str, after_round: int = 0, limit: int = 1000) -> list[tuple[int, str]]:
        """What came of each node in the run's rounds after this one: each round's number and line of JSON, in order."""
        return await self._read(lambda c: rounds.manifest(c, run_id, after_round, limit))

    # --- tasks ------------------------------------------------------------------------------------------------------------

    async def push_tasks(self, who: Identity, run_id: str, new: Sequence[Task]) -> Pushed:
        """Store tasks; ids that are known are skipped. The run is running then.

        On a backup, open tasks that are in it have waited to be named again: they are sent now.

        Tasks for nodes that are online are stored as sent; those for nodes that are lost or unknown fail at once, unless the
        server was restored a short while ago: such nodes may come back.

        Raises:
            InvalidArgument: A task belongs to another run, or a blob has another size, or a node would never take so many.
            LimitReached: A node has too many open tasks.
            NotFound: There is no such run.
            PermissionDenied: The run is another driver's, or a blob is neither this driver's nor of this run.
            Unauthenticated: The driver is known with another secret.
            AlreadyExists: A task's id is taken by another run.
            RunEnded: The run is over.
        """
        now = self._clock.now()
        push = tasks.Push(now, self.settling, self._restored_at, self._limits)
        return await self._write(lambda c: tasks.push_tasks(c, who, run_id, new, push))

    async def complete_task(self, node_id: str, epoch: int, task_id: str, reply: Reply) -> Completed:
        """Store a result. When the task was final already nothing changes and ``accepted`` is False.

        Raises:
            NotFound: The node has no such task.
            Fenced: The epoch is not that of the node's last session.
            PermissionDenied: The reply names a blob that this node did not upload.
        """
        now = self._clock.now()
        return await self._writer.run_together(tasks.complete_tasks, tasks.Ending(node_id, epoch, task_id, reply, now))

    async def cancel_tasks(self, who: Identity, run_id: str, task_ids: Sequence[str], reason: str) -> Cancelled:
        """Cancel those of the run's tasks that are open; ids that are unknown or final are skipped.

        Raises:
            NotFound: There is no such run.
            PermissionDenied: It is another driver's.
            Unauthenticated: The driver is known with another secret.
        """
        now = self._clock.now()
        return await self._write(lambda c: tasks.cancel_tasks(c, who, run_id, task_ids, tasks.Why(reason, now)))

    async def expire_tasks(self, sent_before: float) -> Expired:
        """Tasks that were first sent before that time, and are still open, expire."""
        now = self._clock.now()
        return await self._write(lambda c: tasks.expire_tasks(c, sent_before, now))

    async def results_after(self, run_id: str, cursor: int, limit: int) -> list[TaskResult]:
        """The run's results after this cursor, in the order in which they were stored."""
        return await self._read(lambda c: tasks.results_after(c, run_id, cursor, limit))

    # --- uploads and blobs ------------------------------------------------------------------------------------------------

    async def start_upload(self, who: Identity, upload_id: str, size: int, run_id: str) -> Upload:
        """Announce an upload, or ask how an announced one stands. Idempotent.

        Raises:
            InvalidArgument: The size is negative or beyond 2**63.
            NotFound: There is no such run, or the client is not known here or has no task of it.
            PermissionDenied: The run is another driver's.
            Unauthenticated: The peer is known with another secret.
            AlreadyExists: The id is taken by another peer, or the size differs.
            RunEnded: The driver's run is over.
            LimitReached: The run holds too much.
        """
        now = self._clock.now()
        asked = Upload(upload_id, references.owner(who), size)
        return await self._write(lambda c: uploads.start_upload(c, who, asked, run_id, self._limits, now))

    async def get_upload(self, upload_id: str, who: str) -> Upload:
        """An upload of ``who`` (``"role/id"``).

        Raises:
            NotFound: There is no such upload.
            PermissionDenied: It is another peer's.
        """
        return await self._read(lambda c: uploads.get_upload(c, upload_id, who))

    async def finish_upload(self, upload_id: str, digest: str) -> str | None:
        """All bytes have arrived and have this digest. Idempotent.

        Returns:
            The name of the file to unlink when the digest was here already, else None.

        Raises:
            NotFound: There is no such upload.
            CorruptData: The upload was finished with another digest, or the digest is known with another size.
        """
        now = self._clock.now()
        return await self._write(lambda c: uploads.finish_upload(c, upload_id, digest, now))

    async def blob_file(self, digest: str) -> tuple[str, int]:
        """File name and size in bytes.

        Raises:
            NotFound: There is no such blob, or its bytes are lost.
            Unavailable: Its bytes are lost, and may come again from the node that made them.
        """
        return await self._read(lambda c: uploads.blob_file(c, digest))

    async def blob_for_client(self, node_id: str, task_id: str, digest: str) -> Blob:
        """The blob that a node's task names.

        Raises:
            PermissionDenied: The task is not this node's, or names another blob.
            NotFound: The blob is gone.
        """
        return await self._read(lambda c: uploads.blob_for_client(c, node_id, task_id, digest))

    async def blob_for_driver(self, who: Identity, run_id: str, digest: str) -> Blob:
        """A blob of the driver's run.

        Raises:
            NotFound: There is no such run.
            PermissionDenied: The run is another driver's, or the blob is neither of this run nor this driver's.
            Unauthenticated: The driver is known with another secret.
        """
        return await self._read(lambda c: uploads.blob_for_driver(c, who, run_id, digest))

    async def collect_blobs(self, unused_before: float) -> list[str]:
        """Forget uploads not finished and blobs not used since that time; the files to unlink."""
        return await self._write(lambda c: uploads.collect_blobs(c, unused_before))

    async def live_files(self) -> set[str]:
        """Names of all files that an unfinished upload or a blob has."""
        return await self._read(uploads.live_files)

    async def blob_files(self) -> dict[str, int]:
        """Sizes of the files that blobs have or should have, by name."""
        return await self._read(lost_blobs.blob_files)

    async def mark_lost_blobs(self, files: Collection[str]) -> tuple[int, int]:
        """The files of these blobs are missing or damaged. How many may come back from their nodes, and how many are gone."""
        return await self._write(lambda c: lost_blobs.mark(c, files))

    # --- for people -------------------------------------------------------------------------------------------------------

    async def list_runs(self, limit: int) -> list[RunOverview]:
        """The newest runs, newest first."""
        return await self._read(lambda c: overview.list_runs(c, limit))

    async def find_run(self, beginning: str) -> RunOverview:
        """The run with this id, or the only one whose id begins so.

        Raises:
            NotFound: There is none.
            InvalidArgument: There are several.
        """
        return await self._read(lambda c: overview.find_run(c, beginning))

    async def run_detail(self, beginning: str) -> RunDetail:
        """As :meth:`find_run`, with its rounds, failures and blobs."""
        return await self._read(lambda c: overview.run_detail(c, beginning))

    async def list_nodes(self) -> list[NodeOverview]:
        """All nodes, ordered by name."""
        return await self._read(overview.list_nodes)

    # --- how much ---------------------------------------------------------------------------------------------------------

    async def counts(self) -> Counts:
        """How much of everything there is."""
        return await self._read(runs.counts)

    def commit_totals(self) -> CommitTotals:
        """What the writer did so far."""
        return self._writer.totals()
