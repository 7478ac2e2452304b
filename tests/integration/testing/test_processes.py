"""Processes of a test: killed, started again, and always gone at the end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hedgerow.errors import InvalidTransition, WaitTimeout
from hedgerow.testing import Process, eventually
from hedgerow.waits import Limit

SOON = Limit("soon_s", 20.0)
TALK = "import os, sys, time; print('here', os.getpid(), os.environ['WORD'], flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"


def process(tmp_path: Path, code: str) -> Process:
    return Process("speaker", [sys.executable, "-c", code], tmp_path / "speaker.log", {"WORD": "hello"})


def test_a_killed_process_starts_again_and_its_log_goes_on(tmp_path: Path) -> None:
    speaker = process(tmp_path, TALK).start()
    speaker.wait_for_output("hello", SOON)
    first = speaker.pid
    speaker.kill()
    assert not speaker.running
    speaker.start().wait_for_output("hello", SOON, times=2)
    assert (speaker.lives, speaker.pid != first) == (2, True)
    with pytest.raises(InvalidTransition, match="running already"):
        speaker.start()
    assert speaker.stop() == -15


def test_a_process_that_ends_without_saying_it_is_reported_with_its_log(tmp_path: Path) -> None:
    speaker = process(tmp_path, "print('something else')").start()
    with pytest.raises(WaitTimeout, match="something else"):
        speaker.wait_for_output("hello", SOON)


def test_clearing_away_ends_a_process_that_ignores_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hedgerow.testing.processes.STOP", Limit("stop_s", 0.1))
    speaker = process(tmp_path, STUBBORN).start()
    speaker.wait_for_output("deaf", SOON)
    speaker.clear_away()
    assert not speaker.running
    speaker.clear_away()


def test_what_never_comes_true_says_what_it_waited_for() -> None:
    with pytest.raises(WaitTimeout, match=r"0\.05 s \(the limit moment_s\) for a miracle"):
        eventually(lambda: False, Limit("moment_s", 0.05), "a miracle")
