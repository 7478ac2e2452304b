from hedgerow.wire.proto import driver_pb2 as _driver_pb2
from hedgerow.wire.proto import records_pb2 as _records_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListRunsRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListRunsReply(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunSummary]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunSummary, _Mapping]]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class GetRunReply(_message.Message):
    __slots__ = ("run", "rounds", "failures", "blobs", "blob_bytes")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    BLOB_BYTES_FIELD_NUMBER: _ClassVar[int]
    run: RunSummary
    rounds: _containers.RepeatedCompositeFieldContainer[RoundSummary]
    failures: _containers.RepeatedCompositeFieldContainer[FailedTask]
    blobs: int
    blob_bytes: int
    def __init__(self, run: _Optional[_Union[RunSummary, _Mapping]] = ..., rounds: _Optional[_Iterable[_Union[RoundSummary, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[FailedTask, _Mapping]]] = ..., blobs: _Optional[int] = ..., blob_bytes: _Optional[int] = ...) -> None: ...

class GetManifestRequest(_message.Message):
    __slots__ = ("run_id", "after_round")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_ROUND_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    after_round: int
    def __init__(self, run_id: _Optional[str] = ..., after_round: _Optional[int] = ...) -> None: ...

class GetManifestReply(_message.Message):
    __slots__ = ("rounds",)
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    rounds: _containers.RepeatedCompositeFieldContainer[RoundManifest]
    def __init__(self, rounds: _Optional[_Iterable[_Union[RoundManifest, _Mapping]]] = ...) -> None: ...

class RoundManifest(_message.Message):
    __slots__ = ("round", "line")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    round: int
    line: str
    def __init__(self, round: _Optional[int] = ..., line: _Optional[str] = ...) -> None: ...

class StopRunRequest(_message.Message):
    __slots__ = ("run_id", "reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    reason: str
    def __init__(self, run_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class StopRunReply(_message.Message):
    __slots__ = ("run", "stopped")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    run: RunSummary
    stopped: bool
    def __init__(self, run: _Optional[_Union[RunSummary, _Mapping]] = ..., stopped: bool = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListNodesReply(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeSummary]
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeSummary, _Mapping]]] = ...) -> None: ...

class RunSummary(_message.Message):
    __slots__ = ("run_id", "name", "seed", "state", "message", "created_at", "ended_at", "last_seen", "driver_connected", "round", "tasks")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    DRIVER_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    name: str
    seed: int
    state: _driver_pb2.RunState
    message: str
    created_at: float
    ended_at: float
    last_seen: float
    driver_connected: bool
    round: int
    tasks: TaskCounts
    def __init__(self, run_id: _Optional[str] = ..., name: _Optional[str] = ..., seed: _Optional[int] = ..., state: _Optional[_Union[_driver_pb2.RunState, str]] = ..., message: _Optional[str] = ..., created_at: _Optional[float] = ..., ended_at: _Optional[float] = ..., last_seen: _Optional[float] = ..., driver_connected: bool = ..., round: _Optional[int] = ..., tasks: _Optional[_Union[TaskCounts, _Mapping]] = ...) -> None: ...

class TaskCounts(_message.Message):
    __slots__ = ("queued", "sent", "done", "failed", "expired", "cancelled")
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    queued: int
    sent: int
    done: int
    failed: int
    expired: int
    cancelled: int
    def __init__(self, queued: _Optional[int] = ..., sent: _Optional[int] = ..., done: _Optional[int] = ..., failed: _Optional[int] = ..., expired: _Optional[int] = ..., cancelled: _Optional[int] = ...) -> None: ...

class RoundSummary(_message.Message):
    __slots__ = ("round", "kind", "tasks")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    round: int
    kind: str
    tasks: TaskCounts
    def __init__(self, round: _Optional[int] = ..., kind: _Optional[str] = ..., tasks: _Optional[_Union[TaskCounts, _Mapping]] = ...) -> None: ...

class FailedTask(_message.Message):
    __slots__ = ("task_id", "node", "round", "kind", "outcome", "message")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    node: str
    round: int
    kind: str
    outcome: _records_pb2.Outcome
    message: str
    def __init__(self, task_id: _Optional[str] = ..., node: _Optional[str] = ..., round: _Optional[int] = ..., kind: _Optional[str] = ..., outcome: _Optional[_Union[_records_pb2.Outcome, str]] = ..., message: _Optional[str] = ...) -> None: ...

class NodeSummary(_message.Message):
    __slots__ = ("node_id", "name", "state", "last_seen", "created_at", "open_tasks")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    OPEN_TASKS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    state: _records_pb2.NodeState
    last_seen: float
    created_at: float
    open_tasks: int
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[_Union[_records_pb2.NodeState, str]] = ..., last_seen: _Optional[float] = ..., created_at: _Optional[float] = ..., open_tasks: _Optional[int] = ...) -> None: ...
