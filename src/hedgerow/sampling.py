"""Seeded choices: pure functions of what they are given, so that a resumed run chooses as the undisturbed one did."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def derive_seed(*parts: object) -> int:
    """A 64-bit seed that depends on every part and on nothing else (SHA-256 over the parts' text, first 8 bytes).

    >>> derive_seed(1, "fit") == derive_seed(1, "fit") != derive_seed(1, "evaluate")
    True
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def task_seed(run_seed: int, round: int, node_name: str, kind: str, sequence: int) -> int:
    """The 64-bit seed of one task: depends on the node's name, not on its id, so that fresh nodes give the same bits."""
    return derive_seed(run_seed, "task", round, node_name, kind, sequence)


def task_id(run_id: str, round: int, node_id: str, kind: str, sequence: int) -> str:
    """The id of one task; a driver that was restarted derives the same one again."""
    text = "\x1f".join((run_id, str(round), node_id, kind, str(sequence)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def sample(seed: int, population: Sequence[T], count: int) -> list[T]:
    """``count`` distinct members of the population, chosen by the seed alone. The caller fixes the population's order."""
    return random.Random(seed).sample(population, count)
