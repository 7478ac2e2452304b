"""A server is lost while a run goes on, and another one is started on a backup: over real processes."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.testing import eventually
from tests.acceptance.bench import JOB, MOMENT, Bench

BACKUP = "import sys; from hedgerow.cli.hedgerow import main; sys.exit(main(['backup', *sys.argv[1:]]))"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path / "bench") as made:
        yield made


def back_up(bench: Bench) -> None:
    command = [sys.executable, "-c", BACKUP, str(bench.folder / "backup"), "--state-dir", str(bench.folder / "server")]
    subprocess.run(command, check=True, timeout=60, capture_output=True)


def restore(bench: Bench) -> None:
    """The server dies with its disk; another one is started on the backup."""
    bench.server.kill()
    (bench.folder / "server").rename(bench.folder / "gone")
    (bench.folder / "backup").rename(bench.folder / "server")
    bench.server.start()
    bench.wait_until_up()


@pytest.mark.parametrize("round_of_backup", [1, 2])
def test_a_run_goes_on_at_a_server_that_was_restored(bench: Bench, round_of_backup: int) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    undisturbed = bench.start_job("undisturbed", seconds=0)
    bench.ends_well("undisturbed", undisturbed, "a", "b")
    bench.executions_path.unlink()

    job = bench.start_job("job", seconds=1.5)
    bench.wait_for_start("a", round_of_backup)
    back_up(bench)
    bench.wait_for_start("a", 2)
    bench.wait_for_start("b", 2)
    restore(bench)
    bench.ends_well("job", job, "a", "b")
    for node in "ab":
        assert [len(bench.executions("end", node, r)) for r in (1, 2, 3)] == [1, 1, 1], "no training is repeated"
    assert bench.digests("job") == bench.digests("undisturbed")


def test_results_that_came_after_the_backup_are_handed_in_again(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    job = bench.start_job("job", seconds=2, checkpoint_dir=bench.folder / "run")
    bench.wait_for_start("a", 1)
    back_up(bench)
    bench.wait_for_start("a", 2)
    job.kill()
    eventually(lambda: bool(bench.executions("end", "a", 2) and bench.executions("end", "b", 2)), MOMENT, "training to end")
    bench.clients["a"].wait_for_output("Ended the fit task (round 2", MOMENT)
    restore(bench)
    bench.wait_for_sessions(2)
    again = bench.start_job("job", "--resume", seconds=2, checkpoint_dir=bench.folder / "run")
    assert again.wait(JOB) == 0, again.tail()
    assert bench.failures("job") == []
    for node in "ab":
        assert len(bench.executions("start", node, 2)) == 1, "no training is repeated"


def test_a_backup_from_before_the_run_is_told_with_what_to_do(bench: Bench) -> None:
    bench.start_server()
    bench.add_sites("a", "b")
    back_up(bench)
    job = bench.start_job("job", seconds=2, checkpoint_dir=bench.folder / "run")
    bench.wait_for_start("a", 1)
    restore(bench)
    assert job.wait(JOB) != 0
    assert "start it on a newer backup and resume the run" in job.output()
    with contextlib.closing(sqlite3.connect(bench.database)) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)
