"""The process that holds the strategy and runs one run."""

from hedgerow.driver.client_manager import SimpleClientManager
from hedgerow.driver.config import DriverLimits, ServerConfig
from hedgerow.driver.driver import Driver
from hedgerow.driver.history import History, NodeFailure
from hedgerow.driver.server import Server
from hedgerow.driver.start import start_driver

__all__ = [
    "Driver",
    "DriverLimits",
    "History",
    "NodeFailure",
    "Server",
    "ServerConfig",
    "SimpleClientManager",
    "start_driver",
]
