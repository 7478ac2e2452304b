"""What every strategy keeps to: its state comes back whole, nothing is changed in place, it says what it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import hedgerow.strategy
from hedgerow.aggregation import control
from hedgerow.driver.state_codec import Encoder, decode
from hedgerow.errors import BadUpdate, InvalidArgument
from hedgerow.records import FitIns, FitRes, Metrics, NDArray, Parameters
from hedgerow.strategy import ClientManager, Strategy
from hedgerow.wire import tensors
from tests.unit.driver.fakes import OK
from tests.unit.strategy.boosters import booster, raw
from tests.unit.strategy.rounds import manager

CLIENTS = 8


def numbers(rng: np.random.Generator) -> Parameters:
    tensors: dict[str, NDArray] = {
        "w": rng.standard_normal((3, 4)).astype(np.float32),
        "n": rng.integers(0, 99, 2),
        "b": rng.standard_normal(5),
    }
    return Parameters(tensors)


def trees(rng: np.random.Generator) -> Parameters:
    return Parameters([raw(booster(*rng.standard_normal(2)))])


def with_control(update: Parameters) -> Parameters:
    """What a client of Scaffold returns: control variates, too."""
    change = {name: update[name].astype(array.dtype) for name, array in control.zeros(update).items()}
    return control.attach(update, Parameters(change))


@dataclass(frozen=True)
class Case:
    """How a strategy is made, and what its clients send."""

    arguments: dict[str, Any]
    update: Callable[[np.random.Generator], Parameters] = numbers
    returned: Callable[[Parameters], Parameters] = lambda update: update


CASES = {
    "FedAvgM": Case({"server_momentum": 0.9}),
    "FedOpt": Case({"beta_1": 0.5}),
    "FedProx": Case({"proximal_mu": 0.1}),
    "Scaffold": Case({"server_learning_rate": 0.5}, returned=with_control),
    "Krum": Case({"num_malicious_clients": 1}),
    "MultiKrum": Case({"num_malicious_clients": 1}),
    "Bulyan": Case({"num_malicious_clients": 1}),
    "FedXgbBagging": Case({}, trees),
    "FedXgbCyclic": Case({}, trees),
}
NAMES = [
    name
    for name in hedgerow.strategy.__all__
    if issubclass(getattr(hedgerow.strategy, name), Strategy) and not inspect.isabstract(getattr(hedgerow.strategy, name))
]
EVERY = pytest.mark.parametrize("name", NAMES)


def make(name: str, **more: Any) -> Any:
    case = CASES.get(name, Case({}))
    return getattr(hedgerow.strategy, name)(**case.arguments, **more)


def update_of(name: str) -> Callable[[np.random.Generator], Parameters]:
    return CASES.get(name, Case({})).update


def fit(
    strategy: Strategy,
    name: str,
    server_round: int,
    x: Parameters,
    seed: int,
    arriving: Callable[[Parameters], Parameters] = lambda update: update,
) -> Parameters:
    """One round; the updates are read-only, as those that were memory-mapped."""
    rng = np.random.default_rng([seed, server_round])
    results = []
    for client, _ in strategy.configure_fit(server_round, x, manager(CLIENTS)):
        parameters = CASES.get(name, Case({})).returned(update_of(name)(rng))
        for array in parameters.values():
            array.flags.writeable = False
        notes: Metrics = {"initial_loss": float(rng.random()), "fednova_norm": float(rng.integers(1, 9))}
        results.append((client, FitRes(OK, arriving(parameters), int(rng.integers(1, 50)), notes)))
    new, _ = strategy.aggregate_fit(server_round, results, [])
    assert new is not None
    return new


def contents(value: Any) -> Any:
    """A state as something that can be compared."""
    if isinstance(value, Parameters):
        return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in value.items()}
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: contents(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [contents(inner) for inner in value]
    return value


@EVERY
@pytest.mark.parametrize("rounds_before", [0, 1, 2])
def test_state_that_went_through_a_checkpoint_gives_the_same_bits(name: str, rounds_before: int) -> None:
    strategy = make(name)
    x = update_of(name)(np.random.default_rng(0))
    for server_round in range(1, rounds_before + 1):
        x = fit(strategy, name, server_round, x, seed=1)
    encoder = Encoder()
    state = decode(encoder.encode(strategy.state_dict(), "state"), encoder.tensors)
    fresh = make(name)
    fresh.load_state_dict(state)
    assert contents(fresh.state_dict()) == contents(strategy.state_dict())
    for server_round in (rounds_before + 1, rounds_before + 2):
        found, expected = fit(fresh, name, server_round, x, seed=2), fit(strategy, name, server_round, x, seed=2)
        assert contents(found) == contents(expected)
        x = expected


@EVERY
@pytest.mark.parametrize("transport_dtype", ["bfloat16", "float16"])
def test_updates_that_travelled_in_16_bits_count_like_the_same_values_in_their_own_dtypes(
    name: str, transport_dtype: str
) -> None:
    def arrived(update: Parameters) -> Parameters:
        return tensors.view(tensors.dumps(update, transport_dtype))

    narrow, wide = make(name), make(name)
    x = y = update_of(name)(np.random.default_rng(0))
    for server_round in (1, 2):
        x = fit(narrow, name, server_round, x, 3, arrived)
        y = fit(wide, name, server_round, y, 3, lambda update: Parameters(dict(arrived(update))))
        assert contents(x) == contents(y)
        assert contents(narrow.state_dict()) == contents(wide.state_dict())


@EVERY
def test_state_that_was_handed_out_is_not_changed_later(name: str) -> None:
    strategy = make(name)
    x = fit(strategy, name, 1, update_of(name)(np.random.default_rng(0)), seed=1)
    state = strategy.state_dict()
    before = contents(state)
    sent = contents(x)
    fit(strategy, name, 2, x, seed=1)
    assert contents(state) == before
    assert contents(x) == sent


@EVERY
def test_round_that_is_undone_leaves_no_trace(name: str) -> None:
    strategy, other = make(name), make(name)
    x = update_of(name)(np.random.default_rng(0))
    before = strategy.state_dict()
    fit(strategy, name, 1, x, seed=9)
    strategy.load_state_dict(before)
    assert contents(fit(strategy, name, 1, x, seed=1)) == contents(fit(other, name, 1, x, seed=1))


@EVERY
def test_round_without_results_gives_nothing(name: str) -> None:
    strategy = make(name)
    x = update_of(name)(np.random.default_rng(0))
    strategy.configure_fit(1, x, manager(CLIENTS))
    state = contents(strategy.state_dict())
    assert strategy.aggregate_fit(1, [], [BadUpdate("nan")]) == (None, {})
    assert contents(strategy.state_dict()) == state


@EVERY
def test_new_parameters_look_like_those_that_were_sent(name: str) -> None:
    x = update_of(name)(np.random.default_rng(0))
    new = fit(make(name), name, 1, x, seed=1)
    assert {n: a.dtype for n, a in new.items()} == {n: a.dtype for n, a in x.items()}
    if update_of(name) is numbers:
        assert {n: a.shape for n, a in new.items()} == {n: a.shape for n, a in x.items()}


@EVERY
def test_name_is_shown_and_a_foreign_state_is_refused(name: str) -> None:
    strategy = make(name)
    assert repr(strategy).startswith(f"{name}(")
    with pytest.raises(InvalidArgument, match=name):
        strategy.load_state_dict({"another strategy's": 1})


@EVERY
def test_constructor_shows_what_it_takes_by_keyword(name: str) -> None:
    arguments = inspect.signature(getattr(hedgerow.strategy, name)).parameters
    assert {"fraction_fit", "min_available_clients", "evaluate_fn", "initial_parameters"} <= set(arguments)
    assert inspect.Parameter.VAR_KEYWORD not in {argument.kind for argument in arguments.values()}


@EVERY
def test_subclass_with_its_own_configure_fit_need_not_call_the_parents(name: str) -> None:
    if name in {"FedXgbCyclic", "Scaffold"}:  # who is asked, or what is sent, is what those strategies are about
        return

    def configure_fit(self: Any, server_round: int, parameters: Parameters, client_manager: ClientManager) -> Any:
        return [(client, FitIns(parameters, {"mine": 1})) for client in client_manager.sample(CLIENTS)]

    own_class = type("Own", (getattr(hedgerow.strategy, name),), {"configure_fit": configure_fit})
    x = update_of(name)(np.random.default_rng(0))
    own = own_class(**CASES.get(name, Case({})).arguments)
    assert contents(fit(own, name, 1, x, seed=1)) == contents(fit(make(name), name, 1, x, seed=1))
