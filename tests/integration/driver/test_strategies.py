"""Strategies over the real server: the bits of the same strategy in a plain loop, with parameters that travel as blobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hedgerow.strategy
from hedgerow.driver import DriverLimits, Server, ServerConfig, SimpleClientManager, start_driver
from hedgerow.records import Code, FitRes, Parameters, Status, Task
from hedgerow.sampling import task_seed
from hedgerow.strategy import FedAvg, FedXgbBagging, FedXgbCyclic
from hedgerow.wire import tensors
from tests.integration.driver.fleet_client import fleet
from tests.unit.driver.fakes import FakeClient
from tests.unit.strategy.boosters import booster, leaves, raw

SIZE, ROUNDS, SEED = 40_000, 3, 5
NAMES = [f"site{i}" for i in range(7)]
LIMITS = DriverLimits(connect_s=10, reconnect_s=10, wait_for_clients_s=10)


def trained(parameters: Parameters, seed: int) -> Parameters:
    noise = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    return Parameters({"w": parameters["w"] * np.float32(0.5) + noise})


def work(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
    if task.instruction.kind == "get_parameters":
        return Parameters({"w": np.ones(SIZE, np.float32)}), 0, 0.0
    if task.instruction.kind == "evaluate":
        return None, 3, float(parameters["w"].mean())
    return trained(parameters, task.seed), 1 + task.seed % 5, 0.0


def run(address: str, strategy: FedAvg, rounds: int = ROUNDS) -> tuple[Any, Parameters]:
    server = Server(client_manager=SimpleClientManager(10), strategy=strategy)
    config = ServerConfig(num_rounds=rounds, seed=SEED)
    return start_driver(server_address=address, server=server, config=config, limits=LIMITS), server.parameters


def in_a_loop(strategy: FedAvg) -> Parameters:
    manager = SimpleClientManager(wait_for_clients_s=0)
    for name in NAMES:
        manager.register(FakeClient(name))
    x = Parameters({"w": np.ones(SIZE, np.float32)})
    for server_round in range(1, ROUNDS + 1):
        results = []
        for client, ins in strategy.configure_fit(server_round, x, manager):
            seed = task_seed(SEED, server_round, client.cid, "fit", 0)
            results.append((client, FitRes(Status(Code.OK, ""), trained(ins.parameters, seed), 1 + seed % 5)))
        new, _ = strategy.aggregate_fit(server_round, results, [])
        assert new is not None
        x = new
    return x


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("FedYogi", {}),
        ("FedTrimmedAvg", {}),
        ("Krum", {"num_malicious_clients": 2}),
        ("Bulyan", {"num_malicious_clients": 1}),
        ("QFedAvg", {"q_param": 1, "evaluate_fn": lambda server_round, arrays, config: (float(np.square(arrays[0]).mean()), {})}),
    ],
)
def test_strategy_gives_the_bits_of_a_plain_loop(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    make = getattr(hedgerow.strategy, name)
    with fleet(tmp_path, work, NAMES) as (service, _):
        history, parameters = run(service.driver_address.text, make(min_available_clients=7, **arguments))
        assert list((tmp_path / "state" / "blobs").iterdir()) == []
    assert tensors.dumps(parameters) == tensors.dumps(in_a_loop(make(**arguments)))
    assert history.failures == {}


def boost(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
    grown = leaves(parameters["000000"]) if len(parameters) else []
    if task.instruction.kind == "evaluate":
        return None, 1, float(len(grown))
    if task.seed % 5 == 0:
        return Parameters([np.zeros(4, np.float32)]), 1, 0.0
    return Parameters([raw(booster(*grown, task.seed % 1000))]), 1, 0.0


def grow(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
    return boost(task, Parameters([]) if task.instruction.kind == "fit" else parameters)


def seeds(names: list[str], rounds: range) -> list[tuple[str, int]]:
    return [(name, task_seed(SEED, r, name, "fit", 0)) for r in rounds for name in names]


def test_forest_grows_from_nothing_and_what_is_no_booster_is_a_failure(tmp_path: Path) -> None:
    with fleet(tmp_path, grow, NAMES) as (service, _):
        strategy = FedXgbBagging(min_available_clients=7, initial_parameters=Parameters([]))
        history, parameters = run(service.driver_address.text, strategy)
    asked = seeds(NAMES, range(1, ROUNDS + 1))
    assert leaves(parameters["000000"]) == [seed % 1000 for _, seed in asked if seed % 5]
    bad = [name for name, seed in asked if not seed % 5]
    assert bad, "some client must send something else"
    assert [failure.node for r in sorted(history.failures) for failure in history.failures[r]] == bad
    assert history.losses_distributed[-1] == (ROUNDS, float(len(leaves(parameters["000000"]))))


def test_model_goes_round(tmp_path: Path) -> None:
    names = NAMES[:3]
    with fleet(tmp_path, boost, names) as (service, _):
        strategy = FedXgbCyclic(min_available_clients=3, initial_parameters=Parameters([]))
        _, parameters = run(service.driver_address.text, strategy, rounds=4)
    turns = [task_seed(SEED, r, names[(r - 1) % 3], "fit", 0) for r in range(1, 5)]
    assert leaves(parameters["000000"]) == [seed % 1000 for seed in turns if seed % 5]
