"""Folds: pure functions and accumulators over parameters."""

from hedgerow.aggregation.mean import WeightedMean, weighted_loss_mean, weighted_mean
from hedgerow.aggregation.momentum import MomentumStep, momentum_step
from hedgerow.aggregation.updates import TensorSpec, UpdateSpec, check_update

__all__ = [
    "MomentumStep",
    "TensorSpec",
    "UpdateSpec",
    "WeightedMean",
    "check_update",
    "momentum_step",
    "weighted_loss_mean",
    "weighted_mean",
]
