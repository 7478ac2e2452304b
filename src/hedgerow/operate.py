"""What an operator asks of a server: the other side of the Operator API. Nothing is printed here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc.aio

from hedgerow.certificates import Tls
from hedgerow.errors import HedgerowError, ProtocolMismatch, Unavailable
from hedgerow.security import Identity, Role
from hedgerow.waits import Limit, wait
from hedgerow.wire import convert
from hedgerow.wire.channel import Address, open_channel
from hedgerow.wire.proto import operator_pb2, operator_pb2_grpc
from hedgerow.wire.status import from_rpc_error

T = TypeVar("T")

ANSWER = Limit("operator_call_s", 20.0)
_STATES = ("queued", "sent", "done", "failed", "expired", "cancelled")


@dataclass(frozen=True, slots=True)
class RunView:
    """A run. Times are Unix time in seconds; ``last_seen`` is the last sign of life of its driver."""

    run_id: str
    name: str
    seed: int
    state: str
    message: str
    created_at: float
    ended_at: float | None
    last_seen: float
    driver_connected: bool
    round: int
    tasks: dict[str, int]


@dataclass(frozen=True, slots=True)
class RoundView:
    """The tasks of one kind in one round."""

    round: int
    kind: str
    tasks: dict[str, int]


@dataclass(frozen=True, slots=True)
class FailureView:
    """A task that ended without a result."""

    task_id: str
    node: str
    round: int
    kind: str
    outcome: str
    message: str


@dataclass(frozen=True, slots=True)
class NodeOutcomeView:
    """What came of a node in one phase of a round: ``contributed``, ``late``, ``failed`` or ``excluded``, and why.

    ``examples``, ``bytes`` and ``seconds`` are None where nothing came.
    """

    node: str
    asked: bool
    outcome: str
    reason: str = ""
    message: str = ""
    examples: int | None = None
    bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RoundManifestView:
    """What came of each node in a round that is over, by phase; ``reason`` says why it is not valid."""

    round: int
    valid: bool
    reason: str
    phases: dict[str, list[NodeOutcomeView]]


@dataclass(frozen=True, slots=True)
class RunDetailView:
    """A run with its rounds, its newest failures, what the server keeps for it, and the manifests of its rounds."""

    run: RunView
    rounds: list[RoundView]
    failures: list[FailureView]
    blobs: int
    blob_bytes: int
    manifest: list[RoundManifestView]


@dataclass(frozen=True, slots=True)
class StopView:
    """A run that is over, and whether it was not over before."""

    run: RunView
    stopped: bool


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node. Times are Unix time in seconds."""

    node_id: str
    name: str
    state: str
    last_seen: float
    created_at: float
    open_tasks: int


class Operator:
    """A server as operators see it. Each method connects, asks once and blocks until the answer is there.

    Args:
        server: Address of the Driver API.
        tls: What to connect with; None for a connection without TLS.

    Every method raises :class:`Unavailable` where no server answers, and what the server refuses with.
    """

    def __init__(self, server: Address, tls: Tls | None) -> None:
        self._server = server
        self._tls = None if tls is None else tls.check(Role.OPERATOR)
        self._metadata = Identity.fresh(Role.OPERATOR).metadata()

    def runs(self, limit: int) -> list[RunView]:
        """The newest runs, newest first."""
        request = operator_pb2.ListRunsRequest(limit=limit)
        reply = self._ask(lambda stub: stub.ListRuns(request, metadata=self._metadata, timeout=ANSWER.seconds))
        return [_run(run) for run in reply.runs]

    def run(self, beginning: str, newest_rounds: int | None = None) -> RunDetailView:
        """The run whose id is or begins like this, with the manifests of so many rounds at most; None for all."""
        request = operator_pb2.GetRunRequest(run_id=beginning)
        reply = self._ask(lambda stub: stub.GetRun(request, metadata=self._metadata, timeout=ANSWER.seconds))
        rounds = [RoundView(r.round, r.kind, _tasks(r.tasks)) for r in reply.rounds]
        failures = [
            FailureView(f.task_id, f.node, f.round, f.kind, convert.outcome_from_proto(f.outcome).value, f.message)
            for f in reply.failures
        ]
        run = _run(reply.run)
        after = 0 if newest_rounds is None else max(0, run.round - newest_rounds)
        return RunDetailView(run, rounds, failures, reply.blobs, reply.blob_bytes, self._manifest(run.run_id, after))

    def _manifest(self, run_id: str, after_round: int) -> list[RoundManifestView]:
        found: list[RoundManifestView] = []
        while True:
            request = operator_pb2.GetManifestRequest(run_id=run_id, after_round=after_round)
            reply = self._ask(
                lambda stub, request=request: stub.GetManifest(request, metadata=self._metadata, timeout=ANSWER.seconds)  # type: ignore[misc]
            )
            if not reply.rounds:
                return found
            found += [_manifest(one.round, one.line) for one in reply.rounds]
            after_round = reply.rounds[-1].round

    def stop(self, beginning: str, reason: str) -> StopView:
        """End the run whose id is or begins like this, as STOPPED."""
        request = operator_pb2.StopRunRequest(run_id=beginning, reason=reason)
        reply = self._ask(lambda stub: stub.StopRun(request, metadata=self._metadata, timeout=ANSWER.seconds))
        return StopView(_run(reply.run), reply.stopped)

    def nodes(self) -> list[NodeView]:
        """All nodes, ordered by name."""
        request = operator_pb2.ListNodesRequest()
        reply = self._ask(lambda stub: stub.ListNodes(request, metadata=self._metadata, timeout=ANSWER.seconds))
        return [_node(node) for node in reply.nodes]

    def _ask(self, call: Callable[[operator_pb2_grpc.OperatorAsyncStub], Awaitable[T]]) -> T:
        return asyncio.run(self._ask_once(call))

    async def _ask_once(self, call: Callable[[operator_pb2_grpc.OperatorAsyncStub], Awaitable[T]]) -> T:
        async with open_channel(self._server, self._tls) as channel:
            stub: operator_pb2_grpc.OperatorAsyncStub = operator_pb2_grpc.OperatorStub(channel)
            try:
                return await wait(call(stub), ANSWER, f"the server at {self._server.text}")
            except grpc.aio.AioRpcError as failed:
                raise self._told(from_rpc_error(failed)) from None

    def _told(self, error: HedgerowError) -> HedgerowError:
        where = self._server.text
        if isinstance(error, Unavailable):
            return Unavailable(f"No server answers at {where}: {error} Is it running, and is this its Driver API (--server)?")
        if isinstance(error, ProtocolMismatch) and "Method not found" in str(error):
            return ProtocolMismatch(f"What answers at {where} is not the Driver API of this version. Check --server.")
        return error


def _tasks(message: operator_pb2.TaskCounts) -> dict[str, int]:
    return {state: getattr(message, state) for state in _STATES}


def _run(message: operator_pb2.RunSummary) -> RunView:
    return RunView(
        run_id=message.run_id,
        name=message.name,
        seed=message.seed,
        state=convert.run_state_from_proto(message.state).value,
        message=message.message,
        created_at=message.created_at,
        ended_at=message.ended_at if message.HasField("ended_at") else None,
        last_seen=message.last_seen,
        driver_connected=message.driver_connected,
        round=message.round,
        tasks=_tasks(message.tasks),
    )


def _manifest(round: int, line: str) -> RoundManifestView:
    """A line as a driver gave it; what cannot be read is told as the round's reason."""
    try:
        told = json.loads(line)
        phases = {phase: [_outcome(entry) for entry in entries] for phase, entries in told.items() if isinstance(entries, list)}
        return RoundManifestView(round, bool(told["valid"]), str(told["reason"]), phases)
    except (ValueError, KeyError, TypeError, AttributeError):
        return RoundManifestView(round, False, "its manifest cannot be read", {})


def _outcome(entry: dict[str, Any]) -> NodeOutcomeView:
    return NodeOutcomeView(
        str(entry["node"]),
        bool(entry["asked"]),
        str(entry["outcome"]),
        str(entry.get("reason", "")),
        str(entry.get("message", "")),
        entry.get("examples"),
        entry.get("bytes"),
        entry.get("seconds"),
    )


def _node(message: operator_pb2.NodeSummary) -> NodeView:
    state = convert.node_state_from_proto(message.state)
    return NodeView(message.node_id, message.name, state.value, message.last_seen, message.created_at, message.open_tasks)
