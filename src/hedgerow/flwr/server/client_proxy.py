"""``flwr.server.client_proxy``: one client, as a strategy sees it."""

from hedgerow.strategy import ClientProxy

__all__ = ["ClientProxy"]
