"""``flower-client`` with the real server: blobs, acknowledged rounds, and a client that dies in the middle."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hedgerow.waits import wait
from tests.integration.client.fleet import SOON
from tests.integration.client.test_process import Process, Programs

MODULE = """
import os
from pathlib import Path

import numpy as np

import hedgerow.client as hc

HERE = Path(__file__).parent


class Hospital(hc.NumPyClient):
    def get_parameters(self, config):
        return [np.zeros((300, 300), np.float32)]

    def fit(self, parameters, config):
        assert parameters[0].dtype == np.float32
        if (HERE / "gate").exists() and self.context.node_name == "hospital_a":
            (HERE / "started").touch()
            open(HERE / "gate").read()
        return [p + 1 for p in parameters], 10, {}

    def evaluate(self, parameters, config):
        return float(parameters[0].sum()), 10, {}


hospital_a, hospital_b = Hospital(), Hospital()
"""
DRIVER = """
import sys
from hedgerow.driver import ServerConfig, start_driver
from hedgerow.strategy import FedAvg

strategy = FedAvg(min_fit_clients=2, min_evaluate_clients=2, min_available_clients=2)
history = start_driver(
    server_address=sys.argv[1],
    config=ServerConfig(num_rounds=3, seed=1),
    strategy=strategy,
    transport_dtype=sys.argv[2] if len(sys.argv) > 2 else None,
)
print("losses", [loss for _, loss in history.losses_distributed], flush=True)
"""


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[Programs]:
    started = Programs(tmp_path)
    (tmp_path / "client.py").write_text(MODULE)
    (tmp_path / "driver.py").write_text(DRIVER)
    yield started
    for process in started.running:
        if process.process.returncode is None:
            process.process.kill()
        await process.end()


async def server(programs: Programs) -> tuple[int, str]:
    """Start a server on free ports; the Fleet API's port and the Driver API's address."""
    code = "import sys; from hedgerow.cli.server import main; sys.exit(main(sys.argv[1:]))"
    addresses = [f"--{name}-address=127.0.0.1:0" for name in ("fleet-api", "driver-api", "blob", "web")]
    process = await programs.start("-c", code, "--insecure", "--state-dir", "server", *addresses)
    fleet = await process.line(r"Starting Fleet API .* on 127\.0\.0\.1:(\d+)")
    driver = await process.line(r"Starting Driver API .* on (127\.0\.0\.1:\d+)")
    return int(fleet[1]), driver[1]


async def client(programs: Programs, port: int, name: str) -> Process:
    return await programs.client(port, "--state-dir", name, name=f"client:{name}")


@pytest.mark.parametrize("transport_dtype", [[], ["bfloat16"], ["float16"]])
async def test_large_parameters_travel_as_blobs_and_leave_nothing_in_the_outbox(
    programs: Programs, transport_dtype: list[str]
) -> None:
    port, driver_address = await server(programs)
    for name in ("hospital_a", "hospital_b"):
        await client(programs, port, name)
    driver = await programs.start("driver.py", driver_address, *transport_dtype)
    assert await driver.end() == 0, driver.text
    assert f"losses {[90000.0, 180000.0, 270000.0]}" in driver.text
    assert "full precision" not in driver.text
    for name in ("hospital_a", "hospital_b"):
        # Initial and three aggregated models; each was fetched once, for evaluate, and found again by the next fit.
        assert len(list((programs.folder / name / "parameters").iterdir())) == 4
        while list((programs.folder / name / "outbox").iterdir()):
            await wait(asyncio.sleep(0.01), SOON, "the outbox to be released")


async def test_a_client_killed_in_a_fit_is_given_the_task_again(programs: Programs) -> None:
    port, driver_address = await server(programs)
    first = await client(programs, port, "hospital_a")
    await client(programs, port, "hospital_b")
    os.mkfifo(programs.folder / "gate")
    driver = await programs.start("driver.py", driver_address)
    while not (programs.folder / "started").exists():
        await wait(asyncio.sleep(0.01), SOON, "the fit to start")
    await first.end(signal.SIGKILL)
    (programs.folder / "gate").unlink()
    await client(programs, port, "hospital_a")
    assert await driver.end() == 0, driver.text
    assert f"losses {[90000.0, 180000.0, 270000.0]}" in driver.text
