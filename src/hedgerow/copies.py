"""Where parameters are copied: named points at which a process says how many bytes it has just copied.

Nobody listens unless the environment variable ``HEDGEROW_COPIES`` names a folder that is there; each process then appends a line
to the file of its process id, so that a test can add up what a round costs and notice when it grows
(``tests/acceptance/test_costs.py``). A copy point that is new belongs into the list below.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

VARIABLE = "HEDGEROW_COPIES"
Point = Literal[
    "parameters to a message",
    "parameters to a file",
    "parameters to a checkpoint",
    "parameters of a message to the worker",
    "parameters widened",
    "result to the outbox",
    "blob sent",
    "blob received",
    "blob hashed here",
]
POINTS: tuple[str, ...] = get_args(Point)
_FOLDER = os.environ.get(VARIABLE, "")


def copied(point: Point, nbytes: int) -> None:
    """Bytes were copied at a point; costs nothing unless somebody listens."""
    if _FOLDER:
        with (Path(_FOLDER) / str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write(f"{nbytes} {point}\n")


def read_copies(folder: Path) -> dict[int, dict[str, int]]:
    """Bytes by process id and point, of all processes that have written into the folder so far."""
    found: dict[int, dict[str, int]] = {}
    for path in folder.iterdir():
        sums = found.setdefault(int(path.name), {})
        for line in path.read_text(encoding="utf-8").splitlines():
            nbytes, _, point = line.partition(" ")
            sums[point] = sums.get(point, 0) + int(nbytes)
    return found
