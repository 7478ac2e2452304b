"""What the client notes in its audit log: which tasks came, for whom, what became of them, and what left the site.

::

    TaskReceived       accepted, refused (by the site's policy; "reason" says why) or unreadable; "digest" is that of the
                       parameters that the task names or carries, "sites" how many the server counts
    ParametersFetched  ok, or the error: the parameters came from the server
    TaskEnded          the outcome; or cancelled (nobody wants the result), or abandoned (the client stopped)
    ResultSent         ok; not_needed (the server had it, or the task had ended otherwise); the error that it was refused with;
                       or unanswered (the client stopped, or the server did not want it any longer, before the answer came);
                       "digest" is that of the parameters that went; a result that is sent again is noted again

``who`` is the driver that the work is for, as the server names it.
"""

from __future__ import annotations

from dataclasses import dataclass

import blake3

from hedgerow.audit import AuditLog
from hedgerow.client.outbox import About, Entry
from hedgerow.records import Blob, Payload
from hedgerow.wire.convert import payload_from_proto
from hedgerow.wire.proto import records_pb2

UNKNOWN = "unknown"
"""Who it is for where the server does not say."""


@dataclass(frozen=True)
class TaskAudit:
    """Notes what happens to tasks."""

    log: AuditLog

    def received(self, about: About, parameters: Payload | None, sites: int, outcome: str, reason: str = "") -> None:
        """A task came."""
        self._note(about, "TaskReceived", outcome, {"digest": _digest(parameters), "sites": sites, "reason": reason})

    def fetched(self, about: About, digest: str, outcome: str) -> None:
        """Its parameters came from the server, or did not."""
        self._note(about, "ParametersFetched", outcome, {"digest": digest})

    def ended(self, about: About, outcome: str, reason: str = "") -> None:
        """It has an outcome, or will have none here."""
        self._note(about, "TaskEnded", outcome, {"reason": reason})

    def sent(self, entry: Entry, reply: records_pb2.Reply, outcome: str) -> None:
        """Its result went to the server, or was refused there."""
        parameters = payload_from_proto(reply.parameters) if reply.parameters.WhichOneof("content") else None
        self._note(entry.about, "ResultSent", outcome, {"digest": _digest(parameters)})

    def _note(self, about: About, what: str, outcome: str, more: dict[str, str | int]) -> None:
        task: dict[str, str | int] = {
            "run_id": about.run_id,
            "task_id": about.task_id,
            "kind": about.kind,
            "round": about.round,
        }
        self.log.note(about.driver or UNKNOWN, what, outcome, task | more)


def _digest(parameters: Payload | None) -> str:
    """The digest of parameters, also of small ones, which are no blob; "" where there are none."""
    if isinstance(parameters, Blob):
        return parameters.digest
    return "" if parameters is None else blake3.blake3(parameters).hexdigest()
