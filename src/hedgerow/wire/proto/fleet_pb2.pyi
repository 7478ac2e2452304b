from hedgerow.wire.proto import records_pb2 as _records_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionUp(_message.Message):
    __slots__ = ("hello", "beat", "leave", "complete")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    beat: Beat
    leave: Leave
    complete: Complete
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., complete: _Optional[_Union[Complete, _Mapping]] = ...) -> None: ...

class SessionDown(_message.Message):
    __slots__ = ("welcome", "assign", "cancel", "beat", "goodbye", "origin", "completed", "release")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ASSIGN_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    assign: _records_pb2.Task
    cancel: Cancel
    beat: Beat
    goodbye: Goodbye
    origin: _records_pb2.Origin
    completed: _containers.RepeatedCompositeFieldContainer[Completed]
    release: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., assign: _Optional[_Union[_records_pb2.Task, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., origin: _Optional[_Union[_records_pb2.Origin, _Mapping]] = ..., completed: _Optional[_Iterable[_Union[Completed, _Mapping]]] = ..., release: _Optional[_Iterable[str]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("node_id", "name", "software", "running", "finished", "transport_dtypes")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_DTYPES_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    software: str
    running: _containers.RepeatedScalarFieldContainer[str]
    finished: _containers.RepeatedScalarFieldContainer[str]
    transport_dtypes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., software: _Optional[str] = ..., running: _Optional[_Iterable[str]] = ..., finished: _Optional[_Iterable[str]] = ..., transport_dtypes: _Optional[_Iterable[str]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("server_id", "epoch", "beat_interval_s", "data_plane", "reconnect_within_s")
    SERVER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BEAT_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    DATA_PLANE_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_WITHIN_S_FIELD_NUMBER: _ClassVar[int]
    server_id: str
    epoch: int
    beat_interval_s: float
    data_plane: _records_pb2.DataPlane
    reconnect_within_s: float
    def __init__(self, server_id: _Optional[str] = ..., epoch: _Optional[int] = ..., beat_interval_s: _Optional[float] = ..., data_plane: _Optional[_Union[_records_pb2.DataPlane, _Mapping]] = ..., reconnect_within_s: _Optional[float] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("beat_interval_s", "reconnect_within_s")
    BEAT_INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_WITHIN_S_FIELD_NUMBER: _ClassVar[int]
    beat_interval_s: float
    reconnect_within_s: float
    def __init__(self, beat_interval_s: _Optional[float] = ..., reconnect_within_s: _Optional[float] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("reason", "handed_back")
    REASON_FIELD_NUMBER: _ClassVar[int]
    HANDED_BACK_FIELD_NUMBER: _ClassVar[int]
    reason: str
    handed_back: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reason: _Optional[str] = ..., handed_back: _Optional[_Iterable[str]] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("task_id", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason", "come_back_after_s", "job_done")
    REASON_FIELD_NUMBER: _ClassVar[int]
    COME_BACK_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    JOB_DONE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    come_back_after_s: float
    job_done: bool
    def __init__(self, reason: _Optional[str] = ..., come_back_after_s: _Optional[float] = ..., job_done: bool = ...) -> None: ...

class Complete(_message.Message):
    __slots__ = ("task_id", "reply")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    reply: _records_pb2.Reply
    def __init__(self, task_id: _Optional[str] = ..., reply: _Optional[_Union[_records_pb2.Reply, _Mapping]] = ...) -> None: ...

class Completed(_message.Message):
    __slots__ = ("task_id", "accepted", "release", "refusal")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    accepted: bool
    release: bool
    refusal: Refusal
    def __init__(self, task_id: _Optional[str] = ..., accepted: bool = ..., release: bool = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("error", "message")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error: str
    message: str
    def __init__(self, error: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
