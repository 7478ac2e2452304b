"""The list of revoked certificates: a file that the authority signs and the server reads again whenever it changes.

Looking at the file's date and size costs microseconds, so it is done with every call and every HTTP request. What the list cannot
be asked about by a call, open streams and transfers, is ended by those who subscribe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from hedgerow.certificates import PeerCertificate, parsing_errors, read_pem
from hedgerow.errors import ConfigError, Unauthenticated

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int]


class Revocations:
    """Serial numbers of certificates that must not be accepted any longer. Used from any thread.

    Args:
        path: The list (a CRL in PEM format); None for no list.
        ca: PEM bytes of the authority, which must have signed it.

    Raises:
        ConfigError: The list cannot be read, or the authority has not signed it.
    """

    def __init__(self, path: Path | None, ca: bytes = b"") -> None:
        self._path = path
        self._ca = ca
        self._lock = threading.Lock()
        self._subscribers: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = []
        self._stamp = self._look()
        self._serials = self._read()

    def subscribe(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        """Call this on its event loop when there is a new list, whichever thread notices it."""
        self._subscribers.append((loop, changed))

    def check(self, certificate: PeerCertificate, now: float) -> None:
        """Let a certificate pass that is neither revoked nor out of date.

        Raises:
            Unauthenticated: It is one of these.
        """
        self.refresh()
        if certificate.serial in self._serials:
            raise Unauthenticated(
                f"The certificate {certificate.serial:x} of {certificate.subject} has been revoked. Ask for a new one."
            )
        if now > certificate.not_after:
            raise Unauthenticated(f"The certificate {certificate.serial:x} of {certificate.subject} is out of date. Renew it.")

    def refresh(self) -> None:
        """Read the list again if its file has changed. One that cannot be used leaves the old one in force."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        with self._lock:
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                self._serials = self._read()
            except ConfigError as error:
                log.error("%s The list read before stays in force.", error, extra={"action": "revocations_unreadable"})
                return
            log.warning("%d certificates are revoked (%s)", len(self._serials), self._path, extra={"action": "revocations_read"})
        for loop, changed in self._subscribers:
            with contextlib.suppress(RuntimeError):  # that loop has ended, and with it everything on it
                loop.call_soon_threadsafe(changed)

    def _look(self) -> Stamp | None:
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> frozenset[int]:
        if self._path is None:
            return frozenset()
        try:
            listed = x509.load_pem_x509_crl(read_pem(self._path))
            authority = x509.load_pem_x509_certificate(self._ca)
            signed = listed.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # a key that cannot sign: False
        except parsing_errors() as error:
            raise ConfigError(
                f"{self._path} is no list of revoked certificates in PEM format that the authority in --certificates can have "
                f"signed: {error}. Copy revoked.pem from the authority's folder again."
            ) from None
        if not signed:
            raise ConfigError(f"The list of revoked certificates {self._path} is not signed by the authority in --certificates.")
        return frozenset(entry.serial_number for entry in listed)
