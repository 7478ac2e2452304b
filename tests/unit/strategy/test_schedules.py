"""Schedules follow from the round alone; what they give can be sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import InvalidArgument
from hedgerow.strategy import FedAvg
from hedgerow.strategy.schedules import config, cosine, exponential, piecewise
from tests.unit.driver.fakes import model
from tests.unit.strategy.rounds import manager


def test_config_is_made_for_each_round() -> None:
    strategy = FedAvg(on_fit_config_fn=config(lr=piecewise({1: 0.1, 5: 0.01}), batch_size=32, how="sgd"))
    configs = [strategy.configure_fit(r, model(0.0), manager(2))[0][1].config for r in (4, 5)]
    assert configs == [{"lr": 0.1, "batch_size": 32, "how": "sgd"}, {"lr": 0.01, "batch_size": 32, "how": "sgd"}]


def test_piecewise_takes_rounds_in_any_order_and_any_values() -> None:
    schedule = piecewise({10: "c", 1: "a", 3: "b"})
    assert [schedule(r) for r in (0, 1, 2, 3, 9, 10, 11)] == ["a", "a", "a", "b", "b", "c", "c"]


@given(st.floats(1e-6, 10), st.floats(0.1, 1.0), st.integers(1, 200))
def test_exponential_is_a_product(initial: float, decay: float, server_round: int) -> None:
    value = initial
    for _ in range(server_round - 1):
        value *= decay
    assert exponential(initial, decay=decay)(server_round) == pytest.approx(value)
    assert exponential(initial, decay=decay, least=1e-3)(server_round) == pytest.approx(max(1e-3, value))


@given(st.floats(0.1, 10), st.floats(0, 0.1), st.integers(2, 100))
def test_cosine_goes_down_from_one_end_to_the_other(initial: float, final: float, rounds: int) -> None:
    schedule = cosine(initial, final, rounds=rounds)
    values = [schedule(r) for r in range(1, rounds + 3)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(initial)
    assert values[rounds - 1 :] == pytest.approx([final] * 3)


@pytest.mark.parametrize(
    "make", [lambda: piecewise({2: 1}), lambda: exponential(1.0, decay=0.0), lambda: cosine(1.0, 0.0, rounds=1)]
)
def test_values_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(InvalidArgument):
        make()
