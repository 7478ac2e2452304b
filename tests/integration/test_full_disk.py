"""A server whose disk is full or cannot be written: it refuses new work, keeps what it has, and goes on when it can."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from hedgerow.driver import Driver, DriverLimits
from hedgerow.errors import ConfigError, LimitReached, WaitTimeout
from hedgerow.records import RunState
from hedgerow.security import Identity, Role
from hedgerow.store import blobs
from hedgerow.waits import Limit, wait
from hedgerow.wire.channel import open_channel
from hedgerow.wire.proto import operator_pb2, operator_pb2_grpc
from tests.integration.running_server import running
from tests.integration.test_drain import DATA, SOON, Peer

OPERATOR = Identity.fresh(Role.OPERATOR)
RESERVE_BYTES = 1024 * 1024


def mount(*arguments: str) -> None:
    """Mount something, or skip the test."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("there is no mount command: full and read-only disks were not tested")
    if done.returncode:
        pytest.skip(f"may not mount here ({done.stderr.strip()}): full and read-only disks were not tested")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=20)


def fill(path: Path) -> None:
    """Take all space that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


async def health(http: aiohttp.ClientSession, port: int) -> tuple[int, str]:
    async with http.get(f"http://127.0.0.1:{port}/healthz") as response:
        return response.status, (await response.json())["status"]


async def put(http: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with http.put(url, data=DATA, headers={"Upload-Offset": "0"}) as response:
        return response.status, await response.text()


async def test_full_disk_refuses_new_work_keeps_the_old_and_recovers(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs.BlobFolder.__init__, "__defaults__", (RESERVE_BYTES,))
    async with (
        running(state_dir=small_disk / "state") as service,
        open_channel(service.driver_address, None) as channel,
        aiohttp.ClientSession() as http,
    ):
        peer = Peer(channel)
        await peer.create()
        url = f"http://127.0.0.1:{service.blob_port}{await peer.grant()}"
        fill(small_disk / "filler")
        with pytest.raises(LimitReached, match="disk full"):
            await peer.create("run00000002")
        with pytest.raises(LimitReached, match="disk full"):
            await peer.grant("upload00002")
        status, text = await put(http, url)
        assert (status, "disk is full" in text) == (507, True)
        operator = operator_pb2_grpc.OperatorStub(channel)
        listed = await operator.ListRuns(operator_pb2.ListRunsRequest(), metadata=OPERATOR.metadata(), timeout=10)
        assert [run.run_id for run in listed.runs] == ["run00000001"]
        assert await health(http, service.web_port) == (503, "failing")
        async with http.get(f"http://127.0.0.1:{service.web_port}/metrics") as response:
            metrics = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines() if not line.startswith("#"))
        assert float(metrics["hedgerow_commit_failures_total"]) == 2
        assert float(metrics["hedgerow_commit_seconds_count"]) >= 2
        assert float(metrics["hedgerow_disk_free_bytes"]) == 0

        (small_disk / "filler").unlink()
        await peer.create("run00000002")
        assert await health(http, service.web_port) == (200, "ok")
        status, text = await put(http, url)
        assert (status, len(DATA)) == (200, (small_disk / "state" / "blobs" / "upload00001").stat().st_size)


async def test_open_run_waits_for_space_and_a_new_one_is_refused(small_disk: Path) -> None:
    async with running(state_dir=small_disk / "state") as service:
        limits = DriverLimits(connect_s=20, reconnect_s=20)
        going_on = Driver(service.driver_address.text, seed=1, limits=limits)
        await asyncio.to_thread(going_on.connect)
        try:
            fill(small_disk / "filler")
            new = Driver(service.driver_address.text, seed=1, limits=limits)
            with pytest.raises(LimitReached, match="disk full"):
                await asyncio.to_thread(new.connect)
            acknowledging = asyncio.create_task(asyncio.to_thread(going_on.acknowledge, 1))
            with pytest.raises(WaitTimeout):
                await wait(asyncio.shield(acknowledging), Limit("a_moment_s", 0.5), "what must wait")
            (small_disk / "filler").unlink()
            await wait(acknowledging, SOON, "the round to be acknowledged")
            await asyncio.to_thread(going_on.end, RunState.FINISHED)
        finally:
            await asyncio.to_thread(going_on.close)


async def test_blob_folder_that_becomes_read_only_refuses_and_recovers(tmp_path: Path) -> None:
    async with (
        running(state_dir=tmp_path) as service,
        open_channel(service.driver_address, None) as channel,
        aiohttp.ClientSession() as http,
    ):
        peer = Peer(channel)
        await peer.create()
        url = f"http://127.0.0.1:{service.blob_port}{await peer.grant()}"
        folder = str(tmp_path / "blobs")
        mount("--bind", folder, folder)
        try:
            mount("-o", "remount,ro,bind", folder)
            status, text = await put(http, url)
            assert (status, "cannot write to its blob folder" in text) == (507, True)
        finally:
            umount = await asyncio.create_subprocess_exec("umount", "--lazy", folder)
            assert await wait(umount.wait(), SOON, "umount") == 0
        assert (await put(http, url))[0] == 200


async def test_read_only_state_directory_is_refused_at_start(small_disk: Path) -> None:
    mount("-o", "remount,ro", str(small_disk))
    with pytest.raises(ConfigError, match="state directory"):
        async with running(state_dir=small_disk):
            pass
