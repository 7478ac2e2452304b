"""Composes a server out of its parts, starts them in order and stops them in the reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

import filelock
import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from hedgerow.audit import AUDIT_FILE, AuditLog
from hedgerow.certificates import read_pem
from hedgerow.clock import SystemClock
from hedgerow.errors import ConfigError, WaitTimeout
from hedgerow.records import NodeState
from hedgerow.security import UrlSigner
from hedgerow.server import open_files
from hedgerow.server.admission import Admission
from hedgerow.server.background import Background
from hedgerow.server.bells import Bells
from hedgerow.server.blob_port import BlobPort, BlobPortLimits
from hedgerow.server.doorway import DoorwayLimits
from hedgerow.server.driver_api import Driver
from hedgerow.server.fleet import Fleet
from hedgerow.server.gate import Gate
from hedgerow.server.grants import Grants
from hedgerow.server.notifier import Notifier
from hedgerow.server.open_files import Shares
from hedgerow.server.operator_api import Operator
from hedgerow.server.options import MAX_CONNECTIONS, ServerOptions
from hedgerow.server.peer_certificates import PeerCertificates
from hedgerow.server.requests import hurried
from hedgerow.server.revocations import Revocations
from hedgerow.server.sessions import Sessions
from hedgerow.server.sweeper import Sweeper
from hedgerow.server.web import WebPort
from hedgerow.store.blobs import BlobFolder
from hedgerow.store.store import Store
from hedgerow.waits import Limit
from hedgerow.wire.channel import Address, server_credentials
from hedgerow.wire.proto import driver_pb2, driver_pb2_grpc, fleet_pb2, fleet_pb2_grpc, operator_pb2, operator_pb2_grpc

log = logging.getLogger(__name__)

COME_BACK_AFTER_S = 1.0


class Service:
    """A server: call :meth:`start`, then :meth:`drain` and :meth:`stop`. One at a time for each state directory.

    After :meth:`start`, ``fleet_address``, ``driver_address``, ``blob_port`` and ``web_port`` say where it really listens.
    """

    fleet_address: Address
    driver_address: Address
    blob_port: int
    web_port: int

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._exits = contextlib.AsyncExitStack()
        self._background = Background()
        self._gate = Gate()
        self._health: list[health.aio.HealthServicer] = []
        self._blobs: BlobPort | None = None
        self.sessions = Sessions(tls=options.certificates is not None)
        self.bells = Bells()

    async def start(self) -> None:
        """Open the store and all ports.

        Raises:
            ConfigError: A port is taken, the state directory cannot be used or is held by another server, or the database is
                of another version. Nothing is left running then.
        """
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise

    async def _start(self) -> None:
        options = self._options
        log.info("Starting Flower server")
        if options.insecure:
            log.warning("Option `--insecure` was set. Starting insecure HTTP server.")
            log.warning("Anybody on the network can read and change everything, join as a client, open runs and end them")
        elif not options.mutual:
            log.warning("Peers are not asked for certificates: anybody who reaches the ports can join, open runs and end them")
        elif options.revoked is None:
            log.warning("Without a list of revoked certificates (--revoked) every certificate is good until its end")
        self._lock_state_dir()
        store = await self._open_store()
        store.watch(self.bells.committed)
        clock = SystemClock()
        folder = BlobFolder(options.state_dir / "blobs")
        folder.delete_orphans(await store.live_files())
        await self._check_blobs(store, folder)

        certificates = options.certificates
        revocations = Revocations(options.revoked, b"" if certificates is None else read_pem(certificates.ca))
        audit = AuditLog(options.state_dir / AUDIT_FILE, clock)
        self._exits.callback(audit.close)
        admission = Admission(options.mutual, revocations, clock, audit)
        context = None if certificates is None else certificates.https_server(client_certificates=options.mutual)
        holders = PeerCertificates(revocations) if options.mutual else None
        signer = UrlSigner(store.url_key)
        doorway = DoorwayLimits(options.handshake_s, options.max_handshakes)
        limits = BlobPortLimits(max_transfers=options.max_transfers, doorway=doorway)
        blobs = BlobPort(
            store, folder, signer, clock, options.blob_address, context, limits, gate=self._gate, holders=holders, audit=audit
        )
        self._blobs = blobs
        self.blob_port = await asyncio.to_thread(blobs.start)
        self._exits.push_async_callback(asyncio.to_thread, blobs.stop)

        self._exits.push_async_callback(self._background.finish, Limit("stop_s", options.stop_s))
        grants = Grants(store, clock, options.url_lifetime_s, self._gate, options.max_blob_bytes)
        notifier = Notifier(self.sessions, self.bells, folder)
        plane = options.data_plane(self.blob_port)
        driver = Driver(store, self.sessions, self.bells, grants, self._background, notifier, plane, self._gate, admission)
        shares = Shares.of(open_files.allowed(), options.max_connections)
        shares.tell(await self._nodes_at_hand(store))
        fleet = Fleet(store, self.sessions, self.bells, grants, self._background, plane, self._gate, admission, shares)

        server = grpc.aio.server(options=options.grpc)
        driver_pb2_grpc.add_DriverServicer_to_server(driver, hurried(server, options.request_s))
        operator = Operator(store, self.sessions, notifier, clock, admission)
        operator_pb2_grpc.add_OperatorServicer_to_server(operator, hurried(server, options.request_s))
        self._add_standard_services(
            hurried(server, options.request_s, admission.visit),
            driver_pb2.DESCRIPTOR.services_by_name["Driver"].full_name,
            operator_pb2.DESCRIPTOR.services_by_name["Operator"].full_name,
        )
        self.driver_address = await self._listen(server, options.driver_address, "--driver-api-address")
        log.info("Flower ECE: Starting Driver API (gRPC-rere) on %s", self.driver_address.text)

        server = grpc.aio.server(options=[*options.grpc, (MAX_CONNECTIONS, shares.connections)])
        fleet_pb2_grpc.add_FleetServicer_to_server(fleet, hurried(server, options.request_s))
        self._add_standard_services(
            hurried(server, options.request_s, admission.visit), fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].full_name
        )
        self.fleet_address = await self._listen(server, options.fleet_address, "--fleet-api-address")
        log.info("Flower ECE: Starting Fleet API (gRPC-rere) on %s", self.fleet_address.text)

        web = WebPort(
            store,
            self.sessions.__len__,
            lambda: (blobs.received_bytes, blobs.sent_bytes),
            folder.free_bytes,
            self._gate,
            admission.begun,
        )
        self._exits.push_async_callback(web.stop)
        self.web_port = await web.start(options.web_address)
        log.info(
            "Blobs on port %d, health and metrics on %s", self.blob_port, Address(options.web_address.host, self.web_port).text
        )
        sweeper = Sweeper(store, self.bells, notifier, clock, options)
        self._exits.callback(asyncio.create_task(sweeper.run()).cancel)
        self._exits.callback(asyncio.create_task(admission.watch()).cancel)
        self._exits.callback(asyncio.create_task(fleet.watch_silence()).cancel)

    async def drain(self) -> None:
        """Take no new runs, sessions and transfers, and let the transfers in flight end, for at most ``drain_s``."""
        log.info("Draining: no new work, transfers in flight may end within %g s", self._options.drain_s)
        self._gate.close()
        for servicer in self._health:
            await servicer.enter_graceful_shutdown()
        assert self._blobs is not None, "start() comes first"
        try:
            await asyncio.to_thread(self._blobs.finish, Limit("drain_s", self._options.drain_s))
        except WaitTimeout:
            log.warning("Transfers are cut after %g s (drain_s); they go on when the server is back", self._options.drain_s)

    async def stop(self, last_words: str = "", *, job_done: bool = False) -> None:
        """Say goodbye to everybody, let calls in flight end, close the ports and the store.

        Args:
            last_words: Why the server does not come back: clients end. Without them clients are told to come back soon.
            job_done: Whether that is as it should be.
        """
        log.info("Stopping Flower server")
        if last_words:
            goodbye = fleet_pb2.Goodbye(reason=last_words, job_done=job_done)
        else:
            goodbye = fleet_pb2.Goodbye(reason="the server is stopping", come_back_after_s=COME_BACK_AFTER_S)
        for session in self.sessions:
            session.end(goodbye)
        self.bells.close()
        await self._exits.aclose()
        log.info("Stopped Flower server")

    def _lock_state_dir(self) -> None:
        path = self._options.state_dir
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = filelock.FileLock(path / "server.lock")
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ConfigError(f"The state directory {path} is held by another server. Stop it, or give --state-dir.") from None
        except OSError as error:
            raise ConfigError(f"The state directory {path} cannot be used: {error.strerror}. Give --state-dir.") from None
        self._exits.callback(lock.release)
        if not os.access(path, os.W_OK | os.X_OK):
            raise ConfigError(f"The state directory {path} is not writable. Give --state-dir.")

    async def _open_store(self) -> Store:
        url = self._options.database_url
        store = await asyncio.to_thread(Store.open, url, SystemClock(), self._options.quotas)
        self._exits.push_async_callback(asyncio.to_thread, store.close)
        log.info("Using the store %s (server id %s)", url, store.server_id)
        return store

    async def _nodes_at_hand(self, store: Store) -> int:
        """How many nodes may connect in the next minutes."""
        nodes = (await store.counts()).nodes
        return sum(nodes.get(state, 0) for state in (NodeState.ONLINE, NodeState.AWAY))

    async def _check_blobs(self, store: Store, folder: BlobFolder) -> None:
        """Blob files are not forced to the disk one by one: see which did not survive a power loss."""
        files = await store.blob_files()
        lost = await asyncio.to_thread(lambda: [name for name, size in files.items() if folder.size(name) != size])
        if not lost:
            return
        awaited, gone = await store.mark_lost_blobs(frozenset(lost))
        for name in lost:
            folder.delete(name)
        log.warning(
            "The files of %d blobs are missing or damaged: %d are asked for again from their nodes, %d are gone",
            *(len(lost), awaited, gone),
            extra={"action": "blobs_lost"},
        )

    async def _listen(self, server: grpc.aio.Server, address: Address, option: str) -> Address:
        certificates = self._options.certificates
        try:
            if certificates is None:
                port = server.add_insecure_port(address.text)
            else:
                credentials = server_credentials(certificates, client_certificates=self._options.mutual)
                port = server.add_secure_port(address.text, credentials)
        except RuntimeError as error:
            raise ConfigError(
                f"Cannot listen on {address.text} ({option}): the address is in use or not this machine's."
            ) from error
        await server.start()
        self._exits.push_async_callback(server.stop, self._options.stop_s)
        return Address(address.host, port)

    def _add_standard_services(self, server: grpc.aio.Server, *names: str) -> None:
        servicer = health.aio.HealthServicer()
        self._health.append(servicer)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        for name in names:
            asyncio.get_running_loop().create_task(servicer.set(name, health_pb2.HealthCheckResponse.SERVING))
        described = reflection.aio.ReflectionServicer((*names, health.SERVICE_NAME, reflection.SERVICE_NAME))
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(described, server)  # type: ignore[no-untyped-call]
