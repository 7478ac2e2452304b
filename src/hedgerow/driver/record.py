"""Keeps a run's rounds in its folder, while the next round goes on.

To bring a model to the disk may take as long as a round. So the round after it begins meanwhile: clients train, and what
they return is at the server and in their outboxes. Only when the checkpoint is on the disk is the round acknowledged. A driver
that dies before that goes on from the checkpoint before, with the journal of both rounds, and folds the same results again.
Who must not go on before a round is kept, because callbacks are to be told of it, calls :meth:`FolderRecord.settle`.
Owned here: that rounds are kept one after the other, and that an error of one is raised where the next is to be kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future

from hedgerow.driver.checkpoint import Checkpoint
from hedgerow.driver.daemon_pool import DaemonPool
from hedgerow.driver.driver import Driver
from hedgerow.driver.run_folder import RunFolder
from hedgerow.waits import Limit, wait_future

log = logging.getLogger(__name__)

KEPT = Limit("checkpoint_s", None)
"""A disk may be slow; there is nothing that could be done instead of waiting for it."""


class FolderRecord:
    """Keeps the rounds of a driver's run.

    Args:
        folder: The run's folder.
        driver: The run.
    """

    def __init__(self, folder: RunFolder, driver: Driver) -> None:
        self._folder = folder
        self._driver = driver
        self._writing: Future[None] | None = None
        self._pool = DaemonPool(1, "hedgerow-checkpoint")

    def write(self, checkpoint: Checkpoint, kept: Callable[[], None]) -> None:
        """Keep a round whose results have all come; what came so far belongs to it or to an earlier one.

        Raises:
            InvalidArgument: The strategy's state cannot be kept.
            Exception: What went wrong with the round before.
        """
        self.settle()
        # Asked first: of two states, an old one with a new cursor is the harmless mixture.
        server_id = self._driver.watcher.server_id
        file = self._driver.files.path(checkpoint.parameters)
        prepared = self._folder.prepare_checkpoint(checkpoint, self._driver.mirror.cursor, file)

        def keep() -> None:
            self._folder.write_checkpoint(prepared)
            self._folder.note_server(server_id)
            kept()

        if checkpoint.cursor is not None:  # an asynchronous run, whose tasks know no rounds
            keep()
        else:
            self._writing = self._in_background(keep)

    def settle(self) -> None:
        """Wait until all rounds are kept.

        Raises:
            Exception: What went wrong.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            wait_future(writing, KEPT, "the checkpoint to be on the disk")

    def close(self) -> None:
        """Wait until nothing is written any longer; the run has ended already if something went wrong."""
        try:
            self.settle()
        except Exception as error:  # noqa: BLE001 (the run ends with an error of its own)
            log.warning("The last round could not be kept: %s", error, extra={"action": "checkpoint_failed"})

    def _in_background(self, work: Callable[[], None]) -> Future[None]:
        done: Future[None] = Future()

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
                done.set_exception(error)
            else:
                done.set_result(None)

        self._pool.submit(run)
        return done
