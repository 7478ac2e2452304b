"""Options: command lines of server, client and tools, addresses, and what a driver is told.

What must hold: argparse's own refusal, ConfigError, or options of the types that they should have.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hedgerow.cli import client, operate, server
from hedgerow.client.launch import DEFAULT_FLEET_PORT, ClientOptions
from hedgerow.driver.config import ServerConfig
from hedgerow.errors import ConfigError
from hedgerow.wire.channel import Address
from tests.fuzz.mutation import FLOATS, INTEGERS, TEXTS, Choices, mutated_text
from tests.fuzz.parser import Parser

SERVER = (
    *("--insecure", "--certificates", "ca.pem", "s.pem", "s.key"),
    *("--fleet-api-address", "0.0.0.0:9091", "--driver-api-address"),
    *("[::1]:9092", "--blob-address", "localhost", "--blob-public-url", "https://a.example/blobs", "--state-dir", "state"),
    *(
        "--database",
        "sqlite:////x/y.sqlite3",
        "--node-lost-s",
        "600",
        "--max-task-s",
        "1e3",
        "--drain-s",
        "0",
        "--log-level",
        "INFO",
    ),
)
CLIENT = (
    *("--callable", "client:hospital", "--callable-dir", ".", "--insecure", "--root-certificates", "ca.pem", "--server"),
    *("127.0.0.1:9091", "--state-dir", "state", "--name", "hospital-a", "--max-parallel", "2", "--log-format", "json"),
)
OPERATOR = ("RUN", "--reason", "why", "--limit", "5", "--server", "a.example:9092", "--insecure", "--json")
COMMANDS = ("server", "client", "runs", "run", "stop", "nodes")
ADDRESSES = (
    "127.0.0.1:9091",
    "[::1]:9092",
    "a.example",
    "0.0.0.0:0",
    "host:65535",
    "[fe80::1%eth0]:1",
    "user@host:1",
    "//x",
    "a:b:c",
)
PORTS = (":", ":-1", ":65536", ":99999999999", "[", "]", "[[", "@", "//", "?", "#", " ", "\u2100", "%", ":٣", "http://")
WORDS = tuple(text for text in (*TEXTS, *ADDRESSES, *PORTS) if "\0" not in text)  # an argument of a process holds no zero


@dataclass(frozen=True)
class Case:
    """A command line, an address, or the arguments of a ServerConfig."""

    kind: str
    argv: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()


def make(choices: Choices) -> Case:
    """Valid arguments with some changed, left out, doubled or swapped."""
    kind = choices.of((*COMMANDS[:4], "address", "config"))
    if kind == "address":
        return Case(kind, (mutated_text(choices, ADDRESSES, WORDS),))
    if kind == "config":
        values: tuple[Any, ...] = (*INTEGERS, *FLOATS, *TEXTS[:5], None, True, [], {}, b"")
        valid = (3, 60.0, 7, choices.of((1, 0.5)), 1.0)
        return Case(kind, values=tuple(choices.of(values) if choices.chance(3) else value for value in valid))
    kind = choices.of(COMMANDS)
    argv = list({"server": SERVER, "client": CLIENT}.get(kind, OPERATOR))
    if kind == "server":
        del argv[0 if choices.below(2) else 1 : None if choices.chance(9) else 5 if choices.below(2) else 1]
    for _ in range(choices.below(6)):
        index = choices.below(len(argv)) if argv else 0
        match choices.below(5):
            case 0 if argv:
                argv[index] = mutated_text(choices, [argv[index]], WORDS)
            case 1 if argv:
                del argv[index]
            case 2:
                argv.insert(index, choices.of(WORDS))
            case 3 if argv:
                argv[index] = str(choices.integer())
            case _ if argv:
                del argv[index : index + 2]
    return Case(kind, tuple(text.replace("\0", "0") for text in argv))


def _options(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace | None:
    """What argparse makes of it; None where it refuses."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return parser.parse_args(argv)
    except SystemExit as error:
        assert error.code in (0, 2)
        return None


def _server(argv: Sequence[str]) -> None:
    args = _options(server.parser(), argv)
    if args is None:
        return
    options = server.options_from(args)
    assert isinstance(options.database_url, str)
    for address in (options.fleet_address, options.driver_address, options.blob_address, options.web_address):
        _check(address)
    assert all(
        value > 0 for value in (options.node_lost_s, options.max_task_s, options.driver_lost_s, options.interrupted_kept_s)
    )
    options.data_plane(9093)


def _client(argv: Sequence[str]) -> None:
    args = _options(client.parser(), argv)
    if args is None:
        return
    address = Address.parse(args.server, DEFAULT_FLEET_PORT)
    options = ClientOptions(address, None, args.name, args.state_dir, args.max_parallel)
    _check(options.server)
    assert options.max_parallel >= 1
    assert options.name is None or 0 < len(options.name) <= 128


def _check(address: Address) -> None:
    assert 0 <= address.port <= 65535
    assert address.host
    assert not set(address.host) & set("/@?#[] \t\r\n"), address
    assert Address.parse(address.text, 1) == address


def _config(values: Sequence[Any]) -> None:
    config = ServerConfig(*values)
    repr(config)
    config.check()
    assert isinstance(config.num_rounds, int)
    assert config.num_rounds >= 0
    assert config.seed is None or isinstance(config.seed, int)
    for asked in (1, 10):
        assert config.quorum(asked) >= 1
    assert config.round_timeout is None or config.round_timeout > 0
    assert config.grace_s is None or not math.isnan(config.grace_s)


def check(case: Case) -> None:
    """One case."""
    try:
        match case.kind:
            case "server":
                _server(case.argv)
            case "client":
                _client(case.argv)
            case "address":
                _check(Address.parse(case.argv[0], 9091))
            case "config":
                _config(case.values)
            case _:
                _options(operate._parser(case.kind, "x"), case.argv)
    except ConfigError as error:
        assert len(str(error)) < 20_000


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[Case], None]]:
    yield check


PARSER = Parser(
    "options",
    ("hedgerow.wire.channel", "hedgerow.server.options", "hedgerow.driver.config", "hedgerow.cli.server"),
    make,
    _open,
)
