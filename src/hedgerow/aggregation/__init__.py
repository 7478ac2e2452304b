"""Folds: pure functions and accumulators over parameters."""

from hedgerow.aggregation.distances import clip_update, squared_distances, squared_norm
from hedgerow.aggregation.mean import WeightedMean, weighted_loss_mean, weighted_mean
from hedgerow.aggregation.order import coordinate_median, mean_near_median, trimmed_mean
from hedgerow.aggregation.server_step import Adagrad, Adam, Descent, Momentum, ServerStep, Yogi, server_step
from hedgerow.aggregation.updates import TensorSpec, UpdateSpec, check_update

__all__ = [
    "Adagrad",
    "Adam",
    "Descent",
    "Momentum",
    "ServerStep",
    "TensorSpec",
    "UpdateSpec",
    "WeightedMean",
    "Yogi",
    "check_update",
    "clip_update",
    "coordinate_median",
    "mean_near_median",
    "server_step",
    "squared_distances",
    "squared_norm",
    "trimmed_mean",
    "weighted_loss_mean",
    "weighted_mean",
]
