"""FedProx, SCAFFOLD and FedNova with real clients: the bits of the benchmark's plain loop, with the benchmark's client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.client import Context
from hedgerow.driver import DriverLimits, Server, ServerConfig, start_driver
from hedgerow.strategy import FedAvg, FedNova, FedProx, Scaffold
from hedgerow.testing import Federation
from hedgerow.wire import tensors
from tests.source_tree import ROOT

pytest.importorskip("sklearn", reason="the benchmark's data are scikit-learn's")
from benchmarks import non_iid

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
NAMES = [f"{number}-of-3" for number in range(3)]
ROUNDS, SEED = 4, 11


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(tmp_path_factory.mktemp("federation"), env=ENVIRONMENT) as made:
        made.start_server()
        for name in NAMES:
            made.start_client(name, "benchmarks.non_iid:client_app", Path(non_iid.__file__).parents[1])
        made.wait_for_sessions(len(NAMES))
        yield made


@pytest.mark.parametrize("make", [FedAvg, lambda **arguments: FedProx(proximal_mu=0.5, **arguments), FedNova, Scaffold])
def test_service_gives_the_bits_of_the_plain_loop(federation: Federation, make: Callable[..., FedAvg]) -> None:
    arguments: dict[str, Any] = {
        "fraction_fit": 0.7,
        "min_available_clients": len(NAMES),
        "on_fit_config_fn": lambda server_round: {"lr": 0.2},
    }
    server = Server(strategy=make(**arguments))
    history = start_driver(
        server_address=federation.driver.text,
        server=server,
        config=ServerConfig(num_rounds=ROUNDS, seed=SEED),
        limits=DriverLimits(connect_s=30, wait_for_clients_s=30),
    )
    assert history.failures == {}
    clients = {name: non_iid.make_client(Context(name, "loop")) for name in NAMES}
    expected = non_iid.run(make(**arguments), clients, ROUNDS, SEED)
    assert tensors.dumps(server.parameters) == tensors.dumps(expected)
