"""QFedAvg against algorithm 2 of its paper, and where its losses come from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import InvalidArgument
from hedgerow.strategy import QFedAvg
from tests.unit import papers
from tests.unit.strategy.rounds import model, one_round, problems, vector


@given(problems(), st.sampled_from([0.0, 0.2, 1.0, 2.5]), st.sampled_from([0.01, 0.1, 1.0]), st.data())
def test_rounds_are_the_papers(problem: Any, q: float, lr: float, data: st.DataObject) -> None:
    sent, returned, examples = problem
    losses = [data.draw(st.floats(1e-3, 10)) for _ in returned]
    found = one_round(
        QFedAvg(q_param=q, qffl_learning_rate=lr),
        model(sent),
        [(model(v), n) for v, n in zip(returned, examples, strict=True)],
        [{"initial_loss": loss} for loss in losses],
    )
    np.testing.assert_allclose(vector(found), papers.q_fedavg(sent, returned, losses, q, lr), rtol=1e-9, atol=1e-9)


def test_with_q_zero_it_is_the_mean_of_the_clients_all_alike() -> None:
    updates = [(model(np.full(6, x)), n) for x, n in ((1.0, 900), (3.0, 1))]
    found = one_round(QFedAvg(q_param=0), model(np.zeros(6)), updates, [{"initial_loss": 0.0}, {"initial_loss": 8}])
    np.testing.assert_allclose(vector(found), np.full(6, 2.0))


def test_clients_with_a_higher_loss_pull_harder() -> None:
    updates = [(model(np.full(6, x)), 1) for x in (-1.0, 1.0)]
    found = one_round(QFedAvg(q_param=1), model(np.zeros(6)), updates, [{"initial_loss": 0.1}, {"initial_loss": 2.0}])
    assert (vector(found) > 0).all()


def test_loss_that_no_client_states_is_evaluated_here_once() -> None:
    calls = []

    def evaluate(server_round: int, arrays: Any, config: Any) -> tuple[float, dict[str, Any]]:
        calls.append((server_round, [a.tolist() for a in arrays]))
        return 0.5, {}

    sent, returned = np.zeros(6), [np.ones(6), np.full(6, 2.0), np.full(6, 4.0)]
    strategy = QFedAvg(q_param=1, qffl_learning_rate=0.5, evaluate_fn=evaluate)
    found = one_round(strategy, model(sent), [(model(v), 1) for v in returned], [{}, {"initial_loss": 3.0}, {}], server_round=4)
    np.testing.assert_allclose(vector(found), papers.q_fedavg(sent, returned, [0.5, 3.0, 0.5], 1, 0.5), rtol=1e-9)
    assert calls == [(4, [[[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]])]


def test_no_loss_at_all_is_told_of_with_the_clients_name() -> None:
    with pytest.raises(InvalidArgument, match=r"c00 before it trained\. Let its fit give the metric 'initial_loss'"):
        one_round(QFedAvg(), model(np.zeros(6)), [(model(np.ones(6)), 1)])


@pytest.mark.parametrize("loss", [-1.0, math.nan, math.inf, "low", 1e308])
def test_client_with_an_impossible_loss_is_left_out(loss: Any, caplog: pytest.LogCaptureFixture) -> None:
    updates = [(model(np.full(6, x)), 1) for x in (1.0, 9.0)]
    strategy = QFedAvg(q_param=2, qffl_learning_rate=1.0)
    both = one_round(strategy, model(np.zeros(6)), updates, [{"initial_loss": 1.0}, {"initial_loss": loss}])
    alone = one_round(strategy, model(np.zeros(6)), updates[:1], [{"initial_loss": 1.0}])
    assert vector(both).tolist() == vector(alone).tolist()
    assert "c01 is left out" in caplog.text


@pytest.mark.parametrize("arguments", [{"q_param": -1}, {"qffl_learning_rate": 0.0}])
def test_values_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="q_param"):
        QFedAvg(**arguments)
