"""An update that does not fit is refused with a reason that names the tensor."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hedgerow.aggregation import UpdateSpec, check_update
from hedgerow.errors import BadUpdate
from hedgerow.records import NDArray, Parameters

TENSORS: dict[str, NDArray] = {
    "w": np.zeros((2, 3), np.float32),
    "b": np.zeros(2, np.float32),
    "n": np.zeros((), np.int64),
}
MODEL = Parameters(TENSORS)


def update(**changes: Any) -> Parameters:
    return Parameters(TENSORS | changes)


def test_update_like_the_model_passes() -> None:
    check_update(update(), 0, UpdateSpec.like(MODEL))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_width_of_float_passes(dtype: Any) -> None:
    check_update(update(w=np.zeros((2, 3), dtype)), 1, UpdateSpec.like(MODEL))


@pytest.mark.parametrize(
    ("bad", "examples", "reason"),
    [
        (update(w=np.zeros((3, 2), np.float32)), 1, r"'w' has the shape \(3, 2\), expected \(2, 3\)"),
        (update(w=np.zeros((2, 3), np.int32)), 1, "'w' has the dtype int32, expected float32"),
        (update(n=np.zeros((), np.float32)), 1, "'n' has the dtype float32, expected int64"),
        (update(b=np.array([0, np.nan], np.float32)), 1, "'b' is not finite: element 1 of 2 is nan"),
        (update(b=np.array([-np.inf, 0], ml_dtypes.bfloat16)), 1, "'b' is not finite: element 0 of 2 is -inf"),
        (update(extra=np.zeros(1)), 1, "4 tensors, expected 3. Not expected: 'extra'"),
        (Parameters({"w": MODEL["w"], "b": MODEL["b"]}), 1, "2 tensors, expected 3. Missing: 'n'"),
        (Parameters(MODEL.arrays()), 1, "other names than expected. Missing: 'w', 'b', 'n'. Not expected: '000000'"),
        (Parameters({name: MODEL[name] for name in ("b", "w", "n")}), 1, "in another order"),
        (update(), -1, "num_examples is -1"),
    ],
)
def test_update_that_does_not_fit_is_refused(bad: Parameters, examples: int, reason: str) -> None:
    with pytest.raises(BadUpdate, match=reason):
        check_update(bad, examples, UpdateSpec.like(MODEL))


def test_value_far_into_a_large_tensor_is_found() -> None:
    large = np.zeros((1000, 1000), np.float32)
    large[937, 11] = np.inf
    with pytest.raises(BadUpdate, match="element 937011 of 1000000 is inf"):
        check_update(Parameters([large]), 1, UpdateSpec())


def test_anything_finite_passes_where_nothing_is_said() -> None:
    check_update(Parameters([np.ones(7)]), 1, UpdateSpec())


def test_not_finite_values_pass_where_they_are_allowed() -> None:
    check_update(update(b=np.array([np.nan, 0], np.float32)), 1, UpdateSpec.like(MODEL, finite=False))


def test_further_check_sees_what_fits_otherwise() -> None:
    seen: list[Parameters] = []

    def refuse(parameters: Parameters) -> None:
        seen.append(parameters)
        raise BadUpdate("not that one")

    with pytest.raises(BadUpdate, match="not that one"):
        check_update(update(), 1, UpdateSpec(check=refuse))
    with pytest.raises(BadUpdate, match="not finite"):
        check_update(update(b=np.array([0, np.nan], np.float32)), 1, UpdateSpec(check=refuse))
    assert len(seen) == 1
