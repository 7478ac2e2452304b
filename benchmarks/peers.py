"""What a user would pick instead: Flower, in a virtual environment of its own for each version, with its own defaults.

``flwr-1.6`` has two modes that are measured: its documented service (server, clients and a driver; gRPC request-response) and
its classic bidirectional server, which holds the strategy and keeps nothing. Newer ones, such as ``flwr-1.42``, have one: a
SuperLink, SuperNodes, and an app. Environments are made below ``.bench`` when they are first needed, with pip alone; telemetry
is off.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.conducted import Conductor
from benchmarks.figures import ROOT
from hedgerow.testing import Process, eventually, free_port
from hedgerow.waits import Limit

VENVS = ROOT / ".bench" / "venvs"
ENV = {"PYTHONPATH": str(ROOT), "PYTHONHOME": "", "FLWR_TELEMETRY_ENABLED": "0", "OPENBLAS_NUM_THREADS": "1"}
INSTALL_S = 600.0
UP = Limit("peer_up_s", 120.0)
ROUNDS_OVER = Limit("peer_rounds_s", 600.0)
OF_THE_FIRST_SERVICE = "flwr-1.6"
"""The peer that has the driver's API and the bidirectional server; newer ones run apps."""
OLDEST_APPS = 41
"""The oldest minor version whose SuperLink has the options that are used here."""


@dataclass(frozen=True)
class Peer:
    """A version of Flower.

    Attributes:
        name: Such as ``flwr-1.6``.
        python: The interpreter that has it.
        version: All of it, such as ``1.6.0``.
    """

    name: str
    python: Path
    version: str

    @property
    def scripts(self) -> Path:
        """The folder of its commands."""
        return self.python.parent


def install(name: str) -> Peer:
    """The peer of that name; its environment is made unless it is there.

    Raises:
        SystemExit: There is no such peer, or pip cannot install it.
    """
    package, _, version = name.rpartition("-")
    known = package == "flwr" and re.fullmatch(r"1\.\d+", version)
    if not known or (name != OF_THE_FIRST_SERVICE and int(version[2:]) < OLDEST_APPS):
        raise SystemExit(f"There is no peer {name!r}. Name {OF_THE_FIRST_SERVICE}, or flwr-1.{OLDEST_APPS} or newer.")
    python = VENVS / name / "bin" / "python"
    if not (VENVS / name / "installed").exists():
        venv.create(VENVS / name, clear=True, with_pip=True)
        # Flower 1.6 was written for NumPy 1.
        wanted = [f"flwr~={version}.0", *(["numpy<2"] if name == OF_THE_FIRST_SERVICE else [])]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", *wanted]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        if done.returncode:
            raise SystemExit(f"pip cannot install {name}:\n{done.stderr[-2000:]}")
        (VENVS / name / "installed").touch()
    ask = "import importlib.metadata as m; print(m.version('flwr'))"
    said = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, timeout=60.0, check=True)
    return Peer(name, python, said.stdout.strip())


def installed(names: Sequence[str]) -> tuple[Peer | None, list[Peer]]:
    """The Flower that has the first service, and those that run apps, of the names that were asked for."""
    peers = [install(name) for name in names]
    first = next((peer for peer in peers if peer.name == OF_THE_FIRST_SERVICE), None)
    return first, [peer for peer in peers if peer is not first]


@dataclass(frozen=True)
class Served:
    """A peer's processes, and what conducts its rounds."""

    conductor: Conductor
    pids: dict[str, list[int]]


@contextlib.contextmanager
def bidirectional(peer: Peer, folder: Path, clients: int, elements: int = 10) -> Iterator[Served]:
    """Flower 1.6's ``start_server`` and ``start_client``."""
    address = f"127.0.0.1:{free_port()}"
    program = [str(peer.python), "-m", "benchmarks.flower_1_6"]
    server = [*program, "server", address, f"--clients={clients}", f"--elements={elements}"]
    with contextlib.ExitStack() as stack:
        sites = [Process(f"site{n}", [*program, "site", address], folder / "sites.log", ENV) for n in range(clients)]
        for site in sites:
            stack.callback(site.clear_away)
        conductor = stack.enter_context(Conductor(server, folder / "server.log", ENV))
        conductor.ready()
        for site in sites:  # they do not wait for a server
            site.start()
        yield Served(conductor, {"server": [conductor.pid], "client": [site.pid for site in sites]})


@contextlib.contextmanager
def driven(peer: Peer, folder: Path, clients: int, elements: int = 10) -> Iterator[Served]:
    """Flower 1.6's documented service: ``flower-server``, ``flower-client`` and ``start_driver``."""
    fleet, driver = (f"127.0.0.1:{free_port()}" for _ in range(2))
    server = [str(peer.scripts / "flower-server"), "--insecure", "--driver-api-address", driver]
    server += ["--grpc-rere", "--grpc-rere-fleet-api-address", fleet]
    site = [str(peer.scripts / "flower-client"), "--insecure", "--server", fleet, "--callable=benchmarks.flower_1_6:site"]
    command = [str(peer.python), "-m", "benchmarks.flower_1_6", "driver", driver]
    command += [f"--clients={clients}", f"--elements={elements}"]
    with contextlib.ExitStack() as stack:
        service = Process("server", server, folder / "server.log", ENV)
        sites = [Process(f"site{n}", site, folder / "sites.log", ENV) for n in range(clients)]
        for process in (service, *sites):
            stack.callback(process.clear_away)
        service.start()
        service.wait_for_output("Fleet API", UP)
        for process in sites:
            process.start()
        conductor = stack.enter_context(Conductor(command, folder / "driver.log", ENV))
        conductor.ready()
        pids = {"server": [service.pid], "driver": [conductor.pid], "client": [process.pid for process in sites]}
        yield Served(conductor, pids)


def app_rounds(peer: Peer, folder: Path, clients: int, rounds: int, elements: int = 10) -> list[float]:
    """Seconds of each round of a Flower that runs apps (1.41 or newer): SuperLink, SuperNodes, ServerApp and ClientApps.

    Raises:
        SystemExit: It does not take the app.
        WaitTimeout: It does not get through the rounds.
    """
    port = free_port()
    env = {**ENV, "FLWR_HOME": str(folder / "home"), "HOME": str(folder), "PATH": f"{peer.scripts}:/usr/bin:/bin"}
    (folder / "home").mkdir()
    (folder / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    times = folder / "times"
    config = f'rounds={rounds} clients={clients} elements={elements} times="{times}"'
    link = [
        str(peer.scripts / "flower-superlink"),
        "--insecure",
        "--port",
        str(port),
        "--disable-runtime-dependency-installation",
    ]
    with contextlib.ExitStack() as stack:
        server = Process("superlink", link, folder / "superlink.log", env)
        stack.callback(server.clear_away)
        server.start()
        server.wait_for_output("Uvicorn running", UP)
        sites = []
        for number in range(clients):
            node = [str(peer.scripts / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{port}"]
            node += ["--port", str(free_port())]
            site = Process(f"supernode{number}", node, folder / f"supernode{number}.log", env)
            stack.callback(site.clear_away)
            sites.append(site.start())
        for site in sites:
            _join(site)
        run = [str(peer.scripts / "flwr"), "run", str(ROOT / "benchmarks" / "flower_app"), "bench", "--run-config", config]
        submit = Process("flwr run", run, folder / "run.log", env)
        stack.callback(submit.clear_away)
        submit.start()
        if submit.wait(UP):
            raise SystemExit(f"{peer.name} does not take the app:\n{submit.tail()}")
        eventually(lambda: times.with_suffix(".done").exists() or not server.running, ROUNDS_OVER, f"rounds of {peer.name}")
    moments = [float(line) for line in times.read_text().split()]
    return [after - before for before, after in itertools.pairwise(moments)]


def _join(site: Process) -> None:
    """Wait until a SuperNode is registered; on a busy machine some give up while they start, and are started again."""
    for _ in range(3):
        eventually(lambda: "SuperNode ID" in site.output() or not site.running, UP, f"{site.name} to register")
        if site.running:
            return
        site.start()
    raise SystemExit(f"{site.name} does not start:\n{site.tail()}")


if __name__ == "__main__":
    print(json.dumps({name: install(name).version for name in sys.argv[1:]}))
