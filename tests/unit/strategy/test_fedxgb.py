"""Trees: bagged from all clients, or handed from one to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hedgerow.aggregation import check_update
from hedgerow.errors import BadUpdate
from hedgerow.records import FitIns, FitRes, Parameters
from hedgerow.strategy import FedXgbBagging, FedXgbCyclic
from tests.unit.driver.fakes import OK
from tests.unit.strategy.boosters import booster, leaves, raw
from tests.unit.strategy.rounds import manager, must, one_round

EMPTY = Parameters([])


def trees(*values: float, **settings: str) -> Parameters:
    return Parameters([raw(booster(*values, settings=settings))])


def test_new_trees_are_appended_in_the_order_of_the_clients() -> None:
    strategy = FedXgbBagging()
    first = must(one_round(strategy, EMPTY, [(trees(0.1, 0.2), 5), (trees(0.3), 1)]))
    assert (str(first["000000"].dtype), leaves(first["000000"])) == ("uint8", [0.1, 0.2, 0.3])
    second = must(one_round(strategy, first, [(trees(0.4), 1), (Parameters([raw(booster(0.5)), raw(booster(0.6))]), 1)]))
    assert leaves(second["000000"]) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert leaves(first["000000"]) == [0.1, 0.2, 0.3]


def test_trees_that_do_not_fit_are_left_out_with_the_clients_name(caplog: pytest.LogCaptureFixture) -> None:
    updates = [(trees(0.1), 1), (trees(0.2, num_feature="4"), 1), (trees(0.3), 1)]
    assert leaves(must(one_round(FedXgbBagging(), EMPTY, updates))["000000"]) == [0.1, 0.3]
    assert "trees of c01 are left out: The booster has num_feature '4'" in caplog.text


def test_other_base_score_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    one_round(FedXgbBagging(), trees(0.0), [(trees(0.1), 1), (trees(0.2, base_score="4E-1"), 1)])
    assert "Trees of c01 were grown with the base score 4E-1, not 5E-1" in caplog.text


@pytest.mark.parametrize("strategy", [FedXgbBagging(), FedXgbCyclic()])
def test_trees_of_any_size_pass_and_what_is_none_is_a_failure(strategy: Any) -> None:
    spec = strategy.update_spec(1, FitIns(EMPTY))
    check_update(trees(0.1, 0.2, 0.3), 1, spec)
    with pytest.raises(BadUpdate, match="uint8"):
        check_update(Parameters([np.ones(3)]), 1, spec)


def test_model_is_evaluated_as_parameters_or_as_arrays() -> None:
    sent = trees(0.1)
    bagging = FedXgbBagging(lambda server_round, parameters, config: (float(server_round), {"same": parameters is sent}))
    assert bagging.evaluate(3, sent) == (3.0, {"same": True})
    assert FedXgbBagging(evaluate_fn=lambda r, arrays, config: (0.5, {"n": len(arrays)})).evaluate(3, sent) == (0.5, {"n": 1})
    assert FedXgbBagging().evaluate(3, sent) is None


def test_model_goes_from_client_to_client_in_the_order_of_their_names() -> None:
    strategy = FedXgbCyclic(on_fit_config_fn=lambda server_round: {"round": server_round})
    asked = [strategy.configure_fit(r, EMPTY, manager(3)) for r in (1, 2, 3, 4)]
    assert [[client.cid for client, _ in one] for one in asked] == [["c00"], ["c01"], ["c02"], ["c00"]]
    assert asked[1][0][1].config == {"round": 2}


def test_model_that_comes_back_is_the_new_one() -> None:
    strategy = FedXgbCyclic()
    update = trees(0.1, 0.2)
    ((client, _),) = strategy.configure_fit(1, EMPTY, manager(2))
    assert strategy.aggregate_fit(1, [(client, FitRes(OK, update, 3))], [])[0] is update
    assert strategy.aggregate_fit(1, [], [BadUpdate("no")]) == (None, {})
