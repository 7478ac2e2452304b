"""``flwr.flower``: what ``flower-client --callable`` is pointed at."""

from hedgerow.client import Flower

__all__ = ["Flower"]
