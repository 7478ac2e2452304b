"""Federated learning as a service: a long-running server, long-running clients, and drivers that come and go.

The names are loaded when they are first used, so that a client's worker, which imports this package for :class:`NumPyClient`,
does not pay for the network side of the driver.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

# gRPC writes lines of its own to stderr when a peer goes; our log tells it better. Read when gRPC is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

if TYPE_CHECKING:
    from hedgerow.classic import start_server
    from hedgerow.client import Client, ClientApp, Context, Flower, NumPyClient, start_client, start_numpy_client
    from hedgerow.driver import (
        BestModel,
        Callback,
        CsvReport,
        Driver,
        DriverLimits,
        EarlyStopping,
        History,
        NodeFailure,
        RoundEnd,
        Server,
        ServerConfig,
        SimpleClientManager,
        TensorBoardReport,
        start_driver,
    )
    from hedgerow.errors import BadUpdate, HedgerowError, TaskFailed
    from hedgerow.records import (
        Code,
        Config,
        EvaluateIns,
        EvaluateRes,
        FitIns,
        FitRes,
        GetParametersIns,
        GetParametersRes,
        GetPropertiesIns,
        GetPropertiesRes,
        Metrics,
        NDArray,
        NDArrays,
        Parameters,
        Properties,
        Scalar,
        Status,
        ndarrays_to_parameters,
        parameters_to_ndarrays,
    )
    from hedgerow.strategy import (
        Bulyan,
        ClientManager,
        ClientProxy,
        Criterion,
        FaultTolerantFedAvg,
        FedAdagrad,
        FedAdam,
        FedAvg,
        FedAvgM,
        FedBuff,
        FedMedian,
        FedNova,
        FedOpt,
        FedProx,
        FedTrimmedAvg,
        FedXgbBagging,
        FedXgbCyclic,
        FedYogi,
        Krum,
        MultiKrum,
        QFedAvg,
        Scaffold,
        Strategy,
    )
    from hedgerow.strategy.composition import Evaluating
    from hedgerow.strategy.selection import Count, Fraction, PropertyCriterion, RoundRobin, Selecting, Selection

__all__ = [
    "BadUpdate",
    "BestModel",
    "Bulyan",
    "Callback",
    "Client",
    "ClientApp",
    "ClientManager",
    "ClientProxy",
    "Code",
    "Config",
    "Context",
    "Count",
    "Criterion",
    "CsvReport",
    "Driver",
    "DriverLimits",
    "EarlyStopping",
    "EvaluateIns",
    "EvaluateRes",
    "Evaluating",
    "FaultTolerantFedAvg",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBuff",
    "FedMedian",
    "FedNova",
    "FedOpt",
    "FedProx",
    "FedTrimmedAvg",
    "FedXgbBagging",
    "FedXgbCyclic",
    "FedYogi",
    "FitIns",
    "FitRes",
    "Flower",
    "Fraction",
    "GetParametersIns",
    "GetParametersRes",
    "GetPropertiesIns",
    "GetPropertiesRes",
    "HedgerowError",
    "History",
    "Krum",
    "Metrics",
    "MultiKrum",
    "NDArray",
    "NDArrays",
    "NodeFailure",
    "NumPyClient",
    "Parameters",
    "Properties",
    "PropertyCriterion",
    "QFedAvg",
    "RoundEnd",
    "RoundRobin",
    "Scaffold",
    "Scalar",
    "Selecting",
    "Selection",
    "Server",
    "ServerConfig",
    "SimpleClientManager",
    "Status",
    "Strategy",
    "TaskFailed",
    "TensorBoardReport",
    "ndarrays_to_parameters",
    "parameters_to_ndarrays",
    "start_client",
    "start_driver",
    "start_numpy_client",
    "start_server",
]

_HOMES = {
    "hedgerow.classic": "start_server",
    "hedgerow.client": "Client ClientApp Context Flower NumPyClient start_client start_numpy_client",
    "hedgerow.driver": (
        "BestModel Callback CsvReport Driver DriverLimits EarlyStopping History NodeFailure RoundEnd Server ServerConfig "
        "SimpleClientManager TensorBoardReport start_driver"
    ),
    "hedgerow.strategy.composition": "Evaluating",
    "hedgerow.strategy.selection": "Count Fraction PropertyCriterion RoundRobin Selecting Selection",
    "hedgerow.errors": "BadUpdate HedgerowError TaskFailed",
    "hedgerow.strategy": (
        "Bulyan ClientManager ClientProxy Criterion FaultTolerantFedAvg FedAdagrad FedAdam FedAvg FedAvgM FedBuff FedMedian "
        "FedNova FedOpt FedProx FedTrimmedAvg FedXgbBagging FedXgbCyclic FedYogi Krum MultiKrum QFedAvg Scaffold Strategy"
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


if not TYPE_CHECKING:  # or the type checker would believe in every name

    def __getattr__(name: str) -> object:
        """Load a public name from the module where it lives."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(_HOME_OF.get(name, "hedgerow.records")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
