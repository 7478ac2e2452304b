"""The Operator API: what people see of runs and nodes, and how they end a run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from hedgerow.clock import Clock
from hedgerow.errors import InvalidArgument
from hedgerow.records import RunState
from hedgerow.security import Identity, Role
from hedgerow.server.admission import Admission
from hedgerow.server.calls import Context, call
from hedgerow.server.notifier import Notifier
from hedgerow.server.sessions import Sessions
from hedgerow.store.changes import NodeOverview, RunOverview
from hedgerow.store.store import Store
from hedgerow.task_states import TaskState
from hedgerow.wire import convert
from hedgerow.wire.proto import operator_pb2, operator_pb2_grpc

log = logging.getLogger(__name__)

MOST_RUNS = 1000
ROUNDS_A_MESSAGE = 100
MANIFEST_MESSAGE_BYTES = 1024 * 1024  # the goal; a single round may be larger
MAX_REASON_CHARS = 2000


class Operator(operator_pb2_grpc.OperatorServicer):
    """What operators ask of the server."""

    def __init__(self, store: Store, sessions: Sessions, notifier: Notifier, clock: Clock, admission: Admission) -> None:
        self.admission = admission
        self._store = store
        self._sessions = sessions
        self._notifier = notifier
        self._clock = clock

    @call(Role.OPERATOR)
    async def ListRuns(  # noqa: N802 (named by the protocol)
        self, request: operator_pb2.ListRunsRequest, context: Context, who: Identity
    ) -> operator_pb2.ListRunsReply:
        """The newest runs."""
        runs = await self._store.list_runs(min(request.limit or MOST_RUNS, MOST_RUNS))
        return operator_pb2.ListRunsReply(runs=map(self._run, runs))

    @call(Role.OPERATOR)
    async def GetRun(  # noqa: N802
        self, request: operator_pb2.GetRunRequest, context: Context, who: Identity
    ) -> operator_pb2.GetRunReply:
        """One run in detail."""
        detail = await self._store.run_detail(request.run_id)
        return operator_pb2.GetRunReply(
            run=self._run(detail.run),
            rounds=[operator_pb2.RoundSummary(round=r.round, kind=r.kind, tasks=_tasks(r.tasks)) for r in detail.rounds],
            failures=[
                operator_pb2.FailedTask(
                    task_id=f.task_id,
                    node=f.node,
                    round=f.round,
                    kind=f.kind,
                    outcome=convert.outcome_to_proto(f.outcome),
                    message=f.message,
                )
                for f in detail.failures
            ],
            blobs=detail.blobs,
            blob_bytes=detail.blob_bytes,
        )

    @call(Role.OPERATOR)
    async def GetManifest(  # noqa: N802
        self, request: operator_pb2.GetManifestRequest, context: Context, who: Identity
    ) -> operator_pb2.GetManifestReply:
        """What came of each node in the next rounds, as many as fit into a message."""
        run_id = (await self._store.find_run(request.run_id)).info.run_id
        reply = operator_pb2.GetManifestReply()
        size = 0
        for round, line in await self._store.manifest(run_id, request.after_round, ROUNDS_A_MESSAGE):
            size += len(line.encode())
            if reply.rounds and size > MANIFEST_MESSAGE_BYTES:
                break
            reply.rounds.add(round=round, line=line)
        return reply

    @call(Role.OPERATOR)
    async def StopRun(  # noqa: N802
        self, request: operator_pb2.StopRunRequest, context: Context, who: Identity
    ) -> operator_pb2.StopRunReply:
        """End a run as STOPPED."""
        if len(request.reason) > MAX_REASON_CHARS:
            raise InvalidArgument(f"A reason has up to {MAX_REASON_CHARS} characters, not {len(request.reason)}.")
        run_id = (await self._store.find_run(request.run_id)).info.run_id
        ended = await self._store.end_run(None, run_id, RunState.STOPPED, request.reason or "stopped by an operator")
        if ended.changed:
            log.info("Run %s stopped by an operator at %s", run_id, context.peer(), extra={"action": "run_stopped"})
        await self._notifier.run_ended(run_id, ended)
        run = await self._store.find_run(run_id)
        return operator_pb2.StopRunReply(run=self._run(run), stopped=ended.changed)

    @call(Role.OPERATOR)
    async def ListNodes(  # noqa: N802
        self, request: operator_pb2.ListNodesRequest, context: Context, who: Identity
    ) -> operator_pb2.ListNodesReply:
        """All nodes."""
        return operator_pb2.ListNodesReply(nodes=map(self._node, await self._store.list_nodes()))

    def _run(self, run: RunOverview) -> operator_pb2.RunSummary:
        info = run.info
        return operator_pb2.RunSummary(
            run_id=info.run_id,
            name=info.name,
            seed=info.seed,
            state=convert.run_state_to_proto(info.state),
            message=info.message,
            created_at=info.created_at,
            ended_at=info.ended_at,
            last_seen=self._clock.now() if info.watched else info.last_seen,
            driver_connected=info.watched,
            round=run.round,
            tasks=_tasks(run.tasks),
        )

    def _node(self, overview: NodeOverview) -> operator_pb2.NodeSummary:
        message = convert.node_to_proto(overview.node)
        last_seen = message.last_seen
        session = self._sessions.find(message.node_id)
        if session is not None and session.last_heard:
            silent_s = asyncio.get_running_loop().time() - session.last_heard
            last_seen = max(last_seen, self._clock.now() - silent_s)
        return operator_pb2.NodeSummary(
            node_id=message.node_id,
            name=message.name,
            state=message.state,
            last_seen=last_seen,
            created_at=overview.created_at,
            open_tasks=overview.open_tasks,
        )


def _tasks(tasks: Mapping[TaskState, int]) -> operator_pb2.TaskCounts:
    return operator_pb2.TaskCounts(**{state.value: number for state, number in tasks.items()})
