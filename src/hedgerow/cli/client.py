"""``flower-client``: the long-running client of one site.

Exit codes: 0 ended by a signal; 1 ended by the server for good; 2 wrong usage, callable or state directory, or refused.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import sys
from pathlib import Path

from hedgerow import logs
from hedgerow.cli.tls_options import add_tls_options, tls_from
from hedgerow.client.jobs import WORKER_RETRIES, Rules
from hedgerow.client.launch import DEFAULT_FLEET_PORT, EXIT_USAGE, ClientOptions, run
from hedgerow.client.policy import Policy, read_policy
from hedgerow.client.worker_process import WorkerCommand
from hedgerow.errors import ConfigError
from hedgerow.security import Role
from hedgerow.wire.channel import Address

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line of ``flower-client``."""
    p = argparse.ArgumentParser(
        prog="flower-client",
        description="The long-running client of one site: stays connected to the server and trains when asked.",
    )
    p.add_argument(
        "--callable",
        required=True,
        metavar="MODULE:ATTRIBUTE",
        help="the site's code: a ClientApp, a Client or NumPyClient object, or a function that returns one",
    )
    p.add_argument(
        "--callable-dir",
        type=Path,
        default=Path(),
        help="folder that the module is searched in first (default: the working directory)",
    )
    add_tls_options(p)
    p.add_argument(
        "--server", default=f"127.0.0.1:{DEFAULT_FLEET_PORT}", metavar="HOST:PORT", help="the Fleet API (default: %(default)s)"
    )
    p.add_argument(
        "--state-dir",
        type=Path,
        help="identity and unsent results (default: a folder for this server and name in the user's state directory)",
    )
    p.add_argument(
        "--name",
        help="the node's name (default: the certificate's, else the callable's attribute `name`, else the attribute's own name)",
    )
    p.add_argument("--max-parallel", type=int, default=1, metavar="N", help="tasks that may run at once (default: %(default)s)")
    p.add_argument(
        "--worker-retries",
        type=int,
        default=WORKER_RETRIES,
        metavar="N",
        help="how often a task is tried again whose worker process was killed or crashed (default: %(default)s)",
    )
    p.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="the site's policy in TOML: which drivers, which kinds of task, how many sites (default: everything is allowed)",
    )
    p.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="default: %(default)s")
    p.add_argument("--log-format", default="text", choices=["text", "json"], help="default: %(default)s")
    p.add_argument("--version", action="version", version=f"hedgerow {importlib.metadata.version('hedgerow')}")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run ``flower-client`` until a signal ends it."""
    args = parser().parse_args(argv)
    logs.configure(args.log_level, args.log_format)
    try:
        options = ClientOptions(
            server=Address.parse(args.server, DEFAULT_FLEET_PORT),
            tls=tls_from(args, Role.CLIENT),
            name=args.name,
            state_dir=args.state_dir,
            max_parallel=args.max_parallel,
            rules=Rules(Policy() if args.policy is None else read_policy(args.policy), args.worker_retries),
        )
    except ConfigError as error:
        print(f"flower-client: {error}", file=sys.stderr)
        return EXIT_USAGE
    if args.insecure:
        log.warning("Option --insecure was set: the connection to %s is not encrypted", options.server.text)
        log.warning("Anybody on the way can read and change models and results, and nobody proves to be the server")
    command = WorkerCommand(args.callable, args.callable_dir.absolute(), args.log_level, args.log_format)
    return run(options, command)


if __name__ == "__main__":
    sys.exit(main())
