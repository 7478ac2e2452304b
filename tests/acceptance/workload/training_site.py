"""What the sites of the fault tests do: a little deterministic training, whose executions are noted in a file of their own.

The file does not depend on Hedgerow: one line for each start and each end, appended with one write.
``FAULTS_DIR`` may hold a file ``<node>-<round>`` that says what goes wrong there, each time it is tried: ``raise``, ``nan``,
``shape`` or ``die``.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from hedgerow import Context, NumPyClient


def note(*words: object) -> None:
    """Append one line to the file of executions."""
    line = " ".join(map(str, (f"{time.time():.6f}", *words))) + "\n"
    file = os.open(os.environ["EXECUTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Site(NumPyClient):
    """Trains for ``config["seconds"]``, ten times as long where its name is ``config["slow"]``."""

    context: Context

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        """Half of what came plus noise that follows from the task's seed."""
        node, server_round = self.context.node_name, config["round"]
        note("start", node, server_round, os.getpid())
        time.sleep(float(config["seconds"]) * (10 if node == config.get("slow") else 1))
        trained = [p * np.float32(0.5) + np.random.standard_normal(p.shape).astype(np.float32) for p in parameters]
        fault = Path(os.environ.get("FAULTS_DIR", "/nonexistent")) / f"{node}-{server_round}"
        match fault.read_text() if fault.exists() else "":
            case "raise":
                raise RuntimeError("the disk of this hospital is full")
            case "nan":
                trained[0].flat[0] = np.nan
            case "shape":
                trained[0] = trained[0][:-1]
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
        note("end", node, server_round, os.getpid())
        return trained, _examples(node), {}

    def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> tuple[float, int, dict[str, Any]]:
        """How far the parameters are from what this site would like."""
        node = self.context.node_name
        return float(np.mean(np.square(parameters[0] - np.float32(_examples(node))))), _examples(node), {}


def _examples(node: str) -> int:
    return 1 + sum(node.encode()) % 7


site = Site()
