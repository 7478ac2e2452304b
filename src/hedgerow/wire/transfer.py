"""Uploads and downloads of blobs that survive cuts: the caller's side of the data plane.

A cut costs nothing but time: each attempt asks for a fresh URL and goes on at the offset that the receiver has. The transfer
gives up with :class:`Unavailable` only when no byte has got through for :attr:`TransferLimits.transfer_stalled_s`.

What our own server hashed is not hashed again, except what was put together from pieces.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import blake3

from hedgerow.copies import copied
from hedgerow.errors import ConfigError, CorruptData, Unavailable, WaitTimeout
from hedgerow.records import Blob
from hedgerow.waits import Backoff, Limit, wait_condition
from hedgerow.wire.blob_http import BLOCK_BYTES, BlobServer, Connection, CutError, RefusedError

log = logging.getLogger(__name__)

_TRIES_PER_STALL = 3


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """How long a transfer waits, in seconds.

    Attributes:
        transfer_stalled_s: Without a byte for that long, over all attempts, it ends with :class:`Unavailable`.
        connect_s: One attempt to connect.
    """

    transfer_stalled_s: float = 60.0
    connect_s: float = 10.0

    def __post_init__(self) -> None:
        if self.transfer_stalled_s <= 0 or self.connect_s <= 0:
            raise ConfigError(f"The limits of a transfer must be above 0: {self}.")

    @property
    def silence_s(self) -> float:
        """Silence on one connection after which a new one is tried: the connection may be dead, the peer alive."""
        return self.transfer_stalled_s / _TRIES_PER_STALL


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to transfer: a signed URL, relative to the blob server. ``done`` is the blob when the upload is complete already."""

    url: str
    done: Blob | None = None


class BlobPeer:
    """The blob server as its clients and drivers see it; one for each process and server, used from any thread.

    Args:
        base_url: Scheme, host, port and perhaps a prefix, which relative URLs are appended to.
        ssl_context: For ``https``; None trusts the system's certificate authorities.
        limits: How long to wait.

    Raises:
        ConfigError: The base URL is not ``http://…`` or ``https://…``.
    """

    def __init__(self, base_url: str, ssl_context: ssl.SSLContext | None = None, limits: TransferLimits | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{base_url!r} is not the URL of a blob server: http://host:port or https://host:port.")
        self.base_url = base_url
        context = (ssl_context or ssl.create_default_context()) if parts.scheme == "https" else None
        self._server = BlobServer(parts.hostname, parts.port, parts.path.rstrip("/"), context)
        self.limits = limits or TransferLimits()
        self._changed = threading.Condition()
        self._open: set[Connection] = set()
        self._busy: set[Path] = set()
        self._closed = False

    def upload(self, path: Path, ask: Callable[[], Grant]) -> Blob:
        """Send a file, and return the blob that it has become.

        Args:
            path: The file; it must not change meanwhile.
            ask: Asks the server where to send it, always under the same upload id. Called once for each attempt.

        Raises:
            Unavailable: No byte got through for ``transfer_stalled_s``, or :meth:`close` was called. Calling again resumes.
            LimitReached: The server's disk is full. Calling again resumes.
            CorruptData: The server holds other bytes than the file. Start again with a new upload id.
            HedgerowError: Whatever ``ask`` raises (only Unavailable and WaitTimeout are tried again), or the server's refusal.
        """
        attempts = _Attempts(self, f"The upload of {path}")
        resumed = False
        with path.open("rb", buffering=0) as file:
            size = path.stat().st_size
            while True:
                with attempts.one():
                    grant = ask()
                    if grant.done is not None:
                        blob = grant.done
                        break
                    with self._connect(attempts) as connection:
                        offset = connection.upload_offset(grant.url)
                        attempts.reached(offset)
                        resumed = resumed or offset > 0
                        blob = connection.put(grant.url, file, offset, size)
                        break
        if blob.size != size or (resumed and blob.digest != file_digest(path)):
            raise CorruptData(f"{path} ({size} bytes) arrived as {blob}, which is something else. Upload it under a new id.")
        return blob

    def download(self, size: int, target: Path, ask: Callable[[], Grant]) -> None:
        """Fetch a blob into a file, which appears under its name when it is whole.

        A part that an earlier attempt left (``<target>.part``) is continued. Callers that want the same target at the same time
        share one transfer. A target that exists with this size is taken to be the blob.

        Args:
            size: Length of the blob in bytes.
            target: Where to put it, in a folder that exists.
            ask: Asks the server where to read it. Called once for each attempt.

        Raises:
            Unavailable: No byte got through for ``transfer_stalled_s``, or :meth:`close` was called. Calling again resumes.
            LimitReached: The disk here is full.
            CorruptData: The server sent something else than the blob.
            HedgerowError: Whatever ``ask`` raises (only Unavailable and WaitTimeout are tried again), or the server's refusal.
        """
        part = target.with_name(target.name + ".part")
        with self._alone(target):
            if target.exists():
                if target.stat().st_size == size:
                    return
                target.unlink()  # not renamed over: the file system would flush first
            for _ in range(2):
                digest = self._fetch(size, part, ask)
                if digest is None or digest == file_digest(part):
                    part.rename(target)
                    return
                log.warning("%s was put together wrongly; fetching it again", part, extra={"action": "download_restarted"})
                part.unlink()
        raise CorruptData(f"What was downloaded for {target} does not have the digest {digest}.")

    def close(self) -> None:
        """End all transfers, which raise :class:`Unavailable`, and refuse new ones."""
        with self._changed:
            self._closed = True
            for connection in self._open:
                connection.cut()
            self._changed.notify_all()

    def _fetch(self, size: int, part: Path, ask: Callable[[], Grant]) -> str | None:
        """Complete the part, and return the digest to check it against unless it came in one piece."""
        attempts = _Attempts(self, f"The download of {part}")
        with part.open("ab", buffering=0) as file:
            if part.stat().st_size > size:
                file.truncate(0)
            resumed, url = False, ""
            while (offset := part.stat().st_size) < size or not url:
                resumed = resumed or offset > 0
                with attempts.one():
                    url = ask().url
                    if offset < size:
                        with self._connect(attempts) as connection:
                            connection.get(url, file, offset, size, attempts.reached)
        return urlsplit(url).path.rsplit("/", 1)[-1] if resumed else None

    @contextlib.contextmanager
    def _alone(self, target: Path) -> Iterator[None]:
        """Hold the target's place; another thread that holds it gives up by its own limits."""
        with self._changed:
            limit = Limit("shared_download_s", None)
            wait_condition(self._changed, lambda: self._closed or target not in self._busy, limit, f"the download of {target}")
            if self._closed:
                raise Unavailable(f"The download of {target} was stopped.")
            self._busy.add(target)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(target)
                self._changed.notify_all()

    @contextlib.contextmanager
    def _connect(self, attempts: _Attempts) -> Iterator[Connection]:
        connection = Connection(self._server)
        silence_s = attempts.silence_s()
        try:
            connection.open(min(self.limits.connect_s, silence_s), silence_s)
            with self._changed:
                self._open.add(connection)
                if self._closed:
                    raise Unavailable("The connection to the blob server was closed here.")
            yield connection
        finally:
            with self._changed:
                self._open.discard(connection)
            connection.close()

    def _pause(self, seconds: float) -> None:
        """Let time pass before the next attempt, unless the peer is closed."""
        with self._changed, contextlib.suppress(WaitTimeout):
            wait_condition(self._changed, lambda: self._closed, Limit("transfer_backoff_s", seconds), "the next attempt")

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed


def file_digest(path: Path) -> str:
    """BLAKE3-256 of a file, in hexadecimal digits."""
    hasher = blake3.blake3()
    block = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            hasher.update(block[:count])
            copied("blob hashed here", count)
    return hasher.hexdigest()


class _Attempts:
    """Decides after each failed attempt of one transfer whether there is another, and when."""

    def __init__(self, peer: BlobPeer, what: str) -> None:
        self._peer = peer
        self._what = what
        self._backoff = Backoff(first_s=0.1, cap_s=min(5.0, peer.limits.silence_s))
        self._failing_since: float | None = None
        self._refused = False
        self._best = -1

    def reached(self, offset: int) -> None:
        """The receiver has that many bytes; if they are more than ever, all is well."""
        if offset > self._best:
            self._best = offset
            self._failing_since = None
            self._refused = False
            self._backoff.reset()

    def silence_s(self) -> float:
        """How long one connection may stay silent now."""
        failing_s = 0.0 if self._failing_since is None else time.monotonic() - self._failing_since
        return max(0.01, min(self._peer.limits.silence_s, self._peer.limits.transfer_stalled_s - failing_s))

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """One attempt. Returns quietly after a pause where another one may help."""
        try:
            yield
        except RefusedError as refusal:
            if self._refused:
                raise refusal.error from None
            self._refused = True
        except (CutError, Unavailable, WaitTimeout) as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        limit_s = self._peer.limits.transfer_stalled_s
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now - getattr(error, "silent_s", 0.0)
        if self._peer.closed:
            raise Unavailable(f"{self._what} was stopped.") from error
        left_s = limit_s - (now - self._failing_since)
        if left_s <= 0:
            raise Unavailable(
                f"{self._what} made no progress for {limit_s:g} s (transfer_stalled_s) at {self._peer.base_url}; "
                f"the last attempt: {error} Check the address and the network; a new call resumes."
            ) from error
        log.debug("%s is interrupted: %s", self._what, error, extra={"action": "transfer_interrupted"})
        self._peer._pause(min(self._backoff.next(), left_s))
