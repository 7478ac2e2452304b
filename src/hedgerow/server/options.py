"""Everything that can be set about a server, with its defaults; checked when the server is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from hedgerow.certificates import Certificates
from hedgerow.errors import ConfigError
from hedgerow.records import DataPlane
from hedgerow.server.blob_port import MAX_TRANSFERS
from hedgerow.server.requests import REQUEST_S
from hedgerow.store.quotas import Quotas
from hedgerow.wire.channel import SERVER_OPTIONS, Address

_QUOTAS = Quotas()
MAX_CONNECTIONS = "grpc.max_allowed_incoming_connections"
"""The name that gRPC has for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Options of a server.

    Attributes:
        insecure: Serve without TLS. Exactly one of this and ``certificates`` must be given.
        certificates: CA, certificate and key for TLS.
        client_certificates: Whether peers must show certificates of the CA, which say who they are. None: when the server's own
            is one of ``hedgerow provision``. Without them peers prove with secrets of their own that they are the same as before.
        revoked: The CA's list of revoked certificates; read again whenever it changes.
        fleet_address: Where clients connect.
        driver_address: Where drivers connect.
        blob_address: Where parameters travel, over HTTP.
        blob_public_url: What peers use instead of the host they know and the blob port, for example behind a reverse proxy.
        web_address: Where ``/healthz`` and ``/metrics`` are.
        state_dir: Folder for the database and the blobs; one server at a time.
        database: SQLAlchemy URL; by default an SQLite file in the state directory.
        node_lost_s: A node that is away for longer counts as lost, and its tasks fail.
        node_left_s: A node whose client said goodbye counts as lost after so long, and its tasks fail; started again before
            that, it is given them again.
        max_task_s: A task that was first sent longer ago, and not handed back since, expires without a result.
        driver_lost_s: A run whose driver is away for longer shows as interrupted.
        interrupted_kept_s: An interrupted run that is not taken up for longer fails, and what is kept for it is released.
        unused_blob_s: An upload that nobody refers to for longer is deleted.
        url_lifetime_s: How long a signed URL is good for starting a transfer.
        drain_s: How long a server that is told to stop waits for transfers in flight.
        stop_s: How long a stopping server waits for calls in flight.
        handshake_s: A connection that has not finished its handshake (and on the blob port sent a request) by then is dropped.
        max_handshakes: So many connections may be at that at once on the blob port; one more costs the oldest its place.
        max_connections: So many connections may be open on each of the gRPC ports, and no more than open files allow; more are
            closed at once.
        inline_max_bytes: Parameters below this size ride inside messages.
        max_blob_bytes: An upload that is announced with more is refused.
        max_run_blobs: So many blobs may be kept for a run at once, those on their way included; more are refused until some go.
        max_run_bytes: So many bytes may they have together.
        max_node_tasks: So many tasks may a node have that are queued or sent; more are refused until some end.
        max_driver_runs: So many runs may a driver (its certificate) have that are not over; more are refused until some end.
        max_transfers: So many requests for blobs may a peer have going on at once; more are refused until some end.
        request_s: A call to a gRPC port whose request has not arrived whole by then is refused.
        idle_connection_s: A connection to a gRPC port on which no call goes on for so long is closed.

    Raises:
        ConfigError: The options contradict each other or a value is impossible.
    """

    insecure: bool = False
    certificates: Certificates | None = None
    client_certificates: bool | None = None
    revoked: Path | None = None
    fleet_address: Address = Address("0.0.0.0", 9091)
    driver_address: Address = Address("0.0.0.0", 9092)
    blob_address: Address = Address("0.0.0.0", 9093)
    blob_public_url: str = ""
    web_address: Address = Address("127.0.0.1", 9094)
    state_dir: Path = field(default_factory=lambda: platformdirs.user_state_path("hedgerow"))
    database: str = ""
    node_lost_s: float = 600.0
    node_left_s: float = 60.0
    max_task_s: float = 24 * 3600.0
    driver_lost_s: float = 60.0
    interrupted_kept_s: float = 7 * 24 * 3600.0
    unused_blob_s: float = 3600.0
    url_lifetime_s: float = 900.0
    drain_s: float = 30.0
    stop_s: float = 1.5
    handshake_s: float = 10.0
    max_handshakes: int = 1000
    max_connections: int = 20_000
    inline_max_bytes: int = 64 * 1024
    max_blob_bytes: int = 256 * 1024**3
    max_run_blobs: int = _QUOTAS.max_run_blobs
    max_run_bytes: int = _QUOTAS.max_run_bytes
    max_node_tasks: int = _QUOTAS.max_node_tasks
    max_driver_runs: int = _QUOTAS.max_driver_runs
    max_transfers: int = MAX_TRANSFERS
    request_s: float = REQUEST_S
    idle_connection_s: float = 300.0

    def __post_init__(self) -> None:
        if self.insecure and self.certificates is not None:
            raise ConfigError("Give either --insecure or --certificates, not both.")
        if not self.insecure and self.certificates is None:
            raise ConfigError(
                "The server needs certificates: --certificates CA.pem SERVER.pem SERVER.key. To run without encryption, "
                "on a machine or network of your own, say --insecure."
            )
        if self.insecure and (self.client_certificates or self.revoked):
            raise ConfigError(
                "Without TLS there are no client certificates: --insecure contradicts --client-certificates and --revoked."
            )
        if self.revoked is not None and not self.mutual:
            raise ConfigError("--revoked is of use only where peers must show certificates. Give --client-certificates required.")
        for name in (
            "node_lost_s",
            "max_task_s",
            "driver_lost_s",
            "interrupted_kept_s",
            "unused_blob_s",
            "url_lifetime_s",
            "handshake_s",
            "request_s",
            "idle_connection_s",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be more than 0 seconds, not {getattr(self, name)}.")
        for name in ("max_handshakes", "max_connections", "max_blob_bytes", "max_transfers"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be more than 0, not {getattr(self, name)}.")
        for name in ("node_left_s", "drain_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be 0 seconds or more, not {getattr(self, name)}.")
        self.quotas  # noqa: B018 (checks them)
        if self.blob_public_url and urlsplit(self.blob_public_url).scheme not in ("http", "https"):
            raise ConfigError(f"--blob-public-url is {self.blob_public_url!r}; it must begin with http:// or https://.")
        if self.certificates is not None and self.blob_public_url.lower().startswith("http:"):
            raise ConfigError(f"--blob-public-url is {self.blob_public_url!r}: with --certificates it must begin with https://.")

    @property
    def mutual(self) -> bool:
        """Whether peers must show certificates."""
        if self.certificates is None:
            return False
        return self.certificates.subject() is not None if self.client_certificates is None else self.client_certificates

    @property
    def database_url(self) -> str:
        """The database to use."""
        return self.database or f"sqlite:///{(self.state_dir / 'hedgerow.sqlite3').absolute()}"

    @property
    def quotas(self) -> Quotas:
        """What one run, node or driver may have.

        Raises:
            ConfigError: One of them is not above 0.
        """
        return Quotas(
            max_run_blobs=self.max_run_blobs,
            max_run_bytes=self.max_run_bytes,
            max_node_tasks=self.max_node_tasks,
            max_driver_runs=self.max_driver_runs,
        )

    @property
    def grpc(self) -> list[tuple[str, int]]:
        """Options of the gRPC servers."""
        return [
            *SERVER_OPTIONS,
            ("grpc.server_handshake_timeout_ms", int(self.handshake_s * 1000)),
            (MAX_CONNECTIONS, self.max_connections),
            ("grpc.max_connection_idle_ms", int(self.idle_connection_s * 1000)),
        ]

    def data_plane(self, blob_port: int) -> DataPlane:
        """What peers are told about the blob port."""
        return DataPlane(blob_port, self.blob_public_url, self.inline_max_bytes)
