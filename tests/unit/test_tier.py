"""What the unit tier refuses."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.request

import grpc.aio
import pytest

from hedgerow import waits


def test_sleeping_fails() -> None:
    with pytest.raises(AssertionError, match="must not sleep"):
        time.sleep(0.001)
    with pytest.raises(AssertionError, match="must not sleep"):
        waits.pause_thread(0.001, "a test of the tier")


async def test_sleeping_in_a_coroutine_fails() -> None:
    with pytest.raises(AssertionError, match="must not sleep"):
        await waits.pause(0.001, "a test of the tier")


async def test_giving_way_to_other_tasks_is_allowed() -> None:
    assert await asyncio.sleep(0, "result") == "result"


def test_the_network_is_refused() -> None:
    with pytest.raises(AssertionError, match="must not use the network"):
        urllib.request.urlopen("http://127.0.0.1:9", timeout=1)
    with socket.socket() as tcp, pytest.raises(AssertionError, match="must not use the network"):
        tcp.bind(("127.0.0.1", 0))


async def test_a_grpc_server_is_refused() -> None:
    with pytest.raises(AssertionError, match="must not use the network"):
        grpc.aio.server()


def test_a_socket_pair_is_allowed() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x")
        assert right.recv(1) == b"x"
