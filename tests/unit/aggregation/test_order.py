"""Folds by order against numpy and against the papers' definitions, coordinate by coordinate."""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.aggregation import blocks, coordinate_median, mean_near_median, order, trimmed_mean
from hedgerow.errors import InvalidArgument
from hedgerow.records import Parameters
from tests.unit import papers
from tests.unit.aggregation.updates_for_tests import FLOATS, INTEGERS, Array, as_updates, cases, draw_arrays, flat


def rounded(values: Any, like: Array) -> Array:
    """Literal float64 values as the tensor's dtype: rounded once, integers to the nearest."""
    values = np.asarray(values, np.float64).reshape(like.shape)
    return np.asarray((np.rint(values) if like.dtype.kind in "biu" else values).astype(like.dtype))


def same(found: Array, expected: Array) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64))


@given(st.data(), st.sampled_from([np.float32, np.float64]), st.integers(1, 11))
def test_median_is_numpys_to_the_last_bit(data: st.DataObject, dtype: Any, count: int) -> None:
    width = np.dtype(dtype).itemsize * 8
    elements = st.floats(-(2.0**100), 2.0**100, width=width, allow_subnormal=False)
    arrays = data.draw(hnp.arrays(dtype, (count, 7), elements=elements))
    found = coordinate_median(as_updates(list(arrays)))["t"]
    np.testing.assert_array_equal(found, np.median(arrays, axis=0))


@pytest.mark.parametrize("count", [1, 2, 9, 10, 63, 64, 65, 100])
def test_median_of_many_is_numpys(count: int) -> None:
    arrays = draw_arrays(np.random.default_rng(count), np.float32, count, (3, 70))
    np.testing.assert_array_equal(coordinate_median(as_updates(arrays))["t"], np.median(np.stack(arrays), axis=0))


@given(cases([*FLOATS, *INTEGERS, np.bool_]))
def test_median_is_the_papers(arrays: list[Array]) -> None:
    same(coordinate_median(as_updates(arrays))["t"], rounded(papers.median([flat(a) for a in arrays]), arrays[0]))


@given(cases([*FLOATS, *INTEGERS]), st.floats(0, 0.49))
def test_trimmed_mean_is_the_papers(arrays: list[Array], beta: float) -> None:
    expected = rounded(papers.trimmed_mean([flat(a) for a in arrays], beta), arrays[0])
    same(trimmed_mean(as_updates(arrays), int(beta * len(arrays)))["t"], expected)


@given(cases([*FLOATS, *INTEGERS]), st.data())
def test_mean_near_the_median_is_the_papers(arrays: list[Array], data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, len(arrays)))
    same(mean_near_median(as_updates(arrays), keep)["t"], rounded(papers.near_median([flat(a) for a in arrays], keep), arrays[0]))


@given(cases([np.float32, np.float64, ml_dtypes.bfloat16]), st.data())
def test_order_of_the_updates_changes_nothing(arrays: list[Array], data: st.DataObject) -> None:
    permuted = data.draw(st.permutations(arrays))
    for fold in (coordinate_median, lambda u: trimmed_mean(u, 0), lambda u: mean_near_median(u, (len(u) + 1) // 2)):
        same(fold(as_updates(permuted))["t"], fold(as_updates(arrays))["t"])


@pytest.mark.parametrize("count", [3, 70])
@pytest.mark.parametrize("extra", [-1, 0, 1, 17])
def test_blocks_join_without_a_seam(count: int, extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CACHE_BYTES", 0)  # 1024 elements a block
    arrays = draw_arrays(np.random.default_rng(1), np.float32, count, (2048 + extra,))
    np.testing.assert_array_equal(coordinate_median(as_updates(arrays))["t"], np.median(np.stack(arrays), axis=0))


def test_sorting_and_the_network_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = draw_arrays(np.random.default_rng(2), np.float64, 11, (40,))
    by_network = trimmed_mean(as_updates(arrays), 2)["t"]
    monkeypatch.setattr(order, "NETWORK_MAX", 1)
    assert trimmed_mean(as_updates(arrays), 2)["t"].tobytes() == by_network.tobytes()


def test_extremes_of_integers_stay_exact_when_one_value_is_the_median() -> None:
    arrays = [np.array([2**63 - 1, -(2**63), 2**53 + 1]), np.array([2**63 - 1, -(2**63), 2**53 + 1]), np.zeros(3, np.int64)]
    assert coordinate_median(as_updates(arrays))["t"].tolist() == arrays[0].tolist()


def test_narrow_floats_do_not_overflow() -> None:
    largest = float(np.finfo(np.float16).max)
    arrays = [np.array([largest], np.float16)] * 4
    assert coordinate_median(as_updates(arrays))["t"].tolist() == [largest]
    assert trimmed_mean(as_updates(arrays), 1)["t"].tolist() == [largest]


def test_complex_numbers_are_two_coordinates() -> None:
    arrays = [np.array([x + 1j * y], np.complex64) for x, y in ((1, 9), (2, 7), (3, 8))]
    assert coordinate_median(as_updates(arrays))["t"].tolist() == [2 + 8j]


def test_nan_stays_nan() -> None:
    arrays = [np.array([x, 1.0], np.float32) for x in (1.0, np.nan, 2.0)]
    found = coordinate_median(as_updates(arrays))["t"]
    assert np.isnan(found[0])
    assert found[1] == 1.0


def test_one_outlier_of_any_size_costs_no_digits() -> None:
    arrays = [np.array([x]) for x in (1e300, 0.1, 0.2, 0.3, -1e300)]
    assert mean_near_median(as_updates(arrays), 3)["t"].tolist() == [(0.1 + 0.2 + 0.3) / 3]


def test_updates_may_be_read_only_unaligned_and_of_other_layout_and_width() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    unaligned = np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(np.float32).reshape(3, 4)
    assert not unaligned.flags.aligned
    others = [array, np.asfortranarray(array + 1), array.astype(">f4"), unaligned, array.astype(np.float64)]
    found = coordinate_median(as_updates(others))["t"]
    assert found.dtype == np.float32
    assert found.tolist() == array.tolist()


def test_result_has_the_dtype_that_is_wanted() -> None:
    updates = as_updates([np.array([1.0]), np.array([2.0]), np.array([4.0])])
    for fold in (
        coordinate_median,
        lambda u, dtypes: trimmed_mean(u, 1, dtypes),
        lambda u, dtypes: mean_near_median(u, 1, dtypes),
    ):
        found = fold(updates, {"t": np.dtype(np.float16)})["t"]
        assert (str(found.dtype), found.tolist()) == ("float16", [2.0])


def test_model_of_several_tensors_keeps_names_and_shapes() -> None:
    updates = [
        Parameters({"w": np.full((2, 3), x, np.float32), "n": np.array(int(x)), "none": np.zeros((0, 4))}) for x in (1, 5, 7)
    ]
    found = coordinate_median(updates)
    assert {name: (array.dtype.name, array.tolist()) for name, array in found.items()} == {
        "w": ("float32", [[5.0] * 3] * 2),
        "n": ("int64", 5),
        "none": ("float64", []),
    }
    assert found["none"].shape == (0, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coordinate_median([]), "0 updates"),
        (lambda: trimmed_mean(as_updates([np.ones(1)] * 4), 2), "Nothing is left of 4"),
        (lambda: trimmed_mean(as_updates([np.ones(1)]), -1), "Nothing is left"),
        (lambda: mean_near_median(as_updates([np.ones(1)] * 2), 3), "3 of 2"),
        (lambda: mean_near_median(as_updates([np.ones(1)] * 2), 0), "0 of 2"),
        (lambda: coordinate_median([Parameters({"a": np.ones(1)}), Parameters({"b": np.ones(1)})]), "'b'"),
        (lambda: coordinate_median(as_updates([np.ones(1), np.ones(2)])), r"\(2,\)"),
        (lambda: coordinate_median(as_updates([np.array(["x"])])), "<U1"),
    ],
)
def test_what_cannot_be_folded_is_refused(call: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        call()


@pytest.mark.parametrize("count", [2, 64, 100])
def test_memory_is_that_of_the_result_and_of_some_blocks_however_many_updates_there_are(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "CACHE_BYTES", 64 * 1024)
    updates = as_updates([np.arange(60_000, dtype=np.float32)]) * count
    for fold in (coordinate_median, lambda u: trimmed_mean(u, 0), lambda u: mean_near_median(u, 1)):
        tracemalloc.start()
        try:
            fold(updates)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < updates[0].nbytes + count * 20 * 1024 + 500_000
