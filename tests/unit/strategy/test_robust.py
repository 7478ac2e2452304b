"""FedMedian and FedTrimmedAvg against the paper, and against clients that send anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import BadUpdate, InvalidArgument
from hedgerow.records import FitRes, Parameters
from hedgerow.strategy import Bulyan, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from tests.unit import papers
from tests.unit.driver.fakes import OK, FakeClient, fitted
from tests.unit.strategy.rounds import model, must, one_round, problems, vector

DTYPES = st.sampled_from([np.float64, np.float32])


@given(problems(), DTYPES)
def test_median_is_the_papers(problem: Any, dtype: Any) -> None:
    sent, returned, examples = problem
    updates = [model(v, dtype) for v in returned]
    found = one_round(FedMedian(), model(sent, dtype), list(zip(updates, examples, strict=True)))
    np.testing.assert_array_equal(vector(found), papers.median([vector(u) for u in updates]).astype(dtype))


@given(problems(), DTYPES, st.sampled_from([0.0, 0.2, 0.34, 0.49]))
def test_trimmed_mean_is_the_papers(problem: Any, dtype: Any, beta: float) -> None:
    sent, returned, examples = problem
    updates = [model(v, dtype) for v in returned]
    found = one_round(FedTrimmedAvg(beta=beta), model(sent, dtype), list(zip(updates, examples, strict=True)))
    np.testing.assert_array_equal(vector(found), papers.trimmed_mean([vector(u) for u in updates], beta).astype(dtype))


@pytest.mark.parametrize("beta", [-0.1, 0.5])
def test_part_that_leaves_nothing_is_refused(beta: float) -> None:
    with pytest.raises(InvalidArgument, match="beta"):
        FedTrimmedAvg(beta=beta)


ROBUST = pytest.mark.parametrize(
    "strategy",
    [
        FedMedian(),
        FedTrimmedAvg(beta=0.3),
        Krum(num_malicious_clients=2),
        MultiKrum(num_malicious_clients=2),
        Bulyan(num_malicious_clients=2),
    ],
    ids=lambda strategy: type(strategy).__name__,
)


@ROBUST
@given(
    seed=st.integers(0, 2**32),
    evil=st.sampled_from([1e-30, -1e6, 1e30, 3e38]),
    places=st.sets(st.integers(0, 10), min_size=2, max_size=2),
)
def test_two_of_eleven_that_send_anything_have_no_say(strategy: Any, seed: int, evil: float, places: set[int]) -> None:
    rng = np.random.default_rng(seed)
    sent = rng.standard_normal(6)
    honest = [sent + 1 + 0.1 * rng.standard_normal(6) for _ in range(11)]
    vectors = [np.full(6, evil) if i in places else v for i, v in enumerate(honest)]
    found = vector(
        one_round(
            strategy,
            model(sent, np.float32),
            [(model(v, np.float32), 10**9 if i in places else 1) for i, v in enumerate(vectors)],
        )
    )
    stacked = np.stack([v for i, v in enumerate(honest) if i not in places])
    assert (found >= stacked.min(axis=0) - 1e-5).all()
    assert (found <= stacked.max(axis=0) + 1e-5).all()


@ROBUST
def test_dtype_of_the_model_is_not_the_clients_to_choose(strategy: Any) -> None:
    sent = Parameters({"w": np.zeros(3, np.float32), "n": np.array(7)})
    updates = [Parameters({"w": np.full(3, 0.1, np.float64), "n": np.array(8)})] * 11
    found = must(one_round(strategy, sent, [(u, 1) for u in updates]))
    assert {name: (array.dtype.name, array.tolist()) for name, array in found.items()} == {
        "w": ("float32", [float(np.float32(0.1))] * 3),
        "n": ("int64", 8),
    }


@ROBUST
def test_nothing_comes_of_no_results_or_of_failures_that_are_not_accepted(strategy: Any) -> None:
    assert strategy.aggregate_fit(1, [], []) == (None, {})
    strategy.accept_failures = False
    try:
        assert strategy.aggregate_fit(1, [(FakeClient("a"), fitted(1.0))] * 11, [BadUpdate("nan")]) == (None, {})
    finally:
        strategy.accept_failures = True


def test_metrics_are_folded() -> None:
    strategy = FedMedian(fit_metrics_aggregation_fn=lambda pairs: {"n": sum(n for n, _ in pairs)})
    results: Any = [(FakeClient("a"), FitRes(OK, fitted(1.0).parameters, n, {"x": 1})) for n in (2, 3)]
    assert strategy.aggregate_fit(1, results, [])[1] == {"n": 5}
