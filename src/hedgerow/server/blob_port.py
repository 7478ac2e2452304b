"""The blob port: an HTTP server that takes and gives blobs, on a thread and event loop of its own.

The protocol is described in :mod:`hedgerow.wire.blob_http`. Every request carries a signed URL; without one nothing is looked
up, written or told. An upload is hashed and written by a worker thread while the next bytes arrive, and goes straight to its
file. Downloads are ``sendfile`` (without TLS). The own event loop keeps gRPC calls from waiting behind megabytes.

What is not decided here: who may upload or read what (the gRPC side, which signs the URLs), and which files may go.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import socket
import ssl
import threading
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from hedgerow.audit import AuditLog
from hedgerow.clock import Clock
from hedgerow.errors import ConfigError, HedgerowError, InvalidArgument, LimitReached, NotFound, Unavailable, WaitTimeout
from hedgerow.records import Blob
from hedgerow.security import UrlSigner
from hedgerow.server.blob_response import BlobResponse, check_range, send_encrypted
from hedgerow.server.buffers import Buffers
from hedgerow.server.doorway import Doorway, DoorwayLimits
from hedgerow.server.gate import Gate
from hedgerow.server.pace import Pace
from hedgerow.server.peer_certificates import PeerCertificates
from hedgerow.server.upload_body import UploadBody
from hedgerow.store.blobs import ArrivingBlob, BlobFolder
from hedgerow.waits import Limit, wait, wait_future
from hedgerow.wire.blob_http import ERROR_HEADER, OFFSET_HEADER, error_text, status_of
from hedgerow.wire.channel import Address
from hedgerow.wire.convert import check_digest, check_id

log = logging.getLogger(__name__)
T = TypeVar("T")

_BATCH_BYTES = 1024 * 1024
_READ_BYTES = 1024 * 1024
_WRITERS = 4
_MAX_IDLE_ARRIVALS = 256
_FINISH_S = 5.0
TRANSFER_STALLED_S = 60.0
IDLE_S = 75.0
MAX_TRANSFERS = 64
_ABOUT = ("upload_id", "digest")
# How long the rest of a refused upload is read and thrown away, so that the sender gets to see the answer.
_LINGER_S = 2.0
_START = Limit("blob_port_start_s", 10.0)


class _HttpLog(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp logs. A stranger who sends what is no HTTP, or hangs up early, must not fill the log with tracebacks."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **kwargs: Any) -> None:
        if isinstance(exc_info, HttpProcessingError | web.RequestPayloadError | ConnectionError):
            self.debug("No HTTP request: %s: %.200s", type(exc_info).__name__, exc_info)
        else:
            super().exception(msg, *args, exc_info=exc_info, **kwargs)


class UploadRow(Protocol):
    """What the port must know of an upload."""

    @property
    def size(self) -> int:
        """Announced length in bytes."""
        ...

    @property
    def done(self) -> Blob | None:
        """The blob, when all of it has arrived."""
        ...


class BlobStore(Protocol):
    """The part of the store that the port needs; awaited on the port's own event loop."""

    async def get_upload(self, upload_id: str, who: str) -> UploadRow:
        """An upload of this peer. Raises NotFound or PermissionDenied."""
        ...

    async def finish_upload(self, upload_id: str, digest: str) -> str | None:
        """All bytes are there. Returns the file to delete when the digest was known already."""
        ...

    async def blob_file(self, digest: str) -> tuple[str, int]:
        """Name and size of the blob's file. Raises NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class BlobPortLimits:
    """How long the port waits, in seconds.

    Attributes:
        transfer_stalled_s: A peer that takes no byte, or sends less than :data:`hedgerow.server.pace.LEAST_BYTES`, in that time
            is cut.
        idle_s: A connection whose next request has not arrived whole by then is closed.
        max_transfers: So many requests of one peer may go on at once.
        stop_s: How long transfers in flight may go on when the port stops.
        doorway: What a connection may cost before its first request.
    """

    transfer_stalled_s: float = TRANSFER_STALLED_S
    idle_s: float = IDLE_S
    max_transfers: int = MAX_TRANSFERS
    stop_s: float = 1.0
    doorway: DoorwayLimits = field(default_factory=DoorwayLimits)


@dataclass
class _Arrival:
    """An upload that has been asked about. One request at a time holds it; a newer one cuts the holder."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    newest: int = 0
    holder: asyncio.Transport | None = None
    blob: ArrivingBlob | None = None


class BlobPort:
    """Serves blobs from :meth:`start` to :meth:`stop`.

    Args:
        store: Knows uploads and blobs.
        folder: Holds the files.
        signer: Checks the URLs.
        clock: Tells the time at which a URL expires.
        address: Where to listen; port 0 takes a free one.
        ssl_context: For HTTPS, or None.
        limits: How long to wait.
        gate: Closed when no new transfer may begin.
        holders: Tells who is at the other end, where peers show certificates; None where they do not.
        audit: Where requests are noted, or None.

    Attributes:
        received_bytes: Bytes of uploads since the start.
        sent_bytes: Bytes of complete downloads since the start.
    """

    def __init__(
        self,
        store: BlobStore,
        folder: BlobFolder,
        signer: UrlSigner,
        clock: Clock,
        address: Address,
        ssl_context: ssl.SSLContext | None = None,
        limits: BlobPortLimits | None = None,
        gate: Gate | None = None,
        holders: PeerCertificates | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self._store = store
        self._folder = folder
        self._signer = signer
        self._clock = clock
        self._address = address
        self._ssl_context = ssl_context
        self._limits = limits or BlobPortLimits()
        self._gate = gate or Gate()
        self._holders = holders
        self._audit = audit
        self._stalled = Limit("transfer_stalled_s", self._limits.transfer_stalled_s)
        self._arrivals: OrderedDict[str, _Arrival] = OrderedDict()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="blob-port", daemon=True)
        self._writers = concurrent.futures.ThreadPoolExecutor(_WRITERS, "blob-writer")
        self._runner: web.AppRunner | None = None
        self._doorway: Doorway | None = None
        self._active: dict[asyncio.Task[object], str] = {}  # requests, and who asks
        self._sending: weakref.WeakSet[BlobResponse] = weakref.WeakSet()
        self._of_peer: dict[str, weakref.WeakSet[object]] = {}  # both of these
        self._ended = asyncio.Event()
        self._buffers = Buffers()
        self.received_bytes = 0
        self.sent_bytes = 0

    # --- life -------------------------------------------------------------------------------------------------------------

    def start(self) -> int:
        """Listen, and return the port.

        Raises:
            ConfigError: The address is taken or not this machine's.
        """
        self._thread.start()
        try:
            port = wait_future(asyncio.run_coroutine_threadsafe(self._open(), self._loop), _START, "the blob port to open")
        except BaseException:
            self.stop()
            raise
        log.debug("Blobs travel on %s", Address(self._address.host, port).text, extra={"action": "blob_port_opened"})
        return port

    def finish(self, limit: Limit) -> None:
        """Let the transfers in flight end. Blocking; the gate must be closed, or there may be no end.

        Raises:
            WaitTimeout: Some were still in flight when the limit was reached.
        """
        what = "transfers in flight to end"
        ended = asyncio.run_coroutine_threadsafe(wait(self._until_idle(), limit, what), self._loop)
        wait_future(ended, Limit(limit.name, None if limit.seconds is None else limit.seconds + _FINISH_S), what)

    async def _until_idle(self) -> None:
        while self._active or self._sending:
            self._ended.clear()
            await wait(self._ended.wait(), Limit("transfers_in_flight", None), "a transfer to end")

    def stop(self) -> None:
        """Close the port. Transfers in flight get ``stop_s`` to end; what has arrived of an upload by then is kept."""
        if not self._thread.is_alive():
            return
        closed = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        try:
            wait_future(closed, Limit("blob_port_stop_s", self._limits.stop_s + 10.0), "transfers in flight to end")
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)
            self._writers.shutdown(wait=False)
            if not self._thread.is_alive():
                self._loop.close()

    async def _open(self) -> int:
        if self._holders is not None:
            self._holders.follow(self._loop)
        app = web.Application(middlewares=[self._answer_errors])
        app.router.add_route("HEAD", "/uploads/{upload_id}", self._head_upload)
        app.router.add_route("PUT", "/uploads/{upload_id}", self._put_upload, expect_handler=_say_nothing_yet)
        app.router.add_get("/blobs/{digest}", self._get_blob, allow_head=False)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=self._limits.stop_s,
            keepalive_timeout=self._limits.idle_s,
            read_bufsize=_READ_BYTES,
            auto_decompress=False,  # bytes are stored as they were sent, and nobody's kilobytes become gigabytes
            lingering_time=_LINGER_S,
            logger=_HttpLog(log),
        )
        await self._runner.setup()
        assert self._runner.server is not None, "setup() makes it"
        self._doorway = Doorway(self._runner.server, self._ssl_context, self._limits.doorway)
        try:
            return await self._doorway.open(self._address)
        except OSError as error:
            raise ConfigError(
                f"Cannot listen on {self._address.text} (--blob-address): {error.strerror or error}. Choose a free address."
            ) from error

    async def _close(self) -> None:
        if self._doorway is not None:
            await self._doorway.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._active:  # cancelled, and still finishing a write
            await asyncio.wait(self._active, timeout=_FINISH_S)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:  # connections that linger
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    # --- requests ---------------------------------------------------------------------------------------------------------

    @web.middleware
    async def _answer_errors(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Turn errors into answers. A refused request's body is not worth reading: the connection ends with the answer."""
        task = asyncio.current_task()
        assert task is not None
        assert self._doorway is not None
        self._doorway.arrived(request.protocol)
        self._active[task] = ""
        status = None
        error: HedgerowError
        outcome = "cut"
        try:
            answer = await handler(request)
            outcome = str(answer.status)
            return answer
        except HedgerowError as raised:
            error = raised
            outcome = type(error).__name__
            log.info("%s %s refused: %s", request.method, request.path, error, extra={"action": "blob_request_refused"})
        except web.HTTPException as raised:
            status = raised.status
            cls = NotFound if status in (404, 405) else InvalidArgument
            error = cls(f"{request.method} {request.path}: {raised.reason}.")
        except ConnectionError as raised:  # the peer is gone: nobody will get the answer
            error = Unavailable(str(raised))
        except Exception:
            log.exception("%s %s failed", request.method, request.path, extra={"action": "blob_request_failed"})
            error = HedgerowError("The server failed; its log says why.")
        finally:
            if self._audit is not None:
                who = self._active[task] or str(request.remote)
                self._audit.note(who, request.method, outcome, {name: request.match_info.get(name, "") for name in _ABOUT})
            self._leave(self._active.pop(task), task)
            self._ended.set()
        text = error_text(error)
        response = web.Response(
            status=status or status_of(error), text=text, content_type="application/json", headers={ERROR_HEADER: text}
        )
        response.force_close()
        return response

    def _check(self, method: str, request: web.Request) -> str:
        """Who is allowed to do this by the URL's signature."""
        self._gate.check()
        now = self._clock.now()
        name = "" if self._holders is None else self._holders.name(request.transport, now)
        task = asyncio.current_task()
        assert task is not None
        self._active[task] = name
        who = self._signer.check(method, request.rel_url.raw_path, request.rel_url.raw_query_string, now, name)
        peer = self._active[task] = name or who
        mine = self._of_peer.setdefault(peer, weakref.WeakSet())
        if len(mine) >= self._limits.max_transfers:
            raise LimitReached(
                f"{peer} has {len(mine)} transfers going on; this server allows {self._limits.max_transfers} at once "
                "(max_transfers). Wait until one has ended."
            )
        mine.add(task)
        return who

    def _leave(self, peer: str, transfer: object) -> None:
        """A transfer of the peer has ended."""
        mine = self._of_peer.get(peer)
        if mine is not None:
            mine.discard(transfer)
            if not mine:
                del self._of_peer[peer]

    async def _head_upload(self, request: web.Request) -> web.StreamResponse:
        upload_id = check_id("upload_id", request.match_info["upload_id"])
        who = self._check("PUT", request)
        # An earlier request may still be writing; its connection is dead, or its sender would not ask.
        async with self._held(upload_id, request):
            row = await self._store.get_upload(upload_id, who)
            offset = row.size if row.done is not None else self._folder.size(upload_id)
            self._folder.require_space(row.size - offset)
            return _with_offset(200, offset)

    async def _put_upload(self, request: web.Request) -> web.StreamResponse:
        upload_id = check_id("upload_id", request.match_info["upload_id"])
        who = self._check("PUT", request)
        offset, length = _natural(request, OFFSET_HEADER), _natural(request, "Content-Length")
        async with self._held(upload_id, request) as arrival:
            row = await self._store.get_upload(upload_id, who)
            if row.done is not None:
                return web.json_response({"digest": row.done.digest, "size": row.done.size})
            if offset + length > row.size:
                raise InvalidArgument(f"Upload {upload_id} has {row.size} bytes; {offset + length} would be there after this.")
            if arrival.blob is None:
                arrival.blob = ArrivingBlob(self._folder, upload_id, row.size)
            blob = arrival.blob
            await self._write(blob.open)
            try:
                if offset != blob.offset:
                    return _with_offset(409, blob.offset)
                await self._receive(request, blob, length)
            finally:
                await self._write(blob.close)
            if not blob.complete:
                return _with_offset(204, blob.offset)
            digest = blob.digest()
            spare = await self._store.finish_upload(upload_id, digest)
            if spare is not None:
                self._writers.submit(self._folder.delete, spare)  # the answer need not wait for it
            self._arrivals.pop(upload_id, None)
            answer = web.json_response({"digest": digest, "size": row.size})
            answer.force_close()
            return answer

    async def _get_blob(self, request: web.Request) -> web.StreamResponse:
        self._check("GET", request)
        digest = check_digest(request.match_info["digest"])
        name, size = await self._store.blob_file(digest)
        if self._folder.size(name) != size:
            log.error("The file %s of blob %s is missing or damaged", name, digest, extra={"action": "blob_file_damaged"})
            raise NotFound(f"The server has lost the bytes of blob {digest}.")
        check_range(request, size)
        if request.transport is None:
            raise ConnectionResetError("The reader is gone.")
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # the kernel cuts a peer that takes nothing; sendfile itself cannot tell
            sock = request.transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._limits.transfer_stalled_s * 1000))
        if self._ssl_context is not None:
            answer, count = await send_encrypted(
                request, self._folder.file(name), size, self._write, self._stalled, self._buffers
            )
            self.sent_bytes += count
            return answer
        task = asyncio.current_task()
        assert task is not None
        peer = self._active[task]
        response = BlobResponse(self._folder.file(name), functools.partial(self._sent, peer))
        self._sending.add(response)
        self._of_peer[peer].add(response)
        return response

    def _count_received(self, count: int) -> None:
        self.received_bytes += count

    def _sent(self, peer: str, response: BlobResponse, count: int) -> None:
        self.sent_bytes += count
        self._leave(peer, response)
        self._sending.discard(response)
        self._ended.set()

    # --- receiving --------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _held(self, upload_id: str, request: web.Request) -> AsyncIterator[_Arrival]:
        """Hold an upload: whoever holds it now is cut, what it has received is kept, and then it is this request's turn."""
        arrival = self._arrivals.setdefault(upload_id, _Arrival())
        self._arrivals.move_to_end(upload_id)
        arrival.newest += 1
        turn = arrival.newest
        if arrival.holder is not None:
            log.debug("Upload %s is taken over by a newer request", upload_id, extra={"action": "upload_taken_over"})
            arrival.holder.abort()
        await wait(arrival.lock.acquire(), self._stalled, f"the request before to leave upload {upload_id}")
        try:
            if turn != arrival.newest:
                raise Unavailable(f"A newer request has taken over upload {upload_id}.")
            arrival.holder = request.transport
            yield arrival
        finally:
            arrival.holder = None
            arrival.lock.release()
            self._forget_idle()

    def _forget_idle(self) -> None:
        """Bound what is remembered. A forgotten upload that goes on is hashed again from its file."""
        idle = [key for key, arrival in self._arrivals.items() if not arrival.lock.locked()]
        for key in idle[: max(0, len(idle) - _MAX_IDLE_ARRIVALS)]:
            del self._arrivals[key]

    async def _write(self, call: Callable[..., T], *args: object) -> T:
        """Run a blocking call on a writer thread, to its end even when this request is cancelled."""
        running = self._loop.run_in_executor(self._writers, call, *args)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running], timeout=self._limits.transfer_stalled_s)
            raise

    async def _receive(self, request: web.Request, blob: ArrivingBlob, length: int) -> None:
        """Append the request's body.

        Raises:
            ConnectionResetError: The connection was cut; what had come is kept.
            Unavailable: The sender fell silent; what had come is kept.
            LimitReached: The disk is full.
        """
        try:
            if request.transport is None:
                lost: Exception | None = ConnectionResetError("The sender is gone.")
            elif request.headers.get("Expect", "").lower() == "100-continue" and not request.content.total_bytes:
                lost = await self._receive_directly(request, request.transport, blob, length)
            else:
                lost = await self._receive_parsed(request, blob)
        except WaitTimeout as error:
            raise Unavailable(f"{error} {blob.offset} of {blob.size} bytes are kept.") from error
        if lost is not None:
            log.debug("Upload %s was cut at byte %d", blob.name, blob.offset, extra={"action": "upload_cut"})
            raise ConnectionResetError("The sender is gone.") from lost

    def _pace_of(self, blob: ArrivingBlob) -> Pace:
        return Pace(self._stalled, f"upload {blob.name}")

    async def _receive_directly(
        self, request: web.Request, transport: asyncio.Transport, blob: ArrivingBlob, length: int
    ) -> Exception | None:
        """For senders that wait for leave to send, as ours do."""
        with self._buffers.piece_bytes(length) as piece_bytes:
            body = UploadBody(transport, length, self._count_received, self._pace_of(blob), piece_bytes)
            return await self._receive_pieces(request, body, blob)

    async def _receive_pieces(self, request: web.Request, body: UploadBody, blob: ArrivingBlob) -> Exception | None:
        body.begin()
        whole = True
        try:
            while (piece := await body.next()) is not None:
                whole = False
                await self._write(blob.append, [piece])
                whole = True
        finally:
            body.end()
            if whole:  # nothing is missing before the rest
                await self._write(blob.append, body.rest())
        if body.lost is None:
            request.content.feed_eof()  # for aiohttp, which has seen nothing of the body
        return body.lost

    async def _receive_parsed(self, request: web.Request, blob: ArrivingBlob) -> Exception | None:
        """For senders that just send, and proxies. Batches are written and hashed while the next one arrives."""
        pieces: list[bytes] = []
        size = 0
        pace = self._pace_of(blob)
        writing: asyncio.Task[None] | None = None
        lost: Exception | None = None
        try:
            while True:
                try:
                    with pace.waiting() as limit:
                        piece = await wait(request.content.readany(), limit, pace.what)
                except (OSError, ClientError) as error:
                    lost = error
                    break
                if not piece:
                    break
                self._count_received(len(piece))
                pace.came(len(piece))
                pieces.append(piece)
                size += len(piece)
                if size >= _BATCH_BYTES:
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(self._write(blob.append, pieces))
                    pieces, size = [], 0
        finally:
            if writing is not None:
                await writing
            if pieces:
                await self._write(blob.append, pieces)
        if isinstance(lost, WaitTimeout):
            raise lost
        return lost


async def _say_nothing_yet(request: web.Request) -> None:
    """Leave to send an upload's body is given when everything else about it has been checked."""


def _with_offset(status: int, offset: int) -> web.Response:
    response = web.Response(status=status, headers={OFFSET_HEADER: str(offset)})
    if status != 200:
        response.force_close()  # the body was not taken, or not by aiohttp
    return response


def _natural(request: web.Request, header: str) -> int:
    text = request.headers.get(header, "")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidArgument(f"The header {header} is {text[:40]!r}; it must be a number of bytes.")
    return int(text)
