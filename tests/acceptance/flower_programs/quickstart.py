"""A program as Flower's users write it: a NumPyClient, federated averaging, ``start_server`` and ``start_numpy_client``.

``quickstart.py server ADDRESS HISTORY.json`` and ``quickstart.py client ADDRESS SEED``.
"""

from __future__ import annotations

import json
import sys

import numpy as np

import hedgerow.flwr as fl


class LinearModel(fl.client.NumPyClient):
    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(40 + 10 * seed, 3))
        self.y = self.x @ np.array([1.0, -2.0, 0.5]) + rng.normal(scale=0.1, size=len(self.x))

    def get_parameters(self, config):
        return [np.zeros(3), np.zeros(())]

    def fit(self, parameters, config):
        w, b = parameters
        for _ in range(5):
            error = self.x @ w + b - self.y
            w = w - 0.05 * self.x.T @ error / len(self.y)
            b = b - 0.05 * np.mean(error)
        return [w, b], len(self.y), {}

    def evaluate(self, parameters, config):
        w, b = parameters
        loss = float(np.mean((self.x @ w + b - self.y) ** 2))
        return loss, len(self.y), {"rmse": loss**0.5}


def mean_rmse(metrics):
    examples = [number for number, _ in metrics]
    return {"rmse": sum(number * values["rmse"] for number, values in metrics) / sum(examples)}


def main(role: str, address: str, argument: str) -> None:
    if role == "client":
        fl.client.start_numpy_client(server_address=address, client=LinearModel(int(argument)))
        return
    history = fl.server.start_server(
        server_address=address,
        config=fl.server.ServerConfig(num_rounds=3),
        strategy=fl.server.strategy.FedAvg(
            min_fit_clients=2, min_evaluate_clients=2, min_available_clients=2, evaluate_metrics_aggregation_fn=mean_rmse
        ),
    )
    with open(argument, "w") as file:
        json.dump(vars(history), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
