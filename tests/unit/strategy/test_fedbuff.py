"""FedBuff against a literal transcription of its paper's algorithm 1."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.aggregation.deltas import DeltaSum
from hedgerow.driver import SimpleClientManager
from hedgerow.errors import ConfigError, InvalidArgument
from hedgerow.records import FitRes, Parameters
from hedgerow.strategy import FedBuff
from hedgerow.strategy.asynchronous import Idle, Update
from hedgerow.strategy.fedbuff import polynomial_staleness
from tests.unit.driver.fakes import OK, FakeClient, fitted, model

CLIENT = FakeClient("a")


def update(base: Parameters, new: Parameters, staleness: int) -> Update:
    return Update(CLIENT, base, FitRes(OK, new, 1, {}), staleness)


@given(
    seed=st.integers(0, 10_000),
    stale=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    lr=st.sampled_from([0.25, 1.0, 1.5]),
    dtype=st.sampled_from(["float32", "float64", "float16", "bfloat16"]),
)
def test_a_version_is_the_papers(seed: int, stale: list[int], lr: float, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    shape = (3, 2)
    x = rng.standard_normal(shape).astype(kind)
    pairs = [tuple(rng.standard_normal(shape).astype(kind) for _ in range(2)) for _ in stale]
    made = FedBuff(buffer_size=len(stale), concurrency=1, server_learning_rate=lr)
    for (base, new), tau in zip(pairs, stale, strict=True):
        assert made.fold(1, update(Parameters({"w": base}), Parameters({"w": new}), tau))
    found, _ = made.flush(1, Parameters({"w": x}))

    total = np.zeros(shape)  # algorithm 1, line by line
    for (base, new), tau in zip(pairs, stale, strict=True):
        total = total + (base.astype(np.float64) - new.astype(np.float64)) / np.sqrt(1 + tau)
    expected = x.astype(np.float64) - lr * total / len(stale)
    assert found["w"].dtype == kind
    tolerance = {"float64": 1e-12, "float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(found["w"].astype(np.float64), expected, rtol=tolerance, atol=tolerance)


def test_updates_that_are_equal_to_their_base_change_nothing() -> None:
    made = FedBuff(buffer_size=2, concurrency=1)
    for value in (1.0, 5.0):
        made.fold(1, update(model(value), model(value), 3))
    new, _ = made.flush(1, model(2.5))
    np.testing.assert_array_equal(new["w"], np.array([2.5], np.float32))


def test_one_fresh_update_is_taken_over() -> None:
    made = FedBuff(buffer_size=1, concurrency=1)
    made.fold(1, update(model(1.0), model(4.0), 0))
    new, _ = made.flush(1, model(1.0))
    np.testing.assert_array_equal(new["w"], np.array([4.0], np.float32))


def test_integers_are_rounded() -> None:
    deltas = DeltaSum()
    base = Parameters({"n": np.array([10], np.int64)})
    deltas.add(base, Parameters({"n": np.array([13], np.int64)}), 1.0)
    deltas.add(base, Parameters({"n": np.array([14], np.int64)}), 1.0)
    np.testing.assert_array_equal(deltas.step(base, 0.5)["n"], [14])  # 13.5, halves to even


def test_too_stale_updates_are_refused_and_leave_no_trace() -> None:
    made = FedBuff(buffer_size=1, concurrency=1, max_staleness=2)
    assert not made.fold(1, update(model(0.0), model(9.0), 3))
    assert made.fold(1, update(model(0.0), model(1.0), 2))
    new, _ = made.flush(1, model(0.0))
    np.testing.assert_allclose(new["w"], [1 / np.sqrt(3)], rtol=1e-6)


def test_the_buffer_is_empty_after_a_flush_and_after_it_is_discarded() -> None:
    made = FedBuff(buffer_size=1, concurrency=1, fit_metrics_aggregation_fn=lambda some: {"n": len(some)})
    made.fold(1, update(model(0.0), model(1.0), 0))
    assert made.flush(1, model(0.0))[1] == {"n": 1}
    made.fold(2, update(model(0.0), model(1.0), 0))
    made.discard()
    with pytest.raises(InvalidArgument, match="no update was added"):
        made.flush(2, model(0.0))
    assert made.state_dict() == {}


def test_other_tensors_are_refused_and_change_nothing() -> None:
    deltas = DeltaSum()
    deltas.add(model(1.0), model(2.0), 1.0)
    for base, new, weight in (
        (model(1.0, 2.0), model(1.0, 2.0), 1.0),
        (model(1.0), model(1.0, 2.0), 1.0),
        (model(1.0), model(2.0), -1.0),
    ):
        with pytest.raises(InvalidArgument):
            deltas.add(base, new, weight)
    np.testing.assert_array_equal(deltas.step(model(1.0), 1.0)["w"], np.array([2.0], np.float32))
    with pytest.raises(InvalidArgument):
        deltas.step(model(1.0, 2.0), 1.0)


def test_only_idle_clients_are_chosen() -> None:
    manager = SimpleClientManager(wait_for_clients_s=0.0)
    for name in ("a", "b"):
        manager.register(FakeClient(name, fitted(1.0)))
    made = FedBuff(buffer_size=1, concurrency=2, on_fit_config_fn=lambda server_round: {"round": server_round})
    chosen = made.configure_task(4, model(1.0), manager, Idle({"a"}))
    assert chosen is not None
    assert (chosen[0].cid, chosen[1].config) == ("b", {"round": 4})


@pytest.mark.parametrize(
    "wrong",
    [{"buffer_size": 0}, {"concurrency": 0}, {"server_learning_rate": 0.0}, {"max_staleness": -1}, {"fraction_evaluate": 0.5}],
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        FedBuff(**wrong)  # type: ignore[arg-type]


def test_staleness_weights_fall_from_one() -> None:
    weights = [polynomial_staleness(1.0)(tau) for tau in range(3)]
    assert weights == [1.0, 0.5, pytest.approx(1 / 3)]
