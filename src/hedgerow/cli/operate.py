"""``hedgerow runs``, ``run``, ``stop`` and ``nodes``: tables for people, ``--json`` for programs.

Exit codes: 0 done; 1 the server refused or did not answer; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable

from hedgerow import logs
from hedgerow.cli import tables
from hedgerow.cli.tls_options import add_tls_options, tls_from
from hedgerow.errors import ConfigError, HedgerowError
from hedgerow.operate import Operator
from hedgerow.security import Role
from hedgerow.wire.channel import Address

DRIVER_PORT = 9092
ROUNDS_SHOWN = 20
OK, FAILED, USAGE = 0, 1, 2


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog=f"hedgerow {command}", description=description)
    if command in ("run", "stop"):
        p.add_argument("run_id", metavar="RUN", help="the run's id, or a beginning of it that no other run's id has")
    if command == "stop":
        p.add_argument("--reason", default="", help="why, for people; the run's driver shows it")
    if command == "runs":
        p.add_argument("--limit", type=_positive, default=50, metavar="N", help="the newest N runs (default: %(default)s)")
    p.add_argument(
        "--server", default=f"127.0.0.1:{DRIVER_PORT}", metavar="HOST:PORT", help="the Driver API (default: %(default)s)"
    )
    add_tls_options(p)
    p.add_argument("--json", action="store_true", help="print JSON; times are Unix time in seconds")
    return p


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _operator(args: argparse.Namespace) -> Operator:
    return Operator(Address.parse(args.server, DRIVER_PORT), tls_from(args, Role.OPERATOR))


def _main(command: str, description: str, argv: list[str], act: Callable[[argparse.Namespace], None]) -> int:
    args = _parser(command, description).parse_args(argv)
    logs.configure("WARNING", "text")
    try:
        act(args)
    except ConfigError as error:
        print(f"hedgerow {command}: {error}", file=sys.stderr)
        return USAGE
    except HedgerowError as error:
        print(f"hedgerow {command}: {error}", file=sys.stderr)
        return FAILED
    return OK


def runs(argv: list[str]) -> int:
    """``hedgerow runs``."""

    def act(args: argparse.Namespace) -> None:
        found = _operator(args).runs(args.limit)
        print(_json(found) if args.json else tables.runs_table(found, time.time(), tables.terminal_width()))

    return _main("runs", "The runs of a server, newest first.", argv, act)


def run(argv: list[str]) -> int:
    """``hedgerow run``."""

    def act(args: argparse.Namespace) -> None:
        found = _operator(args).run(args.run_id, None if args.json else ROUNDS_SHOWN)
        print(_json(found) if args.json else tables.run_text(found, time.time(), tables.terminal_width()))

    return _main("run", "One run: its state, its rounds, what came of the nodes in them, and what failed.", argv, act)


def stop(argv: list[str]) -> int:
    """``hedgerow stop``."""

    def act(args: argparse.Namespace) -> None:
        view = _operator(args).stop(args.run_id, args.reason)
        if args.json:
            print(_json(view))
        elif view.stopped:
            print(f"Stopped run {tables.label(view.run)}.")
        else:
            print(f"Run {tables.label(view.run)} was over already: {tables.outcome(view.run)}.")

    return _main("stop", "End a run. Its open tasks are cancelled, and its driver ends.", argv, act)


def nodes(argv: list[str]) -> int:
    """``hedgerow nodes``."""

    def act(args: argparse.Namespace) -> None:
        found = _operator(args).nodes()
        print(_json(found) if args.json else tables.nodes_table(found, time.time(), tables.terminal_width()))

    return _main("nodes", "The nodes of a server: the sites' clients as the server knows them.", argv, act)


def _json(value: object) -> str:
    plain = [dataclasses.asdict(v) for v in value] if isinstance(value, list) else dataclasses.asdict(value)  # type: ignore[call-overload]
    return json.dumps(plain, indent=2, ensure_ascii=False)
