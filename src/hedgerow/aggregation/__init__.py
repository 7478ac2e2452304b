"""Folds: pure functions and accumulators over parameters."""

from hedgerow.aggregation.mean import WeightedMean, weighted_loss_mean, weighted_mean
from hedgerow.aggregation.updates import TensorSpec, UpdateSpec, check_update

__all__ = ["TensorSpec", "UpdateSpec", "WeightedMean", "check_update", "weighted_loss_mean", "weighted_mean"]
