"""The workers of one client and who may use them: a few for training, one light one, and turns between the runs.

``max_parallel`` tasks run at once. A light task (get_properties) takes an idle worker, and where all are busy a worker of its
own, which is started when it is first needed. Among waiting tasks the run goes first that was given a worker least recently.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hedgerow.client.worker_process import Worker, WorkerDied
from hedgerow.errors import ConfigError
from hedgerow.waits import Backoff, Limit, pause, wait

log = logging.getLogger(__name__)

A_WORKER = Limit("a_worker", None)
"""The task before this one may take hours."""


class Turns:
    """A number of places, handed out to waiting runs in turn."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._counter = itertools.count(1)
        self._last_turn: dict[str, int] = {}
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @property
    def free(self) -> int:
        """How many places are free now."""
        return self._free

    @asynccontextmanager
    async def turn(self, run_id: str) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        if self._free and not self._waiting:
            self._take(run_id)
        else:
            granted = asyncio.get_running_loop().create_future()
            self._waiting.append((run_id, granted))
            try:
                await wait(granted, A_WORKER, "an idle worker")
            except BaseException:
                if (run_id, granted) in self._waiting:
                    self._waiting.remove((run_id, granted))
                else:  # granted in the same moment
                    self._give_back()
                raise
        try:
            yield
        finally:
            self._give_back()

    def _take(self, run_id: str) -> None:
        self._free -= 1
        self._last_turn[run_id] = next(self._counter)

    def _give_back(self) -> None:
        self._free += 1
        waiting = [w for w in self._waiting if not w[1].done()]  # one that is done has been cancelled and will leave
        if waiting:
            # min() takes the first of equals: within a run, in the order of arrival.
            run_id, granted = chosen = min(waiting, key=lambda w: self._last_turn.get(w[0], 0))
            self._waiting.remove(chosen)
            self._take(run_id)
            granted.set_result(None)
        elif len(self._last_turn) > 1000:
            self._last_turn.clear()


@dataclass
class Place:
    """A place for one worker: who holds it may use the worker."""

    worker: Worker | None = None
    busy: bool = False
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.5, cap_s=30.0))


class WorkerPool:
    """All workers.

    Args:
        start: Starts a worker; None where the one that is handed in cannot be replaced.
        first: The worker that is running already.
        max_parallel: How many tasks may run at once.
    """

    def __init__(self, start: Callable[[], Awaitable[Worker]] | None, first: Worker, max_parallel: int) -> None:
        self._start = start
        self._places = [Place(first)] + [Place() for _ in range(max_parallel - 1)]
        self._light = Place()
        self._turns = Turns(max_parallel)
        self._light_turns = Turns(1)

    @property
    def replaces_workers(self) -> bool:
        """Whether a worker that dies is replaced."""
        return self._start is not None

    @asynccontextmanager
    async def place(self, run_id: str, *, light: bool) -> AsyncIterator[Place]:
        """Wait for a place and hold it; hand it to :meth:`worker`."""
        if light and self._start is not None and not self._turns.free:
            async with self._light_turns.turn(run_id):
                yield self._light
        else:
            async with self._turns.turn(run_id):
                # A warm worker before one that must be started.
                place = min((p for p in self._places if not p.busy), key=lambda p: p.worker is None)
                place.busy = True
                try:
                    yield place
                finally:
                    place.busy = False

    async def worker(self, place: Place) -> Worker:
        """The worker of a place that is held; started where there is none, as often as it takes.

        Raises:
            WorkerDied: It cannot be started; the message says why.
        """
        if place.worker is not None and place.worker.alive:
            return place.worker
        if self._start is None:
            raise WorkerDied("The process that started the link is gone.")
        place.worker = None
        try:
            place.worker = await self._start()
        except (ConfigError, WorkerDied) as error:
            seconds = place.backoff.next()
            log.error("The worker cannot be started again: %s", error, extra={"action": "worker_broken"})
            await pause(seconds, "what broke the worker's start may be repaired")
            raise WorkerDied(f"The worker could not be started again: {error}") from error
        place.backoff.reset()
        return place.worker

    async def discard(self, place: Place) -> None:
        """End the worker of a place that is held in the middle of its task; the next task starts a new one."""
        worker, place.worker = place.worker, None
        if worker is not None:
            await worker.stop(busy=True)

    async def close(self) -> None:
        """End all workers."""
        places = [p for p in (*self._places, self._light) if p.worker is not None]
        await asyncio.gather(*(p.worker.stop(busy=p.busy or p is self._light) for p in places if p.worker is not None))
