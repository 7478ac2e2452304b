"""Strategies: choose nodes, build instructions, fold results into new parameters."""

from hedgerow.strategy.asynchronous import AsynchronousStrategy
from hedgerow.strategy.clients import ClientManager, ClientProxy, Criterion
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.fedavgm import FedAvgM
from hedgerow.strategy.fedbuff import FedBuff
from hedgerow.strategy.strategy import Strategy

__all__ = ["AsynchronousStrategy", "ClientManager", "ClientProxy", "Criterion", "FedAvg", "FedAvgM", "FedBuff", "Strategy"]
