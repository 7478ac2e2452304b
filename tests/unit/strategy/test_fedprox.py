"""FedProx: what it tells the clients, and that its rounds are those of algorithm 2 with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import InvalidArgument
from hedgerow.strategy import FedAvg, FedProx
from hedgerow.training import proximal_gradient
from tests.unit.strategy.rounds import manager, model, one_round, problems, vector


def test_clients_are_told_mu_beside_their_own_config() -> None:
    strategy = FedProx(proximal_mu=0.25, on_fit_config_fn=lambda r: {"lr": r / 10})
    pairs = strategy.configure_fit(3, model(np.zeros(6)), manager(3))
    assert pairs[0][1].config == {"lr": 0.3, "proximal_mu": 0.25}
    assert len({id(ins) for _, ins in pairs}) == 1


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 2.0]), st.integers(1, 8))
def test_rounds_are_the_papers(seed: int, mu: float, count: int) -> None:
    """Clients with quadratic losses that solve their own problem exactly: h_k is least at (s b + μ w) / (s + μ)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(6)
    updates, expected, total = [], np.zeros(6), 0
    for _ in range(count):
        steepness, minimum, n = rng.uniform(0.5, 2.0, 6), rng.standard_normal(6), int(rng.integers(1, 99))
        w = x
        for _ in range(80):
            (term,) = proximal_gradient([w], [x], mu)
            w = w - 0.3 * (steepness * (w - minimum) + term)
        updates.append((model(w), n))
        expected, total = expected + n * (steepness * minimum + mu * x) / (steepness + mu), total + n
    found = one_round(FedProx(proximal_mu=mu), model(x), updates)
    np.testing.assert_allclose(vector(found), expected / total, rtol=1e-5, atol=1e-5)


@given(problems())
def test_fold_is_that_of_federated_averaging(problem: Any) -> None:
    sent, returned, examples = problem
    updates = [(model(v), n) for v, n in zip(returned, examples, strict=True)]
    found, expected = (one_round(s, model(sent), updates) for s in (FedProx(proximal_mu=1.0), FedAvg()))
    np.testing.assert_array_equal(vector(found), vector(expected))


@pytest.mark.parametrize("mu", [-0.1, float("nan")])
def test_negative_mu_is_refused(mu: float) -> None:
    with pytest.raises(InvalidArgument, match="proximal_mu"):
        FedProx(proximal_mu=mu)
