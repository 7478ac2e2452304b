"""``flwr.server.strategy``: what is asked of whom, and what becomes of the answers."""

from hedgerow.strategy import (
    Bulyan,
    FaultTolerantFedAvg,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedOpt,
    FedProx,
    FedTrimmedAvg,
    FedXgbBagging,
    FedYogi,
    Krum,
    QFedAvg,
    Strategy,
)

__all__ = [
    "Bulyan",
    "FaultTolerantFedAvg",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedMedian",
    "FedOpt",
    "FedProx",
    "FedTrimmedAvg",
    "FedXgbBagging",
    "FedYogi",
    "Krum",
    "QFedAvg",
    "Strategy",
]
