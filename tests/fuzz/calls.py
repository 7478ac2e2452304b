"""The handlers of the three gRPC APIs, with a real store and a context that stands in for gRPC's.

What must hold: a call ends with an answer, or with a status that is neither INTERNAL nor too long for a header; a call that is
refused leaves the database as it was; nothing fails in the background.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
import grpc.aio
from google.protobuf.message import Message

from hedgerow.audit import AUDIT_FILE, AuditLog
from hedgerow.clock import SystemClock
from hedgerow.records import Blob, DataPlane, Instruction, Outcome, Reply, Task
from hedgerow.security import Identity, MetadataItems, Role
from hedgerow.server.admission import Admission
from hedgerow.server.background import Background
from hedgerow.server.bells import Bells
from hedgerow.server.driver_api import Driver
from hedgerow.server.fleet import Fleet
from hedgerow.server.gate import Gate
from hedgerow.server.grants import Grants
from hedgerow.server.notifier import Notifier
from hedgerow.server.open_files import Shares
from hedgerow.server.operator_api import Operator
from hedgerow.server.revocations import Revocations
from hedgerow.server.sessions import NodeSession, Sessions
from hedgerow.store.blobs import BlobFolder
from hedgerow.store.store import Store
from hedgerow.waits import Limit, wait
from hedgerow.wire import convert
from hedgerow.wire.proto import driver_pb2, fleet_pb2, operator_pb2, records_pb2
from tests.fuzz.mutation import TEXTS, Choices, mutated_message
from tests.fuzz.parser import Parser

NODE, OTHER_NODE = (Identity(Role.CLIENT, c * 16, c * 64) for c in "ab")
DRIVER, OTHER_DRIVER = (Identity(Role.DRIVER, c * 16, c * 64) for c in "cd")
OPERATOR = Identity(Role.OPERATOR, "e" * 16, "e" * 64)
RUN, OTHER_RUN, NEW_RUN = "run0000000000001", "run0000000000002", "run0000000000003"
TASK, DONE_TASK, NEW_TASK, OTHER_TASK = (f"task{number:012d}" for number in range(4))
DIGEST, RESULT_DIGEST = "0" * 63 + "1", "0" * 63 + "2"
BLOB, RESULT = Blob(DIGEST, 1000), Blob(RESULT_DIGEST, 2000)
UPLOAD = "upload0000000001"
KNOWN = (NODE.id, DRIVER.id, RUN, OTHER_RUN, TASK, DONE_TASK, OTHER_TASK, DIGEST, RESULT_DIGEST, "node-a", UPLOAD)
HOSTILE_TEXTS = (*TEXTS, *KNOWN, "x" * 300_000, "x\n" * 100)
CALL_ENDS = Limit("call_ends_s", 30.0)
MAX_DETAILS_BYTES = 7 * 1024
"""gRPC refuses metadata above 8 KiB; the caller would see something else than the reason."""


class Aborted(Exception):
    """The call ended with a status."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, str]]) -> None:
        super().__init__(code, details)
        self.code, self.details, self.trailing = code, details, trailing


class FakeContext:
    """What the handlers use of gRPC's context; the peer hangs up when it has said everything and heard something."""

    def __init__(self, metadata: MetadataItems, says: Sequence[Message] = ()) -> None:
        self._metadata = metadata
        self._says = list(says)
        self.heard: list[Message] = []
        self.hears = asyncio.Event()

    def invocation_metadata(self) -> MetadataItems:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str]] = ()
    ) -> NoReturn:
        raise Aborted(code, details, trailing_metadata)

    async def read(self) -> object:
        return self._says.pop(0) if self._says else grpc.aio.EOF

    async def write(self, message: Message) -> None:
        message.SerializeToString()
        self.heard.append(message)
        self.hears.set()


@dataclass(frozen=True)
class Call:
    """One call: the API and method, who makes it, and what it says (a stream says several things)."""

    method: str
    metadata: MetadataItems
    says: tuple[Message, ...]


def _entries() -> list[records_pb2.Entry]:
    return convert.entries_to_proto({"rate": 0.5, "epochs": 2, "on": True, "name": "x", "raw": b"y"})


def _task(task_id: str, parameters: Blob | bytes | None) -> Task:
    return Task(task_id, RUN, NODE.id, 1, 0, 7, Instruction("fit", {"rate": 0.5, "epochs": 2}, parameters))


def _hello(who: Identity, name: str) -> fleet_pb2.SessionUp:
    return fleet_pb2.SessionUp(
        hello=fleet_pb2.Hello(
            node_id=who.id, name=name, software="x", running=[TASK], finished=[DONE_TASK], transport_dtypes=["bfloat16"]
        )
    )


_REPLY = records_pb2.Reply(
    outcome=records_pb2.OUTCOME_OK,
    num_examples=3,
    loss=0.5,
    metrics=_entries(),
    parameters=records_pb2.Payload(blob=records_pb2.Blob(digest=RESULT_DIGEST, size=2000)),
)
_INLINE_REPLY = records_pb2.Reply(
    outcome=records_pb2.OUTCOME_USER_ERROR, message="m", traceback="t", parameters=records_pb2.Payload(inline=b"tensors")
)
_COMPLETE = tuple(
    fleet_pb2.SessionUp(complete=fleet_pb2.Complete(task_id=task_id, reply=reply))
    for task_id, reply in ((TASK, _REPLY), (TASK, _INLINE_REPLY), (DONE_TASK, _REPLY))
)
_SESSION_END = fleet_pb2.SessionUp(leave=fleet_pb2.Leave(reason="stopping", handed_back=[TASK]))
_UPLOADS = (
    records_pb2.StartUploadRequest(upload_id="upload0000000009", size=10, run_id=RUN),
    records_pb2.StartUploadRequest(upload_id=UPLOAD, size=1000, run_id=RUN),
)
FLEET: tuple[tuple[str, tuple[Message, ...]], ...] = (
    ("Session", (_hello(NODE, "node-a"), fleet_pb2.SessionUp(beat=fleet_pb2.Beat()), _SESSION_END)),
    ("Session", (_hello(NODE, "node-b"), _SESSION_END)),
    *(("StartUpload", (request,)) for request in _UPLOADS),
    ("ResolveBlob", (records_pb2.ResolveBlobRequest(digest=DIGEST, run_id=RUN, task_id=TASK),)),
    *(("Session", (_hello(NODE, "node-a"), complete, _SESSION_END)) for complete in _COMPLETE),
)
_OVER = driver_pb2.AcknowledgeRoundRequest(
    run_id=RUN, round=1, keep=[DIGEST], manifest=[driver_pb2.ManifestLine(round=1, line='{"round": 1}')]
)
_PUSH = [convert.task_to_proto(_task(NEW_TASK, BLOB)), convert.task_to_proto(_task(TASK, b"inline"))]
DRIVES: tuple[tuple[str, tuple[Message, ...]], ...] = (
    ("CreateRun", (driver_pb2.CreateRunRequest(run_id=NEW_RUN, name="new", seed=2**64 - 1),)),
    ("CreateRun", (driver_pb2.CreateRunRequest(run_id=RUN, name="run", seed=1),)),
    ("PushTasks", (driver_pb2.PushTasksRequest(run_id=RUN, tasks=_PUSH),)),
    ("CancelTasks", (driver_pb2.CancelTasksRequest(run_id=RUN, task_ids=[TASK, DONE_TASK], reason="why"),)),
    ("Watch", (driver_pb2.WatchRequest(run_id=RUN, after_result=0, after_node_version=1),)),
    *(("StartUpload", (request,)) for request in _UPLOADS),
    ("ResolveBlob", (records_pb2.ResolveBlobRequest(digest=DIGEST, run_id=RUN),)),
    ("AcknowledgeRound", (_OVER,)),
    ("EndRun", (driver_pb2.EndRunRequest(run_id=RUN, state=driver_pb2.RUN_STATE_FINISHED, message="done"),)),
)
OPERATES: tuple[tuple[str, tuple[Message, ...]], ...] = (
    ("ListRuns", (operator_pb2.ListRunsRequest(limit=5),)),
    ("GetRun", (operator_pb2.GetRunRequest(run_id=RUN),)),
    ("StopRun", (operator_pb2.StopRunRequest(run_id=RUN[:-1], reason="why"),)),
    ("StopRun", (operator_pb2.StopRunRequest(run_id=RUN, reason=""),)),
    ("ListNodes", (operator_pb2.ListNodesRequest(),)),
)


def _make(choices: Choices, seeds: Sequence[tuple[str, tuple[Message, ...]]], callers: Sequence[Identity]) -> list[Call]:
    calls = []
    for _ in range(1 + choices.below(2)):
        method, says = choices.of(seeds)
        metadata = choices.of((*callers, *callers, NODE, DRIVER, OPERATOR, OTHER_NODE, OTHER_DRIVER)).metadata()
        if choices.chance(8):
            changed = list(metadata)
            index = choices.below(len(changed))
            changed[index] = (changed[index][0], choices.text()[:4000])
            metadata = tuple(changed)[choices.below(2) :]
        if len(says) > 1 and choices.chance(4):
            says = tuple(choices.of(says) for _ in range(choices.below(4)))
        calls.append(Call(method, metadata, tuple(mutated_message(choices, message, HOSTILE_TEXTS) for message in says)))
    return calls


class Failures(logging.Handler):
    """Remembers what was logged as an error: a failure that was caught where the caller cannot see it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @contextmanager
    def listening(self, *names: str) -> Iterator[Failures]:
        for name in names:
            logging.getLogger(name).addHandler(self)
        try:
            yield self
        finally:
            for name in names:
                logging.getLogger(name).removeHandler(self)

    def take(self) -> list[str]:
        found = [logging.Formatter().format(record) for record in self.records]
        self.records.clear()
        return found


class Server:
    """The three APIs around one database, which is put back to how it was before each case."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._store = Store.open(f"sqlite:///{folder / 'hedgerow.sqlite3'}", SystemClock())
        self._blobs = BlobFolder(folder / "blobs", reserve_bytes=0)
        self._audit = AuditLog(folder / AUDIT_FILE, SystemClock())
        self._loop.run_until_complete(self._furnish())
        self._database = sqlite3.connect(folder / "hedgerow.sqlite3", isolation_level=None)
        self._whole = sqlite3.connect(":memory:")
        self._database.backup(self._whole)
        self._restored = self._seen = self._version()
        self._rows = self._whole_rows = self._dump()
        self.failures = Failures()

    def close(self) -> None:
        self._database.close()
        self._whole.close()
        self._store.close()
        self._audit.close()
        self._loop.close()

    async def _furnish(self) -> None:
        """A run with a task that is sent and one that is done, blobs of driver and node, and another driver's run."""
        store = self._store
        await store.open_session(NODE, "node-a", [], [])
        await store.open_session(OTHER_NODE, "node-o", [], [])
        for who, run_id in ((DRIVER, RUN), (OTHER_DRIVER, OTHER_RUN)):
            await store.create_run(who, run_id, "run", 1)
        await store.push_tasks(DRIVER, RUN, [_task(DONE_TASK, b"inline")])
        for identity, upload_id, blob in ((DRIVER, UPLOAD, BLOB), (NODE, "upload0000000002", RESULT)):
            await store.start_upload(identity, upload_id, blob.size, RUN)
            await store.finish_upload(upload_id, blob.digest)
            (self._blobs.path / upload_id).write_bytes(b"x" * blob.size)
        await store.push_tasks(DRIVER, RUN, [_task(TASK, BLOB)])
        other = Task(OTHER_TASK, OTHER_RUN, OTHER_NODE.id, 1, 0, 7, Instruction("fit"))
        await store.push_tasks(OTHER_DRIVER, OTHER_RUN, [other])
        await store.complete_task(NODE.id, 1, DONE_TASK, Reply(Outcome.OK, num_examples=1, parameters=RESULT))

    def _version(self) -> int:
        return int(self._database.execute("PRAGMA data_version").fetchone()[0])

    def _dump(self) -> list[list[Any]]:
        tables = [name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return [self._database.execute(f"SELECT * FROM {table}").fetchall() for table in tables]

    def _restore(self) -> None:
        """Put the database back, if something was written."""
        if self._version() != self._restored:
            if self._dump() != self._whole_rows:
                self._whole.backup(self._database)
            self._restored = self._seen = self._version()
            self._rows = self._whole_rows

    def check(self, calls: Sequence[Call], api: str) -> None:
        """One case."""
        self._restore()
        self._loop.run_until_complete(self._check(calls, api))

    async def _check(self, calls: Sequence[Call], api: str) -> None:
        sessions, bells, background, gate = Sessions(), Bells(), Background(), Gate()
        session = NodeSession(NODE)
        session.epoch, session.name = 1, "node-a"
        sessions.add(session)
        grants = Grants(self._store, SystemClock(), 900.0, gate, 256 * 1024**3)
        notifier = Notifier(sessions, bells, self._blobs)
        plane = DataPlane(9093)
        admission = Admission(False, Revocations(None), SystemClock(), self._audit)
        servicers = {
            "fleet": Fleet(self._store, sessions, bells, grants, background, plane, gate, admission, Shares.of(20_000, 20_000)),
            "driver": Driver(self._store, sessions, bells, grants, background, notifier, plane, gate, admission),
            "operator": Operator(self._store, sessions, notifier, SystemClock(), admission),
        }
        for call in calls:
            before = self._rows
            refused = await self._one(servicers[api], call)
            await background.finish(CALL_ENDS)
            failures = self.failures.take()
            assert not failures, failures
            if self._version() != self._seen:
                self._seen, self._rows = self._version(), self._dump()
            if refused is not None and call.method not in ("Session", "Watch"):
                assert self._rows == before, f"{call.method} was refused ({refused}) and changed the database"

    async def _one(self, servicer: Any, call: Call) -> Aborted | None:
        """Make the call; how it was refused."""
        streams = call.method in ("Session", "Watch")
        context = FakeContext(call.metadata, call.says if call.method == "Session" else ())
        request = None if call.method == "Session" else call.says[0]
        running = asyncio.ensure_future(getattr(servicer, call.method)(request, context))
        try:
            if call.method == "Watch":
                hears = asyncio.ensure_future(context.hears.wait())
                await wait(asyncio.wait({running, hears}, return_when=asyncio.FIRST_COMPLETED), CALL_ENDS, "a message or the end")
                hears.cancel()
                if not running.done():
                    running.cancel()
                    await wait(asyncio.wait({running}), CALL_ENDS, "the cancelled call")
                    return None
            reply = await wait(running, CALL_ENDS, f"the end of {call.method}")
        except Aborted as refused:
            assert refused.code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS), refused
            size = len(quote(refused.details)) + sum(len(key) + len(value) for key, value in refused.trailing)
            assert size <= MAX_DETAILS_BYTES, f"{size} bytes of details"
            return refused
        if not streams:
            assert isinstance(reply, Message), reply
            reply.SerializeToString()
        return None


def _parser(api: str, module: str, seeds: Sequence[tuple[str, tuple[Message, ...]]], callers: Sequence[Identity]) -> Parser:
    @contextmanager
    def opened(folder: Path) -> Iterator[Callable[[list[Call]], None]]:
        with closing(Server(folder)) as server, server.failures.listening("hedgerow", "asyncio"):
            yield lambda calls: server.check(calls, api)

    modules = (f"hedgerow.server.{module}", "hedgerow.server.calls", "hedgerow.server.bounds", "hedgerow.wire.convert")
    return Parser(f"{api}_api", modules, lambda choices: _make(choices, seeds, callers), opened)


FLEET_API = _parser("fleet", "fleet", FLEET, (NODE,))
DRIVER_API = _parser("driver", "driver_api", DRIVES, (DRIVER,))
OPERATOR_API = _parser("operator", "operator_api", OPERATES, (OPERATOR,))
