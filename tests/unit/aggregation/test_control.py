"""How control variates travel behind a model."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hedgerow.aggregation import control
from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters

TENSORS: dict[str, NDArray] = {
    "w": np.ones((2, 3), np.float16),
    "n": np.ones(2, np.int64),
    "b": np.ones(3, ml_dtypes.bfloat16),
}
MODEL = Parameters(TENSORS)


def test_what_moves_has_a_control_variate_behind_all_of_the_model() -> None:
    sent = control.attach(MODEL, control.zeros(MODEL))
    assert list(sent) == ["w", "n", "b", "scaffold.control/w", "scaffold.control/b"]
    assert control.controlled(MODEL.arrays()) == [0, 2]
    model, variates = control.split(sent, MODEL)
    assert list(model) == ["w", "n", "b"]
    assert [(name, a.shape, a.dtype.name) for name, a in variates.items()] == [("w", (2, 3), "float32"), ("b", (3,), "float32")]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.float16, np.float32), (ml_dtypes.bfloat16, np.float32), ("<f4", "<f4"), (">f8", "<f8"), (np.complex64, np.complex64)],
)
def test_control_variates_have_32_bits_at_least(dtype: Any, expected: Any) -> None:
    assert control.control_dtype(np.zeros(1, dtype)) == np.dtype(expected).newbyteorder("=")


@pytest.mark.parametrize("names", [[], ["w"], ["b", "w"], ["w", "n", "b"]])
def test_control_variates_of_another_model_are_refused(names: list[str]) -> None:
    variates = Parameters({name: np.zeros(MODEL[name].shape, np.float32) for name in names})
    with pytest.raises(InvalidArgument, match="that move"):
        control.attach(MODEL, variates)
    with pytest.raises(InvalidArgument, match="that move"):
        control.split(Parameters({**MODEL, **{control.PREFIX + name: array for name, array in variates.items()}}), MODEL)
