"""What a client does with a server's messages: a task, its parameters, a cancellation, a release. The server may be hostile.

What must hold: nothing is raised, nothing outside the state directory is made, changed or removed, and every task that is kept
has an id. The worker and the network are stood in for: the one fails, the other has nothing to give.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from hedgerow.audit import AUDIT_FILE, AuditLog
from hedgerow.client.jobs import Bench, Jobs, Rules
from hedgerow.client.outbox import Outbox
from hedgerow.client.parameter_cache import ParameterCache
from hedgerow.client.policy import Policy
from hedgerow.client.state_dir import StateDir
from hedgerow.client.task_audit import TaskAudit
from hedgerow.clock import SystemClock
from hedgerow.errors import CorruptData, HedgerowError
from hedgerow.records import Blob, Instruction, Task
from hedgerow.waits import Limit, wait
from hedgerow.wire.convert import check_id, origin_from_proto, task_to_proto
from hedgerow.wire.proto import fleet_pb2, records_pb2
from tests.fuzz.files import read_files, write_files
from tests.fuzz.mutation import TEXTS, Choices, mutated_message
from tests.fuzz.parser import Parser

TASK, RUN = "task000000000001", "run0000000000001"
PATHS = ("../beside/victim", "/../../beside/victim", "/dev/shm/victim", "beside", "../../beside", "a" * 300)
SEEDS: tuple[fleet_pb2.SessionDown, ...] = (
    *(
        fleet_pb2.SessionDown(
            assign=task_to_proto(Task(TASK, RUN, "n" * 16, 1, 0, 7, Instruction(kind, {"rate": 0.5}, parameters))),
            origin=records_pb2.Origin(driver="hedgerow://driver/ann", sites=sites),
        )
        for kind, parameters, sites in (("fit", b"inline", 3), ("evaluate", Blob("0" * 64, 10), 1), ("get_properties", None, 1))
    ),
    fleet_pb2.SessionDown(cancel=fleet_pb2.Cancel(task_id=TASK, reason="why")),
    fleet_pb2.SessionDown(release=[TASK]),
)
RULES = Rules(Policy(("ann", "b*"), min_sites={"fit": 2}))
ENDS = Limit("jobs_end_s", 20.0)


class FakePool:
    """Workers that cannot be started."""

    replaces_workers = True

    @asynccontextmanager
    async def place(self, run_id: str, *, light: bool) -> AsyncIterator[object]:
        yield object()

    async def worker(self, place: object) -> Any:
        raise HedgerowError("There is no worker.")

    async def discard(self, place: object) -> None:
        pass


class FakeConnection:
    """A server that is there and has no parameters to give."""

    inline_max_bytes = 64 * 1024

    async def session_after(self, epoch: int) -> None:
        pass

    async def download(self, blob: Blob, target: Path, run_id: str, task_id: str) -> None:
        await asyncio.to_thread(target.write_bytes, b"x")
        raise CorruptData("The blob is damaged.")


class FakeDelivery:
    """Keeps results where they are, and drops them when it is told."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def send(self, task_id: str) -> None:
        check_id("task_id", task_id)

    send_again = send

    def drop(self, task_id: str) -> None:
        self._outbox.remove(task_id)


def make(choices: Choices) -> list[fleet_pb2.SessionDown]:
    """One to three messages of the server."""
    return [mutated_message(choices, choices.of(SEEDS), (*TEXTS, *PATHS, TASK)) for _ in range(1 + choices.below(3))]


class Client:
    """The part of a client that is tried, around one state directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._beside = {"victim/file": b"x", "victim.state": b"y"}
        write_files(folder / "beside", self._beside)
        self._known = read_files(folder / "beside")
        self._state = StateDir.open(folder / "client")
        self._audit = AuditLog(self._state.path / AUDIT_FILE, SystemClock(), max_bytes=100_000, kept_files=1)
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        self._audit.close()
        self._state.close()
        self._loop.close()

    def check(self, messages: list[fleet_pb2.SessionDown]) -> None:
        self._loop.run_until_complete(self._hear(messages))
        assert sorted(path.name for path in self._folder.iterdir()) == ["beside", "client"]
        assert read_files(self._folder / "beside") == self._known
        allowed = {"deaths", "identity.json", "lock", "outbox", "parameters", "runs", "work"}
        assert {path.name for path in self._state.path.iterdir() if not path.name.startswith(AUDIT_FILE)} == allowed
        outbox = Outbox(self._state)
        assert {path.name for path in (self._state.path / "outbox").iterdir()} == {entry.task_id for entry in outbox}
        for entry in outbox:
            assert isinstance(entry.reply, records_pb2.Reply)
            outbox.remove(entry.task_id)

    async def _hear(self, messages: list[fleet_pb2.SessionDown]) -> None:
        outbox = Outbox(self._state)
        cache = ParameterCache(self._state.path / "parameters")
        parts: tuple[Any, Any, Any] = FakePool(), FakeConnection(), FakeDelivery(outbox)
        jobs = Jobs(Bench("node", self._state, cache, outbox, *parts, TaskAudit(self._audit), RULES))
        for message in messages:
            for task_id in message.release[:100]:
                outbox.remove(task_id)
            match message.WhichOneof("event"):
                case "assign":
                    jobs.assign(message.assign, origin_from_proto(message.origin))
                case "cancel":
                    jobs.cancel(message.cancel.task_id, message.cancel.reason)
            await asyncio.sleep(0)
        running = asyncio.all_tasks() - {asyncio.current_task()}
        if running:
            ended, waiting = await wait(asyncio.wait(running), ENDS, "the jobs to end")
            assert not waiting
            for task in ended:
                assert task.cancelled() or task.exception() is None


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[list[fleet_pb2.SessionDown]], None]]:
    quiet = logging.getLogger("hedgerow.client")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)  # that the worker fails is what it is told to do
    client = Client(folder)
    try:
        yield client.check
    finally:
        client.close()
        quiet.setLevel(level)


PARSER = Parser("assignments", ("hedgerow.client.jobs", "hedgerow.wire.convert"), make, _open)
