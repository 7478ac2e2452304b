"""A few threads for work beside the run, which end with the process whatever they do (unlike ``ThreadPoolExecutor``'s)."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)


class DaemonPool:
    """Runs jobs in up to ``max_threads`` daemon threads, in the order in which they came. A thread ends when there is no job."""

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Run the job soon. It handles its own errors; one that gets through is logged."""
        with self._lock:
            self._jobs.append(job)
            if self._threads >= self._max_threads:
                return
            self._threads += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def clear(self) -> None:
        """Forget jobs that have not begun."""
        with self._lock:
            self._jobs.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._threads -= 1
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:
                log.exception("A background job failed")
            del job
