"""Server, client and driver on different hosts: in network namespaces of their own, or at least on an address of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hedgerow.testing import Process
from hedgerow.testing.processes import free_port
from hedgerow.waits import Limit

WORKLOAD = Path(__file__).parent / "workload"
PROGRAMS = Path(sys.executable).parent
JOB = Limit("job_s", 120.0)
SPOKEN = Limit("spoken_s", 60.0)
COMMAND_S = 20.0
NUMBERS = 200_000  # 800 kB of parameters: they travel as blobs
Starter = Callable[..., Process]


@dataclass(frozen=True)
class Hosts:
    """Three hosts, as command prefixes, and where the server is seen from the two others."""

    server: Sequence[str]
    client: Sequence[str]
    driver: Sequence[str]
    seen_from_client: str
    seen_from_driver: str


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts processes, which are gone at the end."""
    with contextlib.ExitStack() as stack:

        def start(name: str, host: Sequence[str], *command: str | Path) -> Process:
            words = [*host, *(str(word) for word in command)]
            process = Process(name, words, tmp_path / f"{name}.log", {"EXECUTIONS": str(tmp_path / "executions")})
            stack.callback(process.clear_away)
            return process.start()

        yield start


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Network namespaces for server, client and driver; the client and the driver reach nobody but the server."""
    mark = f"hg{os.getpid() % 100_000}"
    with contextlib.ExitStack() as stack:

        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True, capture_output=True, timeout=COMMAND_S)

        try:
            for role in "scd":
                ip("netns", "add", f"{mark}{role}")
                stack.callback(subprocess.run, ["ip", "netns", "del", f"{mark}{role}"], check=False, timeout=COMMAND_S)
                ip("-n", f"{mark}{role}", "link", "set", "lo", "up")
            for number, role in ((1, "c"), (2, "d")):
                here, there = f"{mark}{role}0", f"{mark}{role}1"
                ip("-n", f"{mark}s", "link", "add", here, "type", "veth", "peer", "name", there, "netns", f"{mark}{role}")
                for space, name, last in (("s", here, 1), (role, there, 2)):
                    ip("-n", f"{mark}{space}", "address", "add", f"10.231.{number}.{last}/24", "dev", name)
                    ip("-n", f"{mark}{space}", "link", "set", name, "up")
        except (OSError, subprocess.SubprocessError) as error:
            why = getattr(error, "stderr", None) or str(error)
            pytest.skip(f"network namespaces are not to be had here (this needs root and iproute2): {why}")
        inside = {role: ["ip", "netns", "exec", f"{mark}{role}"] for role in "scd"}
        yield Hosts(inside["s"], inside["c"], inside["d"], "10.231.1.1", "10.231.2.1")


def own_address() -> str | None:
    """An IPv4 address of this machine that is not of the loopback, if it has one. Nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def run_job(start: Starter, hosts: Hosts, folder: Path, fleet: str, driver: str) -> None:
    client = start(
        "client",
        hosts.client,
        *(PROGRAMS / "flower-client", "--insecure", f"--server={fleet}", "--callable=training_site:site", "--name=far"),
        *(f"--callable-dir={WORKLOAD}", f"--state-dir={folder / 'client'}"),
    )
    job = start(
        "job",
        hosts.driver,
        *(sys.executable, WORKLOAD / "job.py", "--address", driver, "--out", folder / "job"),
        *("--rounds=2", "--clients=1", "--seconds=0", f"--numbers={NUMBERS}"),
    )
    assert job.wait(JOB) == 0, job.tail(60) + client.tail()
    folds = [line.split()[1:] for line in (folder / "job" / "folds").read_text().splitlines()]
    assert folds == [["1", "far"], ["2", "far"]]
    assert json.loads((folder / "job" / "history.json").read_text())["failures"] == []
    assert "Uploaded parameters of 800" in job.output(), "the parameters were a blob"
    assert client.running


def test_server_client_and_driver_on_different_hosts_with_the_default_ports(start: Starter, hosts: Hosts, tmp_path: Path) -> None:
    server = start("server", hosts.server, PROGRAMS / "flower-server", "--insecure", f"--state-dir={tmp_path / 'server'}")
    server.wait_for_output("health and metrics on", SPOKEN)
    run_job(start, hosts, tmp_path, f"{hosts.seen_from_client}:9091", f"{hosts.seen_from_driver}:9092")


def test_a_server_on_an_address_that_is_not_of_the_loopback(start: Starter, tmp_path: Path) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but those of its loopback")
    fleet, driver = f"{address}:{free_port()}", f"{address}:{free_port()}"
    server = start(
        "server",
        [],
        *(PROGRAMS / "flower-server", "--insecure", f"--state-dir={tmp_path / 'server'}", f"--fleet-api-address={fleet}"),
        *(f"--driver-api-address={driver}", f"--blob-address={address}:0", "--web-address=127.0.0.1:0"),
    )
    server.wait_for_output("health and metrics on", SPOKEN)
    run_job(start, Hosts([], [], [], address, address), tmp_path, fleet, driver)
