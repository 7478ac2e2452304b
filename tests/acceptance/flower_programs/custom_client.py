"""A Client that is no NumPyClient, with parameters made of bytes, and a Strategy written from nothing that counts failures.

::

    custom_client.py server ADDRESS HISTORY.json
    custom_client.py client ADDRESS NUMBER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import hedgerow.flwr as fl
from hedgerow.flwr.common import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    Status,
    bytes_to_ndarray,
    ndarray_to_bytes,
)

SIZE = 30_000  # more than fits into a message here


def pack(array: np.ndarray) -> Parameters:
    return Parameters(tensors=[ndarray_to_bytes(array)], tensor_type="numpy.ndarray")


def unpack(parameters: Parameters) -> np.ndarray:
    assert parameters.tensor_type == "numpy.ndarray"
    return bytes_to_ndarray(parameters.tensors[0])


class Site(fl.client.Client):
    def __init__(self, number: int) -> None:
        self.number = number

    def get_properties(self, ins: GetPropertiesIns) -> GetPropertiesRes:
        return GetPropertiesRes(status=Status(code=Code.OK, message=""), properties={"number": self.number, **ins.config})

    def get_parameters(self, ins: GetParametersIns) -> GetParametersRes:
        return GetParametersRes(status=Status(code=Code.OK, message="Success"), parameters=pack(np.zeros(SIZE, np.float32)))

    def fit(self, ins: FitIns) -> FitRes:
        if ins.config["round"] == 2 and self.number == 2:
            return FitRes(Status(Code.FIT_NOT_IMPLEMENTED, "no power"), Parameters(tensor_type="", tensors=[]), 0, {})
        array = unpack(ins.parameters)
        trained = array + self.number * np.float32(ins.config["step"])
        return FitRes(
            status=Status(code=Code.OK, message="Success"),
            parameters=pack(trained),
            num_examples=10 * self.number,
            metrics={"number": self.number},
        )

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        return EvaluateRes(Status(Code.OK, ""), float(unpack(ins.parameters).mean()), 10 * self.number, {"ok": True})


class Plain(fl.server.strategy.Strategy):
    def initialize_parameters(self, client_manager):  # type: ignore[no-untyped-def]
        client_manager.wait_for(2)
        properties = [
            proxy.get_properties(GetPropertiesIns(config={"asked": True}), timeout=30).properties
            for proxy in client_manager.all().values()
        ]
        assert sorted(p["number"] for p in properties) == [1, 2]
        assert all(p["asked"] is True for p in properties)
        return

    def configure_fit(self, server_round, parameters, client_manager):  # type: ignore[no-untyped-def]
        ins = FitIns(parameters, {"round": server_round, "step": 0.25})
        return [(client, ins) for client in client_manager.sample(client_manager.num_available())]

    def aggregate_fit(self, server_round, results, failures):  # type: ignore[no-untyped-def]
        counts = {"results": len(results), "failures": len(failures)}
        if not results:
            return None, counts
        total = sum([res.num_examples for _, res in results])
        mean = sum([unpack(res.parameters) * (res.num_examples / total) for _, res in results])
        return pack(np.asarray(mean, np.float32)), {**counts, "numbers": sum(res.metrics["number"] for _, res in results)}

    def configure_evaluate(self, server_round, parameters, client_manager):  # type: ignore[no-untyped-def]
        if server_round == 1:
            return []
        return [(client, EvaluateIns(parameters, {})) for client in client_manager.all().values()]

    def aggregate_evaluate(self, server_round, results, failures):  # type: ignore[no-untyped-def]
        return sum(res.loss for _, res in results) / len(results), {"ok": all(res.metrics["ok"] for _, res in results)}

    def evaluate(self, server_round, parameters):  # type: ignore[no-untyped-def]
        return float(unpack(parameters).sum()), {"size": len(unpack(parameters))}


def main(role: str, address: str, argument: str) -> None:
    if role == "client":
        fl.client.start_client(server_address=address, client=Site(int(argument)))
        return
    history = fl.server.start_server(
        server_address=address,
        config=fl.server.ServerConfig(num_rounds=3),
        strategy=Plain(),
        client_manager=fl.server.SimpleClientManager(),
        grpc_max_message_length=fl.common.GRPC_MAX_MESSAGE_LENGTH,
    )
    Path(argument).write_text(json.dumps(vars(history), default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
