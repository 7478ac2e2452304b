"""The real Flower 1.6, where it can be had: an interpreter of its own that has ``flwr==1.6.0``."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.source_tree import ROOT

VERSION = "1.6.0"
FACTS = ROOT / "tests" / "flower_1_6_0.json"
"""What ``scripts/flower_api.py flwr`` printed there: names and signatures."""
INTERPRETER = "HEDGEROW_FLOWER_PYTHON"
"""This environment variable names an interpreter that has it; without it one is made, once, under .data."""
INSTALL_S = 300
WITHOUT_TELEMETRY = {"FLWR_TELEMETRY_ENABLED": "0"}


def facts() -> dict[str, dict[str, str]]:
    """Names and signatures of Flower 1.6 as they were committed."""
    known: dict[str, dict[str, str]] = json.loads(FACTS.read_text(encoding="utf-8"))
    return known


@functools.cache
def python() -> Path | str:
    """The interpreter; or, as a string, why there is none."""
    named = os.environ.get(INTERPRETER)
    if named:
        return Path(named) if _has_it(Path(named)) else f"{named} ({INTERPRETER}) has no flwr {VERSION}"
    folder = ROOT / ".data" / f"flwr-{VERSION}"
    interpreter = folder / "bin" / "python"
    if interpreter.exists() and _has_it(interpreter):
        return interpreter
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=0", "--only-binary=:all:"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(interpreter), *pip, f"flwr=={VERSION}", "numpy<2"],
    ):
        try:
            made = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"flwr {VERSION} could not be installed: {error}"
        if made.returncode:
            lines = (made.stderr or made.stdout).strip().splitlines()
            return f"flwr {VERSION} could not be installed: {lines[-1] if lines else made.returncode}"
    return interpreter if _has_it(interpreter) else f"flwr {VERSION} was installed and cannot be imported"


def _has_it(interpreter: Path) -> bool:
    ask = [str(interpreter), "-c", "import flwr; print(flwr.__version__)"]
    try:
        said = subprocess.run(
            ask, capture_output=True, text=True, timeout=INSTALL_S, check=False, env={**_environment(), **WITHOUT_TELEMETRY}
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return said.stdout.strip() == VERSION


def _environment() -> dict[str, str]:
    """Ours without what would lead another interpreter to our packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def real_api() -> dict[str, dict[str, str]]:
    """Names and signatures of the real Flower, asked now."""
    command = [str(python()), str(ROOT / "scripts" / "flower_api.py"), "flwr"]
    said = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_S, check=True, env={**_environment(), **WITHOUT_TELEMETRY}
    )
    known: dict[str, dict[str, str]] = json.loads(said.stdout)
    return known
