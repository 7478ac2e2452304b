"""``flwr.server.history``: what a run gave."""

from hedgerow.driver import History

__all__ = ["History"]
