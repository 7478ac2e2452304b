"""The driver's network side: a background thread with an event loop, and on it a gRPC channel.

The caller's thread blocks on it, so that a driver works the same in a script, a notebook with a loop of its own, or a thread.
Owned here: the thread, the channel, and how a call is repeated. Every call of the Driver API may be repeated at any time, so a
call is made again until the server answers or the named limit is reached.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from hedgerow.certificates import Tls
from hedgerow.errors import HedgerowError, LimitReached, Unavailable, WaitTimeout
from hedgerow.security import Identity
from hedgerow.waits import Backoff, Limit, pause, wait, wait_future
from hedgerow.wire.channel import Address, open_channel
from hedgerow.wire.proto import driver_pb2_grpc
from hedgerow.wire.status import ERROR_KEY, from_rpc_error

log = logging.getLogger(__name__)

T = TypeVar("T")
STOP = Limit("stop_s", 5.0)
STILL_AWAY_LOG_S = 30.0
_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})


class UnaryMethod(Protocol):
    """A unary method of a gRPC stub."""

    def __call__(self, request: Any, *, metadata: Any, timeout: float | None) -> Any:
        """Start the call."""


def error_of(error: grpc.aio.AioRpcError) -> HedgerowError:
    """The error that a failed call carries; :class:`Unavailable` where the server did not say anything itself."""
    said = any(key == ERROR_KEY for key, _ in error.trailing_metadata() or ())
    # A cut stream comes as UNKNOWN ("Stream removed") or INTERNAL ("RST_STREAM") when the cut hits the wrong moment.
    cut = any(word in (error.details() or "") for word in ("Stream removed", "RST_STREAM", "GOAWAY"))
    if not said and (error.code() in _AWAY or cut):
        return Unavailable(error.details() or "The server did not answer.")
    return from_rpc_error(error)


class Absence:
    """Tells the log that the server is away: once when it is noticed, then every half minute."""

    def __init__(self, address: str, now: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._now = now
        self._since: float | None = None
        self._said = 0.0

    def noticed(self, error: HedgerowError, limit: Limit) -> None:
        """The server did not answer."""
        now = self._now()
        if self._since is None:
            self._since = self._said = now
            what = "The server at %s takes nothing now" if isinstance(error, LimitReached) else "No answer from the server at %s"
            log.warning(what + "; trying for up to %g s (%s): %s", self._address, *_of(limit), error)  # noqa: G003
        elif now - self._said >= STILL_AWAY_LOG_S:
            self._said = now
            log.warning("Still no answer from the server at %s after %.0f s: %s", self._address, now - self._since, error)

    def ended(self) -> None:
        """The server answered."""
        if self._since is not None:
            log.info("The server at %s answers again after %.1f s", self._address, self._now() - self._since)
            self._since = None


def _of(limit: Limit) -> tuple[float, str]:
    return (float("inf") if limit.seconds is None else limit.seconds), limit.name


class NetworkThread:
    """An event loop on a daemon thread that lives as long as the process.

    All connections of a process share one: gRPC's asyncio layer has a single queue of events for all loops, and complains
    when a loop is closed while another one runs.
    """

    _shared: NetworkThread | None = None
    _starting = threading.Lock()

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="hedgerow-driver", daemon=True).start()

    @classmethod
    def shared(cls) -> NetworkThread:
        """The process's thread, started when it is first asked for."""
        with cls._starting:
            if cls._shared is None or cls._shared.pid != os.getpid():  # threads do not survive a fork
                cls._shared = cls()
            return cls._shared


class Connection:
    """A channel to the server's Driver API, and the loop that it lives on.

    Args:
        address: Where the Driver API is.
        tls: What to connect with; None for a connection without TLS.
        identity: Who the driver is; goes with every call.
        call_s: Seconds until a call without an answer is made again.
    """

    def __init__(self, address: Address, tls: Tls | None, identity: Identity, call_s: float) -> None:
        self.address = address
        self.metadata = identity.metadata()
        self.absence = Absence(address.text)
        self._tls = tls
        self._call_s = call_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._stub: driver_pb2_grpc.DriverAsyncStub | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Make the channel. It connects when it is first used."""
        self._loop = NetworkThread.shared().loop
        wait_future(asyncio.run_coroutine_threadsafe(self._open(), self._loop), STOP, "the driver's network thread to start")

    async def _open(self) -> None:
        self._channel = open_channel(self.address, self._tls)
        self._stub = driver_pb2_grpc.DriverStub(self._channel)

    def close(self) -> None:
        """Close the channel and end what was spawned. Doing it twice is the same as doing it once."""
        if self._channel is None:
            return
        try:
            wait_future(asyncio.run_coroutine_threadsafe(self._close(), self.loop), STOP, "the driver's channel to be closed")
        except WaitTimeout as error:
            log.warning("%s It ends with the process.", error)

    async def _close(self) -> None:
        channel, self._channel = self._channel, None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if channel is not None:
            await channel.close()

    @property
    def stub(self) -> driver_pb2_grpc.DriverAsyncStub:
        """The Driver API; for use on the connection's loop."""
        assert self._stub is not None, "the connection is open"
        return self._stub

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The connection's event loop."""
        assert self._loop is not None, "the connection is open"
        return self._loop

    async def call(self, method: str, request: object, limit: Limit, *, patient: bool = True) -> Any:
        """Make a unary call, again and again until the server answers. For use on the connection's loop.

        Args:
            method: Name of the method.
            request: Its request.
            limit: How long to try.
            patient: Whether to wait, too, for a server that takes nothing now because its disk is full.

        Raises:
            WaitTimeout: The server was away for longer than the limit.
            HedgerowError: The server refused.
        """
        passing = (Unavailable, LimitReached) if patient else (Unavailable,)
        answer = self._repeat(getattr(self.stub, method), request, limit, passing)
        return await wait(answer, limit, f"an answer to {method}")

    async def _repeat(self, method: UnaryMethod, request: object, limit: Limit, passing: tuple[type[HedgerowError], ...]) -> Any:
        backoff = Backoff()
        while True:
            try:
                answer = await method(request, metadata=self.metadata, timeout=self._call_s)
            except grpc.aio.AioRpcError as failed:
                error = error_of(failed)
                if not isinstance(error, passing):
                    raise error from None
                self.absence.noticed(error, limit)
            else:
                self.absence.ended()
                return answer
            await pause(backoff.next(), "before the next attempt to reach the server")

    def run(self, coroutine: Coroutine[Any, Any, T], what: str) -> T:
        """Run a coroutine, which has its own limits, on the loop and wait for it. Not for use on the loop itself."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return wait_future(future, Limit("limits of the calls within", None), what)

    def call_blocking(self, method: str, request: object, limit: Limit) -> Any:
        """Like :meth:`call`, from any other thread."""
        return self.run(self.call(method, request, limit), f"an answer to {method}")

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine on the loop and let it run; it ends with the connection. It handles its own errors."""
        self.loop.call_soon_threadsafe(self._spawn, coroutine)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("A background task of the driver failed", exc_info=task.exception())

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back on the loop after some seconds. From any thread."""
        self.loop.call_soon_threadsafe(self.loop.call_later, seconds, callback)
