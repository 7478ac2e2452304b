"""Who may call: reads identity and role from a call, and ends calls whose certificates stop being good.

Without client certificates a peer is what its metadata and its secret say (:mod:`hedgerow.security`). With them role and name are
the certificate's, whatever the metadata say, and the proof of identity is bound to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import grpc.aio

from hedgerow.audit import AuditLog
from hedgerow.certificates import PeerCertificate, read_certificate
from hedgerow.clock import Clock
from hedgerow.errors import PermissionDenied, Unauthenticated
from hedgerow.security import Identity, Role, identity_from_metadata
from hedgerow.server.revocations import Revocations
from hedgerow.waits import pause

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often the list of revoked certificates is looked at while nobody calls, in seconds."""
# Which certificates open which API.
_HOLDERS = {
    Role.CLIENT: frozenset({Role.CLIENT}),
    Role.DRIVER: frozenset({Role.DRIVER, Role.OPERATOR}),
    Role.OPERATOR: frozenset({Role.OPERATOR}),
}


@dataclass(eq=False)
class _OpenCall:
    """A call that runs, under a certificate."""

    certificate: PeerCertificate
    task: asyncio.Task[Any]
    refusal: Unauthenticated | None = None


class Admission:
    """Decides who a caller is and whether it may call; lives on the server's event loop.

    Args:
        mutual: Whether peers show certificates.
        revocations: Which of these are not good any longer.
        clock: Tells when one is out of date.
        audit: Where calls are noted.

    Attributes:
        begun: How many calls have begun, by API and method.
    """

    def __init__(self, mutual: bool, revocations: Revocations, clock: Clock, audit: AuditLog) -> None:
        self._audit = audit
        self._mutual = mutual
        self._revocations = revocations
        self._clock = clock
        self._open: set[_OpenCall] = set()
        self._first_not_after = float("inf")
        self.begun: Counter[tuple[str, str]] = Counter()
        revocations.subscribe(asyncio.get_running_loop(), self.end_refused)

    @contextlib.contextmanager
    def call(self, context: grpc.aio.ServicerContext[Any, Any], role: Role) -> Iterator[Identity]:
        """The caller of an API for that role, for as long as the call runs.

        Raises:
            Unauthenticated: The caller does not prove who it is, or its certificate has ceased to be good while the call ran.
            PermissionDenied: It has another role.
            ProtocolMismatch: It speaks another version of the protocol.
        """
        who = identity_from_metadata(context.invocation_metadata(), role)
        with self._held(context, _HOLDERS[role], f"This API is for the role {role}") as certificate:
            yield who if certificate is None else replace(who, certificate=certificate.subject.uri)

    @contextlib.contextmanager
    def visit(self, context: grpc.aio.ServicerContext[Any, Any]) -> Iterator[None]:
        """Anybody whose certificate is good, for as long as the call runs: for gRPC's own services, which ask nobody who he is.

        Raises:
            Unauthenticated: The certificate is not good, or has ceased to be so while the call ran.
        """
        with self._held(context, frozenset(Role), ""):
            yield

    @contextlib.contextmanager
    def _held(
        self, context: grpc.aio.ServicerContext[Any, Any], roles: frozenset[Role], what: str
    ) -> Iterator[PeerCertificate | None]:
        """The caller's certificate, which stays good while the call runs; None where peers show none."""
        if not self._mutual:
            yield None
            return
        certificate = _certificate_of(context)
        if certificate.subject.role not in roles:
            raise PermissionDenied(f"{what}; the certificate is {certificate.subject}.")
        self._revocations.check(certificate, self._clock.now())
        task = asyncio.current_task()
        assert task is not None
        running = _OpenCall(certificate, task)
        self._open.add(running)
        self._first_not_after = min(self._first_not_after, certificate.not_after)
        try:
            yield certificate
        except asyncio.CancelledError:
            if running.refusal is None:
                raise
            task.uncancel()
            raise running.refusal from None
        finally:
            self._open.discard(running)

    def note(self, who: str, what: str, outcome: str, request: object, more: Mapping[str, str] | None = None) -> None:
        """Note a call in the audit log, with more than its request says; one line for each task where it is about several."""
        tasks = list(getattr(request, "tasks", ())) or [request]
        for task in tasks:
            about = {name: str(getattr(task, name, "")) for name in ("run_id", "task_id", "node_id", "upload_id")}
            about["run_id"] = about["run_id"] or str(getattr(request, "run_id", ""))
            about["kind"] = str(getattr(getattr(task, "instruction", None), "kind", ""))
            self._audit.note(who, what, outcome, {**about, "digest": _digest_of(task), **(more or {})})

    def check_name(self, who: Identity, name: str) -> None:
        """Let a node have the name that its certificate has.

        Raises:
            PermissionDenied: It wants another.
        """
        if who.certificate and who.certificate != (allowed := f"{who.certificate.rpartition('/')[0]}/{name}"):
            raise PermissionDenied(f"The node's name is {name!r}; its certificate is {who.certificate}, not {allowed}.")

    def end_refused(self) -> None:
        """End the calls whose certificates are not good any longer."""
        now = self._clock.now()
        self._first_not_after = min((r.certificate.not_after for r in self._open if r.refusal is None), default=float("inf"))
        for running in [running for running in self._open if running.refusal is None]:
            try:
                self._revocations.check(running.certificate, now)
            except Unauthenticated as refusal:
                log.warning("A call of %s ends: %s", running.certificate.subject, refusal, extra={"action": "call_revoked"})
                running.refusal = refusal
                running.task.cancel()

    async def watch(self) -> None:
        """Look for ever whether certificates have ceased to be good."""
        while self._mutual:
            await pause(LOOK_S, "the next look at the list of revoked certificates")
            self._revocations.refresh()  # a new list ends calls by itself
            if self._clock.now() > self._first_not_after:
                self.end_refused()


def _digest_of(request: object) -> str:
    """The blob that a request or a task is about."""
    body = getattr(request, "instruction", None) or getattr(request, "reply", None)
    return str(getattr(request, "digest", "") or (body.parameters.blob.digest if body is not None else ""))


def _certificate_of(context: grpc.aio.ServicerContext[Any, Any]) -> PeerCertificate:
    shown = context.auth_context().get("x509_pem_cert")
    if not shown:
        raise Unauthenticated("The call comes without a certificate. Connect with --certificates CA CERT KEY.")
    return read_certificate(next(iter(shown)))
