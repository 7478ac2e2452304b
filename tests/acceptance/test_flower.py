"""Programs written for Flower 1.6 run with their import changed, and give the same history as under Flower itself."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.testing import Federation, Process, eventually, free_port
from hedgerow.waits import Limit
from tests import flower

PROGRAMS = Path(__file__).parent / "flower_programs"
UP = Limit("server_listens_s", 60.0)
JOB = Limit("job_s", 120.0)
SERIES = ("losses_distributed", "losses_centralized", "metrics_distributed_fit", "metrics_distributed", "metrics_centralized")


class Trial:
    """A program's server and two clients as real processes; everything that was started is gone at the end."""

    def __init__(self, folder: Path, interpreter: str | Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self._interpreter = str(interpreter)
        self._env = env
        self._started: list[Process] = []

    def start(self, program: Path, role: str, argument: str) -> Process:
        name = f"{role}-{len(self._started)}"
        command = [self._interpreter, str(program), role, self.address, argument]
        process = Process(name, command, self.folder / f"{name}.log", self._env).start()
        self._started.append(process)
        return process

    def run(self, program: Path) -> dict[str, Any]:
        """The history that the program's server writes."""
        told = self.folder / "history.json"
        server = self.start(program, "server", str(told))
        eventually(lambda: self._listens() or not server.running, UP, "the server to listen")
        clients = [self.start(program, "client", number) for number in ("1", "2")]
        assert server.wait(JOB) == 0, server.tail()
        for client in clients:
            assert client.wait(JOB) == 0, f"start_client returns when the job is over:\n{client.tail()}"
        history: dict[str, Any] = json.loads(told.read_text())
        return history

    def _listens(self) -> bool:
        host, _, port = self.address.partition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
            return True
        return False

    def close(self) -> None:
        for process in reversed(self._started):
            process.clear_away()


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Trial]:
    folder = tmp_path / "hedgerow"
    folder.mkdir()
    trial = Trial(folder, sys.executable, {"XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder)})
    yield trial
    trial.close()


@pytest.fixture
def theirs(tmp_path: Path) -> Iterator[Trial]:
    interpreter = flower.python()
    if isinstance(interpreter, str):
        pytest.skip(f"not compared with Flower itself: {interpreter}")
    folder = tmp_path / "flower"
    folder.mkdir()
    trial = Trial(folder, interpreter, {**flower.WITHOUT_TELEMETRY, "PYTHONPATH": ""})
    yield trial
    trial.close()


def for_flower(program: Path, folder: Path) -> Path:
    """The same program with the import as Flower's users write it."""
    text = program.read_text()
    assert "hedgerow.flwr" in text
    changed = folder / program.name
    changed.write_text(text.replace("hedgerow.flwr", "flwr"))
    assert "hedgerow" not in changed.read_text()
    return changed


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same up to float32's precision, in which Flower sends losses."""
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return isinstance(other, float) and one == pytest.approx(other, rel=1e-6, abs=1e-9)
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("program", sorted(PROGRAMS.glob("*.py")), ids=lambda path: path.stem)
def test_a_program_for_flower_gives_the_same_history_here(program: Path, ours: Trial, theirs: Trial) -> None:
    here, there = ours.run(program), theirs.run(for_flower(program, theirs.folder))
    assert set(there) == set(SERIES)
    told = {name: here[name] for name in SERIES}
    assert same(told, there), f"Hedgerow:\n{told}\nFlower:\n{there}"
    assert any(there.values()), "there is something to compare"


EXPECTED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "quickstart": lambda h: (
        [number for number, _ in h["losses_distributed"]] == [1, 2, 3]
        and h["losses_distributed"][0][1] > h["losses_distributed"][2][1]
        and set(h["metrics_distributed"]) == {"rmse"}
    ),
    "custom_strategy": lambda h: (
        2 < len(h["losses_distributed"]) < 20
        and h["losses_distributed"][-1][1] < 1.5 <= h["losses_distributed"][-2][1]
        and h["metrics_distributed_fit"]["clients"] == [[number, 2] for number, _ in h["losses_distributed"]]
        and h["metrics_distributed_fit"]["examples"][0] == [1, 90]
    ),
    "functions": lambda h: (
        [number for number, _ in h["losses_centralized"]] == [0, 1, 2, 3]
        and h["metrics_distributed"]["clients"] == [[1, 2], [2, 2], [3, 2]]
        and h["metrics_distributed_fit"]["round"] == [[1, 1], [2, 2], [3, 3]]
    ),
    "custom_client": lambda h: (
        h["metrics_distributed_fit"]["failures"] == [[1, 0], [2, 1], [3, 0]]
        and [number for number, _ in h["losses_distributed"]] == [2, 3]
    ),
}


@pytest.mark.parametrize("program", sorted(PROGRAMS.glob("*.py")), ids=lambda path: path.stem)
def test_a_program_for_flower_runs_with_its_import_changed(program: Path, ours: Trial) -> None:
    history = ours.run(program)
    assert EXPECTED[program.stem](history), history
    log = "".join(path.read_text() for path in ours.folder.glob("*.log"))
    assert "Traceback" not in log


def test_clients_raise_when_the_job_fails(ours: Trial, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text((PROGRAMS / "quickstart.py").read_text().replace('"rmse": sum', '"rmse": 1 / 0 * sum'))
    server = ours.start(broken, "server", os.devnull)
    clients = [ours.start(broken, "client", number) for number in ("1", "2")]
    assert server.wait(JOB) == 1
    assert "ZeroDivisionError" in server.output()
    for client in clients:
        assert client.wait(JOB) == 1
        assert "its one job has failed (ZeroDivisionError)" in client.output()


def test_a_server_that_dies_is_followed_by_another_that_the_clients_serve(ours: Trial) -> None:
    told = ours.folder / "history.json"
    server = ours.start(PROGRAMS / "quickstart.py", "server", os.devnull)
    clients = [ours.start(PROGRAMS / "quickstart.py", "client", "1")]  # one is not enough: the job waits
    clients[0].wait_for_output("Idle, waiting for work", UP)
    server.kill()
    again = ours.start(PROGRAMS / "quickstart.py", "server", str(told))
    clients.append(ours.start(PROGRAMS / "quickstart.py", "client", "2"))
    assert again.wait(JOB) == 0, again.tail()
    assert [client.wait(JOB) for client in clients] == [0, 0]
    assert EXPECTED["quickstart"](json.loads(told.read_text()))


SERVICE = """
import hedgerow.flwr as fl
from quickstart import LinearModel


def client_fn(cid: str):
    return LinearModel(int(cid[-1])).to_client()


flower = fl.flower.Flower(client_fn=client_fn)

if __name__ == "__main__":
    import sys

    history = fl.driver.start_driver(server_address=sys.argv[1], config=fl.server.ServerConfig(num_rounds=3))
    print([number for number, _ in history.losses_distributed])
"""


def test_flower_client_and_start_driver_run_the_same_code_as_a_service(tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text(SERVICE)
    with Federation(tmp_path / "federation", env={"PYTHONPATH": os.pathsep.join([str(PROGRAMS), *sys.path])}) as federation:
        federation.start_server()
        for name in ("site-1", "site-2"):
            federation.start_client(name, "service:flower", tmp_path)
        driver = federation.start_driver(program, federation.driver.text)
        assert driver.wait(JOB) == 0, driver.tail()
        assert "[1, 2, 3]" in driver.output()
        assert all(client.running for client in federation.clients.values()), "they stay for the next job"


def make_certificate(folder: Path, host: str) -> None:
    """A self-signed certificate for a host, and its key."""
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={host}"
    extra = ["-addext", f"subjectAltName=DNS:{host}", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), *extra], check=True, capture_output=True, timeout=60)


def test_certificates_are_given_as_in_flower_and_protect_parameters_too(ours: Trial, tmp_path: Path) -> None:
    make_certificate(tmp_path, "localhost")
    text = (PROGRAMS / "custom_client.py").read_text()
    cert, key = (f"Path({str(tmp_path / name)!r}).read_bytes()" for name in ("cert.pem", "key.pem"))
    for before, more in (
        ("start_client(server_address=address,", f" root_certificates={cert},"),
        ("strategy=Plain(),", f" certificates=({cert}, {cert}, {key}),"),
    ):
        assert text.count(before) == 1
        text = text.replace(before, before + more)
    program = tmp_path / "secure.py"
    program.write_text(text)
    ours.address = ours.address.replace("127.0.0.1", "localhost")
    assert EXPECTED["custom_client"](ours.run(program))
    logs = [path.read_text() for path in ours.folder.glob("*.log")]
    assert all("insecure" not in log for log in logs)


def test_a_certificate_that_is_not_good_for_localhost_is_refused_at_once(ours: Trial, tmp_path: Path) -> None:
    make_certificate(tmp_path, "other.example")
    program = tmp_path / "secure.py"
    pem = [f"Path({str(tmp_path / name)!r}).read_bytes()" for name in ("cert.pem", "cert.pem", "key.pem")]
    text = (PROGRAMS / "quickstart.py").read_text()
    program.write_text(
        text.replace("(server_address=address, config", f"(server_address=address, certificates=({', '.join(pem)}), config")
    )
    server = ours.start(program, "server", os.devnull)
    assert server.wait(JOB) == 1
    assert "ConfigError: The server's certificate is not good for localhost" in server.output()


def test_a_port_that_is_taken_is_told_at_once(ours: Trial) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ours.address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = ours.start(PROGRAMS / "quickstart.py", "server", os.devnull)
        assert server.wait(JOB) == 1
    assert "ConfigError: Cannot listen on" in server.output()


def test_a_server_on_all_interfaces_serves_clients_of_both_families(ours: Trial) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    port = ours.address.rpartition(":")[2]
    told = ours.folder / "history.json"
    ours.address = f"[::]:{port}"
    server = ours.start(PROGRAMS / "custom_client.py", "server", str(told))
    clients = []
    for number, host in (("1", "127.0.0.1"), ("2", "[::1]")):
        ours.address = f"{host}:{port}"
        clients.append(ours.start(PROGRAMS / "custom_client.py", "client", number))
    assert server.wait(JOB) == 0, server.tail()
    assert [client.wait(JOB) for client in clients] == [0, 0]
    assert EXPECTED["custom_client"](json.loads(told.read_text()))


def test_the_committed_facts_about_flower_are_true() -> None:
    interpreter = flower.python()
    if isinstance(interpreter, str):
        pytest.skip(f"the committed facts stand unchecked: {interpreter}")
    assert flower.real_api() == flower.facts()
