"""From nothing to a trained model over mutual TLS, with the commands that ``hedgerow provision`` prints and no others."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.testing import Process, free_port
from hedgerow.waits import Limit

WORKLOAD = Path(__file__).parent / "workload"
EXAMPLE = Path(__file__).parents[2] / "examples" / "hospitals"
PROGRAMS = Path(sys.executable).parent
SPOKEN = Limit("spoken_s", 60.0)
JOB = Limit("job_s", 200.0)
COMMAND_S = 60.0


class Shell:
    """A terminal in an empty folder, in which printed commands are typed."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.fleet, self.driver, self.blob, self.web = (f"127.0.0.1:{free_port()}" for _ in range(4))
        self._env = {
            "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
            "XDG_STATE_HOME": str(folder / "state"),
            "EXECUTIONS": str(folder / "executions"),
            "OMP_NUM_THREADS": "1",
        }

    def __call__(self, command: str, code: int = 0) -> str:
        """Type a command and wait for its end."""
        environment = {**os.environ, **self._env}
        done = subprocess.run(
            ["sh", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=COMMAND_S
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def printed(self, command: str) -> list[str]:
        """Type a command, and take the commands from what it prints."""
        return [line.strip() for line in self(command).splitlines() if line.startswith("  ")]

    def start(self, name: str, command: str) -> Process:
        """Type a command, and let it run."""
        process = Process(name, ["sh", "-c", command], self.folder / f"{name}.log", self._env)
        self._stack.callback(process.clear_away)
        return process.start()

    def start_server(self) -> Process:
        """Make an authority and a server's folder, and start the server with the printed command."""
        self("hedgerow provision init")
        ports = f"--fleet-api-address {self.fleet} --driver-api-address {self.driver} --blob-address {self.blob}"
        (command,) = self.printed(f"hedgerow provision server main -- {ports} --web-address {self.web}")
        server = self.start("server", command)
        server.wait_for_output("health and metrics on", SPOKEN)
        return server

    def start_client(self, name: str, callable: str, folder: Path) -> Process:
        """The same for a client, which runs what is in that folder."""
        where = f"--server {self.fleet} --callable {callable}"
        (command,) = self.printed(f"hedgerow provision client {name} {where} -- --callable-dir {folder}")
        return self.start(name, command)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with contextlib.ExitStack() as stack:
        yield Shell(tmp_path, stack)


def test_printed_commands_train_over_mutual_tls(shell: Shell) -> None:
    server = shell.start_server()
    clients = [shell.start_client(name, "training_site:site", WORKLOAD) for name in ("a", "b")]
    out = shell.folder / "out"
    job = f"--address {shell.driver} --out {out} --rounds 2 --seconds 0"
    (command,) = shell.printed(f"hedgerow provision driver ann --script {WORKLOAD / 'job.py'} -- {job}")
    driver = shell.start("driver", command)
    assert driver.wait(JOB) == 0, driver.tail() + clients[0].tail() + server.tail()
    assert [line.split()[1:] for line in (out / "folds").read_text().splitlines()] == [
        [server_round, name] for server_round in "12" for name in "ab"
    ]
    assert json.loads((out / "history.json").read_text())["failures"] == []
    assert "Opened secure gRPC connection using certificates" in driver.output()
    assert "(TLS)" in clients[0].output()
    assert not any("insecure" in process.output() for process in (server, driver, *clients))

    _, runs = shell.printed(f"hedgerow provision driver root --operator --server {shell.driver}")
    assert "finished" in shell(runs)
    own = shell.folder / "hedgerow-certificates" / "ann"
    as_driver = runs.replace(str(own.with_name("root")), str(own))
    assert "one for the role operator is needed" in shell(as_driver, code=2)

    assert "Revoked 1 certificate(s) of client a" in shell("hedgerow provision revoke a")
    clients[0].wait_for_output("has been revoked", SPOKEN)
    server.wait_for_output("Node a disconnected", SPOKEN)


def test_the_hospitals_train_over_mutual_tls(shell: Shell) -> None:
    server = shell.start_server()
    for letter in "ab":
        shell.start_client(f"hospital_{letter}", f"client:hospital_{letter}", EXAMPLE)
    out = shell.folder / "out"
    words = f"address={shell.driver} hydra.run.dir={out} num_rounds=1 enroll=all"
    (command,) = shell.printed(f"hedgerow provision driver ann --script {EXAMPLE / 'driver.py'} -- {words}")
    driver = shell.start("driver", command)
    assert driver.wait(JOB) == 0, driver.tail(60) + server.tail()
    assert json.loads((out / "history.json").read_text())["rounds"]
