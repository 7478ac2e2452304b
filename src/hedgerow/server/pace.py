"""How slowly a sender may send: so many bytes in so much time of waiting for it.

Only the waiting counts, not the time in which the server is busy with what has come. So a sender that drips holds a connection
and its buffers no longer than one that is silent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from hedgerow.errors import WaitTimeout
from hedgerow.waits import Limit

LEAST_BYTES = 64 * 1024
"""Within each ``transfer_stalled_s``: about 1 kB a second. The end of a body may be shorter."""


class Pace:
    """The pace of one sender.

    Args:
        limit: How long :data:`LEAST_BYTES` may take.
        what: What is sent, for messages.
        now: Tells the time in seconds.
    """

    def __init__(self, limit: Limit, what: str, now: Callable[[], float] = time.monotonic) -> None:
        self.what = what
        self._limit = limit
        self._now = now
        self._left = limit.seconds
        self._came = 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[Limit]:
        """While the block waits for the sender; gives the limit that is left for that.

        Raises:
            WaitTimeout: The block's wait reached the limit: the sender is too slow.
        """
        began = self._now()
        try:
            yield Limit(self._limit.name, self._left)
        except WaitTimeout:
            raise WaitTimeout(
                f"Waited {self._limit.seconds:g} s (the limit {self._limit.name}) for {LEAST_BYTES:,} bytes of {self.what}; "
                f"{self._came:,} came."
            ) from None
        finally:
            if self._left is not None:
                self._left = max(0.0, self._left - (self._now() - began))

    def came(self, count: int) -> None:
        """Bytes have come."""
        self._came += count
        if self._came >= LEAST_BYTES:
            self._left, self._came = self._limit.seconds, 0
