"""The blob protocol as its caller reads it: answers of a server that is broken or lies.

What must hold: HedgerowError, CutError or RefusedError, or the call's value; a download appends what was asked for and no more.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import HedgerowError
from hedgerow.records import Blob
from hedgerow.wire import blob_http
from hedgerow.wire.blob_http import BlobServer, Connection, CutError, RefusedError
from hedgerow.wire.convert import check_digest
from tests.fuzz.mutation import WORDS, Choices, json_text, mutated_bytes, mutated_json, mutated_text
from tests.fuzz.parser import Parser

CONTENT = bytes(range(100))
DIGEST = "0" * 64
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HEAD = (
    b"HTTP/1.1 200 OK\r\nUpload-Offset: 40\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 404 Not Found\r\nHedgerow-Error: {"error": "NotFound", "message": "no upload"}\r\nContent-Length: 0\r\n\r\n',
)
PUT = (
    CONTINUE + b'HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"digest": "' + DIGEST.encode() + b'", "size": 100}',
    CONTINUE + b"HTTP/1.1 204 No Content\r\nUpload-Offset: 60\r\n\r\n",
    b"HTTP/1.1 409 Conflict\r\nUpload-Offset: 10\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 507 x\r\nContent-Length: 49\r\n\r\n{"error": "LimitReached", "message": "disk full"}',
)
GET = (
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 40-99/100\r\nContent-Length: 60\r\n\r\n" + CONTENT[40:],
    b"HTTP/1.1 416 x\r\nContent-Range: bytes */100\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3c\r\n" + CONTENT[40:] + b"\r\n0\r\n\r\n",
    b'HTTP/1.1 403 Forbidden\r\nContent-Length: 52\r\n\r\n{"error": "PermissionDenied", "message": "expired."}',
)
SEEDS = {"head": HEAD, "put": PUT, "get": GET}
HTTP = (
    b"HTTP/1.1 ",
    b"HTTP/0.9 200",
    b"Content-Length: -1\r\n",
    b"Content-Length: 1e9\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n",
    b"X: y\r\n" * 120,
)
ERRORS = tuple(blob_http.error_text(cls("why")) for cls in blob_http.STATUSES)


@dataclass(frozen=True)
class Case:
    """The call, and what the server sends before it hangs up; for "text" a status and a body that should be an error's."""

    call: str
    answer: bytes
    status: int = 0


def make(choices: Choices) -> Case:
    """An answer with some bytes changed, or with a body of other JSON."""
    call = choices.of(("head", "put", "get", "text"))
    if call == "text":
        text = (
            mutated_text(choices, ERRORS)
            if choices.below(2)
            else json_text(mutated_json(choices, {"error": "NotFound", "message": "m"}))
        )
        return Case(
            call, text.encode("utf-8", "replace"), choices.of((200, 400, 401, 403, 404, 409, 418, 500, 503, 507, 999, -1))
        )
    if call == "put" and choices.chance(3):
        body = json_text(mutated_json(choices, {"digest": DIGEST, "size": 100})).encode()
        return Case(call, CONTINUE + b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return Case(call, mutated_bytes(choices, SEEDS[call], WORDS + HTTP)[: 64 * 1024])


def _call(case: Case, path: Path) -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(BlobServer("blobs.example", 80, "", None))
    connection._http.sock = ours
    connection._silence_s = 20.0
    ours.settimeout(20.0)
    with theirs, ours, contextlib.closing(connection):
        theirs.sendall(case.answer)
        theirs.shutdown(socket.SHUT_WR)
        match case.call:
            case "head":
                offset = connection.upload_offset("/uploads/upload0001?x")
                assert 0 <= offset < 10**20
            case "put":
                with path.open("rb") as file:
                    blob = connection.put("/uploads/upload0001?x", file, 40, len(CONTENT))
                assert isinstance(blob, Blob)
                check_digest(blob.digest)
                assert blob.size >= 0
            case _:
                with path.with_suffix(".got").open("wb") as file:
                    file.write(CONTENT[:40])
                    try:
                        connection.get("/blobs/x?y", file, 40, len(CONTENT), lambda offset: None)
                        assert file.tell() == len(CONTENT)
                    finally:
                        assert 40 <= file.tell() <= len(CONTENT)


def check(case: Case, path: Path) -> None:
    """One case."""
    if case.call == "text":
        error = blob_http.error_from(case.status, case.answer.decode())
        assert isinstance(error, HedgerowError)
        assert re.match(r"4|5", str(blob_http.status_of(error)))
        return
    with contextlib.suppress(HedgerowError, CutError, RefusedError):
        _call(case, path)


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[Case], None]]:
    path = folder / "parameters"
    path.write_bytes(CONTENT)
    yield lambda case: check(case, path)


PARSER = Parser("blob_answers", ("hedgerow.wire.blob_http",), make, _open)
