"""A real server that asks for certificates, and peers who hold good ones, bad ones, or none."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import http.client
import sqlite3
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import blake3
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.authority import Authority, files_of
from hedgerow.certificates import Certificates, Tls, read_pem
from hedgerow.client.session import Session, Standing
from hedgerow.errors import HedgerowError
from hedgerow.records import Blob, Instruction, Task
from hedgerow.security import Identity, Role
from hedgerow.server.service import Service
from hedgerow.waits import Limit, pause, wait
from hedgerow.wire import convert
from hedgerow.wire.blob_http import ERROR_HEADER, OFFSET_HEADER
from hedgerow.wire.channel import open_channel
from hedgerow.wire.proto import driver_pb2, driver_pb2_grpc, fleet_pb2, fleet_pb2_grpc, operator_pb2_grpc, records_pb2
from hedgerow.wire.status import from_rpc_error
from tests.integration.running_server import running

SOON = Limit("soon_s", 20.0)
CALL_S = 10.0
RUN, TASK = "run0000000001", "task000000001"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def error(self) -> str:
        """The error that it names."""
        return self.headers.get(ERROR_HEADER, "")


class Peer:
    """Somebody who talks to the server: with a certificate of a folder, or none."""

    def __init__(
        self, service: Service, ca: Path, own: Certificates | None, role: Role, identity: Identity | None = None
    ) -> None:
        self.identity = identity or Identity.fresh(role)
        self.own = own
        self._service = service
        tls = Tls(read_pem(ca), own)
        self.context = tls.https_client()
        self._channels = [open_channel(address, tls) for address in (service.fleet_address, service.driver_address)]
        self.fleet: Any = fleet_pb2_grpc.FleetStub(self._channels[0])
        self.driver: Any = driver_pb2_grpc.DriverStub(self._channels[1])
        self.operator: Any = operator_pb2_grpc.OperatorStub(self._channels[1])

    def as_seen_by_the_server(self) -> Identity:
        """The identity with the name that the certificate proves."""
        subject = None if self.own is None else self.own.subject()
        return replace(self.identity, certificate="" if subject is None else subject.uri)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)

    async def ask(self, method: Any, request: Any) -> Any:
        """Make a unary call; the error that the server refuses with is raised."""
        try:
            return await method(request, metadata=self.identity.metadata(), timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def refusal(self, method: Any, request: Any) -> HedgerowError:
        """Make a unary call that must be refused."""
        try:
            await self.ask(method, request)
        except HedgerowError as error:
            return error
        raise AssertionError("the call was answered")

    async def session(self, name: str, transport_dtypes: Sequence[str] = ()) -> Session:
        """Open a session."""
        standing = Standing(name, "test", [], [], transport_dtypes)
        return await wait(Session.open(self.fleet, self.identity, standing), SOON, "the session")

    async def hand_in(self, session: Session, task_id: str, reply: records_pb2.Reply) -> fleet_pb2.Completed:
        """Hand in a result in a session whose events nobody else reads; the error that the server refuses with is raised."""
        answering = asyncio.get_running_loop().create_task(session.complete(task_id, reply))
        while not answering.done():
            message: Any = await wait(session._call.read(), SOON, "the answer")
            for completed in message.completed:
                session._answered(completed)
            await pause(0.0, "the answer to arrive")
        return await wait(answering, SOON, "the answer")

    async def create_run(self, run_id: str = RUN) -> None:
        """Open a run."""
        await self.ask(self.driver.CreateRun, driver_pb2.CreateRunRequest(run_id=run_id, name="a run", seed=1))

    async def push_task(self, node: Peer, blob: Blob | None, task_id: str = TASK, run_id: str = RUN) -> None:
        """Queue a task for a node."""
        task = Task(task_id, run_id, node.identity.id, 1, 0, 1, Instruction("fit", {}, blob))
        request = driver_pb2.PushTasksRequest(run_id=run_id, tasks=[convert.task_to_proto(task)])
        await self.ask(self.driver.PushTasks, request)

    async def start_upload(self, upload_id: str, size: int, run_id: str = RUN) -> str:
        """Announce an upload; the signed URL."""
        api = self.driver if self.identity.role is Role.DRIVER else self.fleet
        request = records_pb2.StartUploadRequest(upload_id=upload_id, size=size, run_id=run_id)
        return str((await self.ask(api.StartUpload, request)).url)

    async def upload(self, upload_id: str, content: bytes, run_id: str = RUN) -> Blob:
        """Upload a blob."""
        url = await self.start_upload(upload_id, len(content), run_id)
        answer = await self.http("PUT", url, content)
        assert answer.status == 200, answer
        return Blob(blake3.blake3(content).hexdigest(), len(content))

    async def http(
        self, method: str, url: str, body: bytes | None = None, offset: int = 0, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request to the blob port with the own certificate, if there is one."""
        more = {} if body is None else {OFFSET_HEADER: str(offset), "Content-Length": str(len(body))}
        return await asyncio.to_thread(self._request, method, url, body, {**more, **(headers or {})})

    def _request(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        at = http.client.HTTPSConnection("127.0.0.1", self._service.blob_port, timeout=CALL_S, context=self.context)
        with contextlib.closing(at) as connection:
            connection.putrequest(method, url, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            with contextlib.suppress(ConnectionError, ssl.SSLError):  # the answer may come before the body is sent
                connection.send(body or b"")
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.getheaders()))


class Federation:
    """The server, its authority, and who talks to it."""

    def __init__(self, service: Service, authority: Authority, state: Path, stack: contextlib.AsyncExitStack) -> None:
        self.service = service
        self.authority = authority
        self.state = state
        self._stack = stack

    @property
    def ca(self) -> Path:
        """Whom everybody trusts."""
        return self.authority.folder / "authority" / "ca.pem"

    def peer(self, name: str, role: Role, as_role: Role | None = None, identity: Identity | None = None) -> Peer:
        """A holder of a good certificate of that role; it claims another role where ``as_role`` is given."""
        folder = self.authority.folder / name
        if not folder.exists():
            self.authority.issue(role, name)
        claimed = as_role or (Role.DRIVER if role is Role.OPERATOR else role)
        return self.holder(files_of(folder), claimed, identity)

    def holder(self, own: Certificates | None, role: Role, identity: Identity | None = None) -> Peer:
        """A peer that shows this certificate."""
        made = Peer(self.service, self.ca, own, role, identity)
        self._stack.push_async_callback(made.close)
        return made

    def url_key(self) -> bytes:
        """What the server signs URLs with."""
        with contextlib.closing(sqlite3.connect(self.state / "hedgerow.sqlite3")) as connection:
            (key,) = connection.execute("select value from meta where key = 'url_key'").fetchone()
        return bytes.fromhex(key)

    def files(self) -> set[str]:
        """Every file of the server's state directory but the database's."""
        return {
            str(path.relative_to(self.state))
            for path in self.state.rglob("*")
            if path.is_file() and not path.name.startswith("hedgerow.sqlite3") and path.name != "server.lock"
        }


@contextlib.asynccontextmanager
async def federation(folder: Path, **limits: Any) -> AsyncIterator[Federation]:
    """A running server with certificates that were made for it; with options of its own."""
    authority = Authority.create(folder / "certificates")
    server = authority.issue(Role.SERVER, "server")
    options = {"certificates": files_of(server), "revoked": server / "revoked.pem", "state_dir": folder / "state"}
    async with running(**options, **limits) as service, contextlib.AsyncExitStack() as stack:
        yield Federation(service, authority, folder / "state", stack)


def forge(authority: Authority, folder: Path, uri: str, *, expired: bool = False) -> Certificates:
    """A client's certificate that `hedgerow provision` would not make, signed with the authority's key."""
    own = authority.folder / "authority"
    ca = x509.load_pem_x509_certificate((own / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((own / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, now, day = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * day)
        .not_valid_after(now - day if expired else now + day)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    folder.mkdir()
    (folder / "ca.pem").write_bytes((own / "ca.pem").read_bytes())
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return files_of(folder)


async def eventually(predicate: Any, what: str) -> None:
    """Wait until something that only looking can tell has come true."""
    for _ in range(int((SOON.seconds or 0) / 0.02)):
        if predicate():
            return
        await pause(0.02, what)
    raise AssertionError(f"not seen: {what}")
