"""Peers that open calls on the gRPC ports and then say nothing, or half of something. They speak HTTP/2 by hand."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path

import pytest

from hedgerow.security import Identity, Role
from hedgerow.server import fleet
from hedgerow.waits import Limit, wait
from hedgerow.wire.channel import MAX_CALLS_AT_ONCE, Address
from hedgerow.wire.proto import driver_pb2
from tests.integration.running_server import running

SOON = Limit("soon_s", 20.0)
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MOST_STREAMS = 3  # the setting
CREATE_RUN, SESSION = "/hedgerow.v1.Driver/CreateRun", "/hedgerow.v1.Fleet/Session"
WATCH, HEALTH_WATCH = "/hedgerow.v1.Driver/Watch", "/grpc.health.v1.Health/Watch"


class RawPeer:
    """One connection of HTTP/2, as far as these tests need it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, address: Address) -> RawPeer:
        peer = cls(*await wait(asyncio.open_connection(address.host, address.port), SOON, "the connection"))
        peer._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        peer.send(SETTINGS, 0, 0, b"")
        return peer

    def send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._writer.write(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload)

    def call(self, stream: int, path: str, role: Role) -> None:
        """Begin a call: its headers, each as a literal that is not indexed."""
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
        fields += [("content-type", "application/grpc"), *Identity.fresh(role).metadata()]
        coded = b"".join(b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in field) for field in fields)
        self.send(HEADERS, END_HEADERS, stream, coded)

    async def frame(self) -> tuple[int, int, int, bytes]:
        """The server's next frame: kind, flags, stream, payload."""
        head = await wait(self._reader.readexactly(9), SOON, "a frame")
        payload = await wait(self._reader.readexactly(int.from_bytes(head[:3])), SOON, "the rest of a frame")
        return head[3], head[4], int.from_bytes(head[5:]), payload

    async def until(self, kind: int, stream: int = 0, flags: int = 0) -> bytes:
        """The payload of the next frame of that kind on that stream with those flags."""
        while True:
            found, has, where, payload = await self.frame()
            if (found, where) == (kind, stream) and has & flags == flags:
                return payload

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await wait(self._writer.wait_closed(), SOON, "the connection to close")


def begun(message: bytes, *, whole: bool) -> bytes:
    """A message of gRPC; or only its beginning, after which more is due."""
    data = b"\0" + struct.pack(">I", len(message)) + message
    return data if whole else data[:-1]


CREATE = driver_pb2.CreateRunRequest(run_id="run0000000000001", name="slow", seed=1).SerializeToString()


@pytest.mark.parametrize("said", [b"", b"\0\0", begun(CREATE, whole=False)], ids=["nothing", "half a prefix", "half a message"])
async def test_call_whose_request_does_not_arrive_is_refused_in_time(tmp_path: Path, said: bytes) -> None:
    async with running(state_dir=tmp_path / "state", request_s=0.2) as service:
        peer = await RawPeer.connect(service.driver_address)
        peer.call(1, CREATE_RUN, Role.DRIVER)
        peer.send(DATA, 0, 1, said)
        assert await peer.until(HEADERS, 1, END_STREAM)
        peer.call(3, CREATE_RUN, Role.DRIVER)
        peer.send(DATA, END_STREAM, 3, begun(CREATE, whole=True))
        assert await peer.until(DATA, 3), "the connection is as good as before"
        await peer.close()


@pytest.mark.parametrize("path", [WATCH, HEALTH_WATCH])
async def test_stream_of_answers_whose_request_does_not_arrive_is_refused_in_time(tmp_path: Path, path: str) -> None:
    async with running(state_dir=tmp_path / "state", request_s=0.2) as service:
        peer = await RawPeer.connect(service.driver_address)
        peer.call(1, path, Role.DRIVER)
        peer.send(DATA, 0, 1, begun(b"x" * 100, whole=False))
        assert await peer.until(HEADERS, 1, END_STREAM)
        await peer.close()


async def test_call_that_ends_without_a_request_is_refused(tmp_path: Path) -> None:
    async with running(state_dir=tmp_path / "state") as service:
        peer = await RawPeer.connect(service.driver_address)
        peer.call(1, CREATE_RUN, Role.DRIVER)
        peer.send(DATA, END_STREAM, 1, b"")
        assert await peer.until(HEADERS, 1, END_STREAM)
        await peer.close()


async def test_session_that_does_not_begin_with_a_whole_hello_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "HELLO", Limit("hello_s", 0.2))
    async with running(state_dir=tmp_path / "state") as service:
        peer = await RawPeer.connect(service.fleet_address)
        for stream, said in ((1, b""), (3, begun(b"x" * 100, whole=False))):
            peer.call(stream, SESSION, Role.CLIENT)
            peer.send(DATA, 0, stream, said)
            assert await peer.until(HEADERS, stream, END_STREAM)
        assert len(service.sessions) == 0
        await peer.close()


async def test_connection_without_calls_is_closed(tmp_path: Path) -> None:
    async with running(state_dir=tmp_path / "state", idle_connection_s=0.3) as service:
        peer = await RawPeer.connect(service.fleet_address)
        await peer.until(GOAWAY)
        await peer.close()


async def test_connection_may_have_so_many_calls_at_once_and_no_more(tmp_path: Path) -> None:
    async with running(state_dir=tmp_path / "state") as service:
        peer = await RawPeer.connect(service.driver_address)
        settings = await peer.until(SETTINGS)
        told = {
            int.from_bytes(settings[at : at + 2]): int.from_bytes(settings[at + 2 : at + 6]) for at in range(0, len(settings), 6)
        }
        assert told[MOST_STREAMS] == MAX_CALLS_AT_ONCE
        peer.send(SETTINGS, ACK, 0, b"")
        for number in range(MAX_CALLS_AT_ONCE + 1):
            peer.call(2 * number + 1, CREATE_RUN, Role.DRIVER)
        refused = int.from_bytes(await peer.until(RST_STREAM, 2 * MAX_CALLS_AT_ONCE + 1))
        assert refused == 7, "REFUSED_STREAM: it was not begun, and may be tried again"
        await peer.close()
