"""The open sessions: which node is connected now, and the queue of what is to be pushed to it.

This is all that the server knows and the store does not. Losing it costs nothing: a session that opens is told everything anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from hedgerow.errors import Unavailable
from hedgerow.security import Identity, check_secret
from hedgerow.waits import Limit, wait
from hedgerow.wire.proto import fleet_pb2

SHORTEST_BEAT_INTERVAL_S = 15.0
BEATS_PER_S = 100
RECONNECTS_PER_S = 500
RESULTS_AT_ONCE = 32
"""Results of one client that are being stored, or of which it is not told yet what became of them; it waits with more."""
A_PLACE = Limit("results_at_once", None)
"""The store answers or fails within a limit of its own, and the client is told as fast as it reads."""
ANSWERS_WAIT_S = 0.05
"""So long what became of results waits for a message to travel with: nobody waits for it, and the next task is often near."""


class NodeSession:
    """One connection of a client. ``epoch`` is 0 until the store has opened it."""

    def __init__(self, who: Identity) -> None:
        self.who = who
        self.name = ""
        self.epoch = 0
        self.beat_interval_s = 0.0
        self.last_heard = 0.0
        self._queue: asyncio.Queue[fleet_pb2.SessionDown | None] = asyncio.Queue()
        self._completed: dict[str, fleet_pb2.Completed] = {}
        self._release: list[str] = []
        self._telling: asyncio.TimerHandle | None = None
        self._places = asyncio.Semaphore(RESULTS_AT_ONCE)
        self._untold = 0

    def heard(self) -> None:
        """The client has said something."""
        self.last_heard = asyncio.get_running_loop().time()

    def silent_s(self) -> float:
        """For how many seconds the client has said nothing, as far as it was listened to."""
        if self._places.locked():
            self.heard()
        return asyncio.get_running_loop().time() - self.last_heard

    async def place(self) -> None:
        """Wait until one more result of this client can be taken in; :meth:`completed` must follow."""
        await wait(self._places.acquire(), A_PLACE, "the client to be told what became of its results")

    def push(self, message: fleet_pb2.SessionDown) -> None:
        """Queue a message for the client."""
        self._queue.put_nowait(message)

    def completed(self, answer: fleet_pb2.Completed) -> None:
        """Tell the client what became of a result, with the next message or a moment later."""
        self._completed[answer.task_id] = answer
        self._untold += 1
        if self._untold == RESULTS_AT_ONCE // 2:  # it has more to hand in, and needs places for that
            self._tell()
        else:
            self._tell_soon()

    def release(self, task_ids: Iterable[str]) -> None:
        """Tell the client that it need not keep these results, with the next message or a moment later."""
        for task_id in task_ids:
            answer = self._completed.get(task_id)
            if answer is None or answer.HasField("refusal"):
                self._release.append(task_id)
            else:
                answer.release = True
        self._tell_soon()

    def _tell_soon(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(ANSWERS_WAIT_S, self._tell)

    def _tell(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        self._telling = None
        if self._completed or self._release:
            self.push(fleet_pb2.SessionDown())

    def end(self, goodbye: fleet_pb2.Goodbye | None = None) -> None:
        """End the stream after what is queued, with a goodbye if there is one to say."""
        self._tell()
        if goodbye is not None:
            self.push(fleet_pb2.SessionDown(goodbye=goodbye))
        self._queue.put_nowait(None)

    async def next(self, limit: Limit) -> fleet_pb2.SessionDown | None:
        """The next message; None when the stream is to end.

        Raises:
            WaitTimeout: There was none within the limit.
        """
        message = await wait(self._queue.get(), limit, "something to push")
        if message is not None and (self._completed or self._release):
            message.completed.extend(self._completed.values())
            message.release.extend(self._release)
            self._completed, self._release = {}, []
            for _ in range(self._untold):
                self._places.release()
            self._untold = 0
        return message


class Sessions:
    """All open sessions, at most one for each node."""

    def __init__(self) -> None:
        self._by_node: dict[str, NodeSession] = {}

    def __len__(self) -> int:
        return len(self._by_node)

    def __iter__(self) -> Iterator[NodeSession]:
        return iter(list(self._by_node.values()))

    def add(self, session: NodeSession) -> None:
        """Make this the node's session; an older one is ended and must not come back."""
        older = self._by_node.get(session.who.id)
        self._by_node[session.who.id] = session
        if older is not None:
            older.end(fleet_pb2.Goodbye(reason="a newer session of the same node has taken over"))

    def remove(self, session: NodeSession) -> None:
        """Forget a session that has ended, unless a newer one has taken its place."""
        if self._by_node.get(session.who.id) is session:
            del self._by_node[session.who.id]

    def find(self, node_id: str) -> NodeSession | None:
        """The node's session, if it has one."""
        return self._by_node.get(node_id)

    def of(self, who: Identity) -> NodeSession:
        """The caller's open session.

        Raises:
            Unavailable: It has none; it must open one first.
            Unauthenticated: The session is another's.
        """
        session = self._by_node.get(who.id)
        if session is None or not session.epoch:
            raise Unavailable(f"The node {who.id} has no open session. Open one first.")
        check_secret(session.who.secret_hash, who)
        return session

    def deliver(self, node_id: str, epoch: int, message: fleet_pb2.SessionDown) -> NodeSession | None:
        """Push to a node if it is still in the session with this epoch; otherwise its next session is told anyway.

        A session whose opening is just being committed takes the message too: it is sent after the welcome.
        """
        session = self.at(node_id, epoch)
        if session is not None:
            session.push(message)
        return session

    def at(self, node_id: str, epoch: int) -> NodeSession | None:
        """The node's session if it has this epoch, or is just being opened."""
        session = self._by_node.get(node_id)
        return session if session is not None and session.epoch in (0, epoch) else None

    def beat_interval_s(self) -> float:
        """Seconds between beats: 15, and longer with many sessions, so that beats cost a bounded share of the server."""
        return max(SHORTEST_BEAT_INTERVAL_S, len(self._by_node) / BEATS_PER_S)

    def reconnect_within_s(self) -> float:
        """Over how many seconds clients spread when they come back: as long as it takes to take them all in."""
        return len(self._by_node) / RECONNECTS_PER_S
