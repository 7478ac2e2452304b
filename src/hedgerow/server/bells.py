"""Wake-ups: who waits for news of what.

News is read from the store after a bell has rung, but for results: the store's writer tells each commit's, so that those who
watch need not ask for them. They are the same results in the same order; whoever missed some reads them by cursor.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType

from hedgerow.errors import Unavailable, WaitTimeout
from hedgerow.records import TaskResult
from hedgerow.waits import Limit, wait

SWEEP = Limit("sweep_s", 30.0)
"""The safety net: a waiter looks again after this time even when no bell rang."""
MAX_FED = 100
"""A waiter to whom more results were told than this, before it took them, reads them from the store instead."""


def results_topic(run_id: str) -> str:
    """There are results of the run to read."""
    return f"run/{run_id}"


def fed_topic(run_id: str) -> str:
    """Results of the run were told as they were committed; see :meth:`Listener.fed`."""
    return f"fed/{run_id}"


def ended_topic(run_id: str) -> str:
    """The run is over."""
    return f"ended/{run_id}"


class Listener:
    """One waiter. Take the news *before* reading the store, so that what happens while reading is not missed."""

    def __init__(self, bells: Bells, topics: tuple[str, ...]) -> None:
        self._bells = bells
        self._topics = topics
        self._rung: set[str] = set(topics)
        self._fed: list[TaskResult] = []
        self._event = asyncio.Event()
        self._event.set()

    def __enter__(self) -> Listener:
        for topic in self._topics:
            self._bells.listeners[topic].add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for topic in self._topics:
            listeners = self._bells.listeners[topic]
            listeners.discard(self)
            if not listeners:
                del self._bells.listeners[topic]

    def ring(self, topic: str) -> None:
        """Note that there is news on a topic."""
        self._rung.add(topic)
        self._event.set()

    def feed(self, results: Iterable[TaskResult]) -> bool:
        """Take results that were committed just now; False when there are too many, and they must be read instead."""
        self._fed += results
        if len(self._fed) <= MAX_FED:
            return True
        self._fed = []
        return False

    def fed(self) -> list[TaskResult]:
        """The results that were told since the last call, in the order in which they were committed."""
        fed, self._fed = self._fed, []
        return fed

    async def news(self, limit: Limit = SWEEP) -> set[str]:
        """The topics that rang since the last call; all of them at the first call; empty when the limit was reached first.

        Raises:
            Unavailable: The server is stopping.
        """
        if self._bells.closed:
            raise Unavailable("The server is stopping. Connect again when it is back.")
        try:
            await wait(self._event.wait(), limit, "news")
        except WaitTimeout:
            return set()
        if self._bells.closed:
            raise Unavailable("The server is stopping. Connect again when it is back.")
        self._event.clear()
        rung, self._rung = self._rung, set()
        return rung


class Bells:
    """All waiters of one event loop, by topic."""

    def __init__(self) -> None:
        self.listeners: defaultdict[str, set[Listener]] = defaultdict(set)
        self.closed = False

    def listen(self, *topics: str) -> Listener:
        """A waiter for these topics; use it in a ``with`` statement."""
        return Listener(self, topics)

    def ring(self, topic: str) -> None:
        """Wake everybody who waits for this topic."""
        for listener in self.listeners.get(topic, ()):
            listener.ring(topic)

    def committed(self, run_id: str, results: list[TaskResult] | None) -> None:
        """These results of a run are in the store now; None for some that must be read from there."""
        for listener in self.listeners.get(fed_topic(run_id), ()):
            if results is not None and listener.feed(results):
                listener.ring(fed_topic(run_id))
            else:
                listener.ring(results_topic(run_id))

    def close(self) -> None:
        """Wake everybody for the last time."""
        self.closed = True
        for topic, listeners in self.listeners.items():
            for listener in listeners:
                listener.ring(topic)
