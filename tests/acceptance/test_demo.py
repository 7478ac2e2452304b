"""The demo leaves no process behind when it is interrupted, and none when something breaks. (A whole one: ``make demo``.)"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from hedgerow.testing import Process, eventually
from hedgerow.waits import Limit

DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"
TRAINING = Limit("training_s", 120.0)
END = Limit("end_s", 40.0)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Process]:
    """A demo in which a hospital trains."""
    process = Process("demo", [sys.executable, str(DEMO), f"--folder={tmp_path / 'stage'}"], tmp_path / "demo.log")
    try:
        process.start().wait_for_output("Started the fit task", TRAINING)
        yield process
    finally:
        process.stop(END)
        for left in actors(tmp_path):
            left.kill()


def actors(folder: Path) -> list[psutil.Process]:
    """The processes that work in the demo's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder / "stage") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_the_server(demo: Process, folder: Path) -> None:
    next(p for p in actors(folder) if any("flower-server" in word for word in p.cmdline())).kill()


def press_ctrl_c(demo: Process, folder: Path) -> None:
    os.kill(demo.pid, signal.SIGINT)


def terminate(demo: Process, folder: Path) -> None:
    os.kill(demo.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    ("end", "exit_code", "said"),
    [
        (press_ctrl_c, 130, "Interrupted; everything is stopped."),
        (terminate, 130, "Interrupted; everything is stopped."),
        (kill_the_server, 1, "server ended with exit code -9"),
    ],
)
def test_the_demo_leaves_nobody_behind(
    demo: Process, tmp_path: Path, end: Callable[[Process, Path], None], exit_code: int, said: str
) -> None:
    # server, two hospitals with their workers, a driver
    assert len(actors(tmp_path)) >= 6
    end(demo, tmp_path)
    assert demo.wait(END) == exit_code
    eventually(lambda: actors(tmp_path) == [], END, "the demo's processes to be gone")
    assert said in demo.output()
