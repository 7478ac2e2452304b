"""Every wait of the system: each has a named limit and says what it waits for.

Nothing outside this module may call ``sleep`` or wait without a limit; a lint enforces it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from hedgerow.errors import WaitTimeout

T = TypeVar("T")


_RNG = random.Random()
"""Not the module's own generator, which user code may have seeded."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How long a wait may last. ``seconds`` is None where the wait is meant to last for ever, such as waiting for work."""

    name: str
    seconds: float | None


def _timed_out(limit: Limit, what: str) -> WaitTimeout:
    return WaitTimeout(f"Waited {limit.seconds:g} s (the limit {limit.name}) for {what}.")


async def wait(awaitable: Awaitable[T], limit: Limit, what: str) -> T:
    """Await something for no longer than the limit; it is cancelled when the limit is reached.

    Raises:
        WaitTimeout: The limit was reached; the message names it and what was waited for.
    """
    if limit.seconds is None:
        return await awaitable
    try:
        async with asyncio.timeout(limit.seconds) as scope:
            return await awaitable
    except TimeoutError:
        if not scope.expired():
            raise
        raise _timed_out(limit, what) from None


def wait_future(future: concurrent.futures.Future[T], limit: Limit, what: str) -> T:
    """Block until a future of another thread is done. It is cancelled when the limit is reached or Ctrl-C is pressed.

    Raises:
        WaitTimeout: The limit was reached.
    """
    try:
        return future.result(limit.seconds)
    except concurrent.futures.TimeoutError:
        if future.done():
            raise  # the future's own TimeoutError
        future.cancel()
        raise _timed_out(limit, what) from None
    except BaseException:
        future.cancel()
        raise


def wait_condition(condition: threading.Condition, predicate: Callable[[], bool], limit: Limit, what: str) -> None:
    """Block, holding the condition's lock, until the predicate is true.

    Raises:
        WaitTimeout: The limit was reached.
    """
    if not condition.wait_for(predicate, limit.seconds):
        raise _timed_out(limit, what)


async def pause(seconds: float, why: str) -> None:
    """Let time pass on purpose: back-off, beats and sweeps. ``why`` is for the reader."""
    del why
    await asyncio.sleep(seconds)


def pause_thread(seconds: float, why: str) -> None:
    """Let time pass on purpose in a thread: back-off. ``why`` is for the reader."""
    del why
    time.sleep(seconds)


def jitter(lowest: float, highest: float) -> float:
    """A random number between the two, so that many who do the same do not do it at the same moment."""
    return _RNG.uniform(lowest, highest)


@dataclass
class Backoff:
    """Growing pauses between attempts: exponential, capped, with full jitter between half and the whole of each step.

    >>> b = Backoff(first_s=1, cap_s=5, rng=random.Random(0))
    >>> [0.5 <= b.next() / step <= 1 for step in (1, 2, 4, 5, 5)]
    [True, True, True, True, True]
    """

    first_s: float = 0.2
    cap_s: float = 10.0
    rng: random.Random = field(default_factory=lambda: _RNG)
    _attempt: int = 0

    def next(self) -> float:
        """The next pause in seconds."""
        step = min(self.cap_s, self.first_s * 2.0**self._attempt)
        self._attempt = min(self._attempt + 1, 64)
        return step * self.rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again from the first step, after a success."""
        self._attempt = 0
