"""Random updates of any dtype for the tests of the folds."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from hedgerow.records import Parameters

Array = npt.NDArray[Any]
FLOATS: list[Any] = [
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
]
INTEGERS: list[Any] = [np.int8, np.uint8, np.int32, np.int64, np.uint64]
EPSILON = {np.dtype(dtype): float(ml_dtypes.finfo(dtype).eps) for dtype in FLOATS}  # type: ignore[no-untyped-call]


def draw_arrays(rng: np.random.Generator, dtype: Any, count: int, shape: tuple[int, ...]) -> list[Array]:
    """Arrays with some equal values among them."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return [rng.integers(0, 2, shape).astype(dtype) for _ in range(count)]
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return [
            rng.integers(max(info.min, -(10**6)), min(info.max, 10**6), shape, endpoint=True).astype(dtype) for _ in range(count)
        ]
    if dtype.kind == "c":
        return [(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype) for _ in range(count)]
    return [np.round(rng.standard_normal(shape) * 4, rng.integers(0, 6)).astype(dtype) for _ in range(count)]


@st.composite
def cases(draw: st.DrawFn, dtypes: list[Any], max_count: int = 12) -> list[Array]:
    """Arrays of one shape and dtype; now and then all equal."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    count = draw(st.integers(1, max_count))
    arrays = draw_arrays(rng, draw(st.sampled_from(dtypes)), count, shape)
    return [arrays[0]] * count if draw(st.integers(0, 9)) == 0 else arrays


def as_updates(arrays: list[Array]) -> list[Parameters]:
    return [Parameters({"t": array}) for array in arrays]


def flat(array: Array) -> npt.NDArray[np.float64]:
    return np.asarray(array.reshape(-1).astype(np.float64))
