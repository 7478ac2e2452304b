"""A strategy that overrides ``configure_fit`` and ``aggregate_fit`` and makes lists, and a server that stops early.

::

    custom_strategy.py server ADDRESS HISTORY.json
    custom_strategy.py client ADDRESS NUMBER
"""

from __future__ import annotations

import json
import sys
from logging import INFO
from pathlib import Path

import numpy as np

import hedgerow.flwr as fl
from hedgerow.flwr.common import (
    Config,
    EvaluateRes,
    FitIns,
    Metrics,
    NDArrays,
    Parameters,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from hedgerow.flwr.common.logger import log
from hedgerow.flwr.server.client_manager import ClientManager
from hedgerow.flwr.server.client_proxy import ClientProxy
from hedgerow.flwr.server.strategy.aggregate import weighted_loss_avg


class HalfStep(fl.server.strategy.FedAvg):
    """Steps half of the way to the mean, and trains longer from round to round."""

    current: NDArrays

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        self.current = parameters_to_ndarrays(parameters)
        clients = client_manager.sample(num_clients=2, min_num_clients=2)
        return [(client, FitIns(parameters, {"steps": 2 * server_round, "lr": 0.1})) for client in clients]

    def aggregate_fit(self, server_round, results, failures):  # type: ignore[no-untyped-def]
        if not results or (failures and not self.accept_failures):
            return None, {}
        log(INFO, "round %s: %s results, %s failures", server_round, len(results), len(failures))
        updates = [(parameters_to_ndarrays(res.parameters), res.num_examples) for _, res in results]
        examples = sum(number for _, number in updates)
        for arrays, number in updates:
            for array in arrays:
                array *= number / examples  # in place: the arrays are ours
        means = [sum(arrays[i] for arrays, _ in updates) for i in range(len(self.current))]
        for array, mean in zip(self.current, means):  # noqa: B905 (as Flower's users write it)
            array += 0.5 * (mean - array)
        return ndarrays_to_parameters(self.current), {"clients": len(results), "examples": examples}

    def aggregate_evaluate(self, server_round, results, failures):  # type: ignore[no-untyped-def]
        losses: list[tuple[int, float]] = []
        for _, res in results:
            assert isinstance(res, EvaluateRes)
            losses.append((res.num_examples, res.loss))
        return weighted_loss_avg(losses), {"worst": max(loss for _, loss in losses)}


class Stopping(fl.server.Server):
    """Stops when the loss has fallen enough."""

    def fit(self, num_rounds: int, timeout: float | None) -> fl.server.History:
        history = fl.server.History()
        self.parameters = self._get_initial_parameters(timeout=timeout)
        for server_round in range(1, num_rounds + 1):
            fitted = self.fit_round(server_round=server_round, timeout=timeout)
            assert fitted is not None
            parameters, metrics, (results, failures) = fitted
            assert parameters is not None
            assert (len(results), len(failures)) == (2, 0)
            self.parameters = parameters
            history.add_metrics_distributed_fit(server_round=server_round, metrics=metrics)
            evaluated = self.evaluate_round(server_round=server_round, timeout=timeout)
            assert evaluated is not None
            loss = evaluated[0]
            assert loss is not None
            history.add_loss_distributed(server_round=server_round, loss=loss)
            history.add_metrics_distributed(server_round=server_round, metrics=evaluated[1])
            if loss < 1.5:
                break
        return history


class Mean(fl.client.NumPyClient):
    """Learns the mean of numbers, slowly."""

    def __init__(self, number: int) -> None:
        self.numbers = np.random.default_rng(number).normal(loc=number, size=(30 * number, 4)).astype(np.float32)

    def get_parameters(self, config: Config) -> NDArrays:
        return [np.zeros(4, np.float32)]

    def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, Metrics]:
        (w,) = parameters
        for _ in range(int(config["steps"])):
            w = w - np.float32(config["lr"]) * (w - self.numbers.mean(axis=0))
        return [w], len(self.numbers), {}

    def evaluate(self, parameters: NDArrays, config: Config) -> tuple[float, int, Metrics]:
        return float(((self.numbers - parameters[0]) ** 2).mean()), len(self.numbers), {}


def main(role: str, address: str, argument: str) -> None:
    if role == "client":
        fl.client.start_client(server_address=address, client=Mean(int(argument)).to_client())
        return
    server = Stopping(client_manager=fl.server.SimpleClientManager(), strategy=HalfStep())
    config = fl.server.ServerConfig(num_rounds=20, round_timeout=60.0)
    history = fl.server.start_server(server_address=address, server=server, config=config)
    Path(argument).write_text(json.dumps(vars(history)))


if __name__ == "__main__":
    main(*sys.argv[1:])
