"""Everything that can be set about a server, with its defaults; checked when the server is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from hedgerow.errors import ConfigError
from hedgerow.records import DataPlane
from hedgerow.security import Certificates
from hedgerow.wire.channel import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Options of a server.

    Attributes:
        insecure: Serve without TLS. Exactly one of this and ``certificates`` must be given.
        certificates: CA, certificate and key for TLS.
        fleet_address: Where clients connect.
        driver_address: Where drivers connect.
        blob_address: Where parameters travel, over HTTP.
        blob_public_url: What peers use instead of the host they know and the blob port, for example behind a reverse proxy.
        web_address: Where ``/healthz`` and ``/metrics`` are.
        state_dir: Folder for the database and the blobs; one server at a time.
        database: SQLAlchemy URL; by default an SQLite file in the state directory.
        node_lost_s: A node that is away for longer counts as lost, and its tasks fail.
        max_task_s: A task that was sent longer ago without a result expires.
        driver_lost_s: A run whose driver is away for longer shows as interrupted.
        interrupted_kept_s: An interrupted run that is not taken up for longer fails, and what is kept for it is released.
        unused_blob_s: An upload that nobody refers to for longer is deleted.
        url_lifetime_s: How long a signed URL is good for starting a transfer.
        drain_s: How long a server that is told to stop waits for transfers in flight.
        stop_s: How long a stopping server waits for calls in flight.
        inline_max_bytes: Parameters below this size ride inside messages.
        max_blob_bytes: An upload that is announced with more is refused.

    Raises:
        ConfigError: The options contradict each other or a value is impossible.
    """

    insecure: bool = False
    certificates: Certificates | None = None
    fleet_address: Address = Address("0.0.0.0", 9091)
    driver_address: Address = Address("0.0.0.0", 9092)
    blob_address: Address = Address("0.0.0.0", 9093)
    blob_public_url: str = ""
    web_address: Address = Address("127.0.0.1", 9094)
    state_dir: Path = field(default_factory=lambda: platformdirs.user_state_path("hedgerow"))
    database: str = ""
    node_lost_s: float = 600.0
    max_task_s: float = 24 * 3600.0
    driver_lost_s: float = 60.0
    interrupted_kept_s: float = 7 * 24 * 3600.0
    unused_blob_s: float = 3600.0
    url_lifetime_s: float = 900.0
    drain_s: float = 30.0
    stop_s: float = 1.5
    inline_max_bytes: int = 64 * 1024
    max_blob_bytes: int = 256 * 1024**3

    def __post_init__(self) -> None:
        if self.insecure and self.certificates is not None:
            raise ConfigError("Give either --insecure or --certificates, not both.")
        if not self.insecure and self.certificates is None:
            raise ConfigError(
                "The server needs certificates: --certificates CA.pem SERVER.pem SERVER.key. To run without encryption, "
                "on a machine or network of your own, say --insecure."
            )
        for name in ("node_lost_s", "max_task_s", "driver_lost_s", "interrupted_kept_s", "unused_blob_s", "url_lifetime_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be more than 0 seconds, not {getattr(self, name)}.")
        if self.max_blob_bytes < 1:
            raise ConfigError(f"max_blob_bytes must be at least 1, not {self.max_blob_bytes}.")
        if not self.drain_s >= 0:
            raise ConfigError(f"drain_s must be 0 seconds or more, not {self.drain_s}.")
        if self.blob_public_url and urlsplit(self.blob_public_url).scheme not in ("http", "https"):
            raise ConfigError(f"--blob-public-url is {self.blob_public_url!r}; it must begin with http:// or https://.")

    @property
    def database_url(self) -> str:
        """The database to use."""
        return self.database or f"sqlite:///{(self.state_dir / 'hedgerow.sqlite3').absolute()}"

    def data_plane(self, blob_port: int) -> DataPlane:
        """What peers are told about the blob port."""
        return DataPlane(blob_port, self.blob_public_url, self.inline_max_bytes)
