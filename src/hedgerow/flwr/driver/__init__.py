"""``flwr.driver``: one job over a server that stays."""

from hedgerow.driver import start_driver

__all__ = ["start_driver"]
