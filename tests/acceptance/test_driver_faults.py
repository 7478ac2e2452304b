"""The driver dies, or is told to end, in round 2, over real processes: it is started again and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.testing import eventually
from tests.acceptance.bench import MOMENT, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "bench") as made:
        yield made


def runs_are(bench: Bench, **states: int) -> None:
    """Wait until the server has so many runs in these states, and none in others."""

    def told() -> bool:
        found = {name: int(value) for name, value in bench.metrics().items() if name.startswith("hedgerow_runs{") and value}
        return found == {f'hedgerow_runs{{state="{state}"}}': count for state, count in states.items()}

    eventually(told, MOMENT, f"runs to be {states}")


def test_a_driver_that_is_killed_and_started_again_finishes_the_run_as_if_nothing_had_been(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    undisturbed = bench.start_job("undisturbed", momentum=0.9)
    bench.ends_well("undisturbed", undisturbed, "a", "b")
    before = {node: len(bench.executions("start", node, 2)) for node in "ab"}
    folder = bench.folder / "run"
    job = bench.start_job("first", seconds=1, momentum=0.9, checkpoint_dir=folder)
    bench.wait_for_start("a", 2, before["a"] + 1)
    bench.wait_for_start("b", 2, before["b"] + 1)
    job.kill()
    ended = [bench.executions("end", node, 2) for node in "ab"]
    again = bench.start_job("first", "--resume", seconds=1, momentum=0.9, checkpoint_dir=folder)
    bench.ends_well("first", again, "a", "b")
    assert [len(some) for some in ended] == [1, 1], "the driver died while both were training"
    for node in "ab":
        assert [len(bench.executions("start", node, r)) for r in (1, 2, 3)] == [2, 2, 2], "nobody trained twice"
        assert bench.clients[node].lives == 1
    assert bench.digests("first") == bench.digests("undisturbed"), "the death left no trace in the parameters"
    runs_are(bench, finished=2)
    second = bench.start_job("second", momentum=0.9)
    bench.ends_well("second", second, "a", "b")
    assert bench.digests("second") == bench.digests("undisturbed")


def test_a_driver_that_is_told_to_end_leaves_its_run_open_if_it_has_a_folder(bench: Bench) -> None:
    bench.start_server("--driver-lost-s=1")
    bench.add_sites("a", "b")
    folder = bench.folder / "run"
    job = bench.start_job("first", seconds=1, checkpoint_dir=folder)
    bench.wait_for_start("a", 2)
    assert job.stop(MOMENT) == -signal.SIGINT, "as after Ctrl-C"
    assert f"start_driver(resume={str(folder)!r})" in job.output()
    runs_are(bench, interrupted=1)
    again = bench.start_job("first", "--resume", seconds=1, checkpoint_dir=folder)
    bench.ends_well("first", again, "a", "b")
    assert [len(bench.executions("start", "a", r)) for r in (1, 2, 3)] == [1, 1, 1]
    runs_are(bench, finished=1)


def test_a_driver_that_is_told_to_end_stops_a_run_that_has_no_folder(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    job = bench.start_job("first", seconds=1)
    bench.wait_for_start("a", 2)
    os.kill(job.pid, signal.SIGTERM)
    assert job.wait(MOMENT) == -signal.SIGINT
    runs_are(bench, stopped=1)
    second = bench.start_job("second")
    bench.ends_well("second", second, "a", "b")
