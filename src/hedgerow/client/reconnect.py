"""When a client tries again after it has lost its server, so that many clients do not all come back at the same moment.

Three things make the pause: it grows while there is no server; a server that has its hands full says how long to stay away; and
a random part of the time passes that the server named when all was well (``reconnect_within_s``, more with many sessions). A
connection costs the server a handshake before it can say anything, so that pacing has to begin at the client.
"""

from __future__ import annotations

import asyncio

from hedgerow.client.session import Session
from hedgerow.errors import HedgerowError, Unavailable, WaitTimeout
from hedgerow.waits import Backoff, jitter

STEADY_S = 2.0
"""A session that has lasted for so long lets the next loss start with a short pause again; shorter ones, as with a server that
ends each at once, make the pauses grow."""
MAX_WITHIN_S = 120.0
LATER = 1.25
"""Whoever is sent away comes back after what the server said, or up to so many times that."""


class Reconnect:
    """Pauses between the attempts of one client. Lives on its event loop."""

    def __init__(self) -> None:
        self._backoff = Backoff(first_s=0.1, cap_s=10.0)
        self._opened_at = 0.0
        self._within_s = 0.0

    def opened(self) -> None:
        """A session is open."""
        self._opened_at = asyncio.get_running_loop().time()

    def pause_s(self, ended: Session | None, error: HedgerowError | None, at_least_s: float = 0.0) -> float:
        """Seconds until the next attempt.

        Args:
            ended: The session that is over; None if there was none since the last call.
            error: What ended it, or prevented it.
            at_least_s: How long to stay away in any case.
        """
        if ended is not None:
            self._within_s = ended.rhythm.reconnect_within_s
            if asyncio.get_running_loop().time() - self._opened_at > STEADY_S:
                self._backoff.reset()
        elif isinstance(error, WaitTimeout):  # there is a server, and it has too much to do
            self._within_s = min(MAX_WITHIN_S, 2 * self._within_s)
        if isinstance(error, Unavailable):
            at_least_s = max(at_least_s, error.come_back_after_s * jitter(1.0, LATER))
        return max(at_least_s, self._backoff.next(), self._within_s * jitter(0.0, 1.0))
