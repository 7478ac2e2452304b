"""How the package's log looks, and when it is shown.

Modules log to ``logging.getLogger(__name__)`` with a constant message and arguments. Nothing is shown until a program asks
for it: the console commands call :func:`configure`, the Python API calls :func:`show`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

from hedgerow.errors import ConfigError

PACKAGE = "hedgerow"
logger = logging.getLogger(PACKAGE)
log = logger.log
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


# What a peer has said may be part of a message: no control character of it may reach a terminal, no line of it look like ours.
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"} | {ord("\n"): "\n    "}


class TextFormatter(logging.Formatter):
    """``INFO hedgerow 2026-01-31 12:00:00,000 | fleet.py:42 | message``."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__(prefix + "%(levelname)s hedgerow %(asctime)s | %(filename)s:%(lineno)d | %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (named by logging)
        """Render the line, with control characters escaped and further lines of the message indented."""
        record.message = record.message.translate(_ESCAPED)
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, message, place, and the record's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "place": f"{record.filename}:{record.lineno}",
        }
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _OwnHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr unless the root logger has a handler, which then shows the line already."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            self.stream = sys.stderr  # follows a replaced sys.stderr
            super().emit(record)


def show() -> None:
    """Make the package's log visible from DEBUG up, once, without doubling what the program's own logging shows.

    For use from a user's script or notebook. A level that the user has set on the ``hedgerow`` logger is kept.
    """
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.DEBUG)
    if not any(isinstance(handler, _OwnHandler) for handler in logger.handlers):
        handler = _OwnHandler()
        handler.setFormatter(TextFormatter())
        logger.addHandler(handler)


def to_file(identifier: str, filename: str | None = None, host: str | None = None) -> None:
    """Append the package's log, from DEBUG up, to a file as well.

    Args:
        identifier: Stands in each line, so that several programs can share a file.
        filename: The file; None for none.
        host: Must be None: Flower sends its log there over HTTP.

    Raises:
        ConfigError: A host was given.
    """
    if host is not None:
        raise ConfigError("The log cannot be sent to a host. Give the logger 'hedgerow' a logging.handlers.HTTPHandler of yours.")
    show()
    if filename is not None:
        handler = logging.FileHandler(filename)
        handler.setFormatter(TextFormatter(f"{identifier.replace('%', '%%')} | "))
        logger.addHandler(handler)


def configure(level: str = "DEBUG", log_format: str = "text") -> None:
    """Set up logging for a program of this package: one handler on the root logger, writing to stderr.

    Args:
        level: DEBUG, INFO, WARNING or ERROR, for the package's own loggers; others show warnings.
        log_format: "text" or "json".
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.getLogger().handlers[:] = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger(PACKAGE).setLevel(level.upper())
    # Whoever speaks something else to an HTTP port would fill the log with tracebacks.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
