"""``flwr.server.app``: how a run is started and what it is told."""

from hedgerow.classic import start_server
from hedgerow.driver import ServerConfig

__all__ = ["ServerConfig", "start_server"]
