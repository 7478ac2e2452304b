"""One round of a strategy with clients that are fakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hedgerow.driver import SimpleClientManager
from hedgerow.records import FitRes, Metrics, Parameters
from hedgerow.strategy import FedAvg
from tests.unit import papers
from tests.unit.driver.fakes import OK, FakeClient


def manager(count: int) -> SimpleClientManager:
    made = SimpleClientManager(wait_for_clients_s=0.0)
    for i in range(count):
        made.register(FakeClient(f"c{i:02d}"))
    return made


def one_round(
    strategy: FedAvg,
    x: Parameters,
    updates: Sequence[tuple[Parameters, int]],
    metrics: Sequence[Metrics] | None = None,
    server_round: int = 1,
) -> Parameters | None:
    """What the strategy makes of these updates and numbers of examples, of as many clients."""
    strategy.min_available_clients = strategy.min_fit_clients = 1
    instructions = strategy.configure_fit(server_round, x, manager(len(updates)))
    notes = metrics or [{} for _ in updates]
    results = [(c, FitRes(OK, p, n, m)) for (c, _), (p, n), m in zip(instructions, updates, notes, strict=True)]
    return strategy.aggregate_fit(server_round, results, [])[0]


def must(parameters: Parameters | None) -> Parameters:
    assert parameters is not None
    return parameters


@st.composite
def problems(draw: st.DrawFn, min_clients: int = 1, max_clients: int = 9) -> tuple[papers.Vector, list[papers.Vector], list[int]]:
    """What was sent, what came back and from how many examples; now and then the same from all, or what was sent."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(min_clients, max_clients))
    sent = rng.standard_normal(6)
    returned = [sent + draw(st.sampled_from([1e-3, 1.0, 30.0])) * rng.standard_normal(6) for _ in range(count)]
    match draw(st.integers(0, 9)):
        case 0:
            returned = [returned[0]] * count
        case 1:
            returned = [sent] * count
    return sent, returned, [int(n) for n in rng.integers(1, 1000, count)]


def model(vector: Any, dtype: Any = np.float64) -> Parameters:
    """A vector of six as a model of two tensors."""
    array = np.asarray(vector).astype(dtype)
    return Parameters({"w": array[:4].reshape(2, 2), "b": array[4:]})


def vector(parameters: Parameters | None) -> papers.Vector:
    return np.concatenate([array.reshape(-1).astype(np.float64) for array in must(parameters).values()])
