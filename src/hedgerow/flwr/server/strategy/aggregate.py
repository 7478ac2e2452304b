"""``flwr.server.strategy.aggregate``: folds over lists, for strategies that make lists."""

from hedgerow.aggregation.mean import aggregate
from hedgerow.aggregation.mean import weighted_loss_mean as weighted_loss_avg

__all__ = ["aggregate", "weighted_loss_avg"]
