"""The open sessions: which node is connected now, and the queue of what is to be pushed to it.

This is all that the server knows and the store does not. Losing it costs nothing: a session that opens is told everything anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from hedgerow.errors import Fenced, Unavailable
from hedgerow.security import Identity, check_secret
from hedgerow.waits import Limit, wait
from hedgerow.wire.proto import fleet_pb2

SHORTEST_BEAT_INTERVAL_S = 15.0
BEATS_PER_S = 100
RECONNECTS_PER_S = 500


class NodeSession:
    """One connection of a client. ``epoch`` is 0 until the store has opened it."""

    def __init__(self, who: Identity) -> None:
        self.who = who
        self.name = ""
        self.epoch = 0
        self.last_heard = 0.0
        self.beat_interval_s = 0.0
        self._queue: asyncio.Queue[fleet_pb2.SessionDown | None] = asyncio.Queue()

    def push(self, message: fleet_pb2.SessionDown) -> None:
        """Queue a message for the client."""
        self._queue.put_nowait(message)

    def end(self, goodbye: fleet_pb2.Goodbye | None = None) -> None:
        """End the stream after what is queued, with a goodbye if there is one to say."""
        if goodbye is not None:
            self.push(fleet_pb2.SessionDown(goodbye=goodbye))
        self._queue.put_nowait(None)

    async def next(self, limit: Limit) -> fleet_pb2.SessionDown | None:
        """The next message; None when the stream is to end.

        Raises:
            WaitTimeout: There was none within the limit.
        """
        return await wait(self._queue.get(), limit, "something to push")


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

    def of(self, who: Identity, epoch: int = 0) -> NodeSession:
        """The caller's open session.

        Raises:
            Unavailable: It has none; it must open one first.
            Unauthenticated: The session is another's.
            Fenced: The caller works in an older session.
        """
        session = self._by_node.get(who.id)
        if session is None or not session.epoch:
            raise Unavailable(f"The node {who.id} has no open session. Open one first.")
        check_secret(session.who.secret_hash, who)
        if epoch and epoch < session.epoch:
            raise Fenced(f"The session with epoch {epoch} of node {session.name} has been replaced by {session.epoch}.")
        return session

    def deliver(self, node_id: str, epoch: int, message: fleet_pb2.SessionDown) -> NodeSession | None:
        """Push to a node if it is still in the session with this epoch; otherwise its next session is told anyway.

        A session whose opening is just being committed takes the message too: it is sent after the welcome.
        """
        session = self._by_node.get(node_id)
        if session is None or session.epoch not in (0, epoch):
            return None
        session.push(message)
        return session

    def beat_interval_s(self) -> float:
        """Seconds between beats: 15, and longer with many sessions, so that beats cost a bounded share of the server."""
        return max(SHORTEST_BEAT_INTERVAL_S, len(self._by_node) / BEATS_PER_S)

    def reconnect_within_s(self) -> float:
        """Over how many seconds clients spread when they come back: as long as it takes to take them all in."""
        return len(self._by_node) / RECONNECTS_PER_S
