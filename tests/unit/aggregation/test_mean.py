"""The fold against a slow reference: Python's fractions, element by element."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.aggregation import WeightedMean, weighted_loss_mean, weighted_mean
from hedgerow.aggregation.blocks import BLOCK
from hedgerow.aggregation.mean import HELD
from hedgerow.errors import InvalidArgument
from hedgerow.records import Layout, Parameters

Array = npt.NDArray[Any]


def exact_mean(arrays: list[Array], weights: list[int]) -> list[Fraction]:
    """The mean of each element, without any rounding."""
    total = sum(weights)
    columns = zip(*(map(float, array.reshape(-1)) for array in arrays), strict=True)
    return [sum((Fraction(x) * w for x, w in zip(column, weights, strict=True)), Fraction(0)) / total for column in columns]


@st.composite
def updates(draw: st.DrawFn, dtype: Any, elements: st.SearchStrategy[Any] | None = None) -> tuple[list[Array], list[int]]:
    count = draw(st.integers(1, 5))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    arrays = [draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(count)]
    weights = draw(st.lists(st.integers(0, 10_000), min_size=count, max_size=count).filter(any))
    return arrays, weights


def mean_of(arrays: list[Array], weights: list[int]) -> Array:
    return weighted_mean((Parameters({"t": a}), w) for a, w in zip(arrays, weights, strict=True))["t"]


@given(updates(np.float32, st.floats(-(2.0**100), 2.0**100, width=32)))
def test_float32_mean_is_the_exact_mean_rounded(case: tuple[list[Array], list[int]]) -> None:
    arrays, weights = case
    mean = mean_of(arrays, weights)
    assert mean.dtype == np.float32
    assert mean.shape == arrays[0].shape
    scale = max((abs(float(x)) for a in arrays for x in a.reshape(-1)), default=0.0)
    for found, exact in zip(mean.reshape(-1), exact_mean(arrays, weights), strict=True):
        # One rounding to float32, and float64's error relative to the largest term.
        assert (
            abs(Fraction(float(found)) - exact)
            <= abs(exact) * Fraction(2) ** -24 + Fraction(scale) * Fraction(2) ** -50 + Fraction(2) ** -149
        )


@given(updates(np.int32))
def test_integers_are_rounded_to_the_nearest(case: tuple[list[Array], list[int]]) -> None:
    arrays, weights = case
    mean = mean_of(arrays, weights)
    assert mean.dtype == np.int32
    for found, exact in zip(mean.reshape(-1), exact_mean(arrays, weights), strict=True):
        assert abs(int(found) - exact) <= Fraction(1, 2) + Fraction(2) ** -20


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_narrow_floats_do_not_overflow_and_round_once(dtype: Any) -> None:
    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    arrays = [np.array([largest, 1.0, -largest], dtype), np.array([largest, 2.0, -largest], dtype)]
    mean = mean_of(arrays, [1_000_000, 3_000_000])
    assert mean.dtype == np.dtype(dtype)
    assert [float(x) for x in mean] == [largest, float(np.array(1.75).astype(dtype)), -largest]


@given(st.permutations(range(6)))
def test_order_does_not_change_float32_results_with_integer_weights(order: list[int]) -> None:
    rng = np.random.default_rng(7)
    arrays = [rng.standard_normal(500).astype(np.float32) for _ in range(6)]
    weights = [3, 500, 77, 12_345, 1, 999]
    expected = mean_of(arrays, weights)
    assert mean_of([arrays[i] for i in order], [weights[i] for i in order]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_blocks_join_without_a_seam(size: int) -> None:
    arrays = [np.arange(size, dtype=np.float64) * k for k in (1, 2, 4)]
    expected = (arrays[0] * 1 + arrays[1] * 2 + arrays[2] * 3) / 6
    assert mean_of(arrays, [1, 2, 3]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8, np.uint8])
def test_extremes_of_integers_stay_in_range(dtype: Any) -> None:
    info = np.iinfo(dtype)
    mean = mean_of([np.array([info.min, info.max], dtype)] * 2, [1, 2])
    assert mean.dtype == dtype
    assert math.isclose(float(mean[0]), info.min)
    assert math.isclose(float(mean[1]), info.max)


def test_bools_take_the_majority() -> None:
    arrays = [np.array([True, True, False]), np.array([True, False, False]), np.array([True, False, True])]
    assert mean_of(arrays, [1, 1, 1]).tolist() == [True, False, False]


def test_memory_layout_and_byte_order_do_not_matter() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for other in (np.asfortranarray(array), array.astype(">f4"), array.T.copy().T):
        assert mean_of([array, other], [1, 1]).tolist() == array.tolist()


def test_updates_are_not_changed_and_may_be_read_only() -> None:
    array = np.ones(3, np.float32)
    array.flags.writeable = False
    mean = WeightedMean()
    mean.add(Parameters([array]), 2)
    assert mean.result()["000000"].flags.writeable
    assert array.tolist() == [1, 1, 1]


@given(updates(np.float32), st.lists(st.booleans(), min_size=24, max_size=24), st.integers(1, 4))
def test_updates_that_are_held_give_the_same_bits_as_those_that_are_folded_at_once(
    case: tuple[list[Array], list[int]], read_only: list[bool], times: int
) -> None:
    arrays, weights = case[0] * times, case[1] * times
    at_once, held = WeightedMean(), WeightedMean()
    with np.errstate(all="ignore"):
        for array, weight, is_read_only in zip(arrays, weights, itertools.cycle(read_only), strict=False):
            at_once.add(Parameters({"t": array.copy()}), weight)
            view = array.copy()
            view.flags.writeable = not is_read_only
            held.add(Parameters({"t": view}), weight)
            view.flags.writeable = True
            view[...] = view if is_read_only else 7  # others may be used again
        assert held.weight == at_once.weight
        assert held.result()["t"].tobytes() == at_once.result()["t"].tobytes()
        assert held.take()["t"].tobytes() == at_once.take()["t"].tobytes()


def test_a_few_read_only_updates_need_no_accumulator_and_many_need_one() -> None:
    mean, model = WeightedMean(), np.ones(BLOCK * 40, np.float32)
    model.flags.writeable = False
    room = Counting()
    tracemalloc.start()
    try:
        for _ in range(HELD):
            mean.add(Parameters({"t": model}), 1)
        assert mean.result(room=room)["t"].size == 0
        assert tracemalloc.get_traced_memory()[1] < 8 * 8 * BLOCK, "less than a fifth of the sums"
        mean.add(Parameters({"t": model}), 1)
        mean.result(room=room)
        assert 8 * 40 * BLOCK < tracemalloc.get_traced_memory()[1] < 8 * 48 * BLOCK
    finally:
        tracemalloc.stop()
    assert room.elements == 2 * model.size


class Counting:
    """Counts what it is given, and keeps nothing."""

    elements = 0

    def put(self, layout: Layout, values: Iterable[Array]) -> Parameters:
        for block in values:
            assert (block == 1).all()
            self.elements += block.size
        return Parameters({name: np.empty(0, dtype) for name, (_, dtype) in layout.items()})


def test_mean_can_be_read_before_the_last_update() -> None:
    mean = WeightedMean()
    seen = []
    for value in (1.0, 3.0):
        mean.add(Parameters([np.array([value])]), 1)
        seen.append(float(mean.result()["000000"][0]))
    assert seen == [1.0, 2.0]
    assert (len(mean), mean.weight) == (2, 2)


def test_update_of_weight_zero_counts_for_nothing() -> None:
    assert mean_of([np.array([5.0]), np.array([np.inf])], [1, 0]).tolist() == [5.0]


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, -0.5])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(InvalidArgument, match="weight"):
        WeightedMean().add(Parameters([np.ones(1)]), weight)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [({"b": np.ones(2)}, "'b'"), ({"a": np.ones(3)}, r"\(3,\)"), ({"a": np.array(["x", "y"])}, "no mean")],
)
def test_update_unlike_the_first_is_refused_and_changes_nothing(tensors: dict[str, Array], message: str) -> None:
    mean = WeightedMean()
    mean.add(Parameters({"a": np.ones(2)}), 1)
    with pytest.raises(InvalidArgument, match=message):
        mean.add(Parameters(tensors), 1)
    assert mean.result()["a"].tolist() == [1.0, 1.0]


def test_mean_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="0 updates"):
        weighted_mean([])


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(-1e6, 1e6)), min_size=1).filter(lambda p: any(n for n, _ in p)))
def test_loss_is_the_weighted_mean_in_any_order(pairs: list[tuple[int, float]]) -> None:
    exact = sum((Fraction(loss) * n for n, loss in pairs), Fraction(0)) / sum(n for n, _ in pairs)
    scale = max(abs(loss) for _, loss in pairs)
    for order in itertools.islice(itertools.permutations(pairs), 3):
        assert abs(Fraction(weighted_loss_mean(order)) - exact) <= Fraction(scale) * Fraction(2) ** -50


def test_mean_that_is_taken_is_not_rounded_and_empties_the_accumulator() -> None:
    mean = WeightedMean()
    for value, weight in ((1.0, 1), (1.0078125, 2)):
        mean.add(Parameters({"w": np.full((1, 2), value, ml_dtypes.bfloat16), "n": np.array(weight)}), weight)
    taken = mean.take()
    assert {name: (array.dtype.name, array.tolist()) for name, array in taken.items()} == {
        "w": ("float64", [[(1 + 2 * 1.0078125) / 3] * 2]),
        "n": ("float64", 5 / 3),
    }
    assert (len(mean), mean.weight) == (0, 0)
    with pytest.raises(InvalidArgument, match="0 updates"):
        mean.take()


def test_result_has_the_dtype_that_is_wanted() -> None:
    updates = [(Parameters({"w": np.array([x], np.float64), "n": np.array(1)}), 1) for x in (1.0, 2.0)]
    mean = weighted_mean(updates, {"w": np.dtype(np.float16)})
    assert {name: (array.dtype.name, array.tolist()) for name, array in mean.items()} == {
        "w": ("float16", [1.5]),
        "n": ("int64", 1),
    }
