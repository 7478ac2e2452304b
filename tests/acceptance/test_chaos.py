"""A short run of the chaos harness; the long one is ``make chaos``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).resolve().parents[2] / "scripts" / "chaos.py"
SHORT = ("--clients", "3", "--fraction", "0.67", "--rounds", "5", "--seconds", "0.8", "--faults", "10")


@pytest.mark.parametrize("security", [[], ["--tls"]], ids=["insecure", "tls"])
def test_random_kills_and_cuts_cost_nothing_but_time(tmp_path: Path, security: list[str]) -> None:
    command = [sys.executable, str(CHAOS), "--seed", "1", *SHORT, *security, "--folder", str(tmp_path / "chaos")]
    done = subprocess.run(command, timeout=280, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the parameters are bit-identical" in done.stdout
