"""Each process of a federation is killed, each link fails, each client misbehaves: by itself, in round 2, over real processes.

(The driver's death is tested in a file of its own.)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.testing import Federation, Process, eventually
from hedgerow.waits import Limit

WORKLOAD = Path(__file__).parent / "workload"
JOB = Limit("job_s", 150.0)
MOMENT = Limit("moment_s", 60.0)
NOTICED = Limit("noticed_s", 75.0)
MEGABYTE = 1_000_000


class Bench(Federation):
    """A federation of training sites, and what their executions' file tells."""

    def __init__(self, folder: Path, *, proxied: bool = False) -> None:
        self.executions_path = folder / "executions"
        self.faults = folder / "faults"
        env = {"EXECUTIONS": str(self.executions_path), "FAULTS_DIR": str(self.faults), "OPENBLAS_NUM_THREADS": "1"}
        super().__init__(folder, proxied=proxied, env=env)
        self.faults.mkdir()

    def add_sites(self, *names: str) -> None:
        """Start sites and wait until they are connected."""
        for name in names:
            self.start_client(name, "training_site:site", WORKLOAD)
        self.wait_for_sessions(len(names))

    def start_job(self, name: str, **options: object) -> Process:
        """Start a job whose output is in the folder of this name."""
        words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        arguments = ("--address", self.driver.text, "--out", str(self.folder / name), *words)
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


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "bench") as made:
        yield made


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "bench", proxied=True) as made:
        yield made


def test_a_client_that_is_killed_and_started_again_finishes_the_round(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    job = bench.start_job("first", seconds=1)
    bench.wait_for_start("a", 2)
    bench.clients["a"].kill()
    bench.clients["a"].start()
    bench.ends_well("first", job, "a", "b")
    assert len(bench.executions("start", "a", 2)) == 2, "the killed training is done again"
    assert len(bench.executions("start", "b", 2)) == 1, "nobody else's training is"
    second = bench.start_job("second")
    bench.ends_well("second", second, "a", "b")
    assert bench.digests("second") == bench.digests("first"), "the death left no trace in the parameters"


def test_a_server_that_is_killed_and_started_again_finishes_the_run(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    job = bench.start_job("first", seconds=1)
    bench.wait_for_start("a", 2)
    bench.wait_for_start("b", 2)
    bench.server.kill()
    bench.server.start()
    bench.ends_well("first", job, "a", "b")
    for node in "ab":
        assert [len(bench.executions("start", node, r)) for r in (1, 2, 3)] == [1, 1, 1], "no training is repeated"
        assert bench.clients[node].lives == 1
    second = bench.start_job("second")
    bench.ends_well("second", second, "a", "b")
    assert bench.digests("second") == bench.digests("first")


def test_training_that_ends_while_the_server_is_dead_is_delivered(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    job = bench.start_job("first", seconds=0.5)
    bench.wait_for_start("a", 2)
    bench.wait_for_start("b", 2)
    bench.server.kill()
    eventually(lambda: bool(bench.executions("end", "a", 2) and bench.executions("end", "b", 2)), MOMENT, "training to end")
    bench.clients["a"].kill()  # its result is in the outbox by now or it trains once more
    bench.clients["a"].start()
    bench.server.start()
    bench.ends_well("first", job, "a", "b")
    assert len(bench.executions("start", "b", 2)) == 1


def test_a_client_that_never_comes_back_is_that_one_failure(bench: Bench) -> None:
    bench.start_server("--node-lost-s=3")
    bench.add_sites("a", "b", "c")
    job = bench.start_job("first", seconds=1)
    bench.wait_for_start("b", 2)
    bench.clients["b"].kill()
    assert job.wait(JOB) == 0, job.tail()
    assert bench.failures("first") == [(2, "b", "node_lost")]
    assert bench.folds("first") == [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "c"), (3, "a"), (3, "c")]
    bench.clients["b"].start()
    bench.wait_for_sessions(3)
    second = bench.start_job("second", clients=3)
    bench.ends_well("second", second, "a", "b", "c")


def test_a_worker_that_is_killed_is_replaced_and_the_client_stays_connected(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    job = bench.start_job("first", seconds=1)
    os.kill(bench.wait_for_start("a", 2), signal.SIGKILL)
    bench.ends_well("first", job, "a", "b")
    assert len(bench.executions("start", "a", 2)) == 2
    log = bench.clients["a"].output()
    assert "killed by signal 9 (SIGKILL)" in log
    assert "Connection lost" not in log
    second = bench.start_job("second")
    bench.ends_well("second", second, "a", "b")
    assert bench.digests("second") == bench.digests("first")


def test_a_worker_that_is_killed_three_times_under_a_task_is_a_failure(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    job = bench.start_job("first", seconds=1)
    for times in (1, 2, 3):
        os.kill(bench.wait_for_start("a", 2, times), signal.SIGKILL)
    assert job.wait(JOB) == 0, job.tail()
    assert bench.failures("first") == [(2, "a", "worker_died")]
    assert bench.folds("first") == [(1, "a"), (1, "b"), (2, "b"), (3, "a"), (3, "b")]
    assert "client a failed (worker_died)" in job.output()


def test_deaths_of_the_worker_are_counted_over_a_restart_of_the_client(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    job = bench.start_job("first", seconds=1)
    for times in (1, 2):
        os.kill(bench.wait_for_start("a", 2, times), signal.SIGKILL)
    bench.wait_for_start("a", 2, 3)
    bench.clients["a"].kill()
    bench.clients["a"].start()
    os.kill(bench.wait_for_start("a", 2, 4), signal.SIGKILL)
    assert job.wait(JOB) == 0, job.tail()
    assert bench.failures("first") == [(2, "a", "worker_died")]


def test_a_second_process_with_the_same_identity_fences_off_the_first(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    job = bench.start_job("first", seconds=1)
    bench.wait_for_start("a", 2)
    twin = bench.client_state("twin")
    twin.mkdir()
    shutil.copy(bench.client_state("a") / "identity.json", twin / "identity.json")
    bench.start_client("twin", "training_site:site", WORKLOAD, "--name=a")
    assert bench.clients["a"].wait(MOMENT) == 1
    assert "a newer session of the same node has taken over" in bench.clients["a"].output()
    bench.ends_well("first", job, "a", "b")
    assert bench.clients["twin"].running


def test_connections_that_are_cut_cost_nothing(proxied: Bench) -> None:
    proxied.start_server()
    proxied.add_sites("a", "b")
    job = proxied.start_job("first", seconds=1)
    proxied.wait_for_start("a", 2)
    assert proxied.links["fleet"].cut() == 2
    assert proxied.links["driver"].cut() == 1
    proxied.wait_for_start("a", 3)
    for link in proxied.links.values():
        link.cut()
    proxied.ends_well("first", job, "a", "b")
    for node in "ab":
        assert [len(proxied.executions("start", node, r)) for r in (1, 2, 3)] == [1, 1, 1], "no training is repeated"
    assert "Reconnected" in proxied.clients["a"].output()


def test_connections_that_go_silent_are_noticed_and_cost_nothing(proxied: Bench) -> None:
    proxied.start_server()
    proxied.add_sites("a", "b")
    job = proxied.start_job("first", seconds=1)
    proxied.wait_for_start("a", 2)
    for link in proxied.links.values():
        link.stall()
    for node in "ab":
        proxied.clients[node].wait_for_output("Connection lost", NOTICED)
    for link in proxied.links.values():
        link.resume()
    proxied.ends_well("first", job, "a", "b")
    for node in "ab":
        assert [len(proxied.executions("start", node, r)) for r in (1, 2, 3)] == [1, 1, 1], "no training is repeated"


def test_a_large_blob_over_a_link_that_drops_all_the_time_goes_on_where_it_was(proxied: Bench) -> None:
    proxied.start_server()
    proxied.add_sites("a")
    link = proxied.links["blob"]
    link.cut_every(20 * MEGABYTE)
    job = proxied.start_job("first", rounds=1, clients=1, numbers=25 * MEGABYTE)
    proxied.ends_well("first", job, "a", rounds=1)
    # Each way has the blob twice: from the driver and to the client, from the client and to the driver.
    lost_in_a_cut = 2 * MEGABYTE
    assert link.cuts >= 16
    for carried in (link.bytes_up, link.bytes_down):
        assert 200 * MEGABYTE <= carried <= 200 * MEGABYTE + link.cuts * lost_in_a_cut


@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("raise", "user_error", "the disk of this hospital is full"),
        ("nan", "bad_update", "finite"),
        ("shape", "bad_update", "(50000,)"),
        ("die", "worker_died", "SIGKILL"),
    ],
)
def test_a_fit_that_goes_wrong_is_a_failure_with_its_reason_and_the_round_goes_on(
    bench: Bench, fault: str, reason: str, message: str
) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    (bench.faults / "a-2").write_text(fault)
    job = bench.start_job("first", seconds=0.1)
    assert job.wait(JOB) == 0, job.tail()
    assert bench.failures("first") == [(2, "a", reason)]
    assert bench.folds("first") == [(1, "a"), (1, "b"), (2, "b"), (3, "a"), (3, "b")]
    assert f"fit_round 2: client a failed ({reason}): " in job.output()
    assert message in job.output()
    assert message in bench.history("first")["failures"][0][4]
    assert len(bench.executions("start", "a", 2)) == (3 if fault == "die" else 1), "only a worker's death is tried again"
    assert bench.clients["a"].lives == 1
    assert bench.clients["a"].running
