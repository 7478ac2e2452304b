"""The proximal term and its gradient belong together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.training import proximal_gradient, proximal_loss


@given(st.integers(0, 2**32), st.floats(0, 10))
def test_gradient_is_that_of_the_term(seed: int, mu: float) -> None:
    rng = np.random.default_rng(seed)
    w, start = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    (found,) = proximal_gradient([w], [start], mu)
    for place in np.ndindex(w.shape):
        nudge = np.zeros_like(w)
        nudge[place] = 1e-4
        slope = (proximal_loss([w + nudge], [start], mu) - proximal_loss([w - nudge], [start], mu)) / 2e-4
        np.testing.assert_allclose(found[place], slope, rtol=1e-6, atol=1e-6)


def test_dtypes_stay() -> None:
    (found,) = proximal_gradient([np.ones(2, np.float32)], [np.zeros(2, np.float32)], 0.5)
    assert found.dtype == np.float32
