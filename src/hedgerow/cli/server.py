"""``flower-server``: the long-running server."""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.metadata
import logging
import os
import signal
import sys
from pathlib import Path

from hedgerow import logs
from hedgerow.certificates import Certificates
from hedgerow.errors import ConfigError
from hedgerow.server import open_files
from hedgerow.server.options import ServerOptions
from hedgerow.server.service import Service
from hedgerow.waits import Limit, wait
from hedgerow.wire.channel import Address

log = logging.getLogger(__name__)

EXIT_AT_ONCE = 1


def parser() -> argparse.ArgumentParser:
    """The command line of ``flower-server``."""
    defaults = ServerOptions(insecure=True)
    p = argparse.ArgumentParser(
        prog="flower-server",
        description="The long-running server: clients connect to its Fleet API, drivers to its Driver API.",
    )
    p.add_argument(
        "--insecure",
        action="store_true",
        help="serve without encryption: anybody on the network can read and change everything, join, and end runs",
    )
    p.add_argument(
        "--certificates",
        nargs=3,
        type=Path,
        metavar=("CA", "CERT", "KEY"),
        help="PEM files for TLS: the authority's certificate, the server's and its key (made by `hedgerow provision`)",
    )
    p.add_argument(
        "--client-certificates",
        choices=("required", "none"),
        help="whether clients and drivers must show certificates of the authority (default: required if the server's own is one "
        "of `hedgerow provision`; else they prove with secrets of their own that they are the same as before)",
    )
    p.add_argument(
        "--revoked", type=Path, metavar="PEM", help="the authority's list of revoked certificates; read again on change"
    )
    for flags, dest, what in (
        (("--fleet-api-address", "--grpc-rere-fleet-api-address"), "fleet_address", "clients connect"),
        (("--driver-api-address",), "driver_address", "drivers connect"),
        (("--blob-address",), "blob_address", "parameters travel over HTTP"),
        (("--web-address",), "web_address", "/healthz and /metrics are"),
    ):
        p.add_argument(
            *flags,
            dest=dest,
            metavar="HOST:PORT",
            default=getattr(defaults, dest).text,
            help=f"where {what} (default: %(default)s)",
        )
    p.add_argument(
        "--blob-public-url", default="", metavar="URL", help="what peers use for blobs instead, behind a reverse proxy"
    )
    p.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="database and blobs (default: hedgerow in the user's state directory)"
    )
    p.add_argument(
        "--database", default="", metavar="URL", help="SQLAlchemy URL (default: an SQLite file in the state directory)"
    )
    for name, what in (
        ("node_lost_s", "a node that is away for longer is lost and its tasks fail"),
        ("node_left_s", "a node whose client was stopped is lost after so long, unless the client is started again"),
        ("max_task_s", "a task that was sent longer ago expires"),
        ("driver_lost_s", "a run whose driver is away for longer shows as interrupted"),
        ("interrupted_kept_s", "an interrupted run that is not taken up for longer fails"),
        ("drain_s", "a server that is told to stop waits so long for transfers in flight"),
    ):
        flag = "--" + name.replace("_", "-")
        p.add_argument(
            flag, type=float, metavar="SECONDS", default=getattr(defaults, name), help=f"{what} (default: %(default)g)"
        )
    for name, unit, what in (
        ("max_blob_bytes", "BYTES", "the largest parameters that are taken"),
        ("max_run_blobs", "N", "the most blobs that are kept for one run at a time"),
        ("max_run_bytes", "BYTES", "the most bytes that are kept for one run at a time"),
        ("max_node_tasks", "N", "the most tasks that one node may have open"),
        ("max_driver_runs", "N", "the most runs that one driver may have open"),
    ):
        flag = "--" + name.replace("_", "-")
        p.add_argument(flag, type=int, metavar=unit, default=getattr(defaults, name), help=f"{what} (default: %(default)s)")
    p.add_argument("--log-level", default="DEBUG", choices=("DEBUG", "INFO", "WARNING", "ERROR"), help="(default: %(default)s)")
    p.add_argument("--log-format", default="text", choices=("text", "json"), help="(default: %(default)s)")
    p.add_argument("--version", action="version", version=f"hedgerow {importlib.metadata.version('hedgerow')}")
    return p


def options_from(args: argparse.Namespace) -> ServerOptions:
    """The options that a command line stands for.

    Raises:
        ConfigError: They contradict each other or a value is impossible.
    """
    state_dir = {} if args.state_dir is None else {"state_dir": args.state_dir}
    return ServerOptions(
        insecure=args.insecure,
        certificates=None if args.certificates is None else Certificates(*args.certificates),
        client_certificates=None if args.client_certificates is None else args.client_certificates == "required",
        revoked=args.revoked,
        fleet_address=Address.parse(args.fleet_address, 9091),
        driver_address=Address.parse(args.driver_address, 9092),
        blob_address=Address.parse(args.blob_address, 9093),
        blob_public_url=args.blob_public_url,
        web_address=Address.parse(args.web_address, 9094),
        database=args.database,
        node_lost_s=args.node_lost_s,
        node_left_s=args.node_left_s,
        max_task_s=args.max_task_s,
        driver_lost_s=args.driver_lost_s,
        interrupted_kept_s=args.interrupted_kept_s,
        drain_s=args.drain_s,
        max_blob_bytes=args.max_blob_bytes,
        max_run_blobs=args.max_run_blobs,
        max_run_bytes=args.max_run_bytes,
        max_node_tasks=args.max_node_tasks,
        max_driver_runs=args.max_driver_runs,
        **state_dir,
    )


SWITCH_INTERVAL_S = 0.0005
"""How long one thread of the server may keep the others waiting while it computes. Python's own 5 ms are a round's whole time:
the store's writer would wait that long between a commit and the next."""


async def serve(options: ServerOptions) -> None:
    """Run a server until SIGINT or SIGTERM, which drains it; a second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def told_to_stop(number: signal.Signals) -> None:
        if stop.is_set():
            log.warning("%s again: ended at once", number.name, extra={"action": "ended_at_once"})
            os._exit(EXIT_AT_ONCE)  # what was acknowledged is on disk
        log.info("%s", number.name, extra={"action": "told_to_stop"})
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_stop, number)
    service = Service(options)
    await service.start()
    gc.collect()
    gc.freeze()  # modules and what they hold live as long as the process: looking through them again cost a twentieth of its time
    await wait(stop.wait(), Limit("until_stopped", None), "a signal to stop")
    await service.drain()
    await service.stop()


def main(argv: list[str] | None = None) -> int:
    """Run ``flower-server``; returns the exit code: 0 after a signal, 1 after a second one, 2 for wrong usage."""
    args = parser().parse_args(argv)
    logs.configure(args.log_level, args.log_format)
    open_files.raise_limit()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        asyncio.run(serve(options_from(args)))
    except ConfigError as error:
        print(f"flower-server: {error}", file=sys.stderr)
        return 2
    # Freeing every object one by one at exit took longer than stopping the server.
    gc.freeze()
    return 0
