"""Federated averaging whose behaviour is given as functions: configs per round, central evaluation, folded metrics.

::

    functions.py server ADDRESS HISTORY.json
    functions.py client ADDRESS NUMBER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import hedgerow.flwr as fl
from hedgerow.flwr.common import Config, Metrics, NDArrays, Scalar

DATA = np.random.default_rng(0).normal(size=(90, 2))
LABELS = (DATA @ [2.0, -1.0] > 0).astype(float)


def loss_and_accuracy(w: NDArrays, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    p = 1 / (1 + np.exp(-x @ w[0]))
    loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    return float(loss), float(np.mean((p > 0.5) == y))


class Classifier(fl.client.NumPyClient):
    def __init__(self, number: int) -> None:
        self.x, self.y = DATA[30 * number :: 2], LABELS[30 * number :: 2]

    def get_parameters(self, config: Config) -> NDArrays:
        return [np.zeros(2)]

    def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, Metrics]:
        w = parameters[0]
        for _ in range(int(config["epochs"])):
            w = w - config["lr"] * self.x.T @ (1 / (1 + np.exp(-self.x @ w)) - self.y) / len(self.y)
        return [w], len(self.y), {"norm": float(np.linalg.norm(w)), "round": config["round"], "word": b"ok"}

    def evaluate(self, parameters: NDArrays, config: Config) -> tuple[float, int, Metrics]:
        assert config == {"half": False}
        loss, accuracy = loss_and_accuracy(parameters, self.x, self.y)
        return loss, len(self.y), {"accuracy": accuracy}


def fit_config(server_round: int) -> dict[str, Scalar]:
    return {"epochs": 1 + server_round, "lr": 0.5 / server_round, "round": server_round}


def evaluate_centrally(server_round: int, parameters: NDArrays, config: Config) -> tuple[float, Metrics]:
    loss, accuracy = loss_and_accuracy(parameters, DATA, LABELS)
    parameters[0] *= 0  # the model does not mind
    return loss, {"accuracy": accuracy}


def fold_fit(metrics: list[tuple[int, Metrics]]) -> Metrics:
    assert all(values["word"] == b"ok" for _, values in metrics)
    return {"norm": max(float(values["norm"]) for _, values in metrics), "round": metrics[0][1]["round"]}


def fold_evaluate(metrics: list[tuple[int, Metrics]]) -> Metrics:
    total = sum(examples for examples, _ in metrics)
    return {
        "accuracy": sum(examples * float(values["accuracy"]) for examples, values in metrics) / total,
        "clients": len(metrics),
    }


def main(role: str, address: str, argument: str) -> None:
    if role == "client":
        fl.client.start_client(server_address=address, client_fn=lambda cid: Classifier(int(argument)).to_client())
        return
    strategy = fl.server.strategy.FedAvg(
        fraction_fit=0.1,
        fraction_evaluate=0.1,
        min_fit_clients=2,
        min_evaluate_clients=2,
        min_available_clients=2,
        evaluate_fn=evaluate_centrally,
        on_fit_config_fn=fit_config,
        on_evaluate_config_fn=lambda server_round: {"half": False},
        accept_failures=False,
        initial_parameters=fl.common.ndarrays_to_parameters([np.array([0.1, 0.1])]),
        fit_metrics_aggregation_fn=fold_fit,
        evaluate_metrics_aggregation_fn=fold_evaluate,
    )
    config = fl.server.ServerConfig(num_rounds=3)
    history = fl.server.start_server(server_address=address, config=config, strategy=strategy)
    Path(argument).write_text(json.dumps(vars(history)))


if __name__ == "__main__":
    main(*sys.argv[1:])
