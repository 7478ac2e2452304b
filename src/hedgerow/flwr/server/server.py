"""``flwr.server.server``: the rounds of a run."""

from hedgerow.driver import Server

__all__ = ["Server"]
