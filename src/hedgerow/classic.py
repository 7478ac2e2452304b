"""``start_server``: one job with its own server, in one call; the clients' ``start_client`` returns when the job is done.

This is how jobs were run before there were long-running servers. It is the same server, driver and clients: the server lives in
this process, on the thread that the driver's network side has, keeps its state in a folder that is deleted at the end, and sends
the clients home.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hedgerow import logs
from hedgerow.certificates import CERTIFICATES_VARIABLE, Certificates, https_client
from hedgerow.driver.config import ServerConfig
from hedgerow.driver.connection import NetworkThread
from hedgerow.driver.history import History
from hedgerow.driver.server import Server
from hedgerow.driver.start import start_driver
from hedgerow.errors import ConfigError
from hedgerow.records import GRPC_MAX_MESSAGE_LENGTH
from hedgerow.server.options import ServerOptions
from hedgerow.server.service import Service
from hedgerow.strategy.clients import ClientManager
from hedgerow.strategy.strategy import Strategy
from hedgerow.waits import Limit, wait_future
from hedgerow.wire.channel import Address
from hedgerow.wire.narrow import check_transport_dtype

log = logging.getLogger(__name__)

DEFAULT_PORT = 8080
NODE_LOST_S = 60.0
"""A client that is away for longer has failed, and one that said goodbye at once: people are waiting for this job."""
HANDSHAKE_S = 10.0
START = Limit("start_server_s", 60.0)
STOP = Limit("stop_server_s", 60.0)


def start_server(
    *,
    server_address: str = f"[::]:{DEFAULT_PORT}",
    server: Server | None = None,
    config: ServerConfig | None = None,
    strategy: Strategy | None = None,
    client_manager: ClientManager | None = None,
    grpc_max_message_length: int = GRPC_MAX_MESSAGE_LENGTH,
    certificates: tuple[bytes, bytes, bytes] | None = None,
    blob_address: str | None = None,
    transport_dtype: str | None = None,
) -> History:
    """Run one job with a server of its own, and return what it gave.

    Listens, waits for the clients that the strategy wants, runs the rounds, and ends. Clients that are connected then end well:
    their ``start_client`` returns. When the job fails, theirs raises, too. For servers that outlive jobs see ``flower-server``
    and :func:`~hedgerow.driver.start_driver`.

    Args:
        server_address: ``host:port`` where clients connect.
        server: Runs the rounds; made from ``strategy`` and ``client_manager`` if not given.
        config: Rounds, time limit and seed.
        strategy: What is asked of whom; FedAvg if not given.
        client_manager: Samples clients; a :class:`~hedgerow.driver.SimpleClientManager` if not given.
        grpc_max_message_length: Accepted as in Flower, and not needed: parameters of any size travel.
        certificates: PEM of the certificate authority, the server's certificate and its key. The certificate must be good for
            ``localhost``, too, over which this process talks to its own server. Without them connections are insecure. Clients
            give ``root_certificates`` and are asked for no certificate.
        blob_address: ``host:port`` where parameters of 64 KiB and more travel; any free port if not given. Clients are told it
            when they connect; behind a firewall this port must be open, too.
        transport_dtype: As for :func:`~hedgerow.driver.start_driver`.

    Raises:
        ConfigError: An argument is wrong, or an address cannot be listened on.
        WaitTimeout: The clients did not come in time.
        Exception: Whatever the strategy raises.
    """
    del grpc_max_message_length
    logs.show()
    places = _places(server_address, blob_address)
    (config or ServerConfig()).check()
    check_transport_dtype(transport_dtype)
    if certificates is None and os.environ.get(CERTIFICATES_VARIABLE):
        raise ConfigError(
            f"{CERTIFICATES_VARIABLE} is set, which start_server does not use: give it certificates=(CA, certificate, key), or "
            "unset the variable for a job without encryption."
        )
    with tempfile.TemporaryDirectory(prefix="hedgerow-server-") as folder:
        options = ServerOptions(
            insecure=certificates is None,
            certificates=None if certificates is None else _certificate_files(Path(folder), certificates),
            client_certificates=None if certificates is None else False,
            fleet_address=places.fleet,
            driver_address=Address(places.own, 0),
            blob_address=places.blob,
            web_address=Address("127.0.0.1", 0),
            state_dir=Path(folder) / "state",
            node_lost_s=NODE_LOST_S,
            node_left_s=0.0,
        )
        with _serving(options) as service:
            log.info("Clients connect to %s, SSL is %s", service.fleet_address.text, "enabled" if certificates else "disabled")
            host = places.own
            if certificates is not None:
                host = "localhost"
                _check_certificate(certificates[0], service.blob_port)
            return start_driver(
                server_address=Address(host, service.driver_address.port).text,
                server=server,
                config=config,
                strategy=strategy,
                client_manager=client_manager,
                root_certificates=None if certificates is None else certificates[0],
                transport_dtype=transport_dtype,
            )


@dataclass(frozen=True)
class _Places:
    """Where a server listens: for clients, for parameters, and (a host of this machine) for the driver in this process."""

    fleet: Address
    blob: Address
    own: str


def _places(server_address: str, blob_address: str | None) -> _Places:
    fleet = Address.parse(server_address, DEFAULT_PORT)
    if fleet.host == "::1":
        own = host = "::1"
    elif fleet.host == "localhost" or fleet.host.startswith("127."):
        own, host = "127.0.0.1", "127.0.0.1"
    else:  # the driver comes by the loopback interface, clients by another one
        own, host = "127.0.0.1", "::" if socket.has_dualstack_ipv6() else "0.0.0.0"
    blob = Address(host, 0) if blob_address is None else Address.parse(blob_address, 0)
    return _Places(fleet, blob, own)


def _certificate_files(folder: Path, certificates: tuple[bytes, bytes, bytes]) -> Certificates:
    paths = [folder / name for name in ("ca.pem", "server.pem", "server.key")]
    for path, content in zip(paths, certificates, strict=True):
        path.touch(mode=0o600)
        path.write_bytes(content)
    return Certificates(*paths)


def _check_certificate(authority: bytes, port: int) -> None:
    """See whether this process can talk to its own server; a client's handshake would only be tried again and again."""
    try:
        with (
            socket.create_connection(("localhost", port), HANDSHAKE_S) as plain,
            https_client(authority).wrap_socket(plain, server_hostname="localhost"),
        ):
            pass
    except ssl.SSLError as error:
        raise ConfigError(
            f"The server's certificate is not good for localhost, or not of that authority: {error}. Over localhost this process "
            "talks to its own server; add that name to the certificate."
        ) from None


@contextmanager
def _serving(options: ServerOptions) -> Iterator[Service]:
    """A server that runs while the block does. How the block ends is what clients are told."""
    loop = NetworkThread.shared().loop

    def run(work: Coroutine[object, object, None], limit: Limit, what: str) -> None:
        wait_future(asyncio.run_coroutine_threadsafe(work, loop), limit, what)

    service = Service(options)
    run(service.start(), START, "the server to start")
    try:
        yield service
    except BaseException as error:
        run(service.stop(f"its one job has failed ({type(error).__name__})"), STOP, "the server to stop")
        raise
    run(service.stop("its one job is done", job_done=True), STOP, "the server to stop")
