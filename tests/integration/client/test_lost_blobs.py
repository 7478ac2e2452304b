"""A power loss of the server takes a result's file: the client sends it again, and the driver gets it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from hedgerow.driver import Driver, DriverLimits
from hedgerow.records import Blob, Kind, Parameters, RunState
from hedgerow.security import Identity, Role
from tests.integration.client.test_process import Programs
from tests.integration.client.test_with_server import client, programs, server

__all__ = ["programs"]
LIMITS = DriverLimits(connect_s=20, reconnect_s=20, wait_for_clients_s=20)
ME = Identity.fresh(Role.DRIVER)


async def test_file_that_a_power_loss_took_comes_again_from_the_outbox(programs: Programs, tmp_path: Path) -> None:
    port, address = await server(programs)
    first_client = await client(programs, port, "hospital_a")
    driver = Driver(address, run_id="run00000001", seed=1, limits=LIMITS, identity=ME)
    await asyncio.to_thread(driver.connect)
    await asyncio.to_thread(driver.wait_for_nodes, 1)

    def ask() -> Blob:
        (result,) = driver.results(driver.push([driver.task(driver.nodes()[0], Kind.GET_PARAMETERS, round=1)]))
        assert isinstance(result.reply.parameters, Blob)
        return result.reply.parameters

    blob = await asyncio.to_thread(ask)
    await asyncio.to_thread(driver.close)
    await programs.running[0].end(signal.SIGKILL)
    await first_client.end(signal.SIGTERM)
    (file,) = (tmp_path / "server" / "blobs").iterdir()
    file.write_bytes(b"")  # what a file system leaves that had not written the data yet

    port, address = await server(programs)
    await programs.running[-1].line("1 are asked for again from their nodes, 0 are gone")
    driver = Driver(address, run_id="run00000001", seed=1, limits=LIMITS, identity=ME)
    await asyncio.to_thread(driver.connect)
    downloading = asyncio.create_task(asyncio.to_thread(driver.download, blob))
    second_client = await client(programs, port, "hospital_a")
    parameters: Parameters = await downloading
    assert parameters["000000"].shape == (300, 300)
    await second_client.line("asks again for task")
    await asyncio.to_thread(driver.end, RunState.FINISHED)
    await asyncio.to_thread(driver.close)
