"""Strategies: choose nodes, build instructions, fold results into new parameters."""

from hedgerow.strategy.clients import ClientManager, ClientProxy, Criterion
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.fedavgm import FedAvgM
from hedgerow.strategy.strategy import Strategy

__all__ = ["ClientManager", "ClientProxy", "Criterion", "FedAvg", "FedAvgM", "Strategy"]
