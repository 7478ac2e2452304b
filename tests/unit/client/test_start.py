"""``start_client``: arguments that are refused before anything is started, and the link's log lines."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import hedgerow.client as hc
from hedgerow.client.start import _record
from hedgerow.errors import ConfigError
from hedgerow.logs import JsonFormatter


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "one of client, client_fn and load_callable_fn"),
        ({"client": hc.Client(), "client_fn": hc.Client}, "one of client, client_fn and load_callable_fn"),
        ({"client": hc.Client(), "transport": "pigeon"}, "'pigeon' is none of Flower's"),
        ({"load_callable_fn": lambda: 3}, r"load_callable_fn\(\) returned the int 3"),
        ({"client": 3}, "must be a Client or NumPyClient object; it is a int"),
        ({"client_fn": 3}, "client_fn must be a function"),
        ({"client_fn": lambda: None}, r"client_fn\(\) returned None"),
        ({"client": hc.Client(), "insecure": False}, "insecure=False needs certificates=.*root_certificates"),
        ({"client": hc.Client(), "insecure": True, "root_certificates": b"x"}, "contradict"),
        ({"client": hc.Client(), "policy": "/nowhere.toml"}, r"Cannot read the site's policy /nowhere\.toml"),
        ({"client": hc.Client(), "root_certificates": Path("/nowhere.pem")}, r"Cannot read root_certificates /nowhere\.pem"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        hc.start_client(server_address="127.0.0.1:1", **arguments)


def test_a_line_of_the_links_log_is_the_record_that_it_was() -> None:
    before = logging.LogRecord("hedgerow.client.link", logging.WARNING, "link.py", 7, "lost %s", ("it",), None)
    before.action = "connection_lost"
    after = _record(JsonFormatter().format(before))
    assert after is not None
    assert (after.name, after.levelno, after.filename, after.lineno) == ("hedgerow.client.link", 30, "link.py", 7)
    assert after.getMessage() == "lost it"
    assert vars(after)["action"] == "connection_lost"


@pytest.mark.parametrize("text", ["", "I1124 grpc says something", "3", "[]", "null", json.dumps({"level": "INFO"})])
def test_what_is_no_log_line_is_passed_through(text: str) -> None:
    assert _record(text) is None
