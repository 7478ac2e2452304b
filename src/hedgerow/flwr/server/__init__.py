"""``flwr.server``: the side that holds the strategy."""

from hedgerow.classic import start_server
from hedgerow.driver import History, Server, ServerConfig, SimpleClientManager
from hedgerow.flwr.server import strategy
from hedgerow.strategy import ClientManager

__all__ = ["ClientManager", "History", "Server", "ServerConfig", "SimpleClientManager", "start_server", "strategy"]
