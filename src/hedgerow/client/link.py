"""The link: stays connected to the server for ever, and passes what the server pushes to the jobs. It never runs user code."""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import dataclass

from hedgerow.audit import AUDIT_FILE, AuditLog
from hedgerow.certificates import Tls
from hedgerow.client.connection import Connection
from hedgerow.client.delivery import Delivery
from hedgerow.client.jobs import Bench, Jobs, Rules
from hedgerow.client.outbox import Outbox
from hedgerow.client.parameter_cache import ParameterCache
from hedgerow.client.reconnect import Reconnect
from hedgerow.client.session import Session, Standing, is_refusal
from hedgerow.client.state_dir import StateDir
from hedgerow.client.task_audit import TaskAudit
from hedgerow.client.worker_pool import WorkerPool
from hedgerow.clock import SystemClock
from hedgerow.errors import Fenced, HedgerowError, ProtocolMismatch
from hedgerow.waits import Limit, pause
from hedgerow.wire import narrow
from hedgerow.wire.channel import Address
from hedgerow.wire.convert import origin_from_proto
from hedgerow.wire.proto import fleet_pb2

log = logging.getLogger(__name__)

SETTLE = Limit("settle_s", 0.5)
REFUSED_PAUSE_S = 30.0
ATTEMPTS_LOGGED = 6


class LinkEnded(HedgerowError):
    """The server ended the session for good."""


@dataclass
class _Attempts:
    """What has been tried since the connection was lost."""

    count: int = 0
    ever_connected: bool = False


class Link:
    """The connection of one node to one server, with everything that hangs on it.

    Args:
        server: Address of the Fleet API.
        tls: What it connects with; None for an insecure connection.
        name: The node's name.
        state: The open state directory.
        pool: The workers.
        rules: What the site has decided about tasks.

    Attributes:
        outbox: Results that are not safe elsewhere yet.
    """

    def __init__(
        self,
        server: Address,
        tls: Tls | None,
        name: str,
        state: StateDir,
        pool: WorkerPool,
        rules: Rules | None = None,
    ) -> None:
        self._name = name
        self._state = state
        self._secure = tls is not None
        self._connection = Connection(server, tls, state.identity)
        self.outbox = Outbox(state)
        self._audit = AuditLog(state.path / AUDIT_FILE, SystemClock())
        audit = TaskAudit(self._audit)
        self._delivery = Delivery(self.outbox, self._connection, audit)
        cache = ParameterCache(state.path / "parameters")
        parts = (self.outbox, pool, self._connection, self._delivery, audit)
        self._jobs = Jobs(Bench(name, state, cache, *parts, rules or Rules()))
        self._attempts = _Attempts()
        self._reconnect = Reconnect()
        self._leaving = False
        self._job_done = False
        self._software = f"hedgerow {importlib.metadata.version('hedgerow')}"

    async def run(self) -> None:
        """Stay connected until cancelled, or until the one job is done that the server was there for.

        Raises:
            HedgerowError: At first contact, the server refused this client for a reason that trying again does not mend.
            LinkEnded: The server ended the session for good.
        """
        log.info(
            "Connecting to %s as node %s (%s)", self._connection.server.text, self._name, "TLS" if self._secure else "insecure"
        )
        while True:
            at_least_s, failure = 0.0, None
            try:
                at_least_s = await self._one_session()
                if self._job_done:
                    return
                problem = "the server ended the session"
            except Fenced as error:
                raise LinkEnded(f"Another process runs as node {self._name} (id {self._state.identity.id}): {error}") from None
            except HedgerowError as error:
                if isinstance(error, LinkEnded):
                    raise
                if is_refusal(error) and not self._attempts.ever_connected:
                    raise type(error)(self._refusal(error)) from None
                if is_refusal(error):
                    at_least_s = REFUSED_PAUSE_S
                problem, failure = str(error), error
            lost = self._connection.session
            self._connection.session_closed()
            seconds = self._reconnect.pause_s(lost, failure, at_least_s)
            if not self._leaving:
                self._log_pause(problem, seconds, lost=lost is not None)
            await pause(seconds, "the server to come back")

    def _refusal(self, error: HedgerowError) -> str:
        where = f"The server at {self._connection.server.text}"
        if isinstance(error, ProtocolMismatch) and "Method not found" in str(error):
            return f"{where} does not offer the Fleet API there. Give --server the address of the Fleet API, not of another one."
        return f"{where} refuses node {self._name} (id {self._state.identity.id}): {error}"

    def _log_pause(self, problem: str, seconds: float, *, lost: bool) -> None:
        """A line for each of the first attempts, then for every tenth: a server may be away for days."""
        self._attempts.count += 1
        if lost:
            log.warning("Connection lost (%s), reconnecting in %.1f s", problem, seconds, extra={"action": "connection_lost"})
        elif self._attempts.count <= ATTEMPTS_LOGGED or self._attempts.count % 10 == 0:
            log.warning(
                "Cannot connect to %s (%s), trying again in %.1f s",
                *(self._connection.server.text, problem, seconds),
                extra={"action": "not_connected"},
            )

    async def _one_session(self) -> float:
        """Open a session and serve it to its end; the seconds after which the client may come back."""
        finished = [entry.task_id for entry in self.outbox]
        standing = Standing(self._name, self._software, self._jobs.in_hand, finished, list(narrow.DTYPES))
        session = await self._connection.open_session(standing)
        self._reconnect.opened()
        word = "Reconnected" if self._attempts.ever_connected else "Connected"
        log.info(
            "%s: node %s (id %s), server %s, session %d",
            *(word, self._name, self._state.identity.id, session.server_id[:8], session.epoch),
            extra={"action": word.lower()},
        )
        self._attempts.count, self._attempts.ever_connected = 0, True
        if not self._jobs.in_hand:
            log.info("Idle, waiting for work", extra={"action": "idle"})
        self._delivery.send_waiting(session)
        async for event in session.events():
            for task_id in event.release:
                self._delivery.drop(task_id)
            match event.WhichOneof("event"):
                case "assign":
                    self._jobs.assign(event.assign, origin_from_proto(event.origin))
                case "cancel":
                    self._jobs.cancel(event.cancel.task_id, event.cancel.reason)
                case "goodbye":
                    return self._goodbye(event.goodbye)
        return 0.0

    def _goodbye(self, goodbye: fleet_pb2.Goodbye) -> float:
        if goodbye.job_done:
            log.info("The server has ended: %s", goodbye.reason, extra={"action": "job_done"})
            self._job_done = True
        elif not goodbye.HasField("come_back_after_s"):
            raise LinkEnded(f"The server ended the session of node {self._name} for good: {goodbye.reason}.")
        else:
            log.info("The server ends the session: %s", goodbye.reason, extra={"action": "goodbye"})
        return goodbye.come_back_after_s

    async def leave(self, reason: str) -> None:
        """Hand back what is in hand and say goodbye. :meth:`run` must still be running."""
        self._leaving = True
        await self._delivery.settle(SETTLE)
        session: Session | None = self._connection.session
        if session is not None:
            await session.leave(reason, self._jobs.in_hand)

    async def close(self) -> None:
        """Abandon tasks, stop transfers and drop the connection."""
        await self._delivery.close()
        await self._jobs.close()
        await self._connection.close()
        self._audit.close()
