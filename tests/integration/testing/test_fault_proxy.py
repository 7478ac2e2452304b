"""The fault-injecting proxy between plain sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from hedgerow.errors import ConfigError, InvalidArgument
from hedgerow.testing import FaultProxy, eventually, free_port
from hedgerow.waits import Limit
from hedgerow.wire.channel import Address

SOON = Limit("soon_s", 10.0)


@pytest.fixture
def echo() -> Iterator[Address]:
    """A server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(65536):
                peer.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield Address("127.0.0.1", int(listener.getsockname()[1]))
    listener.close()


@pytest.fixture
def proxy(echo: Address) -> Iterator[FaultProxy]:
    with FaultProxy(echo) as made:
        yield made


def connect(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection((proxy.address.host, proxy.address.port), timeout=SOON.seconds)


def receive(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := peer.recv(count - len(data))):
        data += more
    return data


def test_what_is_sent_arrives_and_is_counted(proxy: FaultProxy) -> None:
    with connect(proxy) as peer:
        peer.sendall(b"x" * 300_000)
        assert receive(peer, 300_000) == b"x" * 300_000
        assert (proxy.bytes_up, proxy.bytes_down, proxy.connections, proxy.cuts) == (300_000, 300_000, 1, 0)
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b"", "the end of the stream is passed on"


def test_a_cut_ends_open_connections_with_an_error_and_new_ones_are_served(proxy: FaultProxy) -> None:
    with connect(proxy) as peer, connect(proxy) as new:
        peer.sendall(b"a")
        receive(peer, 1)
        assert proxy.cut() >= 1
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
        new.close()
    with connect(proxy) as later:
        later.sendall(b"b")
        assert receive(later, 1) == b"b"


def test_a_stalled_link_accepts_and_carries_nothing_until_it_is_resumed(proxy: FaultProxy) -> None:
    with connect(proxy) as old:
        old.sendall(b"a")
        receive(old, 1)
        proxy.stall()
        with connect(proxy) as new:
            for peer in (old, new):
                peer.sendall(b"b")
                peer.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    peer.recv(1)
            proxy.resume()
            for peer in (old, new):
                peer.settimeout(SOON.seconds)
                assert receive(peer, 1) == b"b"


def test_each_connection_is_cut_after_so_many_bytes(proxy: FaultProxy) -> None:
    proxy.cut_every(100_000)
    for cuts in (1, 2):
        with connect(proxy) as peer, contextlib.suppress(ConnectionError):
            peer.sendall(b"x" * 200_000)
            while peer.recv(65536):
                pass
        eventually(lambda expected=cuts: proxy.cuts == expected, SOON, "the cut")  # type: ignore[misc]
    assert proxy.bytes_up + proxy.bytes_down == 200_000
    proxy.cut_every(None)
    with connect(proxy) as peer:
        peer.sendall(b"x" * 200_000)
        assert len(receive(peer, 200_000)) == 200_000


def test_a_throttled_link_takes_its_time(proxy: FaultProxy) -> None:
    proxy.throttle(1e6)
    with connect(proxy) as peer:
        started = time.monotonic()
        peer.sendall(b"x" * 300_000)
        assert len(receive(peer, 300_000)) == 300_000
        # The last block is through before its pause.
        assert time.monotonic() - started >= 0.2


def test_a_target_that_is_not_there_is_a_closed_connection() -> None:
    with FaultProxy(Address("127.0.0.1", free_port())) as proxy, connect(proxy) as peer:
        assert peer.recv(1) == b""


def test_faults_that_make_no_sense_are_refused(proxy: FaultProxy, echo: Address) -> None:
    with pytest.raises(InvalidArgument, match="above 0"):
        proxy.throttle(0)
    with pytest.raises(InvalidArgument, match="every 0 bytes"):
        proxy.cut_every(0)
    with pytest.raises(ConfigError, match="cannot listen"):
        FaultProxy(echo, listen=proxy.address).start()
