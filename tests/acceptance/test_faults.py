"""Each process of a federation is killed, each link fails, each client misbehaves: by itself, in round 2, over real processes.

The driver's death is in test_driver_faults.py.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.testing import eventually
from hedgerow.waits import Limit
from tests.acceptance.bench import JOB, MOMENT, WORKLOAD, Bench

NOTICED = Limit("noticed_s", 75.0)
MEGABYTE = 1_000_000


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


def test_a_client_that_is_stopped_is_not_asked_again_and_its_task_fails_soon(bench: Bench) -> None:
    bench.start_server("--node-left-s=2")
    bench.add_sites("a", "b", "c")
    job = bench.start_job("first", seconds=3)
    bench.wait_for_start("b", 2)
    bench.clients["b"].stop()
    assert job.wait(JOB) == 0, job.tail()
    assert bench.failures("first") == [(2, "b", "node_lost")]
    assert bench.folds("first") == [(1, "a"), (1, "b"), (1, "c"), (2, "a"), (2, "c"), (3, "a"), (3, "c")]


def test_a_client_that_is_stopped_and_started_again_finishes_its_task(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    job = bench.start_job("first", seconds=1)
    bench.wait_for_start("a", 2)
    bench.clients["a"].stop()
    bench.clients["a"].start()
    bench.ends_well("first", job, "a", "b")


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


def test_a_site_that_wants_no_retries_gets_none(bench: Bench) -> None:
    bench.start_server()
    bench.start_client("a", "training_site:site", WORKLOAD, "--worker-retries=0")
    bench.add_sites("b", connected=2)
    job = bench.start_job("first", seconds=1)
    os.kill(bench.wait_for_start("a", 2), signal.SIGKILL)
    assert job.wait(JOB) == 0, job.tail()
    assert bench.failures("first") == [(2, "a", "worker_died")]
    assert len(bench.executions("start", "a", 2)) == 1


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
