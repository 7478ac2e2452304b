from hedgerow.wire.proto import records_pb2 as _records_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WorkerRequest(_message.Message):
    __slots__ = ("task", "parameters_path", "result_path", "node_name", "state_path", "new_state_path", "inline_max_bytes")
    TASK_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_PATH_FIELD_NUMBER: _ClassVar[int]
    RESULT_PATH_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_PATH_FIELD_NUMBER: _ClassVar[int]
    NEW_STATE_PATH_FIELD_NUMBER: _ClassVar[int]
    INLINE_MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    task: _records_pb2.Task
    parameters_path: str
    result_path: str
    node_name: str
    state_path: str
    new_state_path: str
    inline_max_bytes: int
    def __init__(self, task: _Optional[_Union[_records_pb2.Task, _Mapping]] = ..., parameters_path: _Optional[str] = ..., result_path: _Optional[str] = ..., node_name: _Optional[str] = ..., state_path: _Optional[str] = ..., new_state_path: _Optional[str] = ..., inline_max_bytes: _Optional[int] = ...) -> None: ...

class KeptState(_message.Message):
    __slots__ = ("scalars", "keys")
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    scalars: _containers.RepeatedCompositeFieldContainer[_records_pb2.Entry]
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scalars: _Optional[_Iterable[_Union[_records_pb2.Entry, _Mapping]]] = ..., keys: _Optional[_Iterable[str]] = ...) -> None: ...

class WorkerReply(_message.Message):
    __slots__ = ("ready", "broken", "done")
    READY_FIELD_NUMBER: _ClassVar[int]
    BROKEN_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    ready: WorkerReady
    broken: WorkerBroken
    done: WorkerDone
    def __init__(self, ready: _Optional[_Union[WorkerReady, _Mapping]] = ..., broken: _Optional[_Union[WorkerBroken, _Mapping]] = ..., done: _Optional[_Union[WorkerDone, _Mapping]] = ...) -> None: ...

class WorkerReady(_message.Message):
    __slots__ = ("suggested_name",)
    SUGGESTED_NAME_FIELD_NUMBER: _ClassVar[int]
    suggested_name: str
    def __init__(self, suggested_name: _Optional[str] = ...) -> None: ...

class WorkerBroken(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class WorkerDone(_message.Message):
    __slots__ = ("task_id", "reply", "has_parameters")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    HAS_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    reply: _records_pb2.Reply
    has_parameters: bool
    def __init__(self, task_id: _Optional[str] = ..., reply: _Optional[_Union[_records_pb2.Reply, _Mapping]] = ..., has_parameters: bool = ...) -> None: ...

class KeptResult(_message.Message):
    __slots__ = ("run_id", "kind", "reply", "upload_id", "parameters_size", "round", "driver")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_SIZE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    kind: str
    reply: _records_pb2.Reply
    upload_id: str
    parameters_size: int
    round: int
    driver: str
    def __init__(self, run_id: _Optional[str] = ..., kind: _Optional[str] = ..., reply: _Optional[_Union[_records_pb2.Reply, _Mapping]] = ..., upload_id: _Optional[str] = ..., parameters_size: _Optional[int] = ..., round: _Optional[int] = ..., driver: _Optional[str] = ...) -> None: ...
