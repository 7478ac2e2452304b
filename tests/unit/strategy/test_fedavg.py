"""FedAvg: whom it asks, what it folds, when it gives nothing."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import numpy as np
import pytest

from hedgerow.driver import SimpleClientManager
from hedgerow.driver.results import Results
from hedgerow.errors import BadUpdate, InvalidArgument, WaitTimeout
from hedgerow.records import EvaluateRes, FitIns, FitRes, Metrics, Parameters
from hedgerow.strategy import ClientProxy, FedAvg
from tests.unit.driver.fakes import OK, FakeClient, fitted, model, waiting

FLOWER_ARGUMENTS = {
    "fraction_fit": 1.0,
    "fraction_evaluate": 1.0,
    "min_fit_clients": 2,
    "min_evaluate_clients": 2,
    "min_available_clients": 2,
    "evaluate_fn": None,
    "on_fit_config_fn": None,
    "on_evaluate_config_fn": None,
    "accept_failures": True,
    "initial_parameters": None,
    "fit_metrics_aggregation_fn": None,
    "evaluate_metrics_aggregation_fn": None,
}


def manager(count: int) -> SimpleClientManager:
    m = SimpleClientManager(wait_for_clients_s=0.0)
    for i in range(count):
        m.register(FakeClient(f"c{i:02d}"))
    return m


def pairs(*answers: Any) -> list[tuple[ClientProxy, Any]]:
    return [(FakeClient(f"c{i}"), answer) for i, answer in enumerate(answers)]


def test_constructor_takes_the_known_arguments_by_keyword() -> None:
    parameters = inspect.signature(FedAvg).parameters
    assert {name: p.default for name, p in parameters.items()} == FLOWER_ARGUMENTS
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("available", "fraction", "minimum", "expected"),
    [(10, 1.0, 2, 10), (10, 0.5, 2, 5), (10, 0.59, 2, 5), (10, 0.1, 3, 3), (10, 0.0, 2, 2)],
)
def test_number_of_clients_is_the_fraction_but_not_less_than_the_minimum(
    available: int, fraction: float, minimum: int, expected: int
) -> None:
    strategy = FedAvg(
        fraction_fit=fraction,
        min_fit_clients=minimum,
        fraction_evaluate=fraction,
        min_evaluate_clients=minimum,
        min_available_clients=3,
    )
    assert strategy.num_fit_clients(available) == (expected, 3)
    assert strategy.num_evaluation_clients(available) == (expected, 3)
    assert len(strategy.configure_fit(1, model(0.0), manager(available))) == expected


def test_all_clients_get_the_same_instruction_with_the_rounds_config() -> None:
    strategy = FedAvg(on_fit_config_fn=lambda r: {"lr": r / 10}, on_evaluate_config_fn=lambda r: {"steps": r})
    start = model(1.0)
    fits = strategy.configure_fit(3, start, manager(4))
    evaluates = strategy.configure_evaluate(3, start, manager(4))
    assert len({id(ins) for _, ins in fits}) == 1
    assert (fits[0][1].config, evaluates[0][1].config) == ({"lr": 0.3}, {"steps": 3})
    assert fits[0][1].parameters is evaluates[0][1].parameters is start


def test_no_client_evaluates_when_the_fraction_is_zero() -> None:
    assert FedAvg(fraction_evaluate=0.0).configure_evaluate(1, model(0.0), manager(0)) == []


def test_sample_size_is_counted_after_clients_have_come() -> None:
    strategy, m = FedAvg(min_available_clients=2), manager(1)
    m.wait_for_clients_s = 10.0
    with waiting(m._condition, lambda: strategy.configure_fit(1, model(0.0), m)) as reader:
        m.register(FakeClient("c01"))
        assert [client.cid for client, _ in reader.result()] == ["c00", "c01"]


def test_too_few_clients_for_too_long_is_an_error() -> None:
    with pytest.raises(WaitTimeout, match="3 clients; 1 are available: c00"):
        FedAvg(min_available_clients=3).configure_fit(1, model(0.0), manager(1))


def test_parameters_are_the_mean_weighted_by_examples() -> None:
    results = pairs(fitted(1.0, examples=1), fitted(5.0, examples=3))
    parameters, metrics = FedAvg().aggregate_fit(1, results, [])
    assert parameters is not None
    assert parameters["w"].tolist() == [4.0]
    assert metrics == {}


def test_updates_are_folded_while_others_still_train() -> None:
    clients = [FakeClient("a"), FakeClient("b")]
    results: Results[FitRes] = Results(clients)
    results.put(0, fitted(2.0))
    with waiting(results._condition, lambda: FedAvg().aggregate_fit(1, results, results.failures)) as reader:
        results.put(1, fitted(4.0))
        assert reader.result()[0]["w"].tolist() == [3.0]


def test_loss_is_the_mean_weighted_by_examples() -> None:
    results = pairs(EvaluateRes(OK, 1.0, 1, {}), EvaluateRes(OK, 2.0, 3, {}))
    assert FedAvg().aggregate_evaluate(1, results, []) == (1.75, {})


def test_nothing_comes_of_no_results() -> None:
    assert FedAvg().aggregate_fit(1, [], []) == (None, {})
    assert FedAvg().aggregate_evaluate(1, [], []) == (None, {})


def test_failures_are_accepted_unless_told_otherwise() -> None:
    failures = [BadUpdate("nan")]
    fit, evaluate = pairs(fitted(1.0)), pairs(EvaluateRes(OK, 1.0, 1, {}))
    assert FedAvg().aggregate_fit(1, fit, failures)[0] is not None
    assert FedAvg(accept_failures=False).aggregate_fit(1, fit, failures) == (None, {})
    assert FedAvg(accept_failures=False).aggregate_evaluate(1, evaluate, failures) == (None, {})


def test_training_on_no_examples_gives_nothing_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert FedAvg().aggregate_fit(1, pairs(fitted(1.0, examples=0)), []) == (None, {})
    assert FedAvg().aggregate_evaluate(1, pairs(EvaluateRes(OK, 1.0, 0, {})), []) == (None, {})
    assert caplog.text.count("0 examples") == 2


def test_metrics_go_through_the_given_functions() -> None:
    def fold(metrics: list[tuple[int, Metrics]]) -> Metrics:
        return {"acc": sum(n * float(m["acc"]) for n, m in metrics) / sum(n for n, _ in metrics)}

    strategy = FedAvg(fit_metrics_aggregation_fn=fold, evaluate_metrics_aggregation_fn=fold)
    assert strategy.aggregate_fit(1, pairs(fitted(0, 1, acc=0.5), fitted(0, 3, acc=0.9)), [])[1] == {"acc": 0.8}
    assert strategy.aggregate_evaluate(1, pairs(EvaluateRes(OK, 0.0, 2, {"acc": 0.25})), [])[1] == {"acc": 0.25}


def test_metrics_that_nobody_folds_are_mentioned_once(caplog: pytest.LogCaptureFixture) -> None:
    for server_round in (1, 2):
        assert FedAvg().aggregate_fit(server_round, pairs(fitted(0, 1, acc=0.5)), [])[1] == {}
    assert caplog.text.count("no fit_metrics_aggregation_fn was given") == 1


def test_initial_parameters_are_handed_out_once() -> None:
    start = model(1.0)
    strategy = FedAvg(initial_parameters=start)
    assert strategy.initialize_parameters(manager(0)) is start
    assert strategy.initialize_parameters(manager(0)) is None


def test_central_evaluation_gets_round_and_arrays() -> None:
    calls: list[Any] = []

    def evaluate(server_round: int, arrays: list[Any], config: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        calls.append((server_round, [a.tolist() for a in arrays], config))
        return 0.5, {"acc": 1}

    assert FedAvg(evaluate_fn=evaluate).evaluate(4, model(1.0, 2.0)) == (0.5, {"acc": 1})
    assert calls == [(4, [[1.0, 2.0]], {})]
    assert FedAvg().evaluate(4, model(1.0)) is None


def test_update_must_look_like_the_parameters_that_were_sent() -> None:
    sent = Parameters({"w": np.zeros((2, 2), np.float32)})
    (tensor,) = FedAvg().update_spec(1, FitIns(sent)).tensors or ()
    assert (tensor.name, tensor.shape, tensor.dtype) == ("w", (2, 2), np.dtype(np.float32))


def test_minimum_above_what_is_waited_for_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    FedAvg(min_fit_clients=5)
    assert "min_available_clients (2) is less than min_fit_clients (5)" in caplog.text


def test_strategy_without_state_refuses_a_foreign_one() -> None:
    strategy = FedAvg()
    strategy.load_state_dict(strategy.state_dict())
    with pytest.raises(InvalidArgument, match="momentum"):
        strategy.load_state_dict({"momentum": 1})


@pytest.fixture(autouse=True)
def _show_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
