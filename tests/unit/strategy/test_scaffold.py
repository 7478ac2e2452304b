"""Scaffold, with its clients' half, against algorithm 1 of its paper; and what becomes of updates that are lost."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.aggregation.control import PREFIX
from hedgerow.driver import SimpleClientManager
from hedgerow.errors import BadUpdate, InvalidArgument
from hedgerow.records import FitIns, FitRes, NDArray, Parameters
from hedgerow.strategy import FedAvg, Scaffold
from hedgerow.training import ControlVariates
from tests.unit import papers
from tests.unit.driver.fakes import OK
from tests.unit.strategy.rounds import manager, model, must, one_round, problems, vector

N = 5


class Federation:
    """N clients whose losses are quadratic, each with its own minimum, and a state that only a result changes."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.minima = rng.standard_normal((N, 6))
        self.steepness = rng.uniform(0.5, 2.0, (N, 6))
        self.steps = [int(k) for k in rng.integers(1, 6, N)]
        self.examples = [int(n) for n in rng.integers(1, 99, N)]
        self.start = rng.standard_normal(6)
        self.states: list[dict[str, Any]] = [{} for _ in range(N)]

    def gradient(self, i: int) -> Any:
        return lambda y: self.steepness[i] * (y - self.minima[i])

    def fit(self, i: int, ins: FitIns, lr: float) -> tuple[FitRes, dict[str, Any]]:
        """A client's answer, and its state if that answer is kept."""
        state = dict(self.states[i])
        variates = ControlVariates(ins.parameters, ins.config, state)
        y = [array.astype(np.float64) for array in variates.model]
        for _ in range(self.steps[i]):
            flat = self.gradient(i)(np.concatenate([a.reshape(-1) for a in y]))
            gradients = [flat[:4].reshape(2, 2), flat[4:]]
            y = [a - lr * (g + c) for a, g, c in zip(y, gradients, variates.corrections, strict=True)]
        y = [a.astype(x.dtype) for a, x in zip(y, variates.model, strict=True)]
        returned = variates.finish(y, steps=self.steps[i], learning_rate=lr)
        return FitRes(OK, Parameters(dict(zip(ins.parameters, returned, strict=True))), self.examples[i]), state

    def round(
        self, strategy: Scaffold, clients: SimpleClientManager, number: int, x: Parameters, lr: float, lost: Any = ()
    ) -> tuple[Parameters, list[int]]:
        """One round; the results of the clients in ``lost`` do not come, although those have kept their state."""
        clients.start_round(number, 7)
        results, sampled = [], []
        for client, ins in strategy.configure_fit(number, x, clients):
            i = int(client.cid[1:])
            res, self.states[i] = self.fit(i, ins, lr)
            if i not in lost:
                results.append((client, res))
                sampled.append(i)
        return must(strategy.aggregate_fit(number, results, [])[0]), sampled


def clients() -> SimpleClientManager:
    return manager(N)


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([1.0, 0.5, 1.5]), st.sampled_from([0.3, 0.01]))
def test_rounds_are_the_papers(seed: int, fraction: float, global_lr: float, lr: float) -> None:
    federation = Federation(seed)
    paper = papers.Scaffold(federation.start, [federation.gradient(i) for i in range(N)], global_lr)
    strategy = Scaffold(fraction_fit=fraction, min_fit_clients=1, server_learning_rate=global_lr)
    x = model(federation.start)
    for number in range(1, 6):
        x, sampled = federation.round(strategy, clients(), number, x, lr)
        assert len(sampled) == max(1, int(fraction * N))
        paper.round(sampled, federation.steps, lr)
        np.testing.assert_allclose(vector(x), paper.x, rtol=1e-9, atol=1e-9)
        c = vector(strategy.state_dict()["control"]) / N
        np.testing.assert_allclose(c, paper.c, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("dtype", "close"), [(np.float32, 1e-5), (np.float16, 1e-2), (ml_dtypes.bfloat16, 1e-1)])
def test_rounds_in_narrow_dtypes_are_the_papers_as_far_as_those_go(dtype: Any, close: float) -> None:
    federation, strategy = Federation(8), Scaffold()
    paper = papers.Scaffold(federation.start, [federation.gradient(i) for i in range(N)], 1.0)
    x = model(federation.start, dtype)
    for number in range(1, 5):
        x, sampled = federation.round(strategy, clients(), number, x, 0.2)
        paper.round(sampled, federation.steps, 0.2)
        np.testing.assert_allclose(vector(x), paper.x, rtol=close, atol=close)
    assert {array.dtype for array in x.values()} == {np.dtype(dtype)}
    assert {array.dtype for array in strategy.state_dict()["control"].values()} == {np.dtype(np.float32)}


def test_clients_with_different_minima_meet_where_the_sum_of_their_losses_is_least() -> None:
    federation, strategy = Federation(3), Scaffold()
    x = model(federation.start)
    for number in range(1, 200):
        x, _ = federation.round(strategy, clients(), number, x, 0.2)
    least = (federation.steepness * federation.minima).sum(0) / federation.steepness.sum(0)
    np.testing.assert_allclose(vector(x), least, atol=1e-6)


@given(problems(), st.randoms(use_true_random=False))
def test_order_of_clients_does_not_matter_and_examples_do_not_weigh(problem: Any, shuffle: Any) -> None:
    sent, returned, examples = problem
    pairs = [(with_control(v), n) for v, n in zip(returned, examples, strict=True)]
    found = one_round(Scaffold(), model(sent), pairs)
    shuffle.shuffle(pairs)
    np.testing.assert_allclose(vector(one_round(Scaffold(), model(sent), pairs)), vector(found), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(vector(found), np.mean(returned, axis=0), rtol=1e-9, atol=1e-9)


def with_control(values: Any, change: float = 0.0) -> Parameters:
    made = model(values)
    return Parameters({**made, **{PREFIX + name: np.full(array.shape, change) for name, array in made.items()}})


def test_update_must_have_the_models_tensors_and_their_control_variates() -> None:
    tensors: dict[str, NDArray] = {"w": np.zeros((2, 2), np.float16), "n": np.zeros(1, np.int64)}
    x = Parameters(tensors)
    strategy = Scaffold()
    ((_, ins), *_) = strategy.configure_fit(1, x, clients())
    spec = strategy.update_spec(1, ins)
    assert [(t.name, t.shape, t.dtype) for t in spec.tensors or ()] == [
        ("w", (2, 2), np.dtype(np.float16)),
        ("n", (1,), np.dtype(np.int64)),
        ("scaffold.control/w", (2, 2), np.dtype(np.float32)),
    ]
    assert spec.finite


def test_model_that_is_evaluated_and_kept_is_the_model_alone() -> None:
    federation, strategy = Federation(1), Scaffold()
    x, _ = federation.round(strategy, clients(), 1, model(federation.start), 0.1)
    assert list(x) == ["w", "b"]
    assert list(strategy.configure_evaluate(1, x, clients())[0][1].parameters) == ["w", "b"]


def test_parameters_are_the_same_object_for_all_clients_and_configs_are_their_own() -> None:
    federation, strategy = Federation(1), Scaffold(on_fit_config_fn=lambda r: {"lr": r})
    x = model(federation.start)
    x, _ = federation.round(strategy, clients(), 1, x, 0.1, lost=[2])
    pairs = strategy.configure_fit(2, x, clients())
    assert len({id(ins.parameters) for _, ins in pairs}) == 1
    assert pairs[0][1].config == {"lr": 2, "scaffold_round": 2, "scaffold_tensors": 2, "scaffold_folded": 1}
    assert [ins.config["scaffold_folded"] for _, ins in pairs] == [1, 1, 0, 1, 1]


@pytest.mark.parametrize("lost", [{1: [0, 3]}, {2: [0]}, {2: [0], 3: [0, 1]}, {1: [4], 2: [4], 3: [4]}])
def test_control_variate_of_an_update_that_is_lost_is_as_if_it_had_not_been_made(lost: dict[int, list[int]]) -> None:
    federation, strategy = Federation(5), Scaffold()
    paper = papers.Scaffold(federation.start, [federation.gradient(i) for i in range(N)], 1.0)
    x = model(federation.start)
    for number in range(1, 6):
        x, sampled = federation.round(strategy, clients(), number, x, 0.2, lost.get(number, []))
        assert len(sampled) == N - len(lost.get(number, []))
        paper.round(sampled, federation.steps, 0.2)
        np.testing.assert_allclose(vector(x), paper.x, rtol=1e-9, atol=1e-9)


def test_round_that_does_not_count_leaves_the_clients_where_they_were() -> None:
    federation, strategy = Federation(6), Scaffold()
    paper = papers.Scaffold(federation.start, [federation.gradient(i) for i in range(N)], 1.0)
    x = model(federation.start)
    for number, valid in enumerate((True, False, False, True, True), start=1):
        before = strategy.state_dict()
        new, sampled = federation.round(strategy, clients(), number, x, 0.2)
        if not valid:
            strategy.load_state_dict(before)
            continue
        x = new
        paper.round(sampled, federation.steps, 0.2)
        np.testing.assert_allclose(vector(x), paper.x, rtol=1e-9, atol=1e-9)


def test_control_variate_of_the_server_stays_the_mean_when_clients_join() -> None:
    strategy = Scaffold()
    one_round(strategy, model(np.zeros(6)), [(with_control(np.zeros(6), 1.0), 1)] * 2)
    assert c_of(strategy, manager(2)) == 1.0
    assert c_of(strategy, manager(4)) == 0.5
    assert c_of(strategy, manager(1)) == 1.0, "who took part counts, also when away"
    fixed = Scaffold(num_clients=8)
    fixed.load_state_dict(strategy.state_dict())
    assert c_of(fixed, manager(4)) == 0.25


def c_of(strategy: Scaffold, available: SimpleClientManager) -> float:
    strategy.min_available_clients = strategy.min_fit_clients = 1
    ((_, ins), *_) = strategy.configure_fit(2, model(np.zeros(6)), available)
    (value,) = {float(v) for name in ("w", "b") for v in ins.parameters[PREFIX + name].reshape(-1)}
    return value


def test_round_that_is_taken_up_goes_on_from_what_was_sent() -> None:
    federation, strategy = Federation(2), Scaffold()
    x, _ = federation.round(strategy, clients(), 1, model(federation.start), 0.1)
    instructions = strategy.configure_fit(2, x, clients())
    results = [(c, federation.fit(int(c.cid[1:]), ins, 0.1)[0]) for c, ins in instructions]
    other = Scaffold()
    other.load_state_dict(strategy.state_dict())
    other.resume_fit(2, x, instructions)
    found, expected = (must(s.aggregate_fit(2, results, [])[0]) for s in (other, strategy))
    assert vector(found).tobytes() == vector(expected).tobytes()
    assert vector(other.state_dict()["control"]).tobytes() == vector(strategy.state_dict()["control"]).tobytes()


def test_without_corrections_it_is_the_mean_of_the_clients_all_alike() -> None:
    updates = [(with_control(np.full(6, value)), 1) for value in (1.0, 2.0, 6.0)]
    plain = [(model(np.full(6, value)), 1) for value in (1.0, 2.0, 6.0)]
    np.testing.assert_array_equal(
        vector(one_round(Scaffold(), model(np.zeros(6)), updates)), vector(one_round(FedAvg(), model(np.zeros(6)), plain))
    )


def test_failures_that_are_not_accepted_change_nothing() -> None:
    strategy = Scaffold(accept_failures=False)
    strategy.configure_fit(1, model(np.zeros(6)), clients())
    results = [(client, FitRes(OK, with_control(np.ones(6), 1.0), 1)) for client in clients().all().values()]
    assert strategy.aggregate_fit(1, results, [BadUpdate("nan")]) == (None, {})
    assert strategy.state_dict() == {"control": None, "folded": {}}


def test_model_whose_names_are_those_of_control_variates_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=f"{PREFIX}w"):
        Scaffold().configure_fit(1, Parameters({f"{PREFIX}w": np.zeros(1)}), clients())


@pytest.mark.parametrize("state", [{}, {"control": 1, "folded": {}}, {"control": None, "folded": None}])
def test_state_of_something_else_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="Scaffold"):
        Scaffold().load_state_dict(state)


@pytest.mark.parametrize("arguments", [{"server_learning_rate": 0.0}, {"num_clients": 0}])
def test_values_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="num_clients"):
        Scaffold(**arguments)
