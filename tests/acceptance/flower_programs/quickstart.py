"""A NumPyClient, federated averaging, ``start_server`` and ``start_numpy_client``: the program that everybody begins with.

::

    quickstart.py server ADDRESS HISTORY.json
    quickstart.py client ADDRESS NUMBER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import hedgerow.flwr as fl
from hedgerow.flwr.common import Config, Metrics, NDArrays


class LinearModel(fl.client.NumPyClient):
    def __init__(self, number: int) -> None:
        rng = np.random.default_rng(number)
        self.x = rng.normal(size=(40 + 10 * number, 3))
        self.y = self.x @ np.array([1.0, -2.0, 0.5]) + rng.normal(scale=0.1, size=len(self.x))

    def get_parameters(self, config: Config) -> NDArrays:
        return [np.zeros(3), np.zeros(())]

    def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, Metrics]:
        w, b = parameters
        for _ in range(5):
            error = self.x @ w + b - self.y
            w -= 0.05 * self.x.T @ error / len(self.y)
            b -= 0.05 * np.mean(error)
        return [w, b], len(self.y), {}

    def evaluate(self, parameters: NDArrays, config: Config) -> tuple[float, int, Metrics]:
        w, b = parameters
        loss = float(np.mean((self.x @ w + b - self.y) ** 2))
        return loss, len(self.y), {"rmse": loss**0.5}


def mean_rmse(metrics: list[tuple[int, Metrics]]) -> Metrics:
    total = sum(number for number, _ in metrics)
    return {"rmse": sum(number * float(values["rmse"]) for number, values in metrics) / total}


def main(role: str, address: str, argument: str) -> None:
    if role == "client":
        fl.client.start_numpy_client(server_address=address, client=LinearModel(int(argument)))
        return
    strategy = fl.server.strategy.FedAvg(
        min_fit_clients=2, min_evaluate_clients=2, min_available_clients=2, evaluate_metrics_aggregation_fn=mean_rmse
    )
    history = fl.server.start_server(server_address=address, config=fl.server.ServerConfig(num_rounds=3), strategy=strategy)
    Path(argument).write_text(json.dumps(vars(history)))


if __name__ == "__main__":
    main(*sys.argv[1:])
