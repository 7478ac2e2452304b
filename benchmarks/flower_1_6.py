"""Flower 1.6's half of the benchmarks, run by an interpreter that has it: ``python -m benchmarks.flower_1_6 ROLE ...``.

Roles: ``driver`` (of the request-response mode), ``server`` (of the bidirectional mode; it holds the strategy) and ``site`` (of
the latter). In the request-response mode, ``flower-client --callable benchmarks.flower_1_6:site`` is the site.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import Any

import flwr as fl
import numpy as np

from benchmarks.conducted import Conducted


class RandomSite(fl.client.NumPyClient):  # type: ignore[misc]
    """Does not train: what ``fit`` returns is drawn at random, different at each client and in each round."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng()

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        """Random arrays of the same shapes, as one example's."""
        return [self._rng.standard_normal(array.shape, np.float32) for array in parameters], 1, {}


class ConductedFedAvg(Conducted, fl.server.strategy.FedAvg):  # type: ignore[misc]
    """FedAvg in batches."""


site = fl.flower.Flower(client_fn=lambda cid: RandomSite().to_client())


def main() -> None:
    """Play a role until nobody asks for more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["driver", "server", "site"])
    parser.add_argument("address")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--elements", type=int, default=10, help="of the one tensor, float32 (default: %(default)s)")
    options = parser.parse_args()
    if options.role == "site":
        fl.client.start_numpy_client(server_address=options.address, client=RandomSite())
        return
    model = np.random.default_rng(0).standard_normal(options.elements, np.float32)
    strategy = ConductedFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=options.clients,
        min_available_clients=options.clients,
        initial_parameters=fl.common.ndarrays_to_parameters([model]),
    )
    start = fl.server.start_server if options.role == "server" else fl.driver.start_driver
    with contextlib.suppress(KeyboardInterrupt):
        start(server_address=options.address, strategy=strategy, config=fl.server.ServerConfig(num_rounds=1_000_000))
    os._exit(0)  # its threads would keep the process


if __name__ == "__main__":
    main()
