"""Addresses and gRPC channels: options that both sides need, chosen in one place."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import grpc
import grpc.aio

from hedgerow.certificates import Certificates, Tls
from hedgerow.errors import ConfigError
from hedgerow.records import DataPlane

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
PING_TIMEOUT_S = 10
MAX_CALLS_AT_ONCE = 100
"""Calls on one connection to a server."""

KEEPALIVE_MS = 60_000
"""When a silent connection is probed. Where there are few clients three beats tell sooner. Each ping costs the server 120
microseconds, those of 10,000 clients 2 % of a core."""
SERVER_KEEPALIVE_MS = 75_000
"""The same at the server. It is longer because a client's ping tells the server, too, that the connection lives: were both the
same, both would ping."""
# A peer that stops answering is noticed after about 60 + 10 seconds; without http2.ping_timeout_ms it took longer.
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_S * 1000),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_S * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A ping for every message that comes, to find a larger window than 64 KiB. Messages are small and blobs go another way.
    ("grpc.http2.bdp_probe", 0),
    # Reconnection has its own back-off; the channel must not add a longer one under it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Each channel has its own connection, so that ending one process's session never disturbs another's.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]
# The server must allow what the channel's keepalive does, or it throws the peer out with too_many_pings.
SERVER_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", SERVER_KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_S * 1000),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_S * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # Honest peers have a stream and a few calls at once. More wait at the peer, which is told this number.
    ("grpc.max_concurrent_streams", MAX_CALLS_AT_ONCE),
    # Of each TLS connection the server keeps a buffer of this size. What it sends to clients is smaller nearly always; parameters
    # inside messages are cut into records of it.
    ("grpc.tsi.max_frame_size", 2048),
    # A record of what happens on each connection, for a service that is not offered here.
    ("grpc.enable_channelz", 0),
    ("grpc.max_channel_trace_event_memory_per_node", 0),
    # Two servers on one port would share its connections in silence; a taken port must be an error.
    ("grpc.so_reuseport", 0),
]


@dataclass(frozen=True, slots=True)
class Address:
    """Host and TCP port; IPv6 hosts without brackets.

    >>> Address.parse("[::1]:9092", 9092).text
    '[::1]:9092'
    >>> Address.parse("server.example", 9091).port
    9091
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, default_port: int) -> Address:
        """Read ``host:port``, ``host`` or ``[ipv6]:port``.

        Raises:
            ConfigError: The text is none of these.
        """
        try:
            parts = urlsplit(f"//{text.strip()}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or not all(c.isalnum() or c in "-._:%" for c in host) or parts.netloc != text.strip() or "@" in text:
            raise ConfigError(f"{text!r} is not an address. Write host:port, for example 127.0.0.1:{default_port}.")
        return cls(host, default_port if port is None else port)

    @property
    def text(self) -> str:
        """``host:port``, with brackets around an IPv6 host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def open_channel(address: Address, tls: Tls | None) -> grpc.aio.Channel:
    """A channel of grpc.aio to the address; without encryption where ``tls`` is None. Connects lazily.

    Raises:
        ConfigError: A file of the own certificate cannot be read.
    """
    if tls is None:
        return grpc.aio.insecure_channel(address.text, options=CHANNEL_OPTIONS)
    certificate, key = (None, None) if tls.own is None else tls.own.read()[1:]
    credentials = grpc.ssl_channel_credentials(tls.root_certificates, key, certificate)
    return grpc.aio.secure_channel(address.text, credentials, options=CHANNEL_OPTIONS)


def server_credentials(certificates: Certificates, *, client_certificates: bool) -> grpc.ServerCredentials:
    """Credentials of a gRPC server.

    Args:
        certificates: The server's own.
        client_certificates: Whether peers must show a certificate that the CA has signed.

    Raises:
        ConfigError: A file cannot be read.
    """
    ca, certificate, key = certificates.read()
    return grpc.ssl_server_credentials([(key, certificate)], ca if client_certificates else None, client_certificates)


def blob_base_url(server: Address, plane: DataPlane, *, tls: bool) -> str:
    """Scheme, host and port that signed relative URLs are joined to: the host that the peer already talks to.

    Raises:
        ConfigError: The peer came over TLS, and was told to send parameters without.
    """
    if plane.blob_public_url:
        if tls and not plane.blob_public_url.lower().startswith("https://"):
            raise ConfigError(
                f"The server at {server.text} wants parameters at {plane.blob_public_url[:200]!r}, unencrypted. Give it an "
                "https:// URL as --blob-public-url."
            )
        return plane.blob_public_url.rstrip("/")
    return f"{'https' if tls else 'http'}://{Address(server.host, plane.blob_port).text}"
