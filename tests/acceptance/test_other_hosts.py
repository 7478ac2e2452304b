"""Server, client and driver on different hosts: in network namespaces where those are permitted, and on other addresses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hedgerow.testing import Process
from hedgerow.waits import Limit

WORKLOAD = Path(__file__).parent / "workload"
UP = Limit("up_s", 60.0)
JOB = Limit("job_s", 120.0)
COMMAND_S = 20
PORTS = (9091, 9092, 9093)


@dataclass
class Hosts:
    """How to run something on each host, and where the server is as client and driver see it."""

    fleet_host: str
    driver_host: str
    listen_host: str
    web_host: str
    on: dict[str, list[str]] = field(default_factory=lambda: {"server": [], "client": [], "driver": []})


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=COMMAND_S)


@contextlib.contextmanager
def namespaces() -> Iterator[Hosts]:
    """Three network namespaces, the server's linked to each of the others, which cannot reach one another.

    Raises:
        OSError: They are not permitted here.
    """
    names = {role: f"hedgerow-{role}-{os.getpid()}" for role in ("server", "client", "driver")}
    try:
        with contextlib.ExitStack() as stack:
            for name in names.values():
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "delete", name)
                _ip("-n", name, "link", "set", "lo", "up")
            for role, server_address, own_address in (
                ("client", "192.0.2.1/30", "192.0.2.2/30"),
                ("driver", "192.0.2.5/30", "192.0.2.6/30"),
            ):
                near, far = f"to-{role}", "eth0"
                _ip("-n", names["server"], "link", "add", near, "type", "veth", "peer", "name", far, "netns", names[role])
                for name, link, address in ((names["server"], near, server_address), (names[role], far, own_address)):
                    _ip("-n", name, "address", "add", address, "dev", link)
                    _ip("-n", name, "link", "set", link, "up")
            on = {role: ["ip", "netns", "exec", name] for role, name in names.items()}
            yield Hosts("192.0.2.1", "192.0.2.5", "0.0.0.0", "127.0.0.1", on)
    except subprocess.CalledProcessError as error:
        raise PermissionError(error.stderr.decode(errors="replace")) from error


@pytest.fixture(params=["namespaces", "loopback"])
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    if request.param == "loopback":
        if sys.platform != "linux":
            pytest.skip("only Linux has 127.0.0.2 and its neighbours without set-up")
        yield Hosts("127.83.0.2", "127.83.0.2", "127.83.0.2", "127.83.0.2")
        return
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip")
    try:
        with namespaces() as made:
            yield made
    except PermissionError as error:
        pytest.skip(f"network namespaces are not permitted here: {error}")


def test_processes_on_different_hosts_train_together(hosts: Hosts, tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    fleet, driver, blob = PORTS
    server = Process(
        "server",
        [
            *hosts.on["server"],
            str(scripts / "flower-server"),
            "--insecure",
            f"--state-dir={tmp_path / 'server'}",
            # In a namespace these are the defaults, spelled out: all interfaces, the documented ports.
            f"--fleet-api-address={hosts.listen_host}:{fleet}",
            f"--driver-api-address={hosts.listen_host}:{driver}",
            f"--blob-address={hosts.listen_host}:{blob}",
            f"--web-address={hosts.web_host}:9094",
        ],
        tmp_path / "server.log",
    )
    client = Process(
        "client",
        [
            *hosts.on["client"],
            str(scripts / "flower-client"),
            "--insecure",
            "--callable=training_site:site",
            "--name=far",
            f"--callable-dir={WORKLOAD}",
            f"--server={hosts.fleet_host}:{fleet}",
            f"--state-dir={tmp_path / 'client'}",
        ],
        tmp_path / "client.log",
        {"EXECUTIONS": str(tmp_path / "executions"), "FAULTS_DIR": str(tmp_path)},
    )
    job = Process(
        "driver",
        [
            *hosts.on["driver"],
            sys.executable,
            str(WORKLOAD / "job.py"),
            f"--address={hosts.driver_host}:{driver}",
            f"--out={tmp_path / 'out'}",
            "--clients=1",
            "--seconds=0.1",
            "--numbers=500000",
        ],
        tmp_path / "driver.log",
    )
    processes = (server, client, job)
    try:
        for process in processes:
            process.start()
        assert job.wait(JOB) == 0, "\n".join(process.tail() for process in processes)
        folds = [line.split()[1:] for line in (tmp_path / "out" / "folds").read_text().splitlines()]
        assert folds == [["1", "far"], ["2", "far"], ["3", "far"]], "2 MB went up and down in each round"
        assert json.loads((tmp_path / "out" / "history.json").read_text())["failures"] == []
    finally:
        for process in reversed(processes):
            process.clear_away()
