"""Keeps a run's rounds in its folder, while the next rounds go on.

To bring a model to the disk may take as long as a round. So the round after it begins meanwhile: clients train, and what they
return is at the server and in their outboxes. Only when the checkpoint is on the disk is the round acknowledged. Small
checkpoints are written at most every tenth of a second: of rounds that take milliseconds, the newest one is kept, and with it
those before it. A driver that dies goes on from the last checkpoint, with the journal of the rounds since, and folds the same
results again. Owned here: that rounds are kept in their order, and that an error of one is raised where a later one is to be
kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from hedgerow.driver.checkpoint import Checkpoint, PreparedCheckpoint
from hedgerow.driver.daemon_pool import DaemonPool
from hedgerow.driver.driver import Driver
from hedgerow.driver.run_folder import RunFolder
from hedgerow.errors import WaitTimeout
from hedgerow.waits import Limit, wait_condition

log = logging.getLogger(__name__)

KEPT = Limit("checkpoint_s", None)
"""A disk may be slow; there is nothing that could be done instead of waiting for it."""
REST_S = 0.1
"""Seconds between two checkpoints, unless somebody waits for the second one."""


@dataclass(frozen=True)
class _Round:
    """A round that is to be kept, and what is to be said then of it and of those that it stands for."""

    prepared: PreparedCheckpoint
    server_id: str
    kept: list[Callable[[], None]]
    passed_over: list[str] = field(default_factory=list)


class FolderRecord:
    """Keeps the rounds of a driver's run.

    Args:
        folder: The run's folder.
        driver: The run.
    """

    def __init__(self, folder: RunFolder, driver: Driver) -> None:
        self._folder = folder
        self._driver = driver
        self._changed = threading.Condition()
        self._next: _Round | None = None
        self._writing = False
        self._awaited = False
        self._error: BaseException | None = None
        self._rested_at = 0.0
        self._pool = DaemonPool(1, "hedgerow-checkpoint")

    def write(self, checkpoint: Checkpoint, kept: Callable[[], None]) -> None:
        """Keep a round whose results have all come; what came so far belongs to it or to an earlier one.

        Raises:
            InvalidArgument: The strategy's state cannot be kept.
            Exception: What went wrong with a round before.
        """
        file = self._driver.files.path(checkpoint.parameters)
        if file is not None or checkpoint.cursor is not None:
            self.settle()  # of large ones, no more than one is on its way
        self._raise_error()
        # Asked first: of two states, an old one with a new cursor is the harmless mixture.
        server_id = self._driver.watcher.server_id
        prepared = self._folder.prepare_checkpoint(checkpoint, self._driver.mirror.cursor, file)
        if checkpoint.cursor is not None:  # an asynchronous run, whose tasks know no rounds
            self._keep(_Round(prepared, server_id, [kept]))
            return
        with self._changed:
            before, self._next = self._next, _Round(prepared, server_id, [kept])
            if before is not None:
                lines = [*before.passed_over, before.prepared.checkpoint.manifest]
                self._next = _Round(prepared, server_id, [*before.kept, kept], lines)
            if not self._writing:
                self._writing = True
                self._pool.submit(self._write_all)

    def settle(self) -> None:
        """Wait until all rounds are kept.

        Raises:
            Exception: What went wrong.
        """
        with self._changed:
            self._awaited = True
            self._changed.notify_all()
            try:
                wait_condition(self._changed, lambda: not self._writing, KEPT, "the checkpoint to be on the disk")
            finally:
                self._awaited = False
        self._raise_error()

    def close(self) -> None:
        """Wait until nothing is written any longer; the run has ended already if something went wrong."""
        try:
            self.settle()
        except Exception as error:  # noqa: BLE001 (the run ends with an error of its own)
            log.warning("The last round could not be kept: %s", error, extra={"action": "checkpoint_failed"})

    def _raise_error(self) -> None:
        with self._changed:
            error, self._error = self._error, None
        if error is not None:
            raise error

    def _write_all(self) -> None:
        """Keep what is next until nothing is, on a thread of its own."""
        while (one := self._take()) is not None:
            try:
                self._keep(one)
            except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
                with self._changed:
                    self._error, self._next = error, None
            self._rested_at = time.monotonic() + REST_S

    def _take(self) -> _Round | None:
        with self._changed:
            rest = Limit("checkpoint_rest_s", max(0.0, self._rested_at - time.monotonic()))
            with suppress(WaitTimeout):
                wait_condition(self._changed, lambda: self._awaited or self._next is None, rest, "more rounds to keep at once")
            one, self._next = self._next, None
            if one is None:
                self._writing = False
                self._changed.notify_all()
            return one

    def _keep(self, one: _Round) -> None:
        self._folder.write_checkpoint(one.prepared, one.passed_over)
        self._folder.note_server(one.server_id)
        for kept in one.kept:
            kept()
