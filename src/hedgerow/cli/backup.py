"""``hedgerow backup``: a consistent copy of a server's state directory, also while the server runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import platformdirs

from hedgerow import logs
from hedgerow.errors import ConfigError, HedgerowError
from hedgerow.store.backup import back_up


def parser() -> argparse.ArgumentParser:
    """The command line of ``hedgerow backup``."""
    p = argparse.ArgumentParser(
        prog="hedgerow backup",
        description="Copy the state of a server on this machine, which may be running. To restore it, start a server with the "
        "copy as its --state-dir (or with a copy of the copy: the server works in it).",
    )
    p.add_argument("target", type=Path, metavar="DEST", help="folder for the copy; it must not exist, or be empty")
    p.add_argument(
        "--state-dir",
        type=Path,
        default=platformdirs.user_state_path("hedgerow"),
        metavar="DIR",
        help="the server's state directory (default: %(default)s)",
    )
    p.add_argument(
        "--copy", action="store_true", help="copy the blobs also where they could be hard links (on the same file system)"
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    return p


def main(argv: list[str]) -> int:
    """Run ``hedgerow backup``; returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    args = parser().parse_args(argv)
    logs.configure("WARNING", "text")
    try:
        done = back_up(args.state_dir, args.target, copy=args.copy)
    except ConfigError as error:
        print(f"hedgerow backup: {error}", file=sys.stderr)
        return 2
    except (HedgerowError, OSError) as error:
        print(f"hedgerow backup: {error} The backup in {args.target} is not whole; delete it.", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(dataclasses.asdict(done), indent=2))
    else:
        how = "hard links" if done.linked and done.blobs else "copied"
        print(
            f"Backed up {args.state_dir} to {args.target}: database of {done.database_bytes:,} bytes, "
            f"{done.blobs} blobs of {done.blob_bytes:,} bytes ({how})."
        )
    return 0
