"""The Driver API: runs, their tasks and results, and the list of nodes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from hedgerow.errors import InvalidArgument
from hedgerow.records import DataPlane, RunState, Task, TaskResult
from hedgerow.security import Identity, Role
from hedgerow.server import bounds
from hedgerow.server.admission import Admission
from hedgerow.server.background import Background, until_stored
from hedgerow.server.bells import Bells, ended_topic, fed_topic, results_topic
from hedgerow.server.calls import Context, call
from hedgerow.server.gate import Gate
from hedgerow.server.grants import Grants
from hedgerow.server.notifier import Notifier
from hedgerow.server.sessions import Sessions
from hedgerow.store.changes import phase_of
from hedgerow.store.rounds import ROUND_IS_OVER
from hedgerow.store.store import Store
from hedgerow.waits import Limit
from hedgerow.wire import convert
from hedgerow.wire.proto import driver_pb2, driver_pb2_grpc, fleet_pb2, records_pb2

log = logging.getLogger(__name__)

WATCH_BEAT = Limit("watch_beat_s", 15.0)
NODES_A_MESSAGE = 1000
RESULTS_A_MESSAGE = 100  # with inline parameters of 64 KiB each, well below the limit of a message
MAX_RUN_NAME_CHARS = 200


def _label(run_id: str, name: str) -> str:
    return f"{run_id} ({name})" if name else run_id


class Driver(driver_pb2_grpc.DriverServicer):
    """What drivers ask of the server."""

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        bells: Bells,
        grants: Grants,
        background: Background,
        notifier: Notifier,
        data_plane: DataPlane,
        gate: Gate,
        admission: Admission,
    ) -> None:
        self.admission = admission
        self._gate = gate
        self._store = store
        self._sessions = sessions
        self._bells = bells
        self._grants = grants
        self._background = background
        self._notifier = notifier
        self._data_plane = convert.data_plane_to_proto(data_plane)
        self._pushing: set[asyncio.Task[driver_pb2.PushTasksReply]] = set()
        self._watches: Counter[str] = Counter()  # streams that are open, by run: an old one may end after a newer one began

    @call(Role.DRIVER)
    async def CreateRun(  # noqa: N802 (named by the protocol)
        self, request: driver_pb2.CreateRunRequest, context: Context, who: Identity
    ) -> driver_pb2.CreateRunReply:
        """Open a run or take it up again."""
        self._gate.check()
        run_id = convert.check_id("run_id", request.run_id)
        if len(request.name) > MAX_RUN_NAME_CHARS or not (request.name.isprintable()):
            raise InvalidArgument(f"A run's name has up to {MAX_RUN_NAME_CHARS} printable characters.")
        known = request.server_id not in ("", self._store.server_id)
        state = await self._store.create_run(who, run_id, request.name, request.seed, known=known)
        run = await self._store.check_run(who, run_id)
        log.info("Run %s opened by a driver at %s", _label(run_id, request.name), context.peer(), extra={"action": "run_opened"})
        return driver_pb2.CreateRunReply(
            server_id=self._store.server_id,
            state=convert.run_state_to_proto(state),
            data_plane=self._data_plane,
            acknowledged_rounds=run.acknowledged_round + 1,
        )

    @call(Role.DRIVER)
    async def PushTasks(  # noqa: N802
        self, request: driver_pb2.PushTasksRequest, context: Context, who: Identity
    ) -> driver_pb2.PushTasksReply:
        """Queue tasks; those for connected nodes go out at once."""
        bounds.check_ids("tasks", request.tasks)
        for message in request.tasks:
            bounds.check_round(message.round)
            bounds.check_payload(message.instruction, self._data_plane.inline_max_bytes)
        tasks = [convert.task_from_proto(task) for task in request.tasks]
        foreign = next((task for task in tasks if task.run_id != request.run_id), None)
        if foreign is not None:
            raise InvalidArgument(f"The task {foreign.task_id} belongs to the run {foreign.run_id}, not to {request.run_id}.")
        # To its end also when the driver dies meanwhile: what is marked as sent in the store must be sent.
        pushing = asyncio.get_running_loop().create_task(self._push(who, request, tasks))
        self._pushing.add(pushing)
        pushing.add_done_callback(self._pushing.discard)
        return await asyncio.shield(pushing)

    async def _push(self, who: Identity, request: driver_pb2.PushTasksRequest, tasks: list[Task]) -> driver_pb2.PushTasksReply:
        pushed = await self._store.push_tasks(who, request.run_id, tasks)
        for kind, count in Counter(task.instruction.kind for task in tasks).items():
            log.info("Received %d %s task(s) from the driver of run %s", count, kind, request.run_id)
        by_id = {task.task_id: task for task in request.tasks}
        for node_id, epoch, task in ((a.node_id, a.epoch, a.task) for a in pushed.assign):
            origin = convert.origin_to_proto(pushed.origins[phase_of(task)])
            session = self._sessions.deliver(node_id, epoch, fleet_pb2.SessionDown(assign=by_id[task.task_id], origin=origin))
            if session is not None:
                log.info("Sent %s task %s to node %s", task.instruction.kind, task.task_id, session.name or node_id)
        if pushed.failed:
            self._bells.ring(results_topic(request.run_id))
        return driver_pb2.PushTasksReply(created=pushed.created)

    @call(Role.DRIVER)
    async def CancelTasks(  # noqa: N802
        self, request: driver_pb2.CancelTasksRequest, context: Context, who: Identity
    ) -> driver_pb2.CancelTasksReply:
        """End tasks that are not final yet."""
        bounds.check_ids("task_ids", request.task_ids)
        bounds.check_reason(request.reason)
        cancelled = await self._store.cancel_tasks(who, request.run_id, list(request.task_ids), request.reason)
        self._notifier.cancelled([request.run_id], cancelled.notify, request.reason)
        return driver_pb2.CancelTasksReply(cancelled=cancelled.count)

    @call(Role.DRIVER)
    async def Watch(  # type: ignore[override]  # noqa: N802
        self, request: driver_pb2.WatchRequest, context: Context, who: Identity
    ) -> None:
        """Push node changes and results as they happen, until the run ends or the driver goes."""
        if max(request.after_result, request.after_node_version) > bounds.MAX_CURSOR:
            raise InvalidArgument(f"A cursor is at most {bounds.MAX_CURSOR}.")
        await self._store.check_run(who, request.run_id)
        self._watches[request.run_id] += 1
        try:
            await self._store.run_seen(request.run_id, True)
            await self._watch(request, context, who)
        finally:
            self._watches[request.run_id] -= 1
            if self._watches[request.run_id] == 0:
                del self._watches[request.run_id]
                # Not awaited: the call may be cancelled already.
                self._background.spawn(self._unwatched(request.run_id), f"noting that run {request.run_id} is not watched")

    async def _watch(self, request: driver_pb2.WatchRequest, context: Context, who: Identity) -> None:
        version, cursor = request.after_node_version, request.after_result
        results, ended = results_topic(request.run_id), ended_topic(request.run_id)
        with self._bells.listen("nodes", results, fed_topic(request.run_id), ended) as listener:
            while True:
                rung = await listener.news(WATCH_BEAT)
                fed = listener.fed()
                if not rung:
                    await context.write(driver_pb2.WatchEvent(beat=driver_pb2.WatchBeat()))
                if "nodes" in rung or not rung:
                    version = await self._send_nodes(context, version, first=version == request.after_node_version)
                if results in rung or not rung:
                    cursor = await self._send_results(context, request.run_id, cursor)
                else:
                    cursor = await self._write_results(context, [result for result in fed if result.cursor > cursor], cursor)
                if ended in rung or not rung:
                    info = await self._store.check_run(who, request.run_id)
                    if info.state.final:
                        # What ended with it may have been committed since.
                        await self._send_results(context, request.run_id, cursor)
                        end = driver_pb2.RunEnded(state=convert.run_state_to_proto(info.state), message=info.message)
                        await context.write(driver_pb2.WatchEvent(ended=end))
                        return

    async def _send_nodes(self, context: Context, version: int, *, first: bool) -> int:
        while True:
            nodes = await self._store.nodes_after(version, NODES_A_MESSAGE)
            complete = len(nodes) < NODES_A_MESSAGE
            if nodes or first:
                changes = driver_pb2.NodeChanges(nodes=map(convert.node_to_proto, nodes), complete=complete)
                await context.write(driver_pb2.WatchEvent(nodes=changes))
            version = nodes[-1].version if nodes else version
            if complete:
                return version

    async def _send_results(self, context: Context, run_id: str, cursor: int) -> int:
        while results := await self._store.results_after(run_id, cursor, RESULTS_A_MESSAGE):
            cursor = await self._write_results(context, results, cursor)
        return cursor

    @staticmethod
    async def _write_results(context: Context, results: list[TaskResult], cursor: int) -> int:
        """Send results, in messages that are not too long; the cursor after them."""
        message, size = driver_pb2.Results(), 0
        for result in results:
            one = convert.result_to_proto(result)
            message.results.append(one)
            size += one.ByteSize()
            if size >= bounds.WATCH_MESSAGE_BYTES:
                await context.write(driver_pb2.WatchEvent(results=message))
                message, size = driver_pb2.Results(), 0
        if message.results:
            await context.write(driver_pb2.WatchEvent(results=message))
        return results[-1].cursor if results else cursor

    async def _unwatched(self, run_id: str) -> None:
        async def note() -> None:
            if run_id not in self._watches:  # the driver may be back before this is stored
                await self._store.run_seen(run_id, False)

        await until_stored(note, f"the driver of run {run_id} disconnected")
        log.debug("A stream of the driver of run %s has ended", run_id)

    @call(Role.DRIVER)
    async def StartUpload(  # noqa: N802
        self, request: records_pb2.StartUploadRequest, context: Context, who: Identity
    ) -> records_pb2.StartUploadReply:
        """Where to put parameters."""
        await self._store.check_run(who, request.run_id)
        return await self._grants.upload(who, request)

    @call(Role.DRIVER)
    async def ResolveBlob(  # noqa: N802
        self, request: records_pb2.ResolveBlobRequest, context: Context, who: Identity
    ) -> records_pb2.ResolveBlobReply:
        """Where to get the parameters of a result."""
        blob = await self._store.blob_for_driver(who, request.run_id, convert.check_digest(request.digest))
        return self._grants.download(who, blob)

    @call(Role.DRIVER)
    async def AcknowledgeRound(  # noqa: N802
        self, request: driver_pb2.AcknowledgeRoundRequest, context: Context, who: Identity
    ) -> driver_pb2.AcknowledgeRoundReply:
        """Release what clients and server keep for rounds that are safe with the driver."""
        bounds.check_round(request.round)
        bounds.check_ids("keep", request.keep)
        bounds.check_ids("manifest", request.manifest)
        for one in request.manifest:
            bounds.check_round(one.round)
            bounds.check_manifest(one.round, one.line)
        manifest = [(one.round, one.line) for one in request.manifest]
        done = await self._store.acknowledge_round(who, request.run_id, request.round, list(request.keep), manifest)
        self._notifier.cancelled([], done.notify, ROUND_IS_OVER)
        self._notifier.released(done.release)
        await self._notifier.unlink(done.files)
        return driver_pb2.AcknowledgeRoundReply()

    @call(Role.DRIVER)
    async def EndRun(  # noqa: N802
        self, request: driver_pb2.EndRunRequest, context: Context, who: Identity
    ) -> driver_pb2.EndRunReply:
        """End a run."""
        bounds.check_reason(request.message)
        state = convert.run_state_from_proto(request.state)
        if state not in (RunState.FINISHED, RunState.FAILED, RunState.STOPPED):
            raise InvalidArgument(f"A run cannot end as {state}.")
        ended = await self._store.end_run(who, request.run_id, state, request.message)
        await self._notifier.run_ended(request.run_id, ended)
        outcome = f"{state}: {request.message}" if request.message else str(state)
        log.info("Run %s %s", request.run_id, outcome, extra={"action": "run_ended"})
        return driver_pb2.EndRunReply()
