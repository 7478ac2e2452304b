"""Work of the server that no call waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from hedgerow.errors import LimitReached, Unavailable, WaitTimeout
from hedgerow.waits import Backoff, Limit, pause, wait

log = logging.getLogger(__name__)


async def until_stored(change: Callable[[], Awaitable[None]], what: str) -> None:
    """Make a change that must not be lost, again and again while the store cannot take it: its disk may be full."""
    backoff = Backoff(first_s=0.5, cap_s=15.0)
    while True:
        try:
            return await change()
        except (LimitReached, Unavailable) as error:
            seconds = backoff.next()
            log.warning("Not stored yet: %s (%s); again in %.1f s", what, error, seconds)
            await pause(seconds, "the store to take changes again")


class Background:
    """Tasks that run beside the calls; a failure is logged, never lost."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], what: str) -> asyncio.Task[None]:
        """Start some work; ``what`` says in the log what it was if it fails."""
        task = asyncio.get_running_loop().create_task(self._guard(work, what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, work: Coroutine[Any, Any, Any], what: str) -> None:
        try:
            await work
        except Exception:
            log.exception("Failed: %s", what)

    async def finish(self, limit: Limit) -> None:
        """Let everything end by itself within the limit, then cancel what is left."""
        if not self._tasks:
            return
        try:
            await wait(asyncio.gather(*self._tasks), limit, "background work")
        except WaitTimeout:
            log.warning("Cancelled background work after %s s", limit.seconds)
