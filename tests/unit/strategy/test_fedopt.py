"""FedOpt and its adaptive optimisers against algorithms 1 and 2, over several rounds."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import InvalidArgument
from hedgerow.records import Parameters
from hedgerow.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedOpt, FedYogi
from tests.unit import papers
from tests.unit.strategy.rounds import model, must, one_round, problems, vector

MADE: list[tuple[str, type[FedAvg], dict[str, float], dict[str, float]]] = [
    ("descent", FedOpt, {"eta": 0.3, "beta_1": 0.5}, {}),
    ("adagrad", FedAdagrad, {"eta": 0.3, "tau": 1e-3}, {"beta_1": 0.0}),
    ("adam", FedAdam, {"eta": 0.3, "beta_1": 0.8, "beta_2": 0.95, "tau": 1e-3}, {}),
    ("yogi", FedYogi, {"eta": 0.3, "beta_1": 0.8, "beta_2": 0.95, "tau": 1e-3}, {}),
]
DEFAULTS: dict[type[FedAvg], dict[str, float]] = {
    FedOpt: {"eta": 0.1, "eta_l": 0.1, "beta_1": 0.0, "beta_2": 0.0, "tau": 1e-9},
    FedAdagrad: {"eta": 0.1, "eta_l": 0.1, "beta_1": 0.0, "beta_2": 0.0, "tau": 1e-9},
    FedAdam: {"eta": 0.1, "eta_l": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-9},
    FedYogi: {"eta": 0.01, "eta_l": 0.0316, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001},
}


@pytest.mark.parametrize(("name", "kind", "arguments", "more"), MADE)
@given(problem=problems(), rounds=st.integers(1, 3), dtype=st.sampled_from([np.float64, np.float32]))
def test_rounds_are_the_papers(
    name: str, kind: Any, arguments: dict[str, float], more: dict[str, float], problem: Any, rounds: int, dtype: Any
) -> None:
    sent, returned, examples = problem
    strategy = kind(**arguments)
    x = model(sent, dtype)
    literal = papers.Server(vector(x), **arguments, **more)
    for server_round in range(1, rounds + 1):
        updates = [model(v + server_round, dtype) for v in returned]
        x = must(one_round(strategy, x, list(zip(updates, examples, strict=True)), server_round=server_round))
        expected = getattr(literal, name)(papers.weighted_mean([vector(u) for u in updates], examples))
    tolerance = 1e-9 if dtype is np.float64 else 1e-4
    np.testing.assert_allclose(vector(x), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", DEFAULTS)
def test_defaults_are_those_that_users_know(kind: Any) -> None:
    strategy = kind()
    assert {name: getattr(strategy, name) for name in DEFAULTS[kind]} == DEFAULTS[kind]


def test_mean_of_a_bfloat16_model_is_not_rounded_before_the_step() -> None:
    # Each update is one step of bfloat16 away for a quarter of the clients: a mean in bfloat16 would be the model itself.
    x = Parameters([np.ones(1, ml_dtypes.bfloat16)])
    moved = Parameters([np.full(1, 1.0078125, ml_dtypes.bfloat16)])
    strategy = FedAvgM(server_learning_rate=1.0, server_momentum=0.5)
    one_round(strategy, x, [(x, 1), (x, 1), (x, 1), (moved, 1)])
    assert strategy.state_dict()["velocity"]["000000"].tolist() == [pytest.approx(-0.0078125 / 4)]


@pytest.mark.parametrize("arguments", [{"eta": 0.0}, {"tau": 0.0}, {"beta_1": 1.0}, {"beta_2": -0.1}])
def test_values_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match="eta is"):
        FedYogi(**arguments)


@pytest.mark.parametrize("state", [{}, {"m": None}, {"m": Parameters([]), "v": None}, {"m": 1, "v": 2}, {"velocity": None}])
def test_state_of_something_else_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="FedAdam holds m and v"):
        FedAdam().load_state_dict(state)
