"""The step with momentum, against the equation written out in numpy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hedgerow.aggregation import momentum_step
from hedgerow.errors import InvalidArgument
from hedgerow.records import Parameters


def literal(xs: Any, means: Any, lr: float, beta: float) -> Any:
    """v = beta v + (x - mean); x = x - lr v, in float64."""
    x, v = xs.astype(np.float64), np.zeros(xs.shape)
    for mean in means:
        v = beta * v + (x - mean)
        x = x - lr * v
    return x


@pytest.mark.parametrize(("lr", "beta"), [(1.0, 0.0), (1.0, 0.9), (0.3, 0.5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5), (np.complex64, 1e-5)])
def test_steps_follow_the_equation(lr: float, beta: float, dtype: Any, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    start = rng.standard_normal((3, 4)).astype(dtype)
    means = [rng.standard_normal((3, 4)) for _ in range(5)]
    x, velocity = Parameters({"w": start}), None
    for mean in means:
        step = momentum_step(x, Parameters({"w": mean}), velocity, lr=lr, beta=beta)
        x, velocity = step.parameters, step.velocity
    assert x["w"].dtype == start.dtype
    np.testing.assert_allclose(x["w"], literal(start.real, means, lr, beta), rtol=tolerance, atol=tolerance)


def test_without_momentum_and_with_rate_one_it_is_the_mean() -> None:
    x, mean = Parameters([np.array([1e4, -3.0, 0.1], np.float32)]), Parameters([np.array([1.0, 2.0, 0.3], np.float32)])
    step = momentum_step(x, mean, None, lr=1.0, beta=0.0)
    assert step.parameters["000000"].tobytes() == mean["000000"].tobytes()


def test_integers_become_the_means_and_have_no_velocity() -> None:
    x = Parameters({"n": np.array(5), "flag": np.array(True), "w": np.zeros((), ml_dtypes.bfloat16)})
    mean = Parameters({"n": np.array(9), "flag": np.array(False), "w": np.ones((), ml_dtypes.bfloat16)})
    step = momentum_step(x, mean, None, lr=1.0, beta=0.5)
    assert (int(step.parameters["n"]), bool(step.parameters["flag"]), float(step.parameters["w"])) == (9, False, 1.0)
    assert {name: str(array.dtype) for name, array in step.velocity.items()} == {"w": "float32"}


def test_nothing_is_changed_in_place() -> None:
    x, mean, velocity = (Parameters([np.full(2, value)]) for value in (1.0, 2.0, 3.0))
    momentum_step(x, mean, velocity, lr=1.0, beta=0.5)
    assert [p["000000"].tolist() for p in (x, mean, velocity)] == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]


def test_other_tensors_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="other tensors"):
        momentum_step(Parameters([np.zeros(2)]), Parameters([np.zeros(3)]), None, lr=1.0, beta=0.0)
    with pytest.raises(InvalidArgument, match="other tensors"):
        momentum_step(Parameters([np.zeros(2)]), Parameters([np.zeros(2)]), Parameters({}), lr=1.0, beta=0.0)
