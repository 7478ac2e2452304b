"""One HTTP connection to the blob port: the words of the protocol, for both sides, and the calls of the caller's side.

::

    HEAD /uploads/<id>?signature       → 200, Upload-Offset: n             how much the server has
    PUT  /uploads/<id>?signature       Upload-Offset: n and the bytes from there on
                                       → 200 {"digest": …, "size": …}       complete
                                       → 204, Upload-Offset: n             stored, more to come
                                       → 409, Upload-Offset: n             the server has another number of bytes
    GET  /blobs/<digest>?signature     Range: bytes=n-
                                       → 200 or 206 and the bytes
    otherwise                          → {"error": "PermissionDenied", "message": …}, also in the header Hedgerow-Error

Files go from disk to socket and back without a copy of the whole in memory; uploads use ``sendfile`` where there is no TLS.
Whether to try again is decided elsewhere (:mod:`hedgerow.wire.transfer`); here a cut is an exception.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import io
import json
import os
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from hedgerow import errors
from hedgerow.copies import copied
from hedgerow.errors import CorruptData, HedgerowError, LimitReached
from hedgerow.records import Blob
from hedgerow.wire.convert import check_digest

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

OFFSET_HEADER = "Upload-Offset"
ERROR_HEADER = "Hedgerow-Error"
# Statuses of errors, in both directions; the first class of a status stands for an answer that names none (a proxy's, say).
STATUSES: dict[type[HedgerowError], int] = {
    errors.InvalidArgument: 400,
    errors.CorruptData: 400,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.LimitReached: 507,
    errors.Unavailable: 503,
    errors.WaitTimeout: 503,
    HedgerowError: 500,
}
BLOCK_BYTES = 1024 * 1024
_APPEND_BYTES = 256 * 1024  # through TLS they come 16 KiB at a time
_SEND_BYTES = 4 * 1024 * 1024
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 4096
_CONTINUE = b"HTTP/1.1 100"
# How long leave to send is waited for, in seconds. The server may have to hash what is there of the upload before it gives it.
_LEAVE_S = 10.0


def status_of(error: HedgerowError) -> int:
    """The HTTP status that stands for an error."""
    return next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)


def error_text(error: HedgerowError) -> str:
    """The error as the JSON that its receiver makes it from."""
    name = next(cls.__name__ for cls in type(error).__mro__ if cls in STATUSES)
    return json.dumps({"error": name, "message": str(error)[:2000]})


def error_from(status: int, text: str) -> HedgerowError:
    """The error that an answer stands for; from the status alone where the text is not ours."""
    name, message = "", ""
    with contextlib.suppress(ValueError, RecursionError):
        match json.loads(text):
            case {"error": str(name), "message": str(message)}:
                pass
    cls = next((cls for cls in STATUSES if cls.__name__ == name), None)
    cls = cls or next((cls for cls, known in STATUSES.items() if known == status), HedgerowError)
    return cls(message or f"The blob server answered with HTTP status {status}.")


class CutError(Exception):
    """The connection ended before its work was done. ``silent_s``: for how long nothing had come when it was given up."""

    def __init__(self, message: str, silent_s: float = 0.0) -> None:
        super().__init__(message)
        self.silent_s = silent_s


class RefusedError(Exception):
    """The URL was not accepted; it may just have expired."""

    def __init__(self, error: HedgerowError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def _network(silence_s: float = 0.0) -> Iterator[None]:
    """What goes wrong inside is the network's fault. Files are touched outside."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise errors.Unauthenticated(f"The blob server's certificate is not accepted: {error.verify_message}.") from error
    except ssl.SSLError as error:
        if "ALERT" in (error.reason or "") and any(word in error.reason for word in ("CERTIFICATE", "UNKNOWN_CA")):
            raise errors.Unauthenticated(
                f"The blob server does not accept the certificate of this peer: {error.reason}."
            ) from error
        raise CutError(f"{type(error).__name__}: {error}.") from error
    except TimeoutError as error:
        raise CutError(f"nothing came for {silence_s:g} s.", silence_s) from error
    except (OSError, http.client.HTTPException) as error:
        raise CutError(f"{type(error).__name__}: {error}.") from error


@dataclass(frozen=True, slots=True)
class BlobServer:
    """Where a blob server is: host, port, a prefix of all paths, and the context where it speaks TLS."""

    host: str
    port: int | None
    prefix: str
    context: ssl.SSLContext | None


class Connection:
    """One HTTP connection to the blob server."""

    def __init__(self, target: BlobServer) -> None:
        self._prefix = target.prefix
        self._silence_s = 0.0
        self._http = (
            http.client.HTTPConnection(target.host, target.port, timeout=10.0)
            if target.context is None
            else http.client.HTTPSConnection(target.host, target.port, timeout=10.0, context=target.context)
        )

    def open(self, connect_s: float, silence_s: float) -> None:
        """Connect. ``http.client`` turns Nagle's algorithm off.

        Args:
            connect_s: How long connecting may take.
            silence_s: How long the connection may stay silent after that before a call raises :class:`CutError`.
        """
        self._http.timeout = connect_s
        with _network(connect_s):
            self._http.connect()
            self._http.sock.settimeout(silence_s)
        self._silence_s = silence_s

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def cut(self) -> None:
        """End the connection from another thread."""
        with contextlib.suppress(OSError, AttributeError):  # closed already, or never opened
            # Not SSLSocket's own method, which would pull the session from under the thread that uses it.
            socket.socket.shutdown(self._http.sock, socket.SHUT_RDWR)

    def upload_offset(self, url: str) -> int:
        """How many bytes of the upload the server has."""
        with _network(self._silence_s):
            self._http.request("HEAD", self._prefix + url)
        response, _ = self._answer((200,))
        return _offset(response)

    def put(self, url: str, file: BinaryIO, offset: int, size: int) -> Blob:
        """Send the file from the offset on, and return what the server says that it is."""
        if offset > size:
            raise CorruptData(f"The server has {offset} bytes of an upload of {size}. Upload it under a new id.")
        with _network(self._silence_s):
            self._http.putrequest("PUT", self._prefix + url, skip_accept_encoding=True)
            self._http.putheader(OFFSET_HEADER, str(offset))
            self._http.putheader("Content-Length", str(size - offset))
            self._http.putheader("Expect", "100-continue")
            self._http.endheaders()
        try:
            if self._may_send():
                self._send(file, offset, size)
        except CutError as cut:
            if cut.silent_s:
                raise
            with contextlib.suppress(CutError):  # it may have said why before it hung up
                self._answer((200, 204, 409))
            raise
        copied("blob sent", size - offset)
        response, text = self._answer((200, 204, 409))
        if response.status != 200:
            raise CutError(f"the server has {_offset(response)} bytes of {size}, {offset} were there before.")
        try:
            answer = json.loads(text)
            if answer["size"] != size:
                raise ValueError("another size")
            return Blob(check_digest(str(answer["digest"])), size)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise CutError(f"the answer to the upload is {text[:80]!r}.") from None

    def _may_send(self) -> bool:
        """Whether the server lets us send; if not, its answer is there to be read. A proxy may say nothing: send then."""
        sock = self._http.sock
        if isinstance(sock, ssl.SSLSocket):
            return self._may_send_encrypted(sock)
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        with _network(self._silence_s):
            if not poller.poll(min(self._silence_s, _LEAVE_S) * 1000):
                return True
            if sock.recv(len(_CONTINUE), socket.MSG_PEEK) != _CONTINUE:
                return False  # another answer, or the end of the connection
            _read_head(sock)
        return True

    def _may_send_encrypted(self, sock: ssl.SSLSocket) -> bool:
        """The same through TLS, where one cannot look ahead: what was read of another answer is given back."""
        try:
            sock.settimeout(min(self._silence_s, _LEAVE_S))
            with _network(self._silence_s):
                head = _read_head(sock)
        except CutError as cut:
            if cut.silent_s:
                return True
            raise
        finally:
            sock.settimeout(self._silence_s)
        if head.startswith(_CONTINUE):
            return True
        self._http.response_class = functools.partial(_begun_response, head)  # type: ignore[assignment]
        return False

    def _send(self, file: BinaryIO, offset: int, size: int) -> None:
        (self._send_encrypted if isinstance(self._http.sock, ssl.SSLSocket) else self._send_file)(file, offset, size)

    def _send_file(self, file: BinaryIO, offset: int, size: int) -> None:
        """Send without copying, and stop at once when the peer answers or hangs up."""
        sock = self._http.sock
        poller = select.poll()  # select() itself refuses descriptors above 1023
        poller.register(sock, select.POLLIN | select.POLLOUT)
        while offset < size:
            with _network(self._silence_s):
                events = poller.poll(self._silence_s * 1000)
                if not events:
                    raise TimeoutError
                if events[0][1] & ~select.POLLOUT:
                    return  # an answer before the end is a refusal
                try:
                    count = os.sendfile(sock.fileno(), file.fileno(), offset, min(_SEND_BYTES, size - offset))
                except BlockingIOError:
                    continue
            if not count:
                raise CorruptData(f"The file that is sent has shrunk to {offset} bytes; it had {size}.")
            offset += count

    def _send_encrypted(self, file: BinaryIO, offset: int, size: int) -> None:
        """Send through TLS."""
        block = memoryview(bytearray(BLOCK_BYTES))
        file.seek(offset)
        while offset < size:
            count = file.readinto(block[: size - offset])  # type: ignore[attr-defined]
            if not count:
                raise CorruptData(f"The file that is sent has shrunk to {offset} bytes; it had {size}.")
            with _network(self._silence_s):
                self._http.sock.sendall(block[:count])
            offset += count

    def get(self, url: str, file: BinaryIO, offset: int, size: int, moved: Callable[[int], None]) -> None:
        """Append the blob's bytes from the offset on to the file; ``moved`` is told how far it has come."""
        with _network(self._silence_s):
            self._http.request("GET", self._prefix + url, headers={"Range": f"bytes={offset}-"})
        response, _ = self._answer((200, 206, 416), body=False)
        if response.status == 416:
            raise CorruptData(f"The blob has no byte {offset}; {size} bytes were announced.")
        if response.status == 200 and offset:
            raise CorruptData(f"The server does not continue a blob at byte {offset}: a proxy between drops the Range header.")
        if response.getheader("Content-Range", f"bytes {offset}-{size - 1}/{size}") != f"bytes {offset}-{size - 1}/{size}":
            raise CorruptData(f"Bytes {offset}-{size - 1} of {size} were asked for, {response.getheader('Content-Range')} came.")
        if response.length != size - offset:
            raise CorruptData(f"{size - offset} bytes were asked for, the server offers {response.length}.")
        block = memoryview(bytearray(BLOCK_BYTES))
        while offset < size:
            filled = 0
            try:
                while filled < min(_APPEND_BYTES, size - offset):
                    with _network(self._silence_s):
                        # Not response.readinto: it waits for a full block, and what came before a cut would be lost.
                        count = response.fp.readinto1(block[filled : size - offset])
                    if not count:
                        raise CutError(f"the connection ended at byte {offset + filled} of {size}.")
                    filled += count
            finally:
                _append(file, block[:filled])
                copied("blob received", filled)
                offset += filled
                moved(offset)

    def _answer(self, expected: tuple[int, ...], *, body: bool = True) -> tuple[http.client.HTTPResponse, str]:
        """A response with one of the expected statuses and, unless it is left to the caller, its text."""
        with _network(self._silence_s):
            response = self._http.getresponse()
            if response.status in expected and not body:
                return response, ""
            text = response.read(_MAX_ANSWER_BYTES).decode("utf-8", "replace")
        if response.status in expected:
            return response, text
        error = error_from(response.status, response.getheader(ERROR_HEADER) or text)
        if response.status in (401, 403):
            raise RefusedError(error)
        if response.status >= 500 and not isinstance(error, LimitReached):
            raise CutError(f"HTTP status {response.status}: {error}")
        raise error


def _read_head(sock: socket.socket) -> bytes:
    """The head of an answer, byte by byte, so that nothing of what follows is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte or len(head) > _MAX_HEAD_BYTES:
            raise CutError("the head of the server's answer does not end.")
        head += byte
    return head


class _Begun(io.RawIOBase):
    """What comes from a socket, after what was read from it before."""

    def __init__(self, head: bytes, sock: socket.socket) -> None:
        self._head = memoryview(head)
        self._rest = sock.makefile("rb", buffering=0)  # keeps the socket open when http.client closes its own end of it

    def close(self) -> None:
        """Let go of the socket."""
        self._rest.close()
        super().close()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read what there is."""
        target = memoryview(buffer).cast("B")
        if not self._head:
            return self._rest.readinto(target) or 0
        count = min(len(target), len(self._head))
        target[:count] = self._head[:count]
        self._head = self._head[count:]
        return count

    def makefile(self, mode: str) -> io.BufferedReader:
        """How ``http.client`` opens a socket."""
        del mode
        return io.BufferedReader(self)


def _begun_response(head: bytes, sock: socket.socket, *, method: str | None = None) -> http.client.HTTPResponse:
    return http.client.HTTPResponse(cast(socket.socket, _Begun(head, sock)), method=method)


def _offset(response: http.client.HTTPResponse) -> int:
    text = response.getheader(OFFSET_HEADER) or ""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise CutError(f"the server's {OFFSET_HEADER} is {text[:80]!r}.")
    return int(text)


def _append(file: BinaryIO, data: memoryview) -> None:
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LimitReached(
                f"The disk here is full: {file.name} stopped at {file.tell()} bytes. A new call resumes."
            ) from error
        raise
