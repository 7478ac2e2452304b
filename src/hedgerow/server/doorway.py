"""Accepts the connections of an HTTP port, and drops those that do not come to the point.

Until its first request has arrived whole, its TLS handshake included, a connection costs the server something and is nobody's. So
that has a time limit, and so many may be at it at once: one more costs the oldest of them its place, since an honest peer is done
within a moment.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from hedgerow.errors import ConfigError, WaitTimeout
from hedgerow.waits import Limit, pause, wait
from hedgerow.wire.channel import Address

log = logging.getLogger(__name__)

BACKLOG = 1024
_NO_RESOURCES_S = 0.5
_LOG_EVERY = 1000


@dataclass(frozen=True, slots=True)
class DoorwayLimits:
    """What a connection may cost before its first request.

    Attributes:
        handshake_s: Seconds from being accepted to the end of the first request's head.
        max_handshakes: How many connections may be at that at once.

    Raises:
        ConfigError: A limit is not above 0.
    """

    handshake_s: float = 10.0
    max_handshakes: int = 1000

    def __post_init__(self) -> None:
        if not self.handshake_s > 0 or not self.max_handshakes > 0:
            raise ConfigError(f"The limits of connections must be above 0: {self}.")


class Doorway:
    """Listens, and hands connections to protocols; lives on one event loop.

    Args:
        protocol: Makes the protocol of a new connection.
        context: For TLS, or None.
        limits: What a connection may cost before its first request.

    Attributes:
        dropped: How many connections were dropped so far.
    """

    def __init__(self, protocol: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None, limits: DoorwayLimits) -> None:
        self._protocol = protocol
        self._context = context
        self._limits = limits
        self._limit = Limit("handshake_s", limits.handshake_s)
        self._arriving: dict[asyncio.Task[None], None] = {}
        self._waiting: dict[asyncio.BaseProtocol, asyncio.Event] = {}
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self.dropped = 0

    async def open(self, address: Address) -> int:
        """Listen on all that the host stands for; returns the port. ``::`` stands for IPv4, too, as it does for gRPC.

        Raises:
            OSError: The address is taken, or not this machine's.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        port = address.port
        for family, kind, number, _, where in dict.fromkeys(found):
            listener = socket.socket(family, kind, number)
            self._listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.host != "::")
            listener.bind((where[0], port, *where[2:]))
            listener.listen(BACKLOG)
            listener.setblocking(False)
            port = int(listener.getsockname()[1])
        self._accepting = [loop.create_task(self._accept(listener)) for listener in self._listeners]
        return port

    async def close(self) -> None:
        """Stop listening, and drop what has not come to the point."""
        ending = [*self._accepting, *self._arriving]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    def arrived(self, protocol: asyncio.BaseProtocol) -> None:
        """A request of this connection has arrived whole."""
        waiting = self._waiting.pop(protocol, None)
        if waiting is not None:
            waiting.set()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except ConnectionError:  # gone before it was accepted
                continue
            except OSError as error:
                log.error("No connection can be accepted now: %s", error, extra={"action": "not_accepted"})
                await pause(_NO_RESOURCES_S, "connections to be closed")
                continue
            if len(self._arriving) >= self._limits.max_handshakes:
                next(iter(self._arriving)).cancel()
            task = loop.create_task(self._let_in(connection))
            self._arriving[task] = None
            task.add_done_callback(self._arriving.pop)

    async def _let_in(self, connection: socket.socket) -> None:
        """Connect, and stay until the first request has arrived or the time for it is over."""
        made: list[asyncio.BaseProtocol] = []
        transports: list[asyncio.Transport] = []
        try:
            await wait(self._arrive(connection, made, transports), self._limit, "the first request")
        except (WaitTimeout, OSError, asyncio.CancelledError) as error:
            if not made:
                connection.close()  # nobody else has it
            if all(transport.is_closing() for transport in transports) and transports:
                return  # the peer left by itself
            for transport in transports:
                transport.abort()
            self.dropped += 1
            if self.dropped % _LOG_EVERY == 1:
                what = "%d connections were dropped before their first request; the last: %s"
                log.warning(what, self.dropped, error or type(error).__name__, extra={"action": "connection_dropped"})
        finally:
            for protocol in made:
                self._waiting.pop(protocol, None)

    async def _arrive(
        self, connection: socket.socket, made: list[asyncio.BaseProtocol], transports: list[asyncio.Transport]
    ) -> None:
        arrived = asyncio.Event()

        def make() -> asyncio.Protocol:
            protocol = self._protocol()
            made.append(protocol)
            self._waiting[protocol] = arrived
            return protocol

        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(make, connection, ssl=self._context)
        assert isinstance(transport, asyncio.Transport)
        transports.append(transport)
        await wait(arrived.wait(), self._limit, "the first request")
