"""A network sorts whatever comes, and computes nothing that is not asked for."""

from __future__ import annotations

import itertools
import random

import pytest

from hedgerow.aggregation.network import network


def run(values: list[int], first: int, last: int) -> list[int]:
    rows = list(values)
    for i, j, low, high in network(len(values), first, last):
        a, b = rows[i], rows[j]
        if low:
            rows[i] = min(a, b)
        if high:
            rows[j] = max(a, b)
    return rows[first : last + 1]


@pytest.mark.parametrize("wires", range(1, 13))
def test_all_zeros_and_ones_are_sorted(wires: int) -> None:
    # What sorts every sequence of zeros and ones sorts everything (Knuth, theorem 5.3.4Z).
    middle = ((wires - 1) // 2, wires // 2)
    for values in map(list, itertools.product((0, 1), repeat=wires)):
        for first, last in ((0, wires - 1), middle, (0, 0), (wires - 1, wires - 1)):
            assert run(values, first, last) == sorted(values)[first : last + 1]


@pytest.mark.parametrize("wires", [13, 20, 33, 47, 64])
def test_larger_networks_sort(wires: int) -> None:
    rng = random.Random(wires)
    for _ in range(50):
        values = [rng.randrange(wires) for _ in range(wires)]
        first = rng.randrange(wires)
        last = rng.randrange(first, wires)
        assert run(values, first, last) == sorted(values)[first : last + 1]


def test_what_the_outputs_do_not_need_is_left_out() -> None:
    def operations(first: int, last: int) -> int:
        return sum(low + high for _, _, low, high in network(10, first, last))

    assert operations(0, 9) == 62
    assert operations(4, 5) == 50
    assert operations(0, 0) == 9  # the smallest of ten takes nine comparisons
