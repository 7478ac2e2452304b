"""Folds of updates that travelled in 16 bits: the bits of the same values in float32, and no tensor converted as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hedgerow.aggregation import blocks
from hedgerow.aggregation.deltas import DeltaSum
from hedgerow.aggregation.distances import clip_update, squared_distances, squared_norm
from hedgerow.aggregation.mean import WeightedMean, weighted_mean
from hedgerow.aggregation.order import coordinate_median, mean_near_median, trimmed_mean
from hedgerow.aggregation.trees import check_boosters
from hedgerow.aggregation.updates import UpdateSpec, check_update
from hedgerow.errors import BadUpdate
from hedgerow.records import NDArray, Parameters
from hedgerow.wire import tensors
from hedgerow.wire.narrow import NarrowParameters

BOTH = pytest.mark.parametrize("transport_dtype", ["bfloat16", "float16"])
CLIENTS = 7


class Unread(NarrowParameters):
    """May be read as it lies only."""

    def __getitem__(self, name: str) -> NDArray:
        raise AssertionError(f"{name} was converted as a whole")


def updates(transport_dtype: str) -> tuple[list[Parameters], list[Parameters]]:
    """Updates as they arrive, and the same values in their own dtypes."""
    rng = np.random.default_rng(4)
    narrow, wide = list[Parameters](), list[Parameters]()
    for _ in range(CLIENTS):
        arrays: dict[str, NDArray] = {
            "w": rng.standard_normal((400, 500)).astype(np.float32),
            "n": rng.integers(0, 9, 3),
            "d": rng.standard_normal(9),
        }
        sent = Parameters(arrays)
        arrived = tensors.view(tensors.dumps(sent, transport_dtype))
        wide.append(Parameters(dict(arrived)))
        own = {name: dtype for name, (_, dtype) in arrived.layout.items() if name != "n"}
        narrow.append(Unread({name: arrived.stored(name) for name in arrived}, own))
    return narrow, wide


def with_deltas(some: list[Parameters]) -> Parameters:
    deltas = DeltaSum()
    for update in some[1:]:
        deltas.add(some[0], update, 0.3)
    return deltas.step(X, 0.7)


def meaned(some: list[Parameters]) -> Parameters:
    mean = WeightedMean()
    for weight, update in enumerate(some, 1):
        mean.add(update, weight)
    return mean.take()


ONES: dict[str, NDArray] = {"w": np.ones((400, 500), np.float32), "n": np.arange(3), "d": np.ones(9)}
X = Parameters(ONES)
FOLDS: dict[str, Callable[[list[Parameters]], Any]] = {
    "mean": lambda some: weighted_mean((update, weight) for weight, update in enumerate(some, 1)),
    "mean of few": lambda some: weighted_mean((update, 1) for update in some[:3]),
    "unrounded mean": meaned,
    "median": coordinate_median,
    "trimmed mean": lambda some: trimmed_mean(some, 2),
    "mean near the median": lambda some: mean_near_median(some, 3),
    "deltas": with_deltas,
    "distances": lambda some: squared_distances(some, X),
    "norm": lambda some: squared_norm(some[0], X),
    "cast": lambda some: blocks.cast(some[0], {"w": np.dtype(np.float64), "d": np.dtype(np.float32)}).select(["w", "d"]),
}


@BOTH
@pytest.mark.parametrize("fold", FOLDS)
def test_folds_read_the_16_bit_values_and_give_the_same_bits(fold: str, transport_dtype: str) -> None:
    found, expected = (FOLDS[fold](some) for some in updates(transport_dtype))
    if isinstance(expected, Parameters):
        assert found.layout == expected.layout
        assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)
    else:
        np.testing.assert_array_equal(found, expected)


@BOTH
def test_an_update_that_is_clipped_has_its_own_dtypes(transport_dtype: str) -> None:
    _, wide = updates(transport_dtype)
    narrow = tensors.view(tensors.dumps(wide[0], transport_dtype))
    found, expected = clip_update(narrow, X, 0.5), clip_update(wide[0], X, 0.5)
    assert found.layout == expected.layout
    assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


@BOTH
def test_updates_are_checked_as_they_lie_against_what_was_sent(transport_dtype: str) -> None:
    narrow, _ = updates(transport_dtype)
    check_update(narrow[0], 1, UpdateSpec.like(X))
    other = Parameters({name: array.astype(np.int32) if name == "w" else array for name, array in X.items()})
    with pytest.raises(BadUpdate, match="'w' has the dtype float32, expected int32"):
        check_update(narrow[0], 1, UpdateSpec.like(other))


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_found_in_16_bits(transport_dtype: str, value: float) -> None:
    array = np.zeros(200_000, np.float32)
    array[150_000] = value
    arrived = tensors.view(tensors.dumps(Parameters({"w": array}), transport_dtype))
    with pytest.raises(BadUpdate, match=f"'w' is not finite: element 150000 of 200000 is {value}"):
        check_update(arrived, 1, UpdateSpec())


@BOTH
def test_what_is_no_booster_is_refused_before_it_is_converted(transport_dtype: str) -> None:
    """A client must not make the driver hold several times the bytes that it sent."""
    narrow, _ = updates(transport_dtype)
    with pytest.raises(BadUpdate, match="A booster is a one-dimensional array of uint8"):
        check_boosters(narrow[0])
