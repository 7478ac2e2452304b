"""From the outbox to the server: each result is sent until the server has it, across sessions and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from hedgerow.client.connection import Connection
from hedgerow.client.outbox import Entry, Outbox
from hedgerow.client.session import Session
from hedgerow.client.task_audit import TaskAudit
from hedgerow.errors import CallerError, CorruptData, Fenced, HedgerowError, LimitReached, NotFound, Unauthenticated, WaitTimeout
from hedgerow.records import Outcome, Reply
from hedgerow.waits import Backoff, Limit, pause, wait
from hedgerow.wire.convert import reply_to_proto
from hedgerow.wire.proto import records_pb2

log = logging.getLogger(__name__)

MAX_FRESH_UPLOADS = 2
SENDING_END = Limit("sending_end_s", 1.5)


class Delivery:
    """Sends the outbox's entries, each in an asyncio task of its own."""

    def __init__(self, outbox: Outbox, connection: Connection, audit: TaskAudit) -> None:
        self._outbox = outbox
        self._connection = connection
        self._audit = audit
        self._sending: dict[str, asyncio.Task[None]] = {}

    def send(self, task_id: str) -> None:
        """Send an entry, now or as soon as there is a session; nothing happens if that is under way."""
        if task_id not in self._sending:
            sending = asyncio.get_running_loop().create_task(self._send(task_id))
            self._sending[task_id] = sending
            sending.add_done_callback(lambda _: self._sending.pop(task_id, None))

    def send_waiting(self, session: Session) -> None:
        """Send what this server has not accepted yet."""
        for entry in self._outbox:
            if entry.accepted_by != session.server_id:
                if entry.accepted_by:
                    self._outbox.send_again(entry.task_id)
                self.send(entry.task_id)

    def send_again(self, task_id: str) -> None:
        """The server has assigned a task whose result is here."""
        entry = self._outbox.get(task_id)
        if entry is not None and entry.accepted_by:
            self._outbox.send_again(task_id)
        self.send(task_id)

    def drop(self, task_id: str) -> None:
        """Remove an entry, and stop sending it."""
        sending = self._sending.pop(task_id, None)
        if sending is not None:
            sending.cancel()
        self._outbox.remove(task_id)

    async def settle(self, limit: Limit) -> None:
        """Let what is being sent arrive, within the limit."""
        if self._sending:
            try:
                await wait(asyncio.wait(list(self._sending.values())), limit, "results that are being sent")
            except WaitTimeout:
                log.debug("%d results stay in the outbox", len(self._sending))

    async def close(self) -> None:
        """Stop sending; what has not arrived stays in the outbox."""
        stopped = list(self._sending.values())
        for sending in stopped:
            sending.cancel()
        if stopped:
            await wait(asyncio.wait(stopped), SENDING_END, "results to be sent no longer")

    async def _send(self, task_id: str) -> None:
        backoff = Backoff()
        fenced: Session | None = None
        fresh_uploads = 0
        said = False
        while True:
            session = await self._connection.session_after(fenced)
            entry = self._outbox.get(task_id)
            if entry is None:
                return
            try:
                await self._send_once(entry, session)
                return
            except Fenced:
                fenced = session
            except NotFound as error:
                log.warning("The server does not know the %s (%s); its result is dropped", entry.label, error)
                self._outbox.remove(task_id)
                return
            except Unauthenticated as error:
                # Not the result is refused but its sender, whose certificate may be renewed.
                log.debug("The result of the %s could not be sent: %s", entry.label, error)
                await self._retry(session, backoff.next())
            except (CallerError, CorruptData) as error:
                fresh_uploads += 1
                if entry.parameters is not None and fresh_uploads <= MAX_FRESH_UPLOADS:
                    # The server may have lost the blob, or hold another one under this upload's id.
                    log.warning("The %s is uploaded anew: %s", entry.label, error)
                    self._outbox.send_again(task_id)
                    await pause(backoff.next(), "a fresh upload")
                    continue
                if entry.reply.outcome == records_pb2.OUTCOME_INVALID_RESULT:
                    log.error("The server refuses even the failure of the %s: %s", entry.label, error)
                    self._outbox.remove(task_id)
                    return
                log.error("The server refuses the result of the %s: %s", entry.label, error)
                refused = reply_to_proto(Reply(Outcome.INVALID_RESULT, f"The server refused the result: {error}"))
                try:
                    self._outbox.put(entry.about, refused, None, None)
                except OSError as problem:
                    log.error("The refusal of the %s cannot be kept (%s); it will be tried again", entry.label, problem)
                    await self._retry(session, backoff.next())
            except HedgerowError as error:
                seconds = backoff.next()
                # A server that is away, the session tells of; why one that is there takes nothing, is said here, once.
                level = logging.WARNING if isinstance(error, LimitReached) and not said else logging.DEBUG
                said = said or level == logging.WARNING
                log.log(level, "The result of the %s could not be sent (%s); again in %.1f s", entry.label, error, seconds)
                await self._retry(session, seconds)
            except Exception:
                log.exception("Sending the result of the %s failed", entry.label)
                await self._retry(session, backoff.next())

    async def _retry(self, failed: Session, seconds: float) -> None:
        """Let some time pass, or a new session open, which is worth a try at once."""
        with contextlib.suppress(WaitTimeout):
            await wait(self._connection.session_after(failed), Limit("delivery_backoff_s", seconds), "a new session")

    @contextlib.contextmanager
    def _noted(self, entry: Entry, reply: records_pb2.Reply) -> Iterator[None]:
        """What may have left the site stands in the audit log, also where no answer came."""
        try:
            yield
        except HedgerowError as error:
            self._audit.sent(entry, reply, type(error).__name__)
            raise
        except asyncio.CancelledError:
            self._audit.sent(entry, reply, "unanswered")
            raise

    async def _send_once(self, entry: Entry, session: Session) -> None:
        inline = entry.reply.parameters.inline
        if inline and len(inline) >= session.data_plane.inline_max_bytes:
            entry = self._outbox.to_file(entry)  # this server takes less in a message than the one before
        reply = records_pb2.Reply()
        reply.CopyFrom(entry.reply)
        with self._noted(entry, reply):
            if entry.parameters is not None:
                if entry.size < session.data_plane.inline_max_bytes:
                    reply.parameters.inline = entry.parameters.read_bytes()
                else:
                    blob = await self._connection.upload(entry.parameters, entry.upload_id, entry.size, entry.run_id)
                    reply.parameters.blob.digest, reply.parameters.blob.size = blob.digest, blob.size
            completed = await session.complete(entry.task_id, reply)
        self._audit.sent(entry, reply, "ok" if completed.accepted else "not_needed")
        if not completed.accepted:
            log.debug("The server had the result of the %s, or the task had ended otherwise", entry.label)
        if completed.release:
            self._outbox.remove(entry.task_id)
        else:
            self._outbox.accepted(entry.task_id, session.server_id)
