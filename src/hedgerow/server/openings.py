"""How many sessions are opened at a time, and who is told to come back later.

After a server was started again, all its clients come at once. Opening a session costs a few milliseconds of the server, so that
the last of ten thousand would be let in long after it had given up, and its next attempt would cost another one its turn. Here
so many are opened at once; as many wait as are let in within a few seconds, at the speed at which sessions are being opened; and
everybody else is given a time to come back, one after the other at that speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from hedgerow.errors import Unavailable
from hedgerow.waits import Limit, wait

AT_ONCE = 32
PATIENCE_S = 5.0
"""Who would have to wait for longer is sent away; well below the time for which a client waits for its welcome."""
A_TURN = Limit("session_turn_s", 30.0)
MAX_AWAY_S = 120.0
FIRST_GUESS_S = 0.002
NEW_PART = 0.05
"""How much of the estimate of an opening's duration the newest one makes up."""
LONGEST_S = 0.02
"""What a single opening counts for at most: one that stood still for a while says nothing about the others."""


class Openings:
    """The turns of those who want to open a session. Lives on the server's event loop.

    Args:
        at_once: How many are opened at the same time: enough to fill the store's batches.
        patience_s: For how long somebody may have to wait for a turn, in seconds.
        now: A clock that only goes forward, in seconds.

    Attributes:
        waiting: How many wait for their turn now.
        sent_away: How many were told to come back later so far.
    """

    def __init__(self, at_once: int = AT_ONCE, patience_s: float = PATIENCE_S, now: Callable[[], float] = time.monotonic) -> None:
        self.waiting = 0
        self.sent_away = 0
        self._turns = asyncio.Semaphore(at_once)
        self._patience_s = patience_s
        self._now = now
        self._each_s = FIRST_GUESS_S
        self._last_end = float("-inf")
        self._booked_until = float("-inf")

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn, and have it for as long as the block runs.

        Raises:
            Unavailable: Too many wait already; says when to come back.
        """
        if self.waiting * self._each_s > self._patience_s:
            raise self._away()
        self.waiting += 1
        try:
            await wait(self._turns.acquire(), A_TURN, "a turn to open the session")
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._ended()
            self._turns.release()

    def _ended(self) -> None:
        """Learn from an opening that has ended how long one takes: the time since the one before, where others were waiting."""
        now = self._now()
        if self.waiting and self._last_end > float("-inf"):
            self._each_s += NEW_PART * (min(LONGEST_S, now - self._last_end) - self._each_s)
        self._last_end = now if self.waiting else float("-inf")

    def _away(self) -> Unavailable:
        now = self._now()
        # Those who wait are let in first, and after them those who were sent away before.
        self._booked_until = max(self._booked_until, now + self.waiting * self._each_s) + self._each_s
        self.sent_away += 1
        after_s = min(MAX_AWAY_S, self._booked_until - now)
        return Unavailable(f"{self.waiting} clients are waiting for their sessions", come_back_after_s=after_s)
