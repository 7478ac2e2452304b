"""The open sessions: which node is connected now, and the queue of what is to be pushed to it.

This is all that the server knows and the store does not. Losing it costs nothing: a session that opens is told everything anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from hedgerow.errors import Fenced, Unavailable
from hedgerow.security import Identity, check_secret
from hedgerow.waits import Limit, wait
from hedgerow.wire.proto import fleet_pb2

SHORTEST_BEAT_INTERVAL_S = 15.0
BEATS_PER_S = 50
"""Of all clients together: each costs 0.5 ms of the server, with its answer. Beats tell of clients that hang; with many
clients, keepalive tells sooner of a lost connection. 10,000 clients beat every 200 s, and three beats are the 600 s after which
a node is lost by default."""
RECONNECTS_PER_S = 500
TLS_RECONNECTS_PER_S = 200
"""With handshakes. If more came than get on, they would time out in the middle, and come again."""
SILENT_BEATS = 3
LAST_WORDS = Limit("last_words_s", None)
"""A client that takes no more messages is noticed by its silence."""


class NodeSession:
    """One connection of a client. ``epoch`` is 0 until the store has opened it.

    There are thousands that only wait, so what each keeps meanwhile is little: its call's own task, which reads. Another task
    writes, for as long as there is something to write. It has no timer: a client's beat is answered with one.
    """

    __slots__ = (
        "_ending",
        "_outgoing",
        "_serving",
        "_write",
        "_writing",
        "beat_interval_s",
        "epoch",
        "last_heard",
        "name",
        "who",
    )

    def __init__(self, who: Identity) -> None:
        self.who = who
        self.name = ""
        self.epoch = 0
        self.last_heard = 0.0
        self.beat_interval_s = 0.0
        self._outgoing: list[fleet_pb2.SessionDown] = []
        self._ending = False
        self._write: Callable[[fleet_pb2.SessionDown], Awaitable[None]] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[Any] | None = None

    def push(self, message: fleet_pb2.SessionDown) -> None:
        """Queue a message for the client."""
        self._outgoing.append(message)
        self._send()

    def answer(self, beat: Callable[[NodeSession], fleet_pb2.SessionDown]) -> None:
        """Answer a beat, unless the client has not taken yet what was pushed to it before."""
        if self._writing is None:
            self.push(beat(self))

    def end(self, goodbye: fleet_pb2.Goodbye | None = None) -> None:
        """End the stream after what is queued, with a goodbye if there is one to say."""
        if goodbye is not None:
            self._outgoing.append(fleet_pb2.SessionDown(goodbye=goodbye))
        self._ending = True
        self._send()

    def drop(self) -> None:
        """End the stream now, even if its client takes nothing: what is queued is for the node's next session."""
        self._outgoing, self._ending = [], True
        if self._writing is None:
            self._send()
        else:
            self._writing.cancel()

    def is_silent(self, now: float) -> bool:
        """Whether several beats in a row have not come; ``now`` is the event loop's time."""
        return self._serving is not None and now - self.last_heard > SILENT_BEATS * self.beat_interval_s

    async def serve(self, read: Callable[[], Awaitable[None]], write: Callable[[fleet_pb2.SessionDown], Awaitable[None]]) -> None:
        """Push what is queued, from now on at once, until ``read`` ends or :meth:`end` is called; then what is queued still.

        Raises:
            Exception: What ``read`` or ``write`` raises.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self.last_heard, self._write, self._serving = loop.time(), write, task
        self._send()
        try:
            await self._until_over(read, task)
            self._send()
            if self._writing is not None and not self._writing.cancelled():
                await wait(self._writing, LAST_WORDS, "the client to take the last messages")
        finally:
            self._write = None
            if self._writing is not None:
                self._writing.cancel()
                await asyncio.gather(self._writing, return_exceptions=True)

    async def _until_over(self, read: Callable[[], Awaitable[None]], task: asyncio.Task[Any]) -> None:
        try:
            await read()
        except asyncio.CancelledError:
            if self._serving is not None or task.uncancel():
                raise  # it is the call that ends, not the session
        finally:
            self._serving = None

    def _send(self) -> None:
        if self._write is not None and self._writing is None and (self._outgoing or self._ending):
            self._writing = asyncio.get_running_loop().create_task(self._send_all(self._write))

    async def _send_all(self, write: Callable[[fleet_pb2.SessionDown], Awaitable[None]]) -> None:
        over = True
        try:
            while self._outgoing:
                messages, self._outgoing = self._outgoing, []
                for message in messages:
                    await write(message)
            over = self._ending
            self._writing = None  # where it failed it is left, so that whoever serves finds out why
        finally:
            if over and self._serving is not None:
                serving, self._serving = self._serving, None
                serving.cancel()


class Sessions:
    """All open sessions, at most one for each node.

    Args:
        tls: Whether connections begin with a TLS handshake.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self._tls = tls
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

    def end_silent(self, now: float) -> list[NodeSession]:
        """End the sessions of clients that have been silent for several beats; which these are."""
        silent = [session for session in self._by_node.values() if session.is_silent(now)]
        for session in silent:
            session.drop()
        return silent

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
        return len(self._by_node) / (TLS_RECONNECTS_PER_S if self._tls else RECONNECTS_PER_S)
