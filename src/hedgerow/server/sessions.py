"""The open sessions: which node is connected now, and the queue of what is to be pushed to it.

This is all that the server knows and the store does not. Losing it costs nothing: a session that opens is told everything anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from hedgerow.errors import Unavailable
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
RESULTS_AT_ONCE = 32
"""Results of one client that are being stored, or of which it is not told yet what became of them; it waits with more."""
A_PLACE = Limit("results_at_once", None)
"""The store answers or fails within a limit of its own, and the client is told as fast as it reads."""
ANSWERS_WAIT_S = 0.05
"""So long what became of results waits for a message to travel with: nobody waits for it, and the next task is often near."""
SILENT_BEATS = 3
LAST_WORDS = Limit("last_words_s", None)
"""A client that takes no more messages is noticed by its silence."""


class NodeSession:
    """One connection of a client. ``epoch`` is 0 until the store has opened it.

    There are thousands that only wait, so what each keeps meanwhile is little: its call's own task, which reads. Another task
    writes, for as long as there is something to write. It has no timer: a client's beat is answered with one.
    """

    __slots__ = (
        "_completed",
        "_ending",
        "_in_hand",
        "_outgoing",
        "_place",
        "_release",
        "_serving",
        "_telling",
        "_untold",
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
        self._completed: dict[str, fleet_pb2.Completed] = {}
        self._release: list[str] = []
        self._telling: asyncio.TimerHandle | None = None
        self._in_hand = self._untold = 0
        self._place: asyncio.Future[None] | None = None
        self._ending = False
        self._write: Callable[[fleet_pb2.SessionDown], Awaitable[None]] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[Any] | None = None

    async def place(self) -> None:
        """Wait until one more result of this client can be taken in; :meth:`completed` must follow. One waits at a time."""
        if self._in_hand >= RESULTS_AT_ONCE:
            self._place = asyncio.get_running_loop().create_future()
            try:
                await wait(self._place, A_PLACE, "the client to be told what became of its results")
            finally:
                self._place = None
        self._in_hand += 1

    def push(self, message: fleet_pb2.SessionDown) -> None:
        """Queue a message for the client."""
        self._outgoing.append(message)
        self._send()

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

    def answer(self, beat: Callable[[NodeSession], fleet_pb2.SessionDown]) -> None:
        """Answer a beat, unless the client has not taken yet what was pushed to it before."""
        if self._writing is None:
            self.push(beat(self))

    def end(self, goodbye: fleet_pb2.Goodbye | None = None) -> None:
        """End the stream after what is queued, with a goodbye if there is one to say."""
        self._tell()
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
        if self._in_hand >= RESULTS_AT_ONCE:
            self.last_heard = now  # nobody listens to it
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

    def _tell_soon(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(ANSWERS_WAIT_S, self._tell)

    def _tell(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        self._telling = None
        if self._completed or self._release:
            self.push(fleet_pb2.SessionDown())

    def _send(self) -> None:
        if self._write is not None and self._writing is None and (self._outgoing or self._ending):
            self._writing = asyncio.get_running_loop().create_task(self._send_all(self._write))

    async def _send_all(self, write: Callable[[fleet_pb2.SessionDown], Awaitable[None]]) -> None:
        over = True
        try:
            while self._outgoing:
                messages, self._outgoing = self._outgoing, []
                for message in messages:
                    self._add_answers(message)
                    await write(message)
            over = self._ending
            self._writing = None  # where it failed it is left, so that whoever serves finds out why
        finally:
            if over and self._serving is not None:
                serving, self._serving = self._serving, None
                serving.cancel()

    def _add_answers(self, message: fleet_pb2.SessionDown) -> None:
        if self._completed or self._release:
            message.completed.extend(self._completed.values())
            message.release.extend(self._release)
            self._completed, self._release = {}, []
            self._in_hand -= self._untold
            self._untold = 0
            if self._place is not None and not self._place.done():
                self._place.set_result(None)


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
        return len(self._by_node) / (TLS_RECONNECTS_PER_S if self._tls else RECONNECTS_PER_S)
