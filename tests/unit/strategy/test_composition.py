"""Strategies around strategies leave alone what is not theirs."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from hedgerow.errors import InvalidArgument
from hedgerow.strategy import FedAvg, FedBuff, Scaffold, Strategy
from hedgerow.strategy.composition import Composed, Evaluating
from tests.unit.driver.fakes import model
from tests.unit.strategy.rounds import manager


class Notes:
    """Stands for a strategy and notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.calls.append((name, args))


def test_every_method_of_a_strategy_reaches_the_one_inside() -> None:
    methods = [name for name, member in vars(Strategy).items() if inspect.isfunction(member)]
    assert len(methods) >= 11
    inside = Notes()
    outside: Any = Composed(inside)  # type: ignore[arg-type]
    for name in methods:
        if name in {"state_dict", "load_state_dict"}:
            continue
        arguments = tuple(f"argument {i}" for i in range(len(inspect.signature(getattr(Strategy, name)).parameters) - 1))
        getattr(outside, name)(*arguments)
        assert inside.calls.pop() == (name, arguments)


def test_asynchronous_strategy_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="FedBuff is asynchronous"):
        Evaluating(FedBuff())


def test_it_shows_what_is_inside() -> None:
    strategy = Evaluating(FedAvg(min_available_clients=7))
    assert strategy.min_available_clients == 7
    assert repr(strategy) == "Evaluating(FedAvg(accept_failures=True))"


def test_compositions_may_hold_one_another() -> None:
    strategy = Evaluating(Evaluating(Scaffold()))
    strategy.load_state_dict(strategy.state_dict())
    assert strategy.state_dict() == {"Evaluating": {"Scaffold": {"control": None, "folded": {}}}}


def test_evaluation_here_and_by_clients_in_some_rounds_only() -> None:
    inside = FedAvg(evaluate_fn=lambda r, a, c: (float(r), {}))
    strategy = Evaluating(inside, central_every=2, federated_every=3)
    clients = manager(2)
    central = [r for r in range(7) if strategy.evaluate(r, model(0.0)) is not None]
    federated = [r for r in range(1, 7) if strategy.configure_evaluate(r, model(0.0), clients)]
    assert (central, federated) == ([0, 2, 4, 6], [3, 6])


def test_zero_is_never() -> None:
    strategy = Evaluating(FedAvg(evaluate_fn=lambda r, a, c: (1.0, {})), central_every=0, federated_every=0)
    assert strategy.evaluate(0, model(0.0)) is None
    assert strategy.configure_evaluate(1, model(0.0), manager(2)) == []


def test_function_that_is_given_evaluates_instead() -> None:
    strategy = Evaluating(FedAvg(), evaluate_fn=lambda r, arrays, c: (float(arrays[0][0]), {"round": r}))
    assert strategy.evaluate(3, model(2.0)) == (2.0, {"round": 3})


@pytest.mark.parametrize("arguments", [{"central_every": -1}, {"federated_every": -1}])
def test_values_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument):
        Evaluating(FedAvg(), **arguments)  # type: ignore[arg-type]
