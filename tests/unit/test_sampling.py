from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.sampling import derive_seed, sample, task_id, task_seed


def test_seeds_and_ids_are_those_of_earlier_versions() -> None:
    """A resumed run depends on them: they may never change."""
    assert derive_seed(7, "sample", 3, 0) == int(hashlib.sha256(b"7\x1fsample\x1f3\x1f0").hexdigest()[:16], 16)
    assert task_seed(7, 3, "hospital_a", "fit", 0) == derive_seed(7, "task", 3, "hospital_a", "fit", 0)
    assert task_id("r", 3, "n", "fit", 0) == hashlib.sha256(b"r\x1f3\x1fn\x1ffit\x1f0").hexdigest()[:32]
    assert sample(11, range(10), 4) == [7, 8, 9, 3]


@given(st.integers(), st.text())
def test_seed_has_64_bits(number: int, text: str) -> None:
    assert 0 <= derive_seed(number, text) < 2**64


def test_seed_depends_on_every_part_and_where_it_ends() -> None:
    assert derive_seed("ab", "c") != derive_seed("a", "bc")
    base = (1, 2, "a", "fit", 0)
    others = [(9, 2, "a", "fit", 0), (1, 9, "a", "fit", 0), (1, 2, "b", "fit", 0), (1, 2, "a", "eval", 0), (1, 2, "a", "fit", 1)]
    seeds = {task_seed(*parts) for parts in [base, *others]}
    assert len(seeds) == 6


def test_task_ids_of_a_run_are_distinct() -> None:
    parts = itertools.product(("r1", "r2"), range(3), ("n1", "n2"), ("fit", "evaluate"), range(2))
    ids = [task_id(*p) for p in parts]
    assert len(set(ids)) == 48
    assert all(len(i) == 32 and i.isalnum() for i in ids)


@given(st.integers(0, 2**64 - 1), st.lists(st.text(), unique=True), st.data())
def test_sample_takes_distinct_members_by_the_seed_alone(seed: int, population: list[str], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(population)))
    chosen = sample(seed, population, count)
    assert len(set(chosen)) == count
    assert set(chosen) <= set(population)
    assert sample(seed, tuple(population), count) == chosen


def test_sample_of_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="larger"):
        sample(1, ["a"], 2)


def test_every_member_is_chosen_about_equally_often() -> None:
    counts = dict.fromkeys(range(10), 0)
    for seed in range(1_000):
        for member in sample(derive_seed(seed), range(10), 3):
            counts[member] += 1
    assert all(240 <= count <= 360 for count in counts.values())  # 300 expected, standard deviation 14.5
