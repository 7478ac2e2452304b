"""Thousands of connections that never come to the point: honest peers get through, and the server is rid of them in time."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from hedgerow.security import Role
from hedgerow.waits import pause, wait
from hedgerow.wire.channel import Address
from tests.integration.attacks.federation import SOON, Federation, eventually, federation

HALF_OPEN = 2_000
HANDSHAKE_S = 3.0
MAX_HANDSHAKES = 300
FILES_A_CONNECTION = 2  # both ends are in this process


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many open files as the test needs, or no test."""
    needed = HALF_OPEN * FILES_A_CONNECTION + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        pytest.skip(f"this needs {needed} open files, and the limit here is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def hurried(tmp_path: Path, many_files: None) -> AsyncIterator[Federation]:
    async with federation(tmp_path, handshake_s=HANDSHAKE_S, max_handshakes=MAX_HANDSHAKES) as made:
        yield made


async def half_open(address: Address, first_bytes: bytes) -> list[socket.socket]:
    """Connections that say at most the beginning of something, and then nothing."""
    loop, opened = asyncio.get_running_loop(), []
    for number in range(HALF_OPEN):
        connection = socket.socket()
        connection.setblocking(False)
        await wait(loop.sock_connect(connection, (address.host, address.port)), SOON, f"connection {number}")
        with contextlib.suppress(ConnectionError):  # its place was wanted already
            await wait(loop.sock_sendall(connection, first_bytes), SOON, f"the first bytes of connection {number}")
        opened.append(connection)
    return opened


def ended(connection: socket.socket) -> bool:
    """Whether the server has hung up."""
    try:
        while data := connection.recv(1000):
            assert data
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


CLIENT_HELLO_BEGINS = bytes.fromhex("16030100c8010000c40303")
REQUEST_BEGINS = b"GET /blobs/00 HTTP/1.1\r\nHost: x\r\nX: "


@pytest.mark.parametrize("first_bytes", [b"", CLIENT_HELLO_BEGINS, REQUEST_BEGINS], ids=["silent", "half a hello", "no TLS"])
@pytest.mark.parametrize("port", ["fleet", "driver", "blob"])
async def test_half_open_connections_keep_nobody_out_and_are_dropped(hurried: Federation, port: str, first_bytes: bytes) -> None:
    service = hurried.service
    addresses = {
        "fleet": service.fleet_address,
        "driver": service.driver_address,
        "blob": Address("127.0.0.1", service.blob_port),
    }
    before = psutil.Process().num_fds()
    opened = await half_open(addresses[port], first_bytes)
    try:
        a, ann = hurried.peer("a", Role.CLIENT), hurried.peer("ann", Role.DRIVER)
        (await a.session("a")).close()
        await ann.create_run()
        assert (await ann.upload("upload00001", bytes(1_000_000))).size == 1_000_000
        waiting = list(opened)

        def all_ended() -> bool:
            waiting[:] = [connection for connection in waiting if not ended(connection)]
            return not waiting

        await eventually(all_ended, "the server to hang up on all of them")
    finally:
        for connection in opened:
            connection.close()
    await eventually(lambda: psutil.Process().num_fds() < before + 100, "the server's ends to be closed, too")


async def test_request_that_trickles_in_without_end_is_cut(hurried: Federation) -> None:
    ann = hurried.peer("ann", Role.DRIVER)
    reader, writer = await asyncio.open_connection("127.0.0.1", hurried.service.blob_port, ssl=ann.context)
    writer.write(b"GET /blobs/" + b"0" * 64 + b" HTTP/1.1\r\nHost: x\r\n")

    async def trickle() -> None:
        for number in range(1000):
            writer.write(f"X-{number}: x\r\n".encode())
            await wait(writer.drain(), SOON, "the line to be sent")
            await pause(0.05, "the next line")

    trickling = asyncio.create_task(trickle())
    with contextlib.suppress(ConnectionError):
        assert await wait(reader.read(), SOON, "the cut") == b""
    trickling.cancel()
    await asyncio.gather(trickling, return_exceptions=True)
    writer.close()
