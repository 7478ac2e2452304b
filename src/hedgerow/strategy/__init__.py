"""Strategies: choose nodes, build instructions, fold results into new parameters."""

from hedgerow.strategy.asynchronous import AsynchronousStrategy
from hedgerow.strategy.clients import ClientManager, ClientProxy, Criterion
from hedgerow.strategy.fault_tolerant import FaultTolerantFedAvg
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.fedavgm import FedAvgM
from hedgerow.strategy.fedbuff import FedBuff
from hedgerow.strategy.fednova import FedNova
from hedgerow.strategy.fedopt import FedAdagrad, FedAdam, FedOpt, FedYogi
from hedgerow.strategy.fedprox import FedProx
from hedgerow.strategy.fedxgb import FedXgbBagging, FedXgbCyclic
from hedgerow.strategy.krum import Bulyan, Krum, MultiKrum
from hedgerow.strategy.qfedavg import QFedAvg
from hedgerow.strategy.robust import FedMedian, FedTrimmedAvg
from hedgerow.strategy.scaffold import Scaffold
from hedgerow.strategy.strategy import Strategy

__all__ = [
    "AsynchronousStrategy",
    "Bulyan",
    "ClientManager",
    "ClientProxy",
    "Criterion",
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
    "Krum",
    "MultiKrum",
    "QFedAvg",
    "Scaffold",
    "Strategy",
]
