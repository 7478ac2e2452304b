"""The blob port over sockets: requests with changed methods, paths, signatures, ranges, offsets, lengths and chunks.

What must hold: the connection ends, with an answer that is no 500 or with none; only announced uploads have files, none is longer
than announced, an upload that is done has the right digest, and the blobs that were there stay as they were.
"""

from __future__ import annotations

import re
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import blake3

from hedgerow import errors
from hedgerow.clock import SystemClock
from hedgerow.records import Blob
from hedgerow.security import Identity, Role, UrlSigner
from hedgerow.server.blob_port import BlobPort, BlobPortLimits
from hedgerow.store.blobs import BlobFolder
from hedgerow.store.changes import Upload
from hedgerow.waits import Limit
from hedgerow.wire.channel import Address
from tests.fuzz.calls import Failures
from tests.fuzz.mutation import WORDS, Choices, mutated_bytes
from tests.fuzz.parser import Parser

ME = Identity(Role.CLIENT, "a" * 16, "a" * 64)
OTHER = Identity(Role.CLIENT, "b" * 16, "b" * 64)
SIGNER = UrlSigner(b"k" * 32)
LONG_AFTER = 2**40
CONTENT = bytes(range(256)) * 4
DIGEST = blake3.blake3(CONTENT).hexdigest()
NEW, HALF, DONE = "upload0000000001", "upload0000000002", "upload0000000003"
NEW_SIZE, HALF_SIZE, HALF_THERE = 300, 1024, 500
TIMEOUT_S = 20.0
PATIENCE_MS = 10
"""For so long the port waits for more of a body, and the sender for more of an answer."""
ENDS = Limit("request_ends_s", 20.0)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def _url(method: str, path: str, who: Identity = ME, until: float = LONG_AFTER) -> str:
    return SIGNER.sign(method, path, who, until)


def _request(method: str, url: str, *headers: str) -> bytes:
    return "\r\n".join((f"{method} {url} HTTP/1.1", "Host: blobs", *headers, "", "")).encode()


_CHUNKED = b"64\r\n" + CONTENT[:100] + b"\r\nc8;x=y\r\n" + CONTENT[100:300] + b"\r\n0\r\n\r\n"
SEEDS = (
    _request("HEAD", _url("PUT", f"/uploads/{HALF}")),
    _request("PUT", _url("PUT", f"/uploads/{NEW}"), "Upload-Offset: 0", f"Content-Length: {NEW_SIZE}") + CONTENT[:NEW_SIZE],
    _request("PUT", _url("PUT", f"/uploads/{NEW}"), "Upload-Offset: 0", f"Content-Length: {NEW_SIZE}", "Expect: 100-continue")
    + CONTENT[:NEW_SIZE],
    _request(
        "PUT", _url("PUT", f"/uploads/{HALF}"), f"Upload-Offset: {HALF_THERE}", "Content-Length: 524", "Expect: 100-continue"
    )
    + CONTENT[HALF_THERE:],
    _request("PUT", _url("PUT", f"/uploads/{HALF}"), f"Upload-Offset: {HALF_THERE}", "Content-Length: 100") + CONTENT[500:600],
    _request("PUT", _url("PUT", f"/uploads/{NEW}"), "Upload-Offset: 0", "Transfer-Encoding: chunked") + _CHUNKED,
    _request("PUT", _url("PUT", f"/uploads/{NEW}"), "Upload-Offset: 0", "Content-Length: 300", "Transfer-Encoding: chunked")
    + _CHUNKED,
    _request("PUT", _url("PUT", f"/uploads/{DONE}"), "Upload-Offset: 0", "Content-Length: 3") + b"abc",
    _request("GET", _url("GET", f"/blobs/{DIGEST}")),
    _request("GET", _url("GET", f"/blobs/{DIGEST}"), "Range: bytes=1000-"),
    _request("GET", _url("GET", f"/blobs/{DIGEST}"), "Range: bytes=0-99", "If-Range: x", "Connection: keep-alive"),
    _request("GET", _url("GET", "/blobs/" + "0" * 64)),
    _request("GET", _url("GET", f"/blobs/{DIGEST}", OTHER, 5.0)),
    _request("PUT", _url("PUT", f"/uploads/{NEW}", OTHER), "Upload-Offset: 0", "Content-Length: 3") + b"abc",
)
HEADERS = (
    *(
        b"\r\nExpect: 100-continue",
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nContent-Length: 5",
        b"\r\nUpload-Offset: 7",
        b"\r\n Folded: x",
    ),
    *(
        b"\r\nRange: bytes=-1",
        b"\r\nRange: bytes=5-1",
        b"\r\nRange: bytes=0-0,5-9",
        b"\r\nRange: bytes=99999999999999999999-",
        b"\r\nRange: x",
    ),
    *(
        b"\r\nConnection: upgrade\r\nUpgrade: websocket",
        b"\r\nContent-Encoding: gzip",
        b"\r\nContent-Length: +300",
        b"\r\nContent-Length: 0x10",
    ),
    *(
        b"\r\nX: " + b"x" * 9000,
        b"\r\nX: y" * 200,
        b" HTTP/1.0",
        b" HTTP/2.0",
        b"GET ",
        b"HEAD ",
        b"DELETE ",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
    ),
    *(
        b"/uploads/",
        b"/blobs/",
        b"/uploads/../blobs/",
        b"http://other/",
        b"expires=nan",
        b"expires=",
        b"who=client/",
        b"&signature=",
        b"%2f",
    ),
)
# Signatures that fit, over paths and expiries that should not be.
SIGNED = tuple(
    _request(method, _url(method, path), "Upload-Offset: 0", "Content-Length: 3") + b"abc"
    for method in ("GET", "PUT")
    for path in (
        *(
            "/uploads/../../beside/victim",
            "/uploads/%2e%2e%2fbeside",
            "/uploads/" + "a" * 300,
            "/uploads/é",
            "/uploads/upload0000000009",
        ),
        *(
            "/blobs/../" + NEW,
            "/blobs/" + "0" * 63,
            "/blobs/" + "F" * 64,
            "/",
            "//blobs/" + DIGEST,
            "/uploads/a\0b",
            "/blobs/%00" + "0" * 63,
        ),
    )
)


class FakeStore:
    """The rows that the port asks for."""

    def __init__(self) -> None:
        who = f"client/{ME.id}"
        done = Upload(DONE, who, len(CONTENT), Blob(DIGEST, len(CONTENT)))
        self.uploads = {NEW: Upload(NEW, who, NEW_SIZE), HALF: Upload(HALF, who, HALF_SIZE), DONE: done}

    async def get_upload(self, upload_id: str, who: str) -> Upload:
        upload = self.uploads.get(upload_id)
        if upload is None:
            raise errors.NotFound(f"There is no upload {upload_id}.")
        if upload.who != who:
            raise errors.PermissionDenied(f"Upload {upload_id} is not yours.")
        return upload

    async def finish_upload(self, upload_id: str, digest: str) -> str | None:
        upload = self.uploads[upload_id]
        self.uploads[upload_id] = Upload(upload_id, upload.who, upload.size, Blob(digest, upload.size))
        return None

    async def blob_file(self, digest: str) -> tuple[str, int]:
        if digest != DIGEST:
            raise errors.NotFound(f"There is no blob {digest}.")
        return DONE, len(CONTENT)


@dataclass(frozen=True)
class Case:
    """What is sent, in how many pieces, and whether the sender hangs up at once or waits for leave to send."""

    data: bytes
    pieces: int = 1
    hangs_up: bool = False
    waits: bool = True


def make(choices: Choices) -> Case:
    """A request with some bytes changed."""
    seeds = SEEDS if choices.below(4) else SIGNED
    data = mutated_bytes(choices, seeds, WORDS + HEADERS)[: 256 * 1024]
    return Case(data, 1 + choices.below(3), choices.chance(16), not choices.chance(4))


class Server:
    """A port whose uploads are put back before each case."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._folder = BlobFolder(folder / "blobs", reserve_bytes=0)
        self._store = FakeStore()
        (folder / "beside").mkdir()
        (folder / "beside" / "victim").write_bytes(b"x")
        self._folder.file(DONE).write_bytes(CONTENT)
        limits = BlobPortLimits(transfer_stalled_s=PATIENCE_MS / 1000, stop_s=0.2)
        self._port = BlobPort(self._store, self._folder, SIGNER, SystemClock(), Address("127.0.0.1", 0), None, limits)
        self._number = self._port.start()
        self.failures = Failures()

    def close(self) -> None:
        self._port.stop()

    def check(self, case: Case) -> None:
        """One case."""
        self._folder.delete(NEW)
        self._folder.file(HALF).write_bytes(CONTENT[:HALF_THERE])
        self._store.uploads = FakeStore().uploads
        answer = self._exchange(case)
        if case.hangs_up:  # what came before this probe has begun when the probe is answered
            self._exchange(Case(SEEDS[0]))
        self._port.finish(ENDS)
        while answer.startswith(CONTINUE):
            answer = answer[len(CONTINUE) :]
        assert not answer or answer.startswith(b"HTTP/"), answer[:100]
        assert b"HTTP/1.1 500" not in answer.replace(CONTENT, b""), answer
        failures = self.failures.take()
        assert not failures, failures
        self._check_files()

    def _exchange(self, case: Case) -> bytes:
        answer = b""
        with socket.create_connection(("127.0.0.1", self._number), timeout=TIMEOUT_S) as peer:
            # Else the second piece waits until the first is known to be there: for longer than the port's patience.
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                head, end, body = case.data.partition(b"\r\n\r\n")
                rest = case.data
                if b"100-continue" in head.lower() and case.waits:
                    peer.sendall(head + end)
                    answer, rest = _answer(peer, CONTINUE), body
                length = -(-len(rest) // case.pieces) or 1
                for start in range(0, len(rest), length):
                    peer.sendall(rest[start : start + length])
                if case.hangs_up:
                    return b""
                answer += _answer(peer)
                peer.shutdown(socket.SHUT_WR)  # not before: a sender that is gone gets no answer, and what it sent is dropped
                while piece := peer.recv(64 * 1024):
                    answer += piece
                    assert len(answer) < 1024 * 1024
            except TimeoutError:
                raise AssertionError(f"The port let a connection hang; so far it said {answer[:200]!r}.") from None
            except OSError:  # the port hung up first
                pass
        return answer

    def _check_files(self) -> None:
        sizes = {NEW: NEW_SIZE, HALF: HALF_SIZE, DONE: len(CONTENT)}
        assert {path.name for path in self._root.iterdir()} == {"beside", "blobs"}
        assert (self._root / "beside" / "victim").read_bytes() == b"x"
        for path in self._folder.path.iterdir():
            assert path.name in sizes, path
            assert path.stat().st_size <= sizes[path.name], path
        assert self._folder.file(DONE).read_bytes() == CONTENT
        assert self._folder.file(HALF).read_bytes()[:HALF_THERE] == CONTENT[:HALF_THERE]
        for upload_id in (NEW, HALF):
            done = self._store.uploads[upload_id].done
            if done is not None:
                content = self._folder.file(upload_id).read_bytes()
                assert len(content) == sizes[upload_id]
                assert blake3.blake3(content).hexdigest() == done.digest


def _answer(peer: socket.socket, until: bytes = b"") -> bytes:
    """The first answer; what came of it when nothing more comes for a moment: the port may be waiting for more of the request."""
    answer = b""
    poller = select.poll()
    poller.register(peer, select.POLLIN)
    while not (_is_whole(answer) or (until and answer.startswith(until))) and poller.poll(PATIENCE_MS):
        piece = peer.recv(64 * 1024)
        if not piece:
            break
        answer += piece
    return answer


def _is_whole(answer: bytes) -> bool:
    while answer.startswith(CONTINUE):
        answer = answer[len(CONTINUE) :]
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    return bool(end) and (length is None or len(body) >= int(length[1]))


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[Case], None]]:
    server = Server(folder)
    try:
        with server.failures.listening("hedgerow", "aiohttp", "asyncio"):
            yield server.check
    finally:
        server.close()


PARSER = Parser("blob_port", ("hedgerow.server.blob_port", "hedgerow.server.upload_body", "hedgerow.security"), make, _open)
