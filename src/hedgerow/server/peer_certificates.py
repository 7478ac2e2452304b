"""Certificates on the blob port: who is at the other end of an HTTPS connection, and the end of those that are revoked."""

from __future__ import annotations

import asyncio
import logging
import weakref

from hedgerow.certificates import PeerCertificate, read_certificate
from hedgerow.errors import Unauthenticated
from hedgerow.server.revocations import Revocations

log = logging.getLogger(__name__)


class PeerCertificates:
    """Knows the open connections of the blob port by their certificates; lives on the port's event loop.

    Args:
        revocations: Which certificates are not good any longer.
    """

    def __init__(self, revocations: Revocations) -> None:
        self._revocations = revocations
        self._seen: weakref.WeakKeyDictionary[asyncio.BaseTransport, PeerCertificate] = weakref.WeakKeyDictionary()

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cut connections of certificates that are revoked from now on."""
        self._revocations.subscribe(loop, self._cut_revoked)

    def name(self, transport: asyncio.Transport | None, now: float) -> str:
        """The name in the peer's certificate.

        Raises:
            Unauthenticated: There is none, or it is not good any longer.
        """
        encrypted = None if transport is None else transport.get_extra_info("ssl_object")
        shown = None if encrypted is None else encrypted.getpeercert(binary_form=True)
        if transport is None or not shown:
            raise Unauthenticated("The request comes without a certificate.")
        certificate = read_certificate(shown)
        self._revocations.check(certificate, now)
        self._seen[transport] = certificate
        return certificate.subject.uri

    def _cut_revoked(self) -> None:
        for transport, certificate in list(self._seen.items()):
            try:
                self._revocations.check(certificate, 0.0)
            except Unauthenticated as refusal:
                log.warning("A transfer of %s is cut: %s", certificate.subject, refusal, extra={"action": "transfer_revoked"})
                assert isinstance(transport, asyncio.Transport)
                transport.abort()
