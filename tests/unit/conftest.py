"""The unit tier neither sleeps nor talks to anybody: both fail at once."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import grpc
import grpc.aio
import pytest

_sleep = time.sleep
_asyncio_sleep = asyncio.sleep


def _refuse_sleep(seconds: float) -> None:
    if sys._getframe(1).f_globals.get("__name__") == "subprocess":
        _sleep(seconds)  # how the standard library waits for a process with a timeout
        return
    raise AssertionError(f"A unit test must not sleep ({seconds} s): hold a clock, or set an event.")


async def _refuse_asyncio_sleep(delay: float, result: Any = None) -> Any:
    if delay > 0:
        raise AssertionError(f"A unit test must not sleep ({delay} s): hold a clock, or set an event.")
    return await _asyncio_sleep(0, result)


def _refuse_network(*args: object, **kwargs: object) -> NoReturn:
    raise AssertionError(f"A unit test must not use the network {args[1:]}: that is a test for tests/integration.")


def _only_unix(name: str) -> Any:
    """The socket method of that name, for sockets that cannot leave the machine."""
    original = getattr(socket.socket, name)

    def method(self: socket.socket, *args: Any) -> Any:
        if self.family == socket.AF_UNIX:
            return original(self, *args)
        return _refuse_network(self, *args)

    return method


@pytest.fixture(autouse=True)
def _no_sleep_and_no_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:  # of its own, so that a test's monkeypatch.undo() does not end it
        patch.setattr(time, "sleep", _refuse_sleep)
        patch.setattr(asyncio, "sleep", _refuse_asyncio_sleep)
        patch.setattr(asyncio.tasks, "sleep", _refuse_asyncio_sleep)
        for name in ("connect", "connect_ex", "bind", "sendto"):
            patch.setattr(socket.socket, name, _only_unix(name))
        patch.setattr(socket, "getaddrinfo", _refuse_network)
        patch.setattr(grpc, "server", _refuse_network)  # gRPC's sockets are not Python's
        patch.setattr(grpc.aio, "server", _refuse_network)
        yield
