"""The threads that own the database's connections, and group commit.

A lane is one thread with one connection. What is handed in while it works on a batch becomes the next batch, one transaction.
On the writer's lane each change has its own savepoint: one that fails is undone and fails alone, the others are committed.
Changes of the same kind that are next to each other can be carried out together, with statements for all of them; where that
fails, each is tried alone.
Whoever waits is told after the commit, in its own event loop. When the database itself fails (disk full, locked), the whole
batch is undone, all of it fails, and the lane goes on with the next.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, exc

from hedgerow.errors import CorruptData, HedgerowError, LimitReached, Unavailable
from hedgerow.store import notes
from hedgerow.store.changes import CommitTotals
from hedgerow.waits import Limit, wait, wait_condition, wait_future

log = logging.getLogger(__name__)
A = TypeVar("A")
T = TypeVar("T")

MAX_BATCH = 500
IDLE = Limit("store_idle", None)
ANSWER = Limit("store_answer_s", 120.0)
DRAIN = Limit("store_drain_s", 60.0)


_Work: TypeAlias = Callable[[Connection, list[Any]], Sequence[Any]]
"""Gets the arguments of all that it is done for; answers are in their order, and may be errors that concern one alone."""


@dataclass(slots=True)
class _Item:
    work: _Work
    argument: Any
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = field(default=None)


class Lane:
    """One thread and one connection; see the module.

    Args:
        name: For messages: what this lane is.
        connection: Owned from now on.
        savepoints: Whether each piece of work can be undone alone.
        committed: Told what each commit has to tell, on the lane's thread, before those who wait for it.
    """

    def __init__(
        self,
        name: str,
        connection: Connection,
        *,
        savepoints: bool,
        committed: Callable[[list[notes.Note]], None] = lambda notes: None,
    ) -> None:
        self._name = name
        self._connection = connection
        self._savepoints = savepoints
        self._committed = committed
        self._condition = threading.Condition()
        self._waiting: list[_Item] = []
        self._closing = False
        self._ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._commits = self._changes = 0
        self._seconds = 0.0
        self._failures = 0
        self._problem = ""
        threading.Thread(target=self._main, name=f"hedgerow-store-{name}", daemon=True).start()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Carry out ``work`` on the lane's connection; when this returns, it is committed.

        Raises:
            Unavailable: The store is closed.
            LimitReached: The disk is full, or the database is locked or cannot be written; it may be later.
            WaitTimeout: No answer in time; the work may be carried out later all the same.
            BaseException: What ``work`` raised.
        """

        def alone(connection: Connection, _: list[object]) -> list[T]:
            return [work(connection)]

        answer: T = await self._answer_of(alone, None)
        return answer

    async def run_together(self, work: Callable[[Connection, list[A]], Sequence[T | HedgerowError]], argument: A) -> T:
        """As :meth:`run`, for work that can be carried out once for several arguments; it answers each in its place.

        An error that ``work`` gives as the answer for one argument is raised where that was handed in, and nothing is undone.
        Where ``work`` raises, nothing of it is done, and it is tried for each argument alone.
        """
        answer: T = await self._answer_of(work, argument)
        return answer

    async def _answer_of(self, work: _Work, argument: object) -> Any:
        loop = asyncio.get_running_loop()
        item = _Item(work, argument, loop, loop.create_future())
        with self._condition:
            if self._closing:
                raise Unavailable("The store is closed. Try again when the server is back.")
            self._waiting.append(item)
            self._condition.notify()
        return await wait(item.future, ANSWER, f"the {self._name} of the store")

    def close(self) -> None:
        """Carry out what is waiting, then close the connection. Blocking; may be called twice."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        wait_future(self._ended, DRAIN, f"the {self._name} of the store to finish what it has")

    def totals(self) -> CommitTotals:
        """What this lane did so far."""
        return CommitTotals(self._commits, self._changes, self._seconds, self._failures, self._problem)

    def _main(self) -> None:
        try:
            while batch := self._next_batch():
                started = time.perf_counter()
                self._carry_out(batch)
                self._commits += 1
                self._changes += len(batch)
                self._seconds += time.perf_counter() - started
                if told := notes.take(self._connection):
                    self._committed(told)
                _answer(batch)
            self._connection.close()
        except BaseException as error:
            log.exception("The %s of the store ended", self._name, extra={"action": "store_lane_ended"})
            with self._condition:
                self._closing = True
                stranded, self._waiting = self._waiting, []
            for item in stranded:
                item.error = error
            _answer(stranded)
        finally:
            self._ended.set_result(None)

    def _next_batch(self) -> list[_Item]:
        """Wait for work; empty when the lane is closed and nothing is left."""
        with self._condition:
            wait_condition(self._condition, lambda: bool(self._waiting) or self._closing, IDLE, "work for the store")
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            return batch

    def _carry_out(self, batch: list[_Item]) -> None:
        connection = self._connection
        # Alone in its transaction, a change is undone with it.
        savepoints = self._savepoints and len(batch) > 1
        try:
            connection.begin()
            for _, alike in groupby(batch, lambda item: item.work):
                self._carry_out_alike(list(alike), savepoints=savepoints)
            if len(batch) == 1 and batch[0].error is not None:
                connection.rollback()
            else:
                connection.commit()
            self._problem = ""
        except BaseException as error:
            self._failures += 1
            if isinstance(error, exc.DBAPIError):  # its message says all; a full disk would fill the log with tracebacks
                log.error("The store could not commit: %s", error.orig, extra={"action": "store_batch_failed"})
            else:
                log.exception("The store could not commit", extra={"action": "store_batch_failed"})
            self._fail(batch, error)

    def _carry_out_alike(self, items: list[_Item], *, savepoints: bool) -> None:
        """Work that is the same for all of the items."""
        if savepoints:
            self._connection.exec_driver_sql("SAVEPOINT change")
        noted = notes.count(self._connection)
        try:
            answers = items[0].work(self._connection, [item.argument for item in items])
            for item, answer in zip(items, answers, strict=True):
                if isinstance(answer, HedgerowError):
                    item.error = answer
                else:
                    item.result = answer
        except (exc.OperationalError, exc.InternalError):
            raise  # the database's fault, not this item's; it may have rolled back everything already
        except BaseException as error:
            if not isinstance(error, HedgerowError):
                log.exception("A piece of work of the store failed", extra={"action": "store_work_failed"})
            notes.undo(self._connection, noted)
            if savepoints:
                self._connection.exec_driver_sql("ROLLBACK TO SAVEPOINT change")
            if len(items) == 1:
                items[0].error = error
            else:
                for item in items:
                    self._carry_out_alike([item], savepoints=savepoints)
        if savepoints:
            self._connection.exec_driver_sql("RELEASE SAVEPOINT change")

    def _fail(self, batch: list[_Item], error: BaseException) -> None:
        """Undo the batch; all of it fails with what happened."""
        told = explain(error) if isinstance(error, exc.DBAPIError) else error
        self._problem = str(told)
        notes.undo(self._connection, 0)
        for item in batch:
            # Each gets an exception of its own: a traceback grows on whichever is raised.
            item.error = type(told)(*told.args) if isinstance(told, HedgerowError) else told
        try:
            self._connection.rollback()
        except exc.DBAPIError:
            log.exception("The store could not roll back; it connects anew", extra={"action": "store_reconnect"})
            self._connection.invalidate()
            self._connection.rollback()


def explain(error: exc.DBAPIError) -> HedgerowError:
    """What a failure of the database itself means for whoever asked."""
    name = str(getattr(error.orig, "sqlite_errorname", type(error.orig).__name__))
    if name == "SQLITE_FULL" or name.startswith("SQLITE_IOERR_SHM"):
        return LimitReached("disk full: the server's database cannot grow. Nothing was stored; free space at the server.")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LimitReached("The server's database is locked by another process. Nothing was stored; try again.")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return LimitReached("The server's database cannot be written. Nothing was stored; mend its permissions at the server.")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return CorruptData(f"The server's database is damaged ({error.orig}). Restore it from a backup.")
    return Unavailable(f"The server's database failed: {error.orig} ({name}). Nothing was stored; try again.")


def _answer(batch: list[_Item]) -> None:
    """Tell the waiting coroutines: one call for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Item]] = {}
    for item in batch:
        by_loop.setdefault(item.loop, []).append(item)
    for loop, items in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, items)
        except RuntimeError:
            log.debug("An event loop was closed before %d answers of the store", len(items))


def _resolve(items: list[_Item]) -> None:
    for item in items:
        if item.future.done():
            continue  # its awaiter was cancelled
        if item.error is not None:
            item.future.set_exception(item.error)
        else:
            item.future.set_result(item.result)
