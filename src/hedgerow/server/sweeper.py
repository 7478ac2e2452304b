"""What must happen because time has passed: lost nodes, vanished drivers, tasks that ran for too long, unused uploads."""

from __future__ import annotations

import logging

from hedgerow.clock import Clock
from hedgerow.errors import HedgerowError
from hedgerow.records import RunState
from hedgerow.server.bells import Bells, results_topic
from hedgerow.server.notifier import Notifier
from hedgerow.server.options import ServerOptions
from hedgerow.store.store import Store
from hedgerow.waits import pause

log = logging.getLogger(__name__)

LONGEST_SWEEP_S = 30.0
SHORTEST_LEFT_S = 4.0


class Sweeper:
    """Applies the options that are measured in time."""

    def __init__(self, store: Store, bells: Bells, notifier: Notifier, clock: Clock, options: ServerOptions) -> None:
        self._store = store
        self._bells = bells
        self._notifier = notifier
        self._clock = clock
        self._options = options

    async def run(self) -> None:
        """Sweep for ever; a sweep that fails is logged and the next one tries again."""
        options = self._options
        limits = (options.node_lost_s, max(options.node_left_s, SHORTEST_LEFT_S), options.max_task_s, options.driver_lost_s)
        interval_s = min(LONGEST_SWEEP_S, *(limit / 4 for limit in limits))
        while True:
            await pause(interval_s, "between two sweeps")
            try:
                await self.sweep()
            except HedgerowError as error:
                log.warning("A sweep failed and will be repeated: %s", error)

    async def sweep(self) -> None:
        """One pass over everything."""
        now, options = self._clock.now(), self._options
        while await self._lose_nodes(now):
            pass
        expired = await self._store.expire_tasks(now - options.max_task_s)
        self._notifier.cancelled(expired.run_ids, expired.notify, f"it took longer than {options.max_task_s:g} s")
        await self._store.see_watched_runs()
        for run_id in await self._store.interrupt_runs(now - options.driver_lost_s):
            log.warning("Run %s is interrupted: its driver has vanished", run_id, extra={"action": "run_interrupted"})
        for run_id in await self._store.abandoned_runs(now - options.interrupted_kept_s):
            await self._fail(run_id)
        await self._notifier.unlink(await self._store.collect_blobs(now - options.unused_blob_s))

    async def _lose_nodes(self, now: float) -> bool:
        """Lose some of the nodes that did not come back; whether there may be more. Between two calls others have their turn."""
        options = self._options
        lost = await self._store.lose_nodes(now - options.node_lost_s, now - options.node_left_s)
        for node in lost.nodes:
            log.warning("Node %s is lost: it did not come back in time", node.name, extra={"action": "node_lost"})
        if lost.nodes:
            self._bells.ring("nodes")
        for run_id in lost.run_ids:
            self._bells.ring(results_topic(run_id))
        return lost.more

    async def _fail(self, run_id: str) -> None:
        """End a run that nobody has taken up again; what was kept for it is released."""
        message = f"interrupted, and not taken up again within {self._options.interrupted_kept_s:g} s"
        ended = await self._store.end_run(None, run_id, RunState.FAILED, message)
        await self._notifier.run_ended(run_id, ended)
        log.warning("Run %s failed: %s", run_id, message, extra={"action": "run_ended"})
