"""All parsers by name; each is imported when it is asked for."""

from __future__ import annotations

import importlib

from tests.fuzz.parser import Parser

UNIT = {
    "tensors": "parameters:PARSER",
    "framing": "frames:PARSER",
    "options": "options:PARSER",
    "loader": "callables:PARSER",
    "blob_answers": "blob_answers:PARSER",
    "credentials": "credentials:PARSER",
}
"""Those that need neither network nor many files."""
INTEGRATION = {
    "blob_port": "blob_requests:PARSER",
    "fleet_api": "calls:FLEET_API",
    "driver_api": "calls:DRIVER_API",
    "operator_api": "calls:OPERATOR_API",
    "assignments": "assignments:PARSER",
    "outbox": "client_folders:PARSER",
    "checkpoint": "run_folders:CHECKPOINT",
    "run_folder": "run_folders:RUN_FOLDER",
    "journal": "run_folders:JOURNAL",
}
PLACES = UNIT | INTEGRATION


def parser(name: str) -> Parser:
    """The parser of that name."""
    module, _, attribute = PLACES[name].partition(":")
    found = getattr(importlib.import_module(f"tests.fuzz.{module}"), attribute)
    assert isinstance(found, Parser)
    assert found.name == name
    return found
