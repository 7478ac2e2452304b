from hedgerow.wire.proto import records_pb2 as _records_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_PENDING: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_FINISHED: _ClassVar[RunState]
    RUN_STATE_FAILED: _ClassVar[RunState]
    RUN_STATE_STOPPED: _ClassVar[RunState]
    RUN_STATE_INTERRUPTED: _ClassVar[RunState]
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_PENDING: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_FINISHED: RunState
RUN_STATE_FAILED: RunState
RUN_STATE_STOPPED: RunState
RUN_STATE_INTERRUPTED: RunState

class CreateRunRequest(_message.Message):
    __slots__ = ("run_id", "name", "seed", "server_id")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SERVER_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    name: str
    seed: int
    server_id: str
    def __init__(self, run_id: _Optional[str] = ..., name: _Optional[str] = ..., seed: _Optional[int] = ..., server_id: _Optional[str] = ...) -> None: ...

class CreateRunReply(_message.Message):
    __slots__ = ("server_id", "state", "data_plane", "acknowledged_rounds")
    SERVER_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DATA_PLANE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    server_id: str
    state: RunState
    data_plane: _records_pb2.DataPlane
    acknowledged_rounds: int
    def __init__(self, server_id: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., data_plane: _Optional[_Union[_records_pb2.DataPlane, _Mapping]] = ..., acknowledged_rounds: _Optional[int] = ...) -> None: ...

class PushTasksRequest(_message.Message):
    __slots__ = ("run_id", "tasks")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    tasks: _containers.RepeatedCompositeFieldContainer[_records_pb2.Task]
    def __init__(self, run_id: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[_records_pb2.Task, _Mapping]]] = ...) -> None: ...

class PushTasksReply(_message.Message):
    __slots__ = ("created",)
    CREATED_FIELD_NUMBER: _ClassVar[int]
    created: int
    def __init__(self, created: _Optional[int] = ...) -> None: ...

class CancelTasksRequest(_message.Message):
    __slots__ = ("run_id", "task_ids", "reason")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    def __init__(self, run_id: _Optional[str] = ..., task_ids: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ...) -> None: ...

class CancelTasksReply(_message.Message):
    __slots__ = ("cancelled",)
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    cancelled: int
    def __init__(self, cancelled: _Optional[int] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("run_id", "after_result", "after_node_version")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_RESULT_FIELD_NUMBER: _ClassVar[int]
    AFTER_NODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    after_result: int
    after_node_version: int
    def __init__(self, run_id: _Optional[str] = ..., after_result: _Optional[int] = ..., after_node_version: _Optional[int] = ...) -> None: ...

class WatchEvent(_message.Message):
    __slots__ = ("nodes", "results", "beat", "ended")
    NODES_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    nodes: NodeChanges
    results: Results
    beat: WatchBeat
    ended: RunEnded
    def __init__(self, nodes: _Optional[_Union[NodeChanges, _Mapping]] = ..., results: _Optional[_Union[Results, _Mapping]] = ..., beat: _Optional[_Union[WatchBeat, _Mapping]] = ..., ended: _Optional[_Union[RunEnded, _Mapping]] = ...) -> None: ...

class NodeChanges(_message.Message):
    __slots__ = ("nodes", "complete")
    NODES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[_records_pb2.Node]
    complete: bool
    def __init__(self, nodes: _Optional[_Iterable[_Union[_records_pb2.Node, _Mapping]]] = ..., complete: bool = ...) -> None: ...

class Results(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[_records_pb2.TaskResult]
    def __init__(self, results: _Optional[_Iterable[_Union[_records_pb2.TaskResult, _Mapping]]] = ...) -> None: ...

class WatchBeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunEnded(_message.Message):
    __slots__ = ("state", "message")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    message: str
    def __init__(self, state: _Optional[_Union[RunState, str]] = ..., message: _Optional[str] = ...) -> None: ...

class AcknowledgeRoundRequest(_message.Message):
    __slots__ = ("run_id", "round", "keep", "manifest")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    keep: _containers.RepeatedScalarFieldContainer[str]
    manifest: _containers.RepeatedCompositeFieldContainer[ManifestLine]
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., keep: _Optional[_Iterable[str]] = ..., manifest: _Optional[_Iterable[_Union[ManifestLine, _Mapping]]] = ...) -> None: ...

class ManifestLine(_message.Message):
    __slots__ = ("round", "line")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    round: int
    line: str
    def __init__(self, round: _Optional[int] = ..., line: _Optional[str] = ...) -> None: ...

class AcknowledgeRoundReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EndRunRequest(_message.Message):
    __slots__ = ("run_id", "state", "message")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    state: RunState
    message: str
    def __init__(self, run_id: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., message: _Optional[str] = ...) -> None: ...

class EndRunReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
