"""A server that is told to stop: what is in flight ends, what is new is refused, everybody may come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import blake3
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hedgerow.errors import Unavailable
from hedgerow.security import Identity, Role
from hedgerow.server.service import Service
from hedgerow.waits import Limit, wait
from hedgerow.wire.channel import Address, open_channel
from hedgerow.wire.proto import driver_pb2, driver_pb2_grpc, fleet_pb2, fleet_pb2_grpc, records_pb2
from hedgerow.wire.status import from_rpc_error
from tests.integration.running_server import running

SOON = Limit("test_s", 20.0)
DATA = os.urandom(300_000)
ME = Identity.fresh(Role.DRIVER)
NODE = Identity.fresh(Role.CLIENT)


class Halves:
    """An upload whose second half is sent when the test says so."""

    def __init__(self) -> None:
        self.first_sent, self.go_on = asyncio.Event(), asyncio.Event()

    async def body(self) -> AsyncIterator[bytes]:
        yield DATA[:100_000]
        self.first_sent.set()
        await wait(self.go_on.wait(), SOON, "the test to let the upload go on")
        yield DATA[100_000:]

    async def send(self, http: aiohttp.ClientSession, url: str) -> tuple[int, str]:
        headers = {"Upload-Offset": "0", "Content-Length": str(len(DATA))}
        async with http.put(url, data=self.body(), headers=headers) as response:
            return response.status, await response.text()


class Peer:
    """A driver with a run, over one channel."""

    def __init__(self, channel: Any) -> None:
        self.stub: Any = driver_pb2_grpc.DriverStub(channel)

    async def create(self, run_id: str = "run00000001") -> None:
        try:
            request = driver_pb2.CreateRunRequest(run_id=run_id, seed=1)
            await self.stub.CreateRun(request, metadata=ME.metadata(), timeout=10)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def grant(self, upload_id: str = "upload00001") -> str:
        request = records_pb2.StartUploadRequest(upload_id=upload_id, size=len(DATA), run_id="run00000001")
        try:
            return str((await self.stub.StartUpload(request, metadata=ME.metadata(), timeout=10)).url)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


async def test_draining_lets_transfers_end_and_refuses_what_is_new(tmp_path: Path) -> None:
    async with (
        running(state_dir=tmp_path) as service,
        open_channel(service.driver_address, None) as channel,
        aiohttp.ClientSession() as http,
    ):
        base = f"http://127.0.0.1:{service.blob_port}"
        peer = Peer(channel)
        await peer.create()
        upload = Halves()
        sending = asyncio.create_task(upload.send(http, base + await peer.grant()))
        await wait(upload.first_sent.wait(), SOON, "the first half")
        second_url = await peer.grant("upload00002")
        while not list((tmp_path / "blobs").iterdir()):
            await wait(asyncio.sleep(0.01), SOON, "the first half to arrive")
        draining = asyncio.create_task(service.drain())
        async with http.get(f"http://127.0.0.1:{service.web_port}/healthz") as health:
            while (await health.json())["status"] == "ok":
                health = await http.get(health.url)
            assert health.status == 503
        for refused in (peer.create("run00000002"), peer.create(), peer.grant("upload00003")):
            with pytest.raises(Unavailable, match="stopping"):
                await refused
        async with http.head(base + second_url) as response:
            assert response.status == 503
        await _session_is_refused(service)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        status = await stub.Check(health_pb2.HealthCheckRequest(service="hedgerow.v1.Driver"))
        assert status.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not draining.done()
        upload.go_on.set()
        code, text = await wait(sending, SOON, "the upload")
        assert (code, json.loads(text)["digest"]) == (200, blake3.blake3(DATA).hexdigest())
        await wait(draining, SOON, "the end of the drain")


async def _session_is_refused(service: Service) -> None:
    async with open_channel(service.fleet_address, None) as channel:
        stub: Any = fleet_pb2_grpc.FleetStub(channel)
        call = stub.Session(metadata=NODE.metadata())
        assert "stopping" in await wait(call.details(), SOON, "the refusal")


async def test_transfer_that_does_not_end_is_cut_at_the_limit_and_its_bytes_are_kept(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        async with running(state_dir=tmp_path, drain_s=0.2) as service, open_channel(service.driver_address, None) as channel:
            peer = Peer(channel)
            await peer.create()
            upload = Halves()
            sending = asyncio.create_task(upload.send(http, f"http://127.0.0.1:{service.blob_port}{await peer.grant()}"))
            await wait(upload.first_sent.wait(), SOON, "the first half")
            while not list((tmp_path / "blobs").iterdir()):
                await wait(asyncio.sleep(0.01), SOON, "the first half to arrive")
            await wait(service.drain(), SOON, "the drain")
        with pytest.raises(aiohttp.ClientError):
            await wait(sending, SOON, "the cut")
    assert [path.stat().st_size for path in (tmp_path / "blobs").iterdir()] == [100_000]


async def test_client_is_told_to_come_back(tmp_path: Path) -> None:
    stack = contextlib.AsyncExitStack()
    service = await stack.enter_async_context(running(state_dir=tmp_path))
    async with open_channel(service.fleet_address, None) as channel:
        stub: Any = fleet_pb2_grpc.FleetStub(channel)
        call = stub.Session(metadata=NODE.metadata())
        await call.write(fleet_pb2.SessionUp(hello=fleet_pb2.Hello(node_id=NODE.id, name="a")))
        assert (await call.read()).WhichOneof("event") == "welcome"
        await service.drain()
        stopping = asyncio.create_task(stack.aclose())
        goodbye = (await wait(call.read(), SOON, "the goodbye")).goodbye
        assert goodbye.HasField("come_back_after_s")
        await wait(stopping, SOON, "the stop")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_second_signal_ends_the_server_at_once(tmp_path: Path, number: signal.Signals) -> None:
    code = "import sys; from hedgerow.cli.server import main; sys.exit(main(sys.argv[1:]))"
    ports = [f"--{name}-address=127.0.0.1:0" for name in ("fleet-api", "driver-api", "blob", "web")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-c", code, "--insecure", "--state-dir", str(tmp_path), "--drain-s", "600", *ports),
        stderr=asyncio.subprocess.STDOUT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        text = await wait(process.stdout.readuntil(b"health and metrics on"), SOON, "the server")
        driver = text.split(b"Driver API (gRPC-rere) on ")[1].split()[0].decode()
        blob_port = text.rsplit(b"Blobs on port ", 1)[1].split(b",")[0].decode()
        async with open_channel(Address.parse(driver, 1), None) as channel, aiohttp.ClientSession() as http:
            peer = Peer(channel)
            await peer.create()
            upload = Halves()
            sending = asyncio.create_task(upload.send(http, f"http://127.0.0.1:{blob_port}{await peer.grant()}"))
            await wait(upload.first_sent.wait(), SOON, "the first half")
            while not list((tmp_path / "blobs").iterdir()):
                await wait(asyncio.sleep(0.01), SOON, "the first half to arrive")
            process.send_signal(number)
            await wait(process.stdout.readuntil(b"Draining"), SOON, "the drain")
            process.send_signal(number)
            assert await wait(process.wait(), SOON, "the end") == 1
            sending.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await wait(process.wait(), SOON, "the end")
