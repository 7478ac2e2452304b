"""Many clients in one process, for finding out how many a server can take: the real protocol, but no workers and no outboxes.

::

    python -m hedgerow.testing.many_clients --server 127.0.0.1:9091 --first 0 --count 2500

runs the clients ``node-00000`` and so on. Each has a connection and a session of its own, and comes back after a loss as
``flower-client`` does: with its code, and so with its pauses. A task is done as soon as it has come; the result of a fit with
parameters is as many random bytes as these had, different for each client and task.

What happens is told on stdout, a line of JSON each: ``{"task": id, "at": seconds}`` when a client has a task (by the clock
``CLOCK_MONOTONIC``, which is the same for all processes of a machine), and every half second in which that has changed
``{"sessions": open now, "opened": so far, "at": seconds}``. The process ends with its stdin.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hedgerow import logs
from hedgerow.authority import files_of
from hedgerow.certificates import Tls
from hedgerow.client.connection import Connection
from hedgerow.client.reconnect import Reconnect
from hedgerow.client.session import Session, Standing
from hedgerow.errors import HedgerowError
from hedgerow.records import Blob, Outcome, Parameters, Reply, Task
from hedgerow.security import Identity, Role
from hedgerow.waits import Limit, pause, wait
from hedgerow.wire import convert, tensors
from hedgerow.wire.channel import Address

log = logging.getLogger(__name__)

REPORT_S = 0.5
FIRST_AT_ONCE = 50
"""So many of a process's clients open their first session at the same time: sites do not all begin in the same second."""
END = Limit("stdin", None)


def node_name(number: int) -> str:
    """The name of a client, and of the folder of its certificate."""
    return f"node-{number:05d}"


@dataclass
class Counts:
    """How the clients of this process stand."""

    sessions: int = 0
    opened: int = 0


class OneClient:
    """One of the clients.

    Args:
        number: Which.
        server: Address of the Fleet API.
        certificates: Folder with a folder for each client's certificate; None for an insecure connection.
        counts: Where its sessions are counted.
        folder: For files in transfer.
    """

    def __init__(self, number: int, server: Address, certificates: Path | None, counts: Counts, folder: Path) -> None:
        self.name = node_name(number)
        tls = None
        if certificates is not None:
            own = files_of(certificates / self.name)
            tls = Tls(own.ca.read_bytes(), own)
        self._connection = Connection(server, tls, Identity.fresh(Role.CLIENT))
        self._counts = counts
        self._folder = folder
        self._reconnect = Reconnect()
        self._in_hand: dict[str, asyncio.Task[None]] = {}

    async def run(self, first: asyncio.Semaphore) -> None:
        """Stay connected for ever."""
        await wait(first.acquire(), END, "the turn to connect for the first time")
        never = True
        while True:
            failure: HedgerowError | None = None
            try:
                session = await self._connection.open_session(Standing(self.name, "many clients", list(self._in_hand), []))
                if never:
                    first.release()
                    never = False
                await self._serve(session)
            except HedgerowError as error:
                failure = error
                log.debug("%s: %s", self.name, error)
            ended = self._connection.session
            self._connection.session_closed()
            await pause(self._reconnect.pause_s(ended, failure), "the server to come back")

    async def _serve(self, session: Session) -> None:
        self._reconnect.opened()
        self._counts.sessions += 1
        self._counts.opened += 1
        try:
            async for event in session.events():
                if event.WhichOneof("event") == "assign":
                    tell({"task": event.assign.task_id, "at": time.monotonic()})
                    task = convert.task_from_proto(event.assign)
                    self._in_hand[task.task_id] = asyncio.get_running_loop().create_task(self._carry_out(task))
        finally:
            self._counts.sessions -= 1

    async def _carry_out(self, task: Task) -> None:
        given = task.instruction.parameters
        try:
            result = await self._trained(task, given) if isinstance(given, Blob) else given
            reply = convert.reply_to_proto(Reply(Outcome.OK, num_examples=1, parameters=result))
            await (await self._connection.session_after(None)).complete(task.task_id, reply)
        except HedgerowError as error:
            log.error("%s: the task %s is not done: %s", self.name, task.task_id, error)
        finally:
            del self._in_hand[task.task_id]

    async def _trained(self, task: Task, blob: Blob) -> Blob:
        """The parameters that came, with other numbers in them."""
        path, fresh = (self._folder / f"{task.task_id}.{what}" for what in ("task", "result"))
        try:
            await self._connection.download(blob, path, task.run_id, task.task_id)
            rng = np.random.default_rng(task.seed)
            given = tensors.map_file(path)
            result = {name: rng.random(given[name].shape, dtype=np.float32) for name in given}
            with fresh.open("xb") as file:
                tensors.write(Parameters(result), file)
            return await self._connection.upload(fresh, f"{task.task_id[:48]}upload", fresh.stat().st_size, task.run_id)
        finally:
            path.unlink(missing_ok=True)
            fresh.unlink(missing_ok=True)


def tell(what: dict[str, object]) -> None:
    """Write a line for whoever has started this process."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def _report(counts: Counts) -> None:
    told = Counts(-1, -1)
    while True:
        if told != counts:
            told = Counts(counts.sessions, counts.opened)
            tell({"sessions": counts.sessions, "opened": counts.opened, "at": time.monotonic()})
        await pause(REPORT_S, "between two reports")


async def run(server: Address, numbers: Sequence[int], certificates: Path | None) -> None:
    """Run these clients until stdin ends."""
    counts, first, loop = Counts(), asyncio.Semaphore(FIRST_AT_ONCE), asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        clients = [OneClient(number, server, certificates, counts, Path(folder)) for number in numbers]
        tasks = [loop.create_task(client.run(first)) for client in clients]
        tasks.append(loop.create_task(_report(counts)))
        ended = asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), ended.set)
        await wait(ended.wait(), END, "the end of stdin")


def main() -> None:
    """Run the process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--server", required=True, help="host:port of the Fleet API")
    parser.add_argument("--first", type=int, default=0, help="number of the first client")
    parser.add_argument("--count", type=int, required=True, help="how many")
    parser.add_argument("--certificates", type=Path, help="folder with a folder for each client's certificate")
    parser.add_argument("--log-level", default="WARNING")
    args = parser.parse_args()
    logs.configure(args.log_level)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    numbers = range(args.first, args.first + args.count)
    asyncio.new_event_loop().run_until_complete(run(Address.parse(args.server, 9091), numbers, args.certificates))


if __name__ == "__main__":
    main()
    os._exit(0)  # to close thousands of channels in order takes longer than anybody wants to wait
