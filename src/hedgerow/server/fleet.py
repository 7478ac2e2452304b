"""The Fleet API: sessions of clients, their results and their blobs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import grpc.aio

from hedgerow.errors import (
    HedgerowError,
    InvalidArgument,
    LimitReached,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from hedgerow.records import DataPlane, Outcome
from hedgerow.security import Identity, Role
from hedgerow.server import bounds
from hedgerow.server.admission import Admission
from hedgerow.server.background import Background, until_stored
from hedgerow.server.bells import Bells, results_topic
from hedgerow.server.calls import Context, call, what_to_tell
from hedgerow.server.gate import Gate
from hedgerow.server.grants import Grants
from hedgerow.server.open_files import ADVICE, Shares
from hedgerow.server.openings import Openings
from hedgerow.server.sessions import NodeSession, Sessions
from hedgerow.store.changes import Completed, SessionOpened, phase_of
from hedgerow.store.store import Store
from hedgerow.waits import Limit, pause, wait
from hedgerow.wire import convert
from hedgerow.wire.proto import fleet_pb2, fleet_pb2_grpc, records_pb2
from hedgerow.wire.status import to_words

log = logging.getLogger(__name__)

HELLO = Limit("hello_s", 10.0)
IN_VAIN = Limit("opened_in_vain_s", None)
"""The store answers or fails within a limit of its own."""
LOOKS_A_BEAT = 4
"""So many times within each beat it is looked who has fallen silent."""
MAX_NAME_CHARS = 128


class Fleet(fleet_pb2_grpc.FleetServicer):
    """What clients ask of the server."""

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        bells: Bells,
        grants: Grants,
        background: Background,
        data_plane: DataPlane,
        gate: Gate,
        admission: Admission,
        shares: Shares,
    ) -> None:
        self.admission = admission
        self._gate = gate
        self._store = store
        self._sessions = sessions
        self._bells = bells
        self._grants = grants
        self._background = background
        self._data_plane = convert.data_plane_to_proto(data_plane)
        self._openings = Openings()
        self._shares = shares
        self._full = False

    @call(Role.CLIENT)
    async def Session(  # type: ignore[override]  # noqa: N802 (named by the protocol)
        self, _: object, context: Context, who: Identity
    ) -> None:
        """One connection of a client, until either side ends it."""
        self._gate.check()
        session = NodeSession(who)
        try:
            if await self._let_in(session, context):
                await session.serve(lambda: self._read(session, context), context.write)
        finally:
            self._sessions.remove(session)
            if session.epoch:
                # Not awaited here: the call may be cancelled already, and the store must hear of it all the same.
                self._background.spawn(self._closed(session), f"closing the session of node {session.name}")

    async def _let_in(self, session: NodeSession, context: Context) -> bool:
        """Open a session and say what there is to say at its beginning; False when the client was told to come back later.

        A part of its own, so that nothing of this is kept for as long as the session lasts.
        """
        hello = await self._read_hello(context, session.who)
        self._check_room(session.who)
        try:
            async with self._openings.turn():
                opened = await self._open(session, hello)
        except Unavailable as error:
            if not error.come_back_after_s:
                raise
            goodbye = fleet_pb2.Goodbye(reason=str(error), come_back_after_s=error.come_back_after_s)
            await context.write(fleet_pb2.SessionDown(goodbye=goodbye))
            return False
        await context.write(self._welcome(session))
        for task_id in opened.cancel:
            await context.write(fleet_pb2.SessionDown(cancel=fleet_pb2.Cancel(task_id=task_id, reason="it has ended")))
        if opened.release:
            session.release(opened.release)
        for task in opened.assign:
            log.info("Sent %s task %s to node %s", task.instruction.kind, task.task_id, hello.name)
            origin = convert.origin_to_proto(opened.origins[phase_of(task)])
            await context.write(fleet_pb2.SessionDown(assign=convert.task_to_proto(task), origin=origin))
        return True

    async def _open(self, session: NodeSession, hello: fleet_pb2.Hello) -> SessionOpened:
        """Open a session in the store; from now on what is pushed reaches it."""
        who = session.who
        if self._sessions.find(who.id) is not None:
            with contextlib.suppress(NotFound):
                # Before anything else: whoever claims a node's id without its secret must not end that node's session.
                await self._store.check_node(who)
        # Registered before the store opens it: what is pushed from now on must reach this session.
        self._sessions.add(session)
        session.name = hello.name
        known = list(hello.transport_dtypes)
        opening = asyncio.ensure_future(
            self._store.open_session(who, hello.name, list(hello.running), list(hello.finished), known)
        )
        try:
            opened = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The client has given up; the store may open the session all the same, and must hear that it is over.
            self._background.spawn(self._opened_in_vain(session, opening), f"the session of node {session.name}, opened in vain")
            raise
        session.epoch = opened.epoch
        session.beat_interval_s = self._sessions.beat_interval_s()
        log.info("Node %s connected (id %s, epoch %d)", hello.name, who.id, opened.epoch, extra={"action": "node_connected"})
        self._bells.ring("nodes")
        for run_id in opened.run_ids:
            self._bells.ring(results_topic(run_id))
        return opened

    async def _read_hello(self, context: Context, who: Identity) -> fleet_pb2.Hello:
        first = await wait(context.read(), HELLO, "the client's hello")
        if first is grpc.aio.EOF or first.WhichOneof("event") != "hello":
            raise InvalidArgument("The first message of a session must be hello.")
        hello: fleet_pb2.Hello = first.hello
        if hello.node_id != who.id:
            raise InvalidArgument(f"The hello is from node {hello.node_id!r}, the call from {who.id!r}.")
        if not 0 < len(hello.name) <= MAX_NAME_CHARS or not hello.name.isprintable():
            raise InvalidArgument(f"A node's name has 1 to {MAX_NAME_CHARS} printable characters, not {hello.name[:200]!r}.")
        self.admission.check_name(who, hello.name)
        bounds.check_ids("running", hello.running)
        bounds.check_ids("finished", hello.finished)
        convert.check_transport_dtypes(hello.transport_dtypes)
        return hello

    def _check_room(self, who: Identity) -> None:
        """Refuse a client for which there are not files enough, as long as it can be told."""
        full = len(self._sessions) >= self._shares.sessions and self._sessions.find(who.id) is None
        if full and not self._full:
            log.error("More clients want to connect than the %d sessions that %d open files allow. %s", *self._limits())
        self._full = full
        if full:
            what = "The server has {} sessions and can have no more: it may have {} files and connections open. {}."
            raise LimitReached(what.format(*self._limits()))

    def _limits(self) -> tuple[int, int, str]:
        return self._shares.sessions, self._shares.files, ADVICE

    def _welcome(self, session: NodeSession) -> fleet_pb2.SessionDown:
        return fleet_pb2.SessionDown(
            welcome=fleet_pb2.Welcome(
                server_id=self._store.server_id,
                epoch=session.epoch,
                beat_interval_s=session.beat_interval_s,
                reconnect_within_s=self._sessions.reconnect_within_s(),
                data_plane=self._data_plane,
            )
        )

    def _beat(self, session: NodeSession) -> fleet_pb2.SessionDown:
        # Never shorter than before: the client may have begun to wait for the longer interval.
        session.beat_interval_s = max(session.beat_interval_s, self._sessions.beat_interval_s())
        within_s = self._sessions.reconnect_within_s()
        return fleet_pb2.SessionDown(beat=fleet_pb2.Beat(beat_interval_s=session.beat_interval_s, reconnect_within_s=within_s))

    async def _read(self, session: NodeSession, context: Context) -> None:
        """Take in what the client says until it ends the stream."""
        loop = asyncio.get_running_loop()
        try:
            while (message := await context.read()) is not grpc.aio.EOF:
                session.last_heard = loop.time()
                event = message.WhichOneof("event")
                if event == "beat":
                    session.answer(self._beat)
                elif event == "complete":
                    await session.place()
                    self._background.spawn(self._complete(session, message.complete), "taking in a result")
                elif event == "leave":
                    await self._leave(session, message.leave)
                del message  # nothing is kept while nothing comes
        except HedgerowError as error:
            log.warning("The session of node %s ends: %s", session.name, error)

    async def _leave(self, session: NodeSession, leave: fleet_pb2.Leave) -> None:
        bounds.check_reason(leave.reason)
        bounds.check_ids("handed_back", leave.handed_back)
        log.info("Node %s leaves: %s", session.name, leave.reason, extra={"action": "node_leaves"})
        await self._store.close_session(session.who.id, session.epoch, list(leave.handed_back), left=True)

    async def watch_silence(self) -> None:
        """End the sessions of clients that have fallen silent, for ever."""
        while True:
            await pause(self._sessions.beat_interval_s() / LOOKS_A_BEAT, "the next look for silent clients")
            now = asyncio.get_running_loop().time()
            for session in self._sessions.end_silent(now):
                silent_s = now - session.last_heard
                log.warning("Node %s has been silent for %.0f s; its session ends", session.name, silent_s)

    async def _opened_in_vain(self, session: NodeSession, opening: asyncio.Future[SessionOpened]) -> None:
        try:
            session.epoch = (await wait(opening, IN_VAIN, "the store to open a session that is not wanted any longer")).epoch
        except HedgerowError as error:
            log.debug("The session of node %s was not opened: %s", session.name, error)
        else:
            await self._closed(session)

    async def _closed(self, session: NodeSession) -> None:
        await until_stored(lambda: self._store.close_session(session.who.id, session.epoch), f"node {session.name} disconnected")
        log.info("Node %s disconnected", session.name, extra={"action": "node_disconnected"})
        self._bells.ring("nodes")

    @contextlib.contextmanager
    def _patience(self, *refusals: type[HedgerowError]) -> Iterator[None]:
        """On a backup that was put in use a short while ago, what is not known may be named again by its driver."""
        try:
            yield
        except refusals as error:
            if not self._store.settling:
                raise
            raise Unavailable(f"{error} This server was restored from a backup, and the driver may not be back yet.") from None

    @call(Role.CLIENT)
    async def StartUpload(  # noqa: N802
        self, request: records_pb2.StartUploadRequest, context: Context, who: Identity
    ) -> records_pb2.StartUploadReply:
        """Where to put a result's parameters."""
        self._sessions.of(who)
        with self._patience(NotFound):
            return await self._grants.upload(who, request)

    @call(Role.CLIENT)
    async def ResolveBlob(  # noqa: N802
        self, request: records_pb2.ResolveBlobRequest, context: Context, who: Identity
    ) -> records_pb2.ResolveBlobReply:
        """Where to get the parameters of a task."""
        self._sessions.of(who)
        with self._patience(NotFound, PermissionDenied):
            blob = await self._store.blob_for_client(who.id, request.task_id, convert.check_digest(request.digest))
        return self._grants.download(who, blob)

    async def _complete(self, session: NodeSession, message: fleet_pb2.Complete) -> None:
        """Take in the result of a task, once, and say what became of it."""
        answer, about = fleet_pb2.Completed(task_id=message.task_id), dict[str, str]()
        outcome = "cancelled"
        try:
            completed = await self._store_result(session, message)
            about = {"run_id": completed.run_id, "task_outcome": str(convert.outcome_from_proto(message.reply.outcome))}
            answer.accepted, answer.release, outcome = completed.accepted, completed.release, "ok"
        except Exception as error:  # noqa: BLE001 (logged, and told as an error of ours)
            problem, outcome = what_to_tell(error, "CompleteTask", session.name)
            answer.refusal.error, answer.refusal.message = to_words(problem)
        finally:
            self.admission.note(session.who.label, "CompleteTask", outcome, message, about)
        session.completed(answer)

    async def _store_result(self, session: NodeSession, message: fleet_pb2.Complete) -> Completed:
        bounds.check_payload(message.reply, self._data_plane.inline_max_bytes)
        reply = convert.reply_from_proto(message.reply)
        with self._patience(NotFound):
            completed = await self._store.complete_task(session.who.id, session.epoch, message.task_id, reply)
        if completed.accepted:
            level = logging.INFO if reply.outcome is Outcome.OK else logging.WARNING
            log.log(level, "Received result of task %s from node %s: %s", message.task_id, session.name, reply.outcome)
        return completed
