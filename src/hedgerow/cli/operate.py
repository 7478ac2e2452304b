"""``hedgerow runs``, ``run``, ``stop`` and ``nodes``: tables for people, ``--json`` for programs.

Exit codes: 0 done; 1 the server refused or did not answer; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence

from hedgerow import logs
from hedgerow.cli.tls_options import add_tls_options, tls_from
from hedgerow.errors import ConfigError, HedgerowError
from hedgerow.operate import NodeView, Operator, RunDetailView, RunView
from hedgerow.security import Role
from hedgerow.wire.channel import Address

DRIVER_PORT = 9092
ID_CHARS = 12
"""So much of an id is shown in tables; any beginning that only one run has names it."""
MESSAGE_CHARS = 100
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
        print(_json(found) if args.json else runs_table(found, time.time()))

    return _main("runs", "The runs of a server, newest first.", argv, act)


def run(argv: list[str]) -> int:
    """``hedgerow run``."""

    def act(args: argparse.Namespace) -> None:
        found = _operator(args).run(args.run_id)
        print(_json(found) if args.json else run_text(found, time.time()))

    return _main("run", "One run: its state, its rounds and what failed.", argv, act)


def stop(argv: list[str]) -> int:
    """``hedgerow stop``."""

    def act(args: argparse.Namespace) -> None:
        view = _operator(args).stop(args.run_id, args.reason)
        if args.json:
            print(_json(view))
        elif view.stopped:
            print(f"Stopped run {_label(view.run)}.")
        else:
            print(f"Run {_label(view.run)} was over already: {_outcome(view.run)}.")

    return _main("stop", "End a run. Its open tasks are cancelled, and its driver ends.", argv, act)


def nodes(argv: list[str]) -> int:
    """``hedgerow nodes``."""

    def act(args: argparse.Namespace) -> None:
        found = _operator(args).nodes()
        print(_json(found) if args.json else nodes_table(found, time.time()))

    return _main("nodes", "The nodes of a server: the sites' clients as the server knows them.", argv, act)


# --- text -----------------------------------------------------------------------------------------------------------------


def runs_table(found: Sequence[RunView], now: float) -> str:
    """The runs for people; ``now`` is Unix time in seconds."""
    if not found:
        return "There are no runs."
    rows = [
        (
            r.run_id[:ID_CHARS],
            r.name or "-",
            r.state,
            r.round,
            _done(r.tasks),
            _sum(r.tasks, _BAD),
            ago(r.created_at, now),
            _life(r, now),
        )
        for r in found
    ]
    return table(("RUN", "NAME", "STATE", "ROUND", "TASKS", "FAILED", "OPENED", "DRIVER"), rows)


def run_text(found: RunDetailView, now: float) -> str:
    """One run for people."""
    r = found.run
    facts = [
        ("run", r.run_id),
        ("name", r.name or "-"),
        ("state", _outcome(r)),
        ("seed", str(r.seed)),
        ("opened", f"{_date(r.created_at)} ({ago(r.created_at, now)})"),
    ]
    if r.ended_at is not None:
        facts.append(("ended", f"{_date(r.ended_at)} ({ago(r.ended_at, now)})"))
    facts.append(
        ("driver", _life(r, now) if r.driver_connected else f"last sign of life {_date(r.last_seen)} ({ago(r.last_seen, now)})")
    )
    facts.append(("blobs", f"{found.blobs} ({found.blob_bytes:,} bytes)"))
    parts = ["\n".join(f"{name + ':':<8} {value}" for name, value in facts)]
    if found.rounds:
        rows = [(x.round, x.kind, *(x.tasks[state] for state in _STATES)) for x in found.rounds]
        parts.append(table(("ROUND", "KIND", *(state.upper() for state in _STATES)), rows))
    if found.failures:
        failures = [(f.round, f.kind, f.node, f.outcome, _line(f.message)) for f in found.failures]
        parts.append(table(("ROUND", "KIND", "NODE", "FAILURE", "MESSAGE"), failures))
    return "\n\n".join(parts)


def nodes_table(found: Sequence[NodeView], now: float) -> str:
    """The nodes for people."""
    if not found:
        return "There are no nodes."
    rows = [(n.name, n.state, ago(n.last_seen, now), n.open_tasks, ago(n.created_at, now), n.node_id[:ID_CHARS]) for n in found]
    return table(("NODE", "STATE", "LAST SEEN", "OPEN TASKS", "FIRST SEEN", "ID"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns; numbers to the right.

    >>> print(table(("NAME", "N"), [("a", 5), ("long", 12)]))
    NAME   N
    a      5
    long  12
    """
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(isinstance(row[i], int) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip() for line in cells
    )


def ago(then: float, now: float) -> str:
    """How long ago something was, in its largest unit.

    >>> [ago(1000.0 - s, 1000.0) for s in (0, 59, 60, 7200, 200_000)]
    ['now', '59 s ago', '1 min ago', '2 h ago', '2 d ago']
    """
    seconds = int(now - then)
    if seconds < 1:
        return "now"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


_STATES = ("queued", "sent", "done", "failed", "expired", "cancelled")
_BAD = ("failed", "expired")


def _sum(tasks: dict[str, int], states: Sequence[str]) -> int:
    return sum(tasks[state] for state in states)


def _done(tasks: dict[str, int]) -> str:
    return f"{tasks['done']}/{sum(tasks.values())}"


def _life(r: RunView, now: float) -> str:
    return "connected" if r.driver_connected else ago(r.last_seen, now)


def _outcome(r: RunView) -> str:
    return f"{r.state}: {_line(r.message)}" if r.message else r.state


def _label(r: RunView) -> str:
    return f"{r.run_id} ({r.name})" if r.name else r.run_id


def _line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MESSAGE_CHARS else line[: MESSAGE_CHARS - 3] + "..."


def _date(then: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then))


def _json(value: object) -> str:
    plain = [dataclasses.asdict(v) for v in value] if isinstance(value, list) else dataclasses.asdict(value)  # type: ignore[call-overload]
    return json.dumps(plain, indent=2, ensure_ascii=False)
