"""What everything in the link calls the server through: the session that is open now, the unary calls, and blob transfers.

Transfers block, so each runs on a daemon thread of its own; a client that stops does not wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc.aio

from hedgerow.certificates import Tls
from hedgerow.client.session import Session, Standing
from hedgerow.errors import ConfigError, Unavailable, WaitTimeout
from hedgerow.records import Blob, DataPlane
from hedgerow.security import Identity
from hedgerow.waits import Limit, wait, wait_future
from hedgerow.wire.channel import Address, blob_base_url, open_channel
from hedgerow.wire.convert import blob_from_proto
from hedgerow.wire.proto import fleet_pb2_grpc, records_pb2
from hedgerow.wire.status import from_rpc_error
from hedgerow.wire.transfer import BlobPeer, Grant

T = TypeVar("T")

CALL = Limit("call_s", 30.0)
CALL_FROM_THREAD = Limit("call_from_thread_s", 40.0)
A_SESSION = Limit("a_session", None)
"""The server may be away for days."""
TRANSFER = Limit("transfer", None)
"""Bounded by progress instead: transfer_stalled_s."""


class Connection:
    """The way to one server.

    Args:
        server: Address of the Fleet API.
        tls: What to connect with; None for an insecure connection.
        identity: This node.

    Attributes:
        session: The session that is open now, or None.
        inline_max_bytes: What the server said last: parameters below this size ride in messages.
    """

    def __init__(self, server: Address, tls: Tls | None, identity: Identity) -> None:
        self.server = server
        self.session: Session | None = None
        self.inline_max_bytes = 0
        self._identity = identity
        self._tls: ssl.SSLContext | None = None if tls is None else tls.https_client()
        self._open_channel = functools.partial(open_channel, server, tls)
        self._connect_anew()
        self._changed = asyncio.Condition()
        self._peer: BlobPeer | None = None

    async def open_session(self, standing: Standing) -> Session:
        """Open the next session.

        Raises:
            HedgerowError: As for :meth:`Session.open`.
            ConfigError: The server wants parameters to travel where they cannot, or unencrypted where it is encrypted itself.
        """
        try:
            session = await Session.open(self._stub, self._identity, standing)
        except Unavailable as error:
            if not error.come_back_after_s:  # else the connection is as it should be
                self._connect_anew()
            raise
        except WaitTimeout:
            self._connect_anew()
            raise
        try:
            self._use(session.data_plane)
        except ConfigError:
            session.close()
            raise
        self.inline_max_bytes = session.data_plane.inline_max_bytes
        async with self._changed:
            self.session = session
            self._changed.notify_all()
        return session

    def _use(self, plane: DataPlane) -> None:
        """The server said where blobs travel."""
        url = blob_base_url(self.server, plane, tls=self._tls is not None)
        if self._peer is None or self._peer.base_url != url:
            if self._peer is not None:
                self._peer.close()
            self._peer = BlobPeer(url, self._tls)

    def _connect_anew(self) -> None:
        """Drop the channel for a new one, which connects when it is used.

        A channel that has failed tries again by itself, every second. Thousands would be connected, and have had their TLS
        handshakes, in the first second of a server that is back, whatever pauses they make between their sessions. It is not
        closed but let go, and so is gone when the calls that are under way on it have ended.
        """
        self._channel = self._open_channel()
        self._stub = fleet_pb2_grpc.FleetStub(self._channel)

    def session_closed(self) -> None:
        """The session is over."""
        self.session = None

    async def session_after(self, older: Session | None) -> Session:
        """An open session that is not this one, None for any; waits for it."""
        async with self._changed:
            await wait(
                self._changed.wait_for(lambda: self.session is not None and self.session is not older),
                A_SESSION,
                "a session with the server",
            )
            assert self.session is not None
            return self.session

    async def upload(self, path: Path, upload_id: str, size: int, run_id: str) -> Blob:
        """Send a result's parameters.

        Raises:
            HedgerowError: As for :meth:`hedgerow.wire.transfer.BlobPeer.upload`.
        """

        async def ask() -> Grant:
            request = records_pb2.StartUploadRequest(upload_id=upload_id, size=size, run_id=run_id)
            reply = await _mapped(self._stub.StartUpload(request, metadata=self._identity.metadata(), timeout=CALL.seconds))
            return Grant(reply.url, blob_from_proto(reply.done) if reply.HasField("done") else None)

        peer, asked = self._blob_peer(), self._from_thread(ask, "where to upload")
        return await in_thread(lambda: peer.upload(path, asked), f"upload-{upload_id[:8]}")

    async def download(self, blob: Blob, target: Path, run_id: str, task_id: str) -> None:
        """Fetch a task's parameters.

        Raises:
            HedgerowError: As for :meth:`hedgerow.wire.transfer.BlobPeer.download`.
        """

        async def ask() -> Grant:
            request = records_pb2.ResolveBlobRequest(digest=blob.digest, run_id=run_id, task_id=task_id)
            reply = await _mapped(self._stub.ResolveBlob(request, metadata=self._identity.metadata(), timeout=CALL.seconds))
            return Grant(reply.url)

        peer, asked = self._blob_peer(), self._from_thread(ask, "where to read the parameters")
        await in_thread(lambda: peer.download(blob.size, target, asked), f"download-{blob.digest[:8]}")

    def _blob_peer(self) -> BlobPeer:
        if self._peer is None:
            raise Unavailable("There has been no session with the server yet.")
        return self._peer

    def _from_thread(self, call: Callable[[], Awaitable[T]], what: str) -> Callable[[], T]:
        """The call for use from a transfer's thread."""
        loop = asyncio.get_running_loop()

        async def coroutine() -> T:
            return await call()

        def blocking() -> T:
            if loop.is_closed():
                raise Unavailable("The client has stopped.")
            return wait_future(asyncio.run_coroutine_threadsafe(coroutine(), loop), CALL_FROM_THREAD, what)

        return blocking

    async def close(self) -> None:
        """End transfers and close the channel."""
        if self._peer is not None:
            self._peer.close()
        if self.session is not None:
            self.session.close()
        await self._channel.close(None)


async def _mapped(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def in_thread(work: Callable[[], T], name: str) -> T:
    """Run something that blocks on a daemon thread of its own. Cancelling stops the waiting, not the thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return  # nobody waits any more
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        problem: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 (raised where it is awaited)
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the client has stopped
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=run, name=f"hedgerow-{name}", daemon=True).start()
    return await wait(future, TRANSFER, name)
