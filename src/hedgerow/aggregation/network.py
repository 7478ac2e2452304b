"""Sorting networks: which pairs to compare so that a row of wires ends up in order. Numbers only; no arrays.

A comparator ``(i, j)`` with ``i < j`` puts the smaller of two wires on ``i`` and the larger on ``j``. A network is a fixed list
of them that sorts whatever comes, so that each can be one ``np.minimum`` and one ``np.maximum`` over whole blocks. Built here
is Batcher's merge exchange (Batcher 1968, "Sorting Networks and Their Applications"; Knuth, The Art of Computer Programming,
volume 3, algorithm 5.2.2M), which takes any number of wires; then what the wanted outputs do not depend on is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple


class Comparator(NamedTuple):
    """Compare wires ``i < j``. ``low``: the smaller value is needed, on ``i``; ``high``: the larger one is, on ``j``."""

    i: int
    j: int
    low: bool
    high: bool


@cache
def network(wires: int, first: int, last: int) -> tuple[Comparator, ...]:
    """Comparators after which the wires ``first`` to ``last``, both included, hold the values of these ranks.

    Args:
        wires: How many values there are.
        first: The lowest rank that is wanted, from 0.
        last: The highest one.

    >>> [tuple(comparator) for comparator in network(3, 1, 1)]  # the median of three
    [(0, 2, True, True), (0, 1, False, True), (1, 2, True, False)]
    """
    needed = set(range(first, last + 1))
    kept = []
    for i, j in reversed(list(_merge_exchange(wires))):
        if i in needed or j in needed:
            kept.append(Comparator(i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(kept))


def _merge_exchange(wires: int) -> Iterator[tuple[int, int]]:
    """All comparators that sort so many wires, in order."""
    top = 1 << max(wires - 1, 0).bit_length() >> 1
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            for i in range(wires - d):
                if i & p == r:
                    yield i, i + d
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
