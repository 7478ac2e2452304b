"""The process that holds the strategy and runs one run."""

from hedgerow.driver.callbacks import BestModel, Callback, EarlyStopping, RoundEnd
from hedgerow.driver.client_manager import SimpleClientManager
from hedgerow.driver.config import DriverLimits, ServerConfig
from hedgerow.driver.driver import Driver
from hedgerow.driver.history import History, NodeFailure
from hedgerow.driver.reports import CsvReport, TensorBoardReport
from hedgerow.driver.server import Server
from hedgerow.driver.start import start_driver

__all__ = [
    "BestModel",
    "Callback",
    "CsvReport",
    "Driver",
    "DriverLimits",
    "EarlyStopping",
    "History",
    "NodeFailure",
    "RoundEnd",
    "Server",
    "ServerConfig",
    "SimpleClientManager",
    "TensorBoardReport",
    "start_driver",
]
