"""A client's link as a process: start the worker, find the node's name and state, stay connected, end in order.

``flower-client`` runs this in its own process with workers as children; ``python -m hedgerow.client.launch``, which
``start_client`` starts, runs it as the child of the user's process, which is the worker.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hedgerow import logs
from hedgerow.certificates import Tls
from hedgerow.client.jobs import Rules
from hedgerow.client.link import Link, LinkEnded
from hedgerow.client.policy import Policy, read_policy
from hedgerow.client.state_dir import StateDir, StateDirTaken, default_state_dir
from hedgerow.client.worker_pool import WorkerPool
from hedgerow.client.worker_process import AttachedWorker, ChildWorker, Worker, WorkerCommand
from hedgerow.errors import AlreadyExists, ConfigError, HedgerowError
from hedgerow.security import Role
from hedgerow.waits import Limit, wait
from hedgerow.wire.channel import Address

log = logging.getLogger(__name__)

DEFAULT_FLEET_PORT = 9091
MAX_NAME_CHARS = 128
MAX_NUMBERED_NAMES = 100
RUNNING = Limit("client", None)
EXIT_OK, EXIT_ENDED, EXIT_USAGE = 0, 1, 2


@dataclass(frozen=True)
class ClientOptions:
    """What a client is started with.

    Attributes:
        server: Address of the server's Fleet API.
        tls: What to connect with; None for an insecure connection.
        name: The node's name; None takes the certificate's, or else the one that the callable suggests.
        state_dir: None takes the default for this server and name.
        max_parallel: How many tasks may run at once.
        rules: What the site has decided about tasks.
        number_names: Whether a suggested name that is taken gets a number (name-2, name-3, …) instead of being refused.
    """

    server: Address
    tls: Tls | None = None
    name: str | None = None
    state_dir: Path | None = None
    max_parallel: int = 1
    rules: Rules = field(default_factory=Rules)
    number_names: bool = False

    def __post_init__(self) -> None:
        if self.max_parallel < 1:
            raise ConfigError(f"--max-parallel is {self.max_parallel}; at least 1 task must be able to run.")
        if self.rules.worker_retries < 0:
            raise ConfigError(
                f"--worker-retries is {self.rules.worker_retries}; 0 is the least: a task fails when its worker dies."
            )
        if self.name is not None:
            check_name(self.name)
        if self.tls is not None and (subject := self.tls.check(Role.CLIENT).subject) is not None:
            if self.name not in (None, subject.name):
                raise ConfigError(
                    f"The name is {self.name!r}, the certificate's is {subject.name!r}. Give no --name, or that one."
                )
            object.__setattr__(self, "name", subject.name)
        self.rules.policy.check_connection(with_certificate=self.tls is not None and self.tls.own is not None)


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        ConfigError: It has no character, more than 128, or one that cannot be printed.
    """
    if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable() or name != name.strip():
        raise ConfigError(f"{name!r} is no name for a node: 1 to {MAX_NAME_CHARS} printable characters. Set one with --name.")
    return name


class Stop:
    """The wish to end: by SIGINT, SIGTERM, or because the process that started the link is gone. A second signal ends at once."""

    def __init__(self) -> None:
        self.reason = ""
        self._wanted = asyncio.Event()

    def install(self) -> None:
        """Handle signals from now on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.request, signal.Signals(number).name)

    def request(self, reason: str) -> None:
        """End in order; when asked twice, at once."""
        if self._wanted.is_set() and reason.startswith("SIG"):
            os._exit(EXIT_ENDED)  # the workers end with their sockets
        self.reason = self.reason or reason
        self._wanted.set()

    async def unless(self, work: asyncio.Task[Any]) -> None:
        """Return when the work is done, or as soon as the client is to stop."""
        waiting = asyncio.get_running_loop().create_task(wait(self._wanted.wait(), RUNNING, "the wish to stop"))
        try:
            await wait(asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED), RUNNING, "the end of either")
        finally:
            waiting.cancel()


async def run_client(options: ClientOptions, command: WorkerCommand | None, fd: int | None = None) -> None:
    """Run a client until it is told to stop.

    Args:
        options: What it was started with.
        command: How to start workers, or None where the process at the other end of ``fd`` is the worker.
        fd: The socket to that process.

    Raises:
        HedgerowError: It cannot start, or the server refuses it; the message says why.
    """
    stop = Stop()
    stop.install()
    log.info("The site's policy allows %s", options.rules.policy, extra={"action": "policy"})
    if options.state_dir is not None:
        StateDir.open(options.state_dir).close()  # what is wrong with it shows before the callable is loaded
    first = await _first_worker(stop, command, fd)
    if first is None:
        return

    async def start() -> Worker:
        assert command is not None
        return await ChildWorker.start(command)

    pool = WorkerPool(start if command is not None else None, first, options.max_parallel)
    try:
        await _run_named(options, first.suggested_name, pool, stop)
    finally:
        await pool.close()


async def _first_worker(stop: Stop, command: WorkerCommand | None, fd: int | None) -> Worker | None:
    """The worker, ready; None when the client is to stop before that."""
    loop = asyncio.get_running_loop()
    if command is None:
        assert fd is not None
        attached = await AttachedWorker.attach(fd)
        attached.when_gone(lambda: stop.request("the process that started the link is gone"))
        return attached
    log.info("Loading %s", command.callable, extra={"action": "loading"})
    starting = loop.create_task(ChildWorker.start(command))
    await stop.unless(starting)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return None
    return starting.result()


async def _run_named(options: ClientOptions, suggested_name: str, pool: WorkerPool, stop: Stop) -> None:
    """Run the link under the node's name, or under the first numbered one that is free."""
    wanted_name = check_name(options.name or suggested_name)
    may_number = options.number_names and options.name is None
    for number in range(1, MAX_NUMBERED_NAMES + 1):
        name = wanted_name if number == 1 else f"{wanted_name}-{number}"
        try:
            state = StateDir.open(options.state_dir or default_state_dir(options.server.text, name))
            try:
                link = Link(options.server, options.tls, name, state, pool, options.rules)
                await _run_link(link, stop)
                return
            finally:
                state.close()
        except (StateDirTaken, AlreadyExists) as error:
            if not may_number or number == MAX_NUMBERED_NAMES or (options.state_dir and isinstance(error, StateDirTaken)):
                raise
            log.info("The name %s is taken, trying the next", name)


async def _run_link(link: Link, stop: Stop) -> None:
    running = asyncio.get_running_loop().create_task(link.run())
    try:
        await stop.unless(running)
        if not running.done():
            log.info("Stopping (%s)", stop.reason, extra={"action": "stopping"})
            await link.leave(stop.reason)
    finally:
        running.cancel()
        await link.close()
        (ended,) = await asyncio.gather(running, return_exceptions=True)
    if isinstance(ended, Exception):
        raise ended
    log.info("Stopped", extra={"action": "stopped"})


def run(options: ClientOptions, command: WorkerCommand | None, fd: int | None = None) -> int:
    """Run a client to its end and return the process's exit code; what went wrong is logged as one line."""
    try:
        asyncio.run(run_client(options, command, fd))
    except LinkEnded as error:
        log.error("%s", error, extra={"action": "ended"})
        return EXIT_ENDED
    except HedgerowError as error:
        log.error("%s", error, extra={"action": "refused"})
        return EXIT_USAGE
    return EXIT_OK


def _tls(args: argparse.Namespace) -> Tls | None:
    if args.root_certificates_on_stdin:
        return Tls(sys.stdin.buffer.read())
    return None if args.certificates is None else Tls.of(args.certificates, None)


def main(argv: list[str] | None = None) -> int:
    """The link as a child of the user's process."""
    parser = argparse.ArgumentParser(prog="hedgerow.client.launch", description="Started by start_client, not by hand.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--name")
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--root-certificates-on-stdin", action="store_true")
    parser.add_argument("--certificates", nargs=3, type=Path)
    parser.add_argument("--policy", type=Path)
    args = parser.parse_args(argv)
    # The user's process reads these lines and logs them in its own way.
    logs.configure("DEBUG", "json")
    try:
        options = ClientOptions(
            server=Address.parse(args.server, DEFAULT_FLEET_PORT),
            tls=_tls(args),
            name=args.name,
            state_dir=args.state_dir,
            rules=Rules(Policy() if args.policy is None else read_policy(args.policy)),
            number_names=True,
        )
    except ConfigError as error:
        log.error("%s", error)
        return EXIT_USAGE
    return run(options, None, args.fd)


if __name__ == "__main__":
    sys.exit(main())
