"""A TCP proxy on loopback whose connections can be cut, stalled, slowed down, or cut again and again after some bytes.

It knows nothing of what it carries, so it stands for the network between any two processes. It runs on a thread of its own; all
methods may be called from any other thread and have taken effect when they return.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from hedgerow.errors import ConfigError, InvalidArgument
from hedgerow.waits import Limit, pause, wait, wait_future
from hedgerow.wire.channel import Address

T = TypeVar("T")
log = logging.getLogger(__name__)

BLOCK_BYTES = 64 * 1024
COMMAND = Limit("proxy_command_s", 10.0)
CONNECT = Limit("proxy_connect_s", 10.0)
STALL = Limit("proxy_stall", None)
TRAFFIC = Limit("proxy_traffic", None)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class _Pair:
    """One connection: the side that came, and the one to the target."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.near = writer
        self.far: asyncio.StreamWriter | None = None
        self.carried = 0

    def cut(self) -> None:
        """Drop both sides as a broken network does: with a reset, and without what is still buffered."""
        for writer in (self.near, self.far):
            if writer is not None:
                raw = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                writer.transport.abort()


class FaultProxy:
    """Forwards connections to a target, with faults on demand.

    Args:
        target: Where to; need not be there.
        listen: Where from; port 0 takes a free one.

    Attributes:
        address: Where it listens, once started.
        bytes_up: Bytes carried to the target so far.
        bytes_down: Bytes carried from the target so far.
        cuts: Connections that were cut so far.

    Raises:
        ConfigError: From :meth:`start`: the address is taken.
    """

    def __init__(self, target: Address, listen: Address = Address("127.0.0.1", 0)) -> None:
        self.target = target
        self.address = listen
        self.bytes_up = self.bytes_down = self.cuts = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hedgerow-fault-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._bytes_per_s: float | None = None
        self._cut_every: int | None = None

    def start(self) -> FaultProxy:
        """Listen."""
        self._thread.start()
        wait_future(asyncio.run_coroutine_threadsafe(self._listen(), self._loop), COMMAND, "the proxy to listen")
        return self

    async def _listen(self) -> None:
        try:
            self._server = await asyncio.start_server(self._accepted, self.address.host, self.address.port)
        except OSError as error:
            raise ConfigError(f"The proxy cannot listen on {self.address.text}: {error.strerror}.") from None
        self.address = Address(self.address.host, int(self._server.sockets[0].getsockname()[1]))

    def close(self) -> None:
        """Cut everything and stop listening. Doing it twice is the same as doing it once."""
        if self._loop.is_closed() or not self._thread.is_alive():
            return
        wait_future(asyncio.run_coroutine_threadsafe(self._close(), self._loop), COMMAND, "the proxy to close")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(COMMAND.seconds)
        self._loop.close()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._cut_all()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def cut(self) -> int:
        """Cut all connections; new ones are served. Returns how many there were."""
        return self._do(self._cut_all)

    def stall(self) -> None:
        """From now on accept everything and carry nothing, in either direction."""
        self._do(self._flowing.clear)

    def resume(self) -> None:
        """End a stall: what was held back goes on."""
        self._do(self._flowing.set)

    def throttle(self, bytes_per_s: float | None) -> None:
        """Carry no more than that in each direction of each connection; None for as fast as it goes.

        Raises:
            InvalidArgument: The rate is not above 0.
        """
        if bytes_per_s is not None and not bytes_per_s > 0:
            raise InvalidArgument(f"The rate is {bytes_per_s} bytes/s; it must be above 0. To carry nothing, stall.")
        self._bytes_per_s = bytes_per_s

    def cut_every(self, count: int | None) -> None:
        """Cut each connection when it has carried so many bytes, both directions taken together; None to stop that.

        Raises:
            InvalidArgument: The number is not above 0.
        """
        if count is not None and count <= 0:
            raise InvalidArgument(f"Connections cannot be cut every {count} bytes.")
        self._cut_every = count

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._pairs)

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _do(self, action: Callable[[], T]) -> T:
        async def act() -> T:
            return action()

        return wait_future(asyncio.run_coroutine_threadsafe(act(), self._loop), COMMAND, "the proxy to obey")

    def _cut_all(self) -> int:
        count = len(self._pairs)
        for pair in list(self._pairs):
            self._cut(pair)
        return count

    def _cut(self, pair: _Pair) -> None:
        if pair in self._pairs:
            self._pairs.discard(pair)
            self.cuts += 1
            pair.cut()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        pair = _Pair(writer)
        self._pairs.add(pair)
        try:
            await self._serve(pair, reader)
        except (OSError, asyncio.CancelledError) as error:
            log.debug("A connection to %s ended: %s", self.target.text, error)
        finally:
            self._pairs.discard(pair)
            self._handlers.discard(task)
            for side in (pair.near, pair.far):
                if side is not None:
                    side.close()

    async def _serve(self, pair: _Pair, reader: asyncio.StreamReader) -> None:
        await wait(self._flowing.wait(), STALL, "the end of a stall")
        connecting = asyncio.open_connection(self.target.host, self.target.port)
        far_reader, far = await wait(connecting, CONNECT, f"{self.target.text} to accept")
        pair.far = far
        pumps = asyncio.gather(self._pump(pair, reader, far, up=True), self._pump(pair, far_reader, pair.near, up=False))
        await wait(pumps, TRAFFIC, "the end of the connection")

    async def _pump(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while True:
            block = await reader.read(BLOCK_BYTES)
            await wait(self._flowing.wait(), STALL, "the end of a stall")
            if not block:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            room = len(block) if self._cut_every is None else max(0, self._cut_every - pair.carried)
            passed = block[:room]
            pair.carried += len(passed)
            if up:
                self.bytes_up += len(passed)
            else:
                self.bytes_down += len(passed)
            writer.write(passed)
            await writer.drain()
            if len(passed) < len(block):
                self._cut(pair)
                return
            if self._bytes_per_s is not None:
                await pause(len(passed) / self._bytes_per_s, "the throttled link")
