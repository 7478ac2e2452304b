"""The server's optimisers against their papers' equations, step by step."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.aggregation import Adagrad, Adam, Descent, Momentum, Yogi, server_step
from hedgerow.aggregation.server_step import BLOCK, Part, Rule
from hedgerow.errors import InvalidArgument
from hedgerow.records import Parameters
from tests.unit import papers

ADAPTIVE = {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
RULES: list[tuple[str, Rule, dict[str, float]]] = [
    ("momentum", Momentum(0.5, 0.9), {"lr": 0.5, "beta": 0.9}),
    ("momentum", Momentum(1.0, 0.0), {"lr": 1.0, "beta": 0.0}),
    ("momentum", Momentum(0.0, 0.5), {"lr": 0.0, "beta": 0.5}),
    ("descent", Descent(0.1, 0.5), {"eta": 0.1, "beta_1": 0.5}),
    ("adagrad", Adagrad(0.1, 0.0, 0.0, 1e-3), ADAPTIVE | {"beta_1": 0.0}),
    ("adam", Adam(**ADAPTIVE), ADAPTIVE),
    ("yogi", Yogi(**ADAPTIVE), ADAPTIVE),
    ("yogi", Yogi(**(ADAPTIVE | {"eta": 0.0})), ADAPTIVE | {"eta": 0.0}),
]
ALL = pytest.mark.parametrize(("name", "rule", "settings"), RULES, ids=lambda value: value if isinstance(value, str) else "")


def walk(rule: Rule, x: Parameters, means: list[Parameters]) -> tuple[Parameters, dict[str, Parameters] | None]:
    state: dict[str, Parameters] | None = None
    for mean in means:
        step = server_step(rule, x, mean, state)
        x, state = step.parameters, step.state
    return x, state


@ALL
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 4), spread=st.sampled_from([0.0, 1e-6, 1.0, 100.0]))
def test_steps_follow_the_equations(
    name: str, rule: Rule, settings: dict[str, float], seed: int, steps: int, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(6)
    means = [start + spread * rng.standard_normal(6) for _ in range(steps)]
    found, _ = walk(rule, Parameters({"w": start.reshape(2, 3)}), [Parameters({"w": mean.reshape(2, 3)}) for mean in means])
    literal = papers.Server(start, **settings)
    for mean in means:
        expected = getattr(literal, name)(mean)
    np.testing.assert_allclose(found["w"].reshape(-1), expected, rtol=1e-10, atol=1e-10)


@ALL
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 2e-2), (ml_dtypes.bfloat16, 1e-1), (np.complex64, 1e-5)]
)
def test_other_dtypes_are_rounded_once(name: str, rule: Rule, settings: dict[str, float], dtype: Any, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    start = rng.standard_normal(5).astype(dtype)
    means = [rng.standard_normal(5) for _ in range(5)]
    wide = np.complex128 if start.dtype.kind == "c" else np.float64
    found, state = walk(rule, Parameters([start]), [Parameters([mean.astype(wide)]) for mean in means])
    literal = papers.Server(start.real.astype(np.float64), **settings)
    for mean in means:
        expected = getattr(literal, name)(mean)
    assert found["000000"].dtype == start.dtype
    np.testing.assert_allclose(found["000000"].real.astype(np.float64), expected, rtol=tolerance, atol=tolerance)
    assert state is not None
    widths = {tensors["000000"].dtype.name for tensors in state.values()}
    assert widths == {"complex64" if dtype is np.complex64 else "float32"}


def test_blocks_join_without_a_seam() -> None:
    x, mean = np.arange(2.0 * BLOCK + 3), np.ones(2 * BLOCK + 3)
    step = server_step(Adam(**ADAPTIVE), Parameters([x]), Parameters([mean]), None)
    literal = papers.Server(x, **ADAPTIVE).adam(mean)
    np.testing.assert_allclose(step.parameters["000000"], literal, rtol=1e-12)
    np.testing.assert_allclose(step.state["m"]["000000"], 0.1 * (1 - x) + 0.0, rtol=1e-9)


def test_without_momentum_and_with_rate_one_it_is_the_mean() -> None:
    x, mean = Parameters([np.array([1e4, -3.0, 0.1], np.float32)]), Parameters([np.array([1.0, 2.0, 0.3], np.float32)])
    for rule in (Momentum(lr=1.0, beta=0.0), Part(1.0)):
        assert server_step(rule, x, mean, None).parameters["000000"].tobytes() == mean["000000"].tobytes()


def test_equal_updates_leave_the_parameters() -> None:
    x = Parameters([np.array([1e4, -3.0, 0.1], np.float32)])
    for _, rule, _ in RULES:
        assert server_step(rule, x, x, None).parameters["000000"].tobytes() == x["000000"].tobytes()


def test_integers_become_the_means_and_have_no_state() -> None:
    x = Parameters({"n": np.array(5), "flag": np.array(True), "w": np.zeros((), ml_dtypes.bfloat16)})
    mean = Parameters({"n": np.array(8.6), "flag": np.array(0.4), "w": np.ones(())})
    step = server_step(Momentum(lr=1.0, beta=0.5), x, mean, None)
    assert (int(step.parameters["n"]), bool(step.parameters["flag"]), float(step.parameters["w"])) == (9, False, 1.0)
    assert {name: str(array.dtype) for name, array in step.state["velocity"].items()} == {"w": "float32"}


def test_nothing_is_changed_in_place() -> None:
    x, mean, m, v = (Parameters([np.full(2, value)]) for value in (1.0, 2.0, 3.0, 4.0))
    for array in (*x.values(), *mean.values(), *m.values(), *v.values()):
        array.flags.writeable = False
    server_step(Adam(**ADAPTIVE), x, mean, {"m": m, "v": v})
    assert [p["000000"].tolist() for p in (x, mean, m, v)] == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]


@pytest.mark.parametrize(
    ("mean", "state", "message"),
    [
        (Parameters([np.zeros(3)]), None, r"\(3,\)"),
        (Parameters([np.zeros(2)]), {"velocity": Parameters({})}, "move"),
        (Parameters([np.zeros(2)]), {"m": Parameters([np.zeros(2)])}, "state"),
    ],
)
def test_other_tensors_are_refused(mean: Parameters, state: dict[str, Parameters] | None, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        server_step(Momentum(lr=1.0, beta=0.0), Parameters([np.zeros(2)]), mean, state)
