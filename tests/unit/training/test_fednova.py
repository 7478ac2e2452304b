"""NormalisedSteps against the coefficients of the paper, and against an optimiser's impulse response."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import InvalidArgument
from hedgerow.training import NormalisedSteps
from tests.unit import papers


def test_plain_steps_are_counted() -> None:
    steps = NormalisedSteps()
    steps.count()
    steps.count(4)
    assert (steps.steps, steps.norm, steps.metrics()) == (5, 5.0, {"fednova_norm": 5.0})


@given(st.integers(0, 60), st.floats(0, 0.99))
def test_momentum_is_the_papers(count: int, rho: float) -> None:
    steps = NormalisedSteps(momentum=rho)
    steps.count(count)
    np.testing.assert_allclose(steps.norm, papers.momentum_coefficients(count, rho).sum(), rtol=1e-9)


@given(st.integers(0, 60), st.floats(0, 0.99))
def test_proximal_term_is_the_papers(count: int, alpha: float) -> None:
    steps = NormalisedSteps(proximal=alpha)
    steps.count(count)
    np.testing.assert_allclose(steps.norm, papers.proximal_coefficients(count, alpha).sum(), rtol=1e-9)


@given(st.integers(1, 30), st.floats(0, 0.95), st.floats(0, 0.9))
def test_with_both_it_is_the_sum_of_what_a_gradient_of_each_step_does_in_the_end(count: int, rho: float, alpha: float) -> None:
    coefficients = []
    for k in range(count):
        x = v = 0.0
        for step in range(count):
            v = rho * v + float(step == k) + alpha * x
            x -= v
        coefficients.append(abs(x))
    steps = NormalisedSteps(momentum=rho, proximal=alpha)
    steps.count(count)
    np.testing.assert_allclose(steps.norm, sum(coefficients), rtol=1e-9)


@pytest.mark.parametrize("arguments", [{"momentum": 1.0}, {"momentum": -0.1}, {"proximal": 1.0}, {"proximal": float("nan")}])
def test_values_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match="momentum"):
        NormalisedSteps(**arguments)
