"""FedAvgM against a literal loop, and the life of its velocity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hedgerow.errors import InvalidArgument
from hedgerow.records import FitRes, Parameters
from hedgerow.strategy import FedAvg, FedAvgM
from tests.unit.driver.fakes import OK, FakeClient, model
from tests.unit.strategy.rounds import manager, must, one_round

LR, BETA = 0.5, 0.9


def strategy(**arguments: Any) -> FedAvgM:
    return FedAvgM(server_learning_rate=LR, server_momentum=BETA, **arguments)


def rounds(count: int) -> list[list[tuple[Parameters, int]]]:
    rng = np.random.default_rng(3)
    return [[(Parameters({"w": rng.standard_normal(5)}), int(rng.integers(1, 9))) for _ in range(2)] for _ in range(count)]


def test_rounds_are_those_of_a_literal_loop() -> None:
    made = strategy()
    x = Parameters({"w": np.ones(5)})
    plain, velocity = np.ones(5), np.zeros(5)
    for updates in rounds(4):
        x = must(one_round(made, x, updates))
        mean = sum(n * p["w"] for p, n in updates) / sum(n for _, n in updates)
        velocity = BETA * velocity + (plain - mean)
        plain = plain - LR * velocity
        np.testing.assert_allclose(x["w"], plain, rtol=1e-12)


def test_defaults_are_federated_averaging() -> None:
    (updates,) = rounds(1)
    found, expected = (must(one_round(made, Parameters({"w": np.zeros(5)}), updates)) for made in (FedAvgM(), FedAvg()))
    np.testing.assert_array_equal(found["w"], expected["w"])


def test_state_that_is_taken_back_gives_the_same_bits() -> None:
    first, second, x = strategy(), strategy(), Parameters({"w": np.ones(5)})
    before, after = rounds(2)
    x = must(one_round(first, x, before))
    second.load_state_dict(first.state_dict())
    assert must(one_round(first, x, after))["w"].tobytes() == must(one_round(second, x, after))["w"].tobytes()


def test_state_that_was_handed_out_is_not_changed_later() -> None:
    made, x = strategy(), Parameters({"w": np.ones(5)})
    before, after = rounds(2)
    x = must(one_round(made, x, before))
    state = made.state_dict()["velocity"]
    copy = state["w"].copy()
    one_round(made, x, after)
    np.testing.assert_array_equal(state["w"], copy)
    assert made.state_dict()["velocity"] is not state


def test_round_without_results_leaves_the_velocity() -> None:
    made = strategy()
    one_round(made, model(1.0), [(model(2.0), 1), (model(3.0), 1)])
    state = made.state_dict()
    made.configure_fit(2, model(1.0), manager(2))
    assert made.aggregate_fit(2, [], [BaseException()]) == (None, {})
    assert made.state_dict() == state


def test_round_that_is_taken_up_starts_from_what_was_sent() -> None:
    made = strategy()
    made.resume_fit(1, model(1.0), [])
    new, _ = made.aggregate_fit(1, [(FakeClient("a"), FitRes(OK, model(3.0), 1))], [])
    assert new is not None
    assert new["w"].tolist() == [1.0 + LR * 2.0]


def test_aggregate_without_configure_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="configure_fit"):
        strategy().aggregate_fit(1, [(FakeClient("a"), FitRes(OK, model(3.0), 1))], [])


@pytest.mark.parametrize("state", [{}, {"velocity": 1}, {"velocity": None, "more": 2}])
def test_state_of_something_else_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="FedAvgM"):
        strategy().load_state_dict(state)


@pytest.mark.parametrize("arguments", [{"server_momentum": 1.0}, {"server_momentum": -0.1}, {"server_learning_rate": 0.0}])
def test_values_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match="server_momentum"):
        FedAvgM(**arguments)
