"""``flwr.server.criterion``: which clients may be sampled."""

from hedgerow.strategy import Criterion

__all__ = ["Criterion"]
