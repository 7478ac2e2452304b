from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_OK: _ClassVar[Outcome]
    OUTCOME_NOT_IMPLEMENTED: _ClassVar[Outcome]
    OUTCOME_USER_ERROR: _ClassVar[Outcome]
    OUTCOME_WORKER_DIED: _ClassVar[Outcome]
    OUTCOME_INVALID_RESULT: _ClassVar[Outcome]
    OUTCOME_NODE_LOST: _ClassVar[Outcome]
    OUTCOME_EXPIRED: _ClassVar[Outcome]
    OUTCOME_CANCELLED: _ClassVar[Outcome]
    OUTCOME_REFUSED: _ClassVar[Outcome]

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_STATE_UNSPECIFIED: _ClassVar[NodeState]
    NODE_STATE_ONLINE: _ClassVar[NodeState]
    NODE_STATE_AWAY: _ClassVar[NodeState]
    NODE_STATE_LOST: _ClassVar[NodeState]
    NODE_STATE_LEFT: _ClassVar[NodeState]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_OK: Outcome
OUTCOME_NOT_IMPLEMENTED: Outcome
OUTCOME_USER_ERROR: Outcome
OUTCOME_WORKER_DIED: Outcome
OUTCOME_INVALID_RESULT: Outcome
OUTCOME_NODE_LOST: Outcome
OUTCOME_EXPIRED: Outcome
OUTCOME_CANCELLED: Outcome
OUTCOME_REFUSED: Outcome
NODE_STATE_UNSPECIFIED: NodeState
NODE_STATE_ONLINE: NodeState
NODE_STATE_AWAY: NodeState
NODE_STATE_LOST: NodeState
NODE_STATE_LEFT: NodeState

class Scalar(_message.Message):
    __slots__ = ("float64", "int64", "boolean", "text", "raw")
    FLOAT64_FIELD_NUMBER: _ClassVar[int]
    INT64_FIELD_NUMBER: _ClassVar[int]
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    float64: float
    int64: int
    boolean: bool
    text: str
    raw: bytes
    def __init__(self, float64: _Optional[float] = ..., int64: _Optional[int] = ..., boolean: bool = ..., text: _Optional[str] = ..., raw: _Optional[bytes] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: Scalar
    def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Scalar, _Mapping]] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("digest", "size")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size: int
    def __init__(self, digest: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("inline", "blob")
    INLINE_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    inline: bytes
    blob: Blob
    def __init__(self, inline: _Optional[bytes] = ..., blob: _Optional[_Union[Blob, _Mapping]] = ...) -> None: ...

class Instruction(_message.Message):
    __slots__ = ("kind", "config", "parameters", "transport_dtype")
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_DTYPE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    config: _containers.RepeatedCompositeFieldContainer[Entry]
    parameters: Payload
    transport_dtype: str
    def __init__(self, kind: _Optional[str] = ..., config: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., parameters: _Optional[_Union[Payload, _Mapping]] = ..., transport_dtype: _Optional[str] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("task_id", "run_id", "node_id", "round", "sequence", "seed", "instruction")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    run_id: str
    node_id: str
    round: int
    sequence: int
    seed: int
    instruction: Instruction
    def __init__(self, task_id: _Optional[str] = ..., run_id: _Optional[str] = ..., node_id: _Optional[str] = ..., round: _Optional[int] = ..., sequence: _Optional[int] = ..., seed: _Optional[int] = ..., instruction: _Optional[_Union[Instruction, _Mapping]] = ...) -> None: ...

class Origin(_message.Message):
    __slots__ = ("driver", "sites")
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    driver: str
    sites: int
    def __init__(self, driver: _Optional[str] = ..., sites: _Optional[int] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("outcome", "message", "traceback", "num_examples", "loss", "metrics", "parameters", "duration_s", "worker_deaths")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    NUM_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    WORKER_DEATHS_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    message: str
    traceback: str
    num_examples: int
    loss: float
    metrics: _containers.RepeatedCompositeFieldContainer[Entry]
    parameters: Payload
    duration_s: float
    worker_deaths: int
    def __init__(self, outcome: _Optional[_Union[Outcome, str]] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ..., num_examples: _Optional[int] = ..., loss: _Optional[float] = ..., metrics: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., parameters: _Optional[_Union[Payload, _Mapping]] = ..., duration_s: _Optional[float] = ..., worker_deaths: _Optional[int] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("cursor", "task_id", "node_id", "round", "kind", "reply")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    task_id: str
    node_id: str
    round: int
    kind: str
    reply: Reply
    def __init__(self, cursor: _Optional[int] = ..., task_id: _Optional[str] = ..., node_id: _Optional[str] = ..., round: _Optional[int] = ..., kind: _Optional[str] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("node_id", "name", "state", "version", "last_seen", "transport_dtypes")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_DTYPES_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    state: NodeState
    version: int
    last_seen: float
    transport_dtypes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[_Union[NodeState, str]] = ..., version: _Optional[int] = ..., last_seen: _Optional[float] = ..., transport_dtypes: _Optional[_Iterable[str]] = ...) -> None: ...

class DataPlane(_message.Message):
    __slots__ = ("blob_port", "blob_public_url", "inline_max_bytes")
    BLOB_PORT_FIELD_NUMBER: _ClassVar[int]
    BLOB_PUBLIC_URL_FIELD_NUMBER: _ClassVar[int]
    INLINE_MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    blob_port: int
    blob_public_url: str
    inline_max_bytes: int
    def __init__(self, blob_port: _Optional[int] = ..., blob_public_url: _Optional[str] = ..., inline_max_bytes: _Optional[int] = ...) -> None: ...

class StartUploadRequest(_message.Message):
    __slots__ = ("upload_id", "size", "run_id")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    size: int
    run_id: str
    def __init__(self, upload_id: _Optional[str] = ..., size: _Optional[int] = ..., run_id: _Optional[str] = ...) -> None: ...

class StartUploadReply(_message.Message):
    __slots__ = ("url", "url_lifetime_s", "done")
    URL_FIELD_NUMBER: _ClassVar[int]
    URL_LIFETIME_S_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    url: str
    url_lifetime_s: float
    done: Blob
    def __init__(self, url: _Optional[str] = ..., url_lifetime_s: _Optional[float] = ..., done: _Optional[_Union[Blob, _Mapping]] = ...) -> None: ...

class ResolveBlobRequest(_message.Message):
    __slots__ = ("digest", "run_id", "task_id")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    digest: str
    run_id: str
    task_id: str
    def __init__(self, digest: _Optional[str] = ..., run_id: _Optional[str] = ..., task_id: _Optional[str] = ...) -> None: ...

class ResolveBlobReply(_message.Message):
    __slots__ = ("url", "url_lifetime_s", "size")
    URL_FIELD_NUMBER: _ClassVar[int]
    URL_LIFETIME_S_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    url: str
    url_lifetime_s: float
    size: int
    def __init__(self, url: _Optional[str] = ..., url_lifetime_s: _Optional[float] = ..., size: _Optional[int] = ...) -> None: ...
