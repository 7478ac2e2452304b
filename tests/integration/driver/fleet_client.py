"""The real server in a thread, and clients in threads that are one function: no worker processes, no outbox."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc

from hedgerow.records import Blob, Outcome, Parameters, Payload, Reply, Task
from hedgerow.security import Identity, Role
from hedgerow.server.service import Service
from hedgerow.waits import Limit, wait_future
from hedgerow.wire import convert, tensors
from hedgerow.wire.narrow import NarrowParameters
from hedgerow.wire.proto import fleet_pb2, fleet_pb2_grpc, records_pb2
from hedgerow.wire.transfer import BlobPeer, Grant
from tests.integration.running_server import on_free_ports

SOON = Limit("test_s", 20.0)
Work = Callable[[Task, Parameters], tuple[Parameters | None, int, float]]
"""What a client makes of a task and its parameters: parameters, number of examples, loss."""


@contextmanager
def real_server(state_dir: Path, inline_max_bytes: int) -> Iterator[Service]:
    """A server on free ports."""
    options = on_free_ports(state_dir=state_dir, inline_max_bytes=inline_max_bytes)
    started: concurrent.futures.Future[tuple[Service, asyncio.AbstractEventLoop, asyncio.Event]] = concurrent.futures.Future()
    ended: concurrent.futures.Future[None] = concurrent.futures.Future()

    async def serve() -> None:
        service, stop = Service(options), asyncio.Event()
        await service.start()
        started.set_result((service, asyncio.get_running_loop(), stop))
        await stop.wait()
        await service.stop()

    def main() -> None:
        try:
            asyncio.run(serve())
            ended.set_result(None)
        except BaseException as error:  # noqa: BLE001
            (ended if started.done() else started).set_exception(error)

    threading.Thread(target=main, daemon=True).start()
    service, loop, stop = wait_future(started, SOON, "the server to start")
    try:
        yield service
    finally:
        loop.call_soon_threadsafe(stop.set)
        wait_future(ended, SOON, "the server to end")


class FleetClient:
    """One node.

    Args:
        service: The server.
        name: The node's name.
        folder: Where it keeps files.
        work: What it does.
        identity: Who it is.
        transport_dtypes: The 16-bit floats that it knows.

    Attributes:
        downloads: Digests of the blobs that it fetched.
        sizes: Bytes of all blobs that it fetched or sent.
        as_it_lies: Whether an update is sent as the work gives it, whatever was asked for.
    """

    def __init__(
        self,
        service: Service,
        name: str,
        folder: Path,
        work: Work,
        identity: Identity | None = None,
        transport_dtypes: Sequence[str] = (),
    ) -> None:
        self._work, self._folder = work, folder
        self.sizes: list[int] = []
        self.as_it_lies = False
        self.downloads: list[str] = []
        self.identity = self._me = identity or Identity.fresh(Role.CLIENT)
        self._up: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(service.fleet_address.text)
        self._stub: Any = fleet_pb2_grpc.FleetStub(self._channel)
        self._peer = BlobPeer(f"http://127.0.0.1:{service.blob_port}")
        self._up.put(
            fleet_pb2.SessionUp(hello=fleet_pb2.Hello(node_id=self._me.id, name=name, transport_dtypes=transport_dtypes))
        )
        self._session = self._stub.Session(iter(self._up.get, None), metadata=self._me.metadata())
        self._welcome = next(self._session).welcome
        self._leaving = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._leaving = True
        self._up.put(fleet_pb2.SessionUp(leave=fleet_pb2.Leave()))
        self._up.put(None)
        self._thread.join(10)
        self._channel.close()

    def _read(self) -> None:
        for event in self._session:
            if event.WhichOneof("event") == "assign":
                try:
                    self._carry_out(convert.task_from_proto(event.assign))
                except grpc.RpcError:
                    if not self._leaving:
                        raise

    def _carry_out(self, task: Task) -> None:
        parameters, examples, loss = self._work(task, self._get(task))
        payload = None if parameters is None else self._put(task, parameters)
        reply = Reply(Outcome.OK, num_examples=examples, loss=loss, parameters=payload)
        self._up.put(fleet_pb2.SessionUp(complete=fleet_pb2.Complete(task_id=task.task_id, reply=convert.reply_to_proto(reply))))

    def _get(self, task: Task) -> Parameters:
        payload = task.instruction.parameters
        if not isinstance(payload, Blob):
            return Parameters({}) if payload is None else tensors.view(payload)
        self.downloads.append(payload.digest)
        self.sizes.append(payload.size)
        request = records_pb2.ResolveBlobRequest(digest=payload.digest, run_id=task.run_id, task_id=task.task_id)
        target = self._folder / secrets.token_hex(8)
        self._peer.download(
            payload.size, target, lambda: Grant(self._stub.ResolveBlob(request, metadata=self._me.metadata()).url)
        )
        return tensors.map_file(target)

    def _put(self, task: Task, parameters: Parameters) -> Payload:
        form = task.instruction.transport_dtype
        if self.as_it_lies and isinstance(parameters, NarrowParameters):
            form = parameters.transport_dtype
        size = tensors.nbytes(parameters, form)
        if size < self._welcome.data_plane.inline_max_bytes:
            return tensors.dumps(parameters, form)
        self.sizes.append(size)
        path = self._folder / secrets.token_hex(8)
        with path.open("xb") as file:
            tensors.write(parameters, file, form)
        request = records_pb2.StartUploadRequest(upload_id=secrets.token_hex(8), size=size, run_id=task.run_id)
        return self._peer.upload(path, lambda: Grant(self._stub.StartUpload(request, metadata=self._me.metadata()).url))


@contextmanager
def fleet(
    tmp_path: Path, work: Work, names: list[str], inline_max_bytes: int = 1024
) -> Iterator[tuple[Service, list[FleetClient]]]:
    """A server and its clients."""
    with ExitStack() as stack:
        service = stack.enter_context(real_server(tmp_path / "state", inline_max_bytes))
        clients = []
        for name in names:
            (tmp_path / name).mkdir()
            clients.append(FleetClient(service, name, tmp_path / name, work))
            stack.callback(clients[-1].close)
        yield service, clients
