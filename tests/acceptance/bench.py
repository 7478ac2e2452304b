"""A federation of training sites as real processes, and what their executions and folds tell: for tests that break things."""

from __future__ import annotations

import json
from pathlib import Path

from hedgerow.testing import Federation, Process, eventually
from hedgerow.waits import Limit

WORKLOAD = Path(__file__).parent / "workload"
JOB = Limit("job_s", 150.0)
MOMENT = Limit("moment_s", 60.0)


class Bench(Federation):
    """A federation of training sites, and what their executions' file tells."""

    def __init__(self, folder: Path, *, proxied: bool = False) -> None:
        self.executions_path = folder / "executions"
        self.faults = folder / "faults"
        env = {"EXECUTIONS": str(self.executions_path), "FAULTS_DIR": str(self.faults), "OPENBLAS_NUM_THREADS": "1"}
        super().__init__(folder, proxied=proxied, env=env)
        self.faults.mkdir()

    def add_sites(self, *names: str, connected: int = 0) -> None:
        """Start sites and wait until they are connected, or so many clients if others were started before."""
        for name in names:
            self.start_client(name, "training_site:site", WORKLOAD)
        self.wait_for_sessions(connected or len(names))

    def start_job(self, name: str, *flags: str, **options: object) -> Process:
        """Start a job whose output is in the folder of this name."""
        words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        arguments = ("--address", self.driver.text, "--out", str(self.folder / name), *flags, *words)
        return self.start_driver(WORKLOAD / "job.py", *arguments)

    def executions(self, event: str, node: str, server_round: int) -> list[int]:
        """Process ids of those executions that have started or ended."""
        lines = self.executions_path.read_text().splitlines() if self.executions_path.exists() else []
        words = [line.split() for line in lines]
        return [int(pid) for _, what, who, when, pid in words if (what, who, when) == (event, node, str(server_round))]

    def wait_for_start(self, node: str, server_round: int, times: int = 1) -> int:
        """Wait for an execution to start; the worker's process id."""
        what = f"start {times} of {node} in round {server_round}"
        eventually(lambda: len(self.executions("start", node, server_round)) >= times, MOMENT, what)
        return self.executions("start", node, server_round)[-1]

    def folds(self, name: str) -> list[tuple[int, str]]:
        """Round and node of all updates that a job has folded."""
        words = [line.split() for line in (self.folder / name / "folds").read_text().splitlines()]
        return [(int(server_round), node) for _, server_round, node in words]

    def digests(self, name: str) -> list[str]:
        """Digests of the parameters before the first round and after each."""
        return [line.split()[1] for line in (self.folder / name / "rounds").read_text().splitlines()]

    def failures(self, name: str) -> list[tuple[int, str, str]]:
        """Round, node and reason of all failures of a job."""
        return [(r, node, reason) for r, _, node, reason, _ in self.history(name)["failures"]]

    def history(self, name: str) -> dict[str, list[tuple[int, str, str, str, str]]]:
        """What a finished job says of itself."""
        history: dict[str, list[tuple[int, str, str, str, str]]] = json.loads((self.folder / name / "history.json").read_text())
        return history

    def ends_well(self, name: str, job: Process, *nodes: str, rounds: int = 3) -> None:
        """The job finishes, and every node's update of every round was folded once."""
        assert job.wait(JOB) == 0, job.tail()
        assert self.folds(name) == [(r, node) for r in range(1, rounds + 1) for node in nodes]
        assert self.failures(name) == []
