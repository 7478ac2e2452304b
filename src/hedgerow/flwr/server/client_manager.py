"""``flwr.server.client_manager``: who is available."""

from hedgerow.driver import SimpleClientManager
from hedgerow.strategy import ClientManager

__all__ = ["ClientManager", "SimpleClientManager"]
