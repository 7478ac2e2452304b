"""What a server that was restored from a backup must be told again: it may be from before what the driver has done since.

Owned here: the tasks of rounds that are not acknowledged, and where the bytes of their blobs are. Parameters are not kept alive.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable

from hedgerow.records import Blob, Parameters, Payload, Task

SETTLE_S = 600.0
"""Clients have so long to hand in again what the driver knows of already."""


class Retold:
    """What was said to the server. Safe to use from any thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._acknowledged = -1
        self._tasks: dict[str, Task] = {}
        self._sources: weakref.WeakValueDictionary[str, Parameters] = weakref.WeakValueDictionary()
        self._moved_at: float | None = None

    def pushed(self, tasks: Iterable[Task]) -> None:
        """These tasks are about to be pushed."""
        with self._lock:
            self._tasks.update((task.task_id, task) for task in tasks)

    def cancelled(self, task_ids: Iterable[str]) -> None:
        """Nobody wants these tasks any longer."""
        with self._lock:
            for task_id in task_ids:
                self._tasks.pop(task_id, None)

    def acknowledged(self, round: int) -> None:
        """This round and those before it are over."""
        with self._lock:
            self._acknowledged = max(self._acknowledged, round)
            self._tasks = {task_id: task for task_id, task in self._tasks.items() if task.round > round}

    def named(self, parameters: Parameters, payload: Payload) -> Payload:
        """The server has these parameters under this name; gives back the name."""
        if isinstance(payload, Blob):
            with self._lock:
                self._sources[payload.digest] = parameters
        return payload

    def moved(self) -> list[Parameters]:
        """The server has another state now; the parameters that it may not have."""
        with self._lock:
            self._moved_at = self._now()
            return list(self._sources.values())

    @property
    def settling(self) -> bool:
        """Whether the server's state changed a short while ago."""
        return self._moved_at is not None and self._now() < self._moved_at + SETTLE_S

    def source(self, digest: str) -> Parameters | None:
        """The parameters of this name, if somebody still has them here."""
        with self._lock:
            return self._sources.get(digest)

    def all(self) -> tuple[int, list[Task]]:
        """The newest round that is over (-1 for none), and the tasks of the later ones in the order in which they were pushed."""
        with self._lock:
            return self._acknowledged, list(self._tasks.values())
