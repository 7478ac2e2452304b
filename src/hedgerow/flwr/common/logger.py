"""``flwr.common.logger``: the package's log, which programs may write to."""

from hedgerow.logs import log, logger
from hedgerow.logs import to_file as configure

__all__ = ["configure", "log", "logger"]
