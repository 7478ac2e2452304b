"""``hedgerow audit``: who did what, from the audit log of a server or a client on this machine.

Exit codes: 0 done; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from hedgerow.audit import AUDIT_FILE, read_audit
from hedgerow.cli.tables import line, table
from hedgerow.errors import ConfigError

_COLUMNS = ("who", "what", "kind", "run_id", "task_id", "digest", "outcome")


def parser() -> argparse.ArgumentParser:
    """The command line of ``hedgerow audit``."""
    p = argparse.ArgumentParser(
        prog="hedgerow audit",
        description="What was done, and for whom, at a server or client on this machine; oldest first.",
    )
    p.add_argument(
        "--state-dir",
        type=Path,
        default=platformdirs.user_state_path("hedgerow"),
        metavar="DIR",
        help="state directory of the server or client (default: the server's, %(default)s)",
    )
    for name in _COLUMNS:
        flag = {"run_id": "--run", "task_id": "--task", "digest": "--blob"}.get(name, f"--{name}")
        p.add_argument(flag, dest=name, metavar="TEXT", default="", help=f"only entries with this text in {name}")
    p.add_argument("--since", type=_time, metavar="TIME", help="only entries from then on: 2027-01-31, or 2027-01-31T12:00 (UTC)")
    p.add_argument("--until", type=_time, metavar="TIME", help="only entries before then")
    p.add_argument("--json", action="store_true", help="print the lines as they are")
    return p


def _time(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()


def main(argv: list[str]) -> int:
    """Run ``hedgerow audit``; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        found = list(_chosen(args))
    except ConfigError as error:
        print(f"hedgerow audit: {error}", file=sys.stderr)
        return 2
    if args.json:
        for entry in found:
            print(json.dumps(entry))
        return 0
    rows = [(_date(entry), *(line(str(entry.get(name, "")))[:60] for name in _COLUMNS)) for entry in found]
    print(table(("TIME (UTC)", *(name.upper() for name in _COLUMNS)), rows))
    return 0


def _chosen(args: argparse.Namespace) -> Iterator[dict[str, object]]:
    for entry in read_audit(args.state_dir / AUDIT_FILE):
        at = entry.get("at")
        moment = float(at) if isinstance(at, int | float) else 0.0
        if (args.since is not None and moment < args.since) or (args.until is not None and moment >= args.until):
            continue
        if all(getattr(args, name) in str(entry.get(name, "")) for name in _COLUMNS):
            yield entry


def _date(entry: dict[str, object]) -> str:
    at = entry.get("at")
    moment = float(at) if isinstance(at, int | float) else 0.0
    return dt.datetime.fromtimestamp(moment, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
