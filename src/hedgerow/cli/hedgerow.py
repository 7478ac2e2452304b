"""``hedgerow``: the umbrella command; ``hedgerow server`` and ``hedgerow client`` are flower-server and flower-client."""

from __future__ import annotations

import importlib.metadata
import sys

USAGE = """usage: hedgerow [--version] COMMAND ...

  hedgerow server ...   the long-running server (the same as flower-server)
  hedgerow client ...   the long-running client of one site (the same as flower-client)

  hedgerow provision    keys and certificates: an authority, and folders for servers, clients and drivers

  hedgerow runs         the runs of a server
  hedgerow run RUN      one run: its state, its rounds and what failed
  hedgerow stop RUN     end a run
  hedgerow nodes        the nodes of a server
  hedgerow audit        who did what at the server on this machine
  hedgerow backup DEST  a copy of the state of the server on this machine, which may be running

`hedgerow COMMAND --help` shows the options of a command.
"""


def main(argv: list[str] | None = None) -> int:
    """Run ``hedgerow``; returns the exit code of the command, or 2 for wrong usage."""
    command, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    match command:
        case "server":
            from hedgerow.cli import server

            return server.main(rest)
        case "client":
            from hedgerow.cli import client

            return client.main(rest)
        case "runs" | "run" | "stop" | "nodes":
            from hedgerow.cli import operate

            commands = {"runs": operate.runs, "run": operate.run, "stop": operate.stop, "nodes": operate.nodes}
            return commands[command](rest)
        case "audit":
            from hedgerow.cli import audit

            return audit.main(rest)
        case "provision":
            from hedgerow.cli import provision

            return provision.main(rest)
        case "backup":
            from hedgerow.cli import backup

            return backup.main(rest)
        case "--version":
            print(f"hedgerow {importlib.metadata.version('hedgerow')}")
            return 0
        case "--help" | "-h":
            print(USAGE, end="")
            return 0
        case _:
            print(f"hedgerow: unknown command {command!r}\n\n{USAGE}", end="", file=sys.stderr)
            return 2
