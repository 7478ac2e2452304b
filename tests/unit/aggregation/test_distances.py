"""Distances, norms and clipping against sums over coordinates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.aggregation import blocks, clip_update, squared_distances, squared_norm
from hedgerow.errors import InvalidArgument
from hedgerow.records import Parameters
from tests.unit import papers
from tests.unit.aggregation.updates_for_tests import EPSILON, FLOATS, Array, as_updates, cases, flat


@given(cases(FLOATS))
def test_distances_are_sums_of_squares(arrays: list[Array]) -> None:
    reference, *rest = arrays if len(arrays) > 1 else arrays * 2
    found = squared_distances(as_updates(rest), Parameters({"t": reference}))
    scale = max((squared_norm(u, Parameters({"t": reference})) for u in as_updates(rest)), default=0.0)
    for i, a in enumerate(rest):
        for j, b in enumerate(rest):
            assert abs(found[i, j] - np.sum((flat(a) - flat(b)) ** 2)) <= 1e-14 * scale
    assert (found == found.T).all()
    assert not np.diagonal(found).any()


def test_reference_keeps_the_digits_of_small_differences() -> None:
    rng = np.random.default_rng(0)
    sent = rng.standard_normal(10_000)
    updates = [sent + 1e-7 * rng.standard_normal(10_000) for _ in range(3)]
    exact = np.sum((updates[0] - updates[1]) ** 2)
    near = squared_distances(as_updates(updates), Parameters({"t": sent}))[0, 1]
    far = squared_distances(as_updates(updates), Parameters({"t": np.zeros(10_000)}))[0, 1]
    assert abs(near / exact - 1) < 1e-12
    assert abs(far / exact - 1) > 1e-6


def test_update_far_away_does_not_spoil_the_other_distances() -> None:
    updates = as_updates([np.array([1.0, 0.0]), np.array([1e200, -1e200]), np.array([0.0, 1.0])])
    found = squared_distances(updates, Parameters({"t": np.zeros(2)}))
    assert found[0].tolist() == [0.0, math.inf, 2.0]


@pytest.mark.parametrize("extra", [-1, 0, 1, 1500])
def test_blocks_join_without_a_seam(extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CACHE_BYTES", 0)
    a, b = np.arange(2048 + extra, dtype=np.float64), np.ones(2048 + extra)
    assert squared_distances(as_updates([a, b]), Parameters({"t": b}))[0, 1] == np.sum((a - 1) ** 2)


def test_counters_do_not_count_unless_there_is_nothing_else() -> None:
    updates = [Parameters({"w": np.array([x]), "batches": np.array(1000 * x, np.int64)}) for x in (0.0, 2.0)]
    assert squared_distances(updates, updates[0])[0, 1] == 4.0
    assert squared_norm(updates[1], updates[0]) == 4.0
    whole = [Parameters({"batches": update["batches"]}) for update in updates]
    assert squared_norm(whole[1], whole[0]) == 4_000_000.0


def test_complex_numbers_have_their_length() -> None:
    assert squared_norm(Parameters([np.array([3 + 4j], np.complex64)]), Parameters([np.zeros(1, np.complex64)])) == 25.0


@given(cases(FLOATS), st.floats(0.01, 100))
def test_clipping_is_the_papers(arrays: list[Array], max_norm: float) -> None:
    update, reference = arrays[0], arrays[-1]
    clipped = clip_update(Parameters({"t": update}), Parameters({"t": reference}), max_norm)["t"]
    expected = papers.clip(flat(update), flat(reference), max_norm)
    epsilon = EPSILON[update.dtype]
    assert clipped.dtype == update.dtype
    np.testing.assert_allclose(flat(clipped), expected, rtol=epsilon, atol=8 * np.finfo(np.float64).eps + epsilon * 1e-2)


def test_update_that_is_near_enough_is_handed_on_and_counters_stay() -> None:
    reference = Parameters({"w": np.zeros(2), "n": np.array(3)})
    update = Parameters({"w": np.array([3.0, 4.0]), "n": np.array(90)})
    assert clip_update(update, reference, 5.0) is update
    clipped = clip_update(update, reference, 1.0)
    assert {name: array.tolist() for name, array in clipped.items()} == {"w": [0.6000000000000001, 0.8], "n": 90}
    assert update["w"].tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("value", "max_norm", "message"),
    [(1.0, 0.0, "max_norm"), (1.0, math.inf, "max_norm"), (1e200, 1.0, "distance"), (math.nan, 1.0, "nan")],
)
def test_what_cannot_be_clipped_is_refused(value: float, max_norm: float, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        clip_update(Parameters([np.array([value])]), Parameters([np.zeros(1)]), max_norm)


def test_other_tensors_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"\(3,\)"):
        squared_distances([Parameters([np.zeros(3)])], Parameters([np.zeros(2)]))
