"""FaultTolerantFedAvg counts who answered."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from hedgerow.errors import BadUpdate, InvalidArgument
from hedgerow.records import EvaluateRes
from hedgerow.strategy import FaultTolerantFedAvg
from tests.unit.driver.fakes import OK, FakeClient, fitted


def answers(answer: Any, count: int) -> list[Any]:
    return [(FakeClient(f"c{i}"), answer) for i in range(count)]


@pytest.mark.parametrize(
    ("rate", "results", "failures", "counts"),
    [
        (0.5, 2, 2, True),
        (0.5, 1, 2, False),
        (1.0, 3, 0, True),
        (1.0, 3, 1, False),
        (0.0, 1, 99, True),
        (0.0, 0, 1, False),
    ],
)
def test_round_counts_if_enough_clients_gave_a_result(rate: float, results: int, failures: int, counts: bool) -> None:
    failed = [BadUpdate("nan")] * failures
    fit = FaultTolerantFedAvg(min_completion_rate_fit=rate, min_completion_rate_evaluate=1.0)
    assert (fit.aggregate_fit(1, answers(fitted(1.0), results), failed)[0] is not None) == counts
    evaluate = FaultTolerantFedAvg(min_completion_rate_fit=1.0, min_completion_rate_evaluate=rate)
    assert (evaluate.aggregate_evaluate(1, answers(EvaluateRes(OK, 1.0, 1), results), failed)[0] is not None) == counts


def test_rates_take_the_place_of_accept_failures() -> None:
    arguments = inspect.signature(FaultTolerantFedAvg).parameters
    assert "accept_failures" not in arguments
    assert {
        name: arguments[name].default for name in ("min_fit_clients", "min_available_clients", "min_completion_rate_fit")
    } == {
        "min_fit_clients": 1,
        "min_available_clients": 1,
        "min_completion_rate_fit": 0.5,
    }
    with pytest.raises(TypeError, match="accept_failures"):
        FaultTolerantFedAvg(accept_failures=False)


@pytest.mark.parametrize("arguments", [{"min_completion_rate_fit": 1.1}, {"min_completion_rate_evaluate": -0.1}])
def test_values_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="min_completion_rate_fit"):
        FaultTolerantFedAvg(**arguments)
