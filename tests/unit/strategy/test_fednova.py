"""FedNova, with its clients' half, against the equations of its paper."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import InvalidArgument
from hedgerow.records import Metrics, Parameters
from hedgerow.strategy import FedAvg, FedNova
from hedgerow.training import NormalisedSteps
from tests.unit import papers
from tests.unit.strategy.rounds import model, must, one_round, problems, vector

LR = 0.1


@st.composite
def trained(draw: st.DrawFn) -> Any:
    """What each of some clients has computed: the gradients of its steps, and the settings of its optimiser."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal(6)
    count = draw(st.integers(1, 5))
    alike = draw(st.booleans())
    clients = []
    for _ in range(count):
        steps = 3 if alike else draw(st.integers(1, 8))
        settings = {} if alike else draw(st.sampled_from([{}, {"momentum": 0.9}, {"proximal": 0.05}]))
        gradients = [np.zeros(6) for _ in range(steps)] if draw(st.booleans()) else list(rng.standard_normal((steps, 6)))
        clients.append((gradients, settings, int(rng.integers(1, 99))))
    return x, clients


def local(x: papers.Vector, gradients: list[papers.Vector], momentum: float = 0.0, proximal: float = 0.0) -> papers.Vector:
    """The model after steps of an optimiser of this sort, whatever the gradients."""
    y, v = x, np.zeros_like(x)
    for gradient in gradients:
        v = momentum * v + gradient + proximal / LR * (y - x)
        y = y - LR * v
    return y


def coefficients(steps: int, momentum: float = 0.0, proximal: float = 0.0) -> papers.Vector:
    return papers.momentum_coefficients(steps, momentum) if momentum else papers.proximal_coefficients(steps, proximal)


@given(trained())
def test_rounds_are_the_papers(problem: Any) -> None:
    x, clients = problem
    total = sum(n for _, _, n in clients)
    expected = papers.fednova(
        x,
        [gradients for gradients, _, _ in clients],
        [coefficients(len(gradients), **settings) for gradients, settings, _ in clients],
        [n / total for _, _, n in clients],
        LR,
    )
    notes = []
    for gradients, settings, _ in clients:
        steps = NormalisedSteps(**settings)
        steps.count(len(gradients))
        notes.append(steps.metrics())
    updates = [(model(local(x, gradients, **settings)), n) for gradients, settings, n in clients]
    np.testing.assert_allclose(vector(one_round(FedNova(), model(x), updates, notes)), expected, rtol=1e-9, atol=1e-9)


@given(problems(), st.randoms(use_true_random=False), st.data())
def test_order_of_clients_does_not_matter(problem: Any, shuffle: Any, data: st.DataObject) -> None:
    sent, returned, examples = problem
    norms: list[Metrics] = [{"fednova_norm": data.draw(st.floats(0.5, 50))} for _ in returned]
    clients = list(zip([(model(v), n) for v, n in zip(returned, examples, strict=True)], norms, strict=True))
    found = one_round(FedNova(), model(sent), [u for u, _ in clients], [m for _, m in clients])
    shuffle.shuffle(clients)
    again = one_round(FedNova(), model(sent), [u for u, _ in clients], [m for _, m in clients])
    np.testing.assert_allclose(vector(found), vector(again), rtol=1e-9, atol=1e-9)


@given(problems(), st.sampled_from([1, 3, 7.5]), st.sampled_from([np.float64, np.float32, np.float16]))
def test_with_the_same_steps_everywhere_it_is_federated_averaging(problem: Any, norm: float, dtype: Any) -> None:
    sent, returned, examples = problem
    updates = [(model(v, dtype), n) for v, n in zip(returned, examples, strict=True)]
    found = one_round(FedNova(), model(sent, dtype), updates, [{"fednova_norm": norm}] * len(updates))
    assert {a.dtype for a in must(found).values()} == {np.dtype(dtype)}
    rtol = 4 * float(np.finfo(dtype).eps)
    expected = vector(one_round(FedAvg(), model(sent, dtype), updates))
    np.testing.assert_allclose(vector(found), expected, rtol=rtol, atol=100 * rtol)


@given(problems())
def test_clients_that_return_what_was_sent_change_nothing(problem: Any) -> None:
    sent, returned, examples = problem
    norms: list[Metrics] = [{"fednova_norm": float(i + 1)} for i in range(len(returned))]
    found = one_round(FedNova(), model(sent), [(model(sent), n) for n in examples], norms)
    np.testing.assert_allclose(vector(found), sent, rtol=1e-12, atol=1e-12)


def test_statistics_and_counters_are_averaged() -> None:
    def update(w: float, running: float, count: int) -> Parameters:
        return Parameters({"w": np.full(1, w), "running_var": np.full(1, running), "n": np.full(1, count)})

    updates = [(update(1.0, 1.0, 2), 1), (update(1.0, 3.0, 8), 2)]
    strategy = FedNova(averaged=["running_var"])
    new = must(one_round(strategy, update(0.0, 9.0, 0), updates, [{"fednova_norm": 1}, {"fednova_norm": 10}]))
    assert list(new) == ["w", "running_var", "n"]
    assert (new["running_var"].tolist(), new["n"].tolist()) == ([7 / 3], [6])
    np.testing.assert_allclose(new["w"], [(1 / 3 + 2 / 3 * 10) * (1 / 3 * 1.0 + 2 / 3 * 0.1)])


def test_client_that_took_no_step_counts_without_a_direction() -> None:
    updates = [(model(np.ones(6)), 1), (model(np.full(6, 77.0)), 1)]
    found = one_round(FedNova(), model(np.zeros(6)), updates, [{"fednova_norm": 4}, {"fednova_norm": 0}])
    np.testing.assert_allclose(vector(found), np.full(6, (0.5 * 4) * (0.5 / 4)))


@pytest.mark.parametrize("norm", [-1.0, float("nan"), float("inf"), "3"])
def test_client_with_an_impossible_norm_is_left_out(norm: Any, caplog: pytest.LogCaptureFixture) -> None:
    updates = [(model(np.ones(6)), 1), (model(np.full(6, 77.0)), 1)]
    found = one_round(FedNova(), model(np.zeros(6)), updates, [{"fednova_norm": 4}, {"fednova_norm": norm}])
    np.testing.assert_allclose(vector(found), np.ones(6))
    assert "c01 is left out" in caplog.text


def test_round_without_any_step_gives_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert one_round(FedNova(), model(np.zeros(6)), [(model(np.ones(6)), 1)], [{"fednova_norm": 0}]) is None
    assert "none of 1 clients took a step" in caplog.text


def test_client_that_does_not_tell_its_steps_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="fednova_norm"):
        one_round(FedNova(), model(np.zeros(6)), [(model(np.ones(6)), 1)])
