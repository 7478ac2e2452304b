"""Krum's and Bulyan's choices against the papers' definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.aggregation import selection
from tests.unit import papers


def distances(vectors: list[papers.Vector]) -> papers.Vector:
    return np.array([[np.sum((a - b) ** 2) for b in vectors] for a in vectors])


@given(st.integers(0, 2**32), st.integers(1, 14), st.integers(0, 4))
def test_scores_are_the_papers(seed: int, count: int, f: int) -> None:
    vectors = list(np.random.default_rng(seed).standard_normal((count, 3)))
    np.testing.assert_allclose(selection.krum_scores(distances(vectors), f), papers.krum_scores(vectors, f), rtol=1e-12)
    assert selection.krum(distances(vectors), f) == [papers.krum(vectors, f)]


@given(st.integers(0, 2**32), st.integers(1, 2))
def test_bulyan_chooses_by_krum_again_and_again(seed: int, f: int) -> None:
    vectors = list(np.random.default_rng(seed).standard_normal((4 * f + 3, 3)))
    left, expected = list(range(len(vectors))), []
    for _ in range(len(vectors) - 2 * f):
        expected.append(left.pop(papers.krum([vectors[i] for i in left], f)))
    assert selection.bulyan(distances(vectors), f) == expected


def test_of_equal_updates_the_first_ones_are_chosen() -> None:
    assert selection.krum(np.zeros((5, 5)), 1, 3) == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_updates_than_neighbours_are_chosen_from(count: int) -> None:
    assert selection.krum(np.ones((count, count)) - np.eye(count), 0) == [0]


def test_infinite_distances_are_never_chosen() -> None:
    table = np.ones((5, 5)) - np.eye(5)
    table[2, :] = table[:, 2] = np.inf
    assert 2 not in selection.krum(table, 1, 4)
