"""Between records and protobuf messages; bounds and types are checked here, on the way in and on the way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hedgerow.errors import InvalidArgument
from hedgerow.records import (
    Blob,
    Config,
    DataPlane,
    Instruction,
    Node,
    NodeState,
    Origin,
    Outcome,
    Payload,
    Reply,
    RunState,
    Scalar,
    Task,
    TaskResult,
)
from hedgerow.wire.proto import driver_pb2, records_pb2

MAX_TRANSPORT_DTYPES = 8
_OUTCOMES = {
    Outcome.OK: records_pb2.OUTCOME_OK,
    Outcome.NOT_IMPLEMENTED: records_pb2.OUTCOME_NOT_IMPLEMENTED,
    Outcome.USER_ERROR: records_pb2.OUTCOME_USER_ERROR,
    Outcome.WORKER_DIED: records_pb2.OUTCOME_WORKER_DIED,
    Outcome.INVALID_RESULT: records_pb2.OUTCOME_INVALID_RESULT,
    Outcome.NODE_LOST: records_pb2.OUTCOME_NODE_LOST,
    Outcome.EXPIRED: records_pb2.OUTCOME_EXPIRED,
    Outcome.CANCELLED: records_pb2.OUTCOME_CANCELLED,
    Outcome.REFUSED: records_pb2.OUTCOME_REFUSED,
}
_OUTCOMES_BACK = {number: outcome for outcome, number in _OUTCOMES.items()}
_NODE_STATES = {
    NodeState.ONLINE: records_pb2.NODE_STATE_ONLINE,
    NodeState.AWAY: records_pb2.NODE_STATE_AWAY,
    NodeState.LEFT: records_pb2.NODE_STATE_LEFT,
    NodeState.LOST: records_pb2.NODE_STATE_LOST,
}
_NODE_STATES_BACK = {number: state for state, number in _NODE_STATES.items()}
_RUN_STATES = {
    RunState.PENDING: driver_pb2.RUN_STATE_PENDING,
    RunState.RUNNING: driver_pb2.RUN_STATE_RUNNING,
    RunState.FINISHED: driver_pb2.RUN_STATE_FINISHED,
    RunState.FAILED: driver_pb2.RUN_STATE_FAILED,
    RunState.STOPPED: driver_pb2.RUN_STATE_STOPPED,
    RunState.INTERRUPTED: driver_pb2.RUN_STATE_INTERRUPTED,
}
_RUN_STATES_BACK = {number: state for state, number in _RUN_STATES.items()}


def scalar_to_proto(value: Scalar, key: str) -> records_pb2.Scalar:
    """One value; numpy scalars are taken as the Python values that they are.

    Raises:
        InvalidArgument: The type is not bool, bytes, float, int or str, or an int does not fit into 64 bits.
    """
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    # bool before int: a bool is an int.
    if isinstance(value, bool):
        return records_pb2.Scalar(boolean=value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidArgument(f"The value of {key!r} does not fit into 64 bits: {value}.")
        return records_pb2.Scalar(int64=value)
    if isinstance(value, float):
        return records_pb2.Scalar(float64=value)
    if isinstance(value, str):
        return records_pb2.Scalar(text=value)
    if isinstance(value, bytes):
        return records_pb2.Scalar(raw=value)
    raise InvalidArgument(
        f"The value of {key!r} has the type {type(value).__name__}; bool, bytes, float, int and str can be sent."
    )


def scalar_from_proto(message: records_pb2.Scalar, key: str) -> Scalar:
    """One value.

    Raises:
        InvalidArgument: The message holds none.
    """
    match message.WhichOneof("value"):
        case "float64":
            return message.float64
        case "int64":
            return message.int64
        case "boolean":
            return message.boolean
        case "text":
            return message.text
        case "raw":
            return message.raw
        case _:
            raise InvalidArgument(f"The entry {key!r} has no value.")


def entries_to_proto(values: Mapping[str, Scalar]) -> list[records_pb2.Entry]:
    """A config, metrics or properties, in order.

    Raises:
        InvalidArgument: A key is not a str, or a value cannot be sent.
    """
    for key in values:
        if not isinstance(key, str):
            raise InvalidArgument(f"The key {key!r} has the type {type(key).__name__}; keys are str.")
    return [records_pb2.Entry(key=key, value=scalar_to_proto(value, key)) for key, value in values.items()]


def entries_from_proto(entries: Iterable[records_pb2.Entry]) -> Config:
    """A config, metrics or properties, in order.

    Raises:
        InvalidArgument: A key comes twice, or an entry has no value.
    """
    values: Config = {}
    for entry in entries:
        if entry.key in values:
            raise InvalidArgument(f"The key {entry.key!r} comes twice.")
        values[entry.key] = scalar_from_proto(entry.value, entry.key)
    return values


def blob_from_proto(message: records_pb2.Blob) -> Blob:
    """A blob.

    Raises:
        InvalidArgument: The digest is malformed.
    """
    return Blob(check_digest(message.digest), message.size)


def check_digest(digest: str) -> str:
    """The digest itself.

    Raises:
        InvalidArgument: It is not 64 lower-case hexadecimal digits.
    """
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise InvalidArgument(f"{digest[:80]!r} is not a digest: 64 lower-case hexadecimal digits.")
    return digest


def payload_to_proto(payload: Payload) -> records_pb2.Payload:
    """Parameters on their way."""
    if isinstance(payload, Blob):
        return records_pb2.Payload(blob=records_pb2.Blob(digest=payload.digest, size=payload.size))
    return records_pb2.Payload(inline=payload)


def payload_from_proto(message: records_pb2.Payload) -> Payload:
    """Parameters on their way.

    Raises:
        InvalidArgument: There is neither inline content nor a blob.
    """
    match message.WhichOneof("content"):
        case "inline":
            return message.inline
        case "blob":
            return blob_from_proto(message.blob)
        case _:
            raise InvalidArgument("A payload has neither inline content nor a blob.")


def instruction_to_proto(instruction: Instruction) -> records_pb2.Instruction:
    """What a node is to do."""
    parameters = None if instruction.parameters is None else payload_to_proto(instruction.parameters)
    return records_pb2.Instruction(
        kind=instruction.kind,
        config=entries_to_proto(instruction.config),
        parameters=parameters,
        transport_dtype=instruction.transport_dtype,
    )


def instruction_from_proto(message: records_pb2.Instruction) -> Instruction:
    """What a node is to do.

    Raises:
        InvalidArgument: The kind is no identifier of at most 64 characters, or a part is malformed.
    """
    if not (message.kind.isidentifier() and len(message.kind) <= 64):
        raise InvalidArgument(f"{message.kind[:80]!r} is not a kind of task: an identifier of at most 64 characters.")
    check_transport_dtypes([message.transport_dtype] if message.transport_dtype else [])
    parameters = payload_from_proto(message.parameters) if message.HasField("parameters") else None
    return Instruction(message.kind, entries_from_proto(message.config), parameters, message.transport_dtype)


def check_transport_dtypes(names: Sequence[str]) -> tuple[str, ...]:
    """Names of 16-bit floats, also of such as are not known here.

    Raises:
        InvalidArgument: There are more than :data:`MAX_TRANSPORT_DTYPES`, or one is no identifier of at most 16 characters.
    """
    known = all(name.isascii() and name.isidentifier() and len(name) <= 16 for name in names)
    if not known or len(names) > MAX_TRANSPORT_DTYPES:
        raise InvalidArgument(f"{str(list(names))[:200]} are not names of at most {MAX_TRANSPORT_DTYPES} 16-bit floats.")
    return tuple(names)


def task_to_proto(task: Task) -> records_pb2.Task:
    """One instruction to one node."""
    return records_pb2.Task(
        task_id=task.task_id,
        run_id=task.run_id,
        node_id=task.node_id,
        round=task.round,
        sequence=task.sequence,
        seed=task.seed,
        instruction=instruction_to_proto(task.instruction),
    )


def task_from_proto(message: records_pb2.Task) -> Task:
    """One instruction to one node.

    Raises:
        InvalidArgument: An id is missing or too long, or the instruction is malformed.
    """
    for name, value in (("task_id", message.task_id), ("run_id", message.run_id), ("node_id", message.node_id)):
        check_id(name, value)
    return Task(
        message.task_id,
        message.run_id,
        message.node_id,
        message.round,
        message.sequence,
        message.seed,
        instruction_from_proto(message.instruction),
    )


def origin_to_proto(origin: Origin) -> records_pb2.Origin:
    """What the server knows of a task."""
    return records_pb2.Origin(driver=origin.driver, sites=origin.sites)


def origin_from_proto(message: records_pb2.Origin) -> Origin:
    """What the server says that it knows of a task."""
    return Origin(message.driver, message.sites)


def check_id(name: str, value: str) -> str:
    """The id itself.

    Raises:
        InvalidArgument: It is not 8 to 64 letters and digits.
    """
    if not (8 <= len(value) <= 64 and value.isascii() and value.isalnum()):
        raise InvalidArgument(f"{name} is {value[:80]!r}; an id has 8 to 64 letters and digits.")
    return value


def reply_to_proto(reply: Reply) -> records_pb2.Reply:
    """What a node returned for a task.

    Raises:
        InvalidArgument: A metric cannot be sent.
    """
    return records_pb2.Reply(
        outcome=_OUTCOMES[reply.outcome],
        message=reply.message,
        traceback=reply.traceback,
        num_examples=reply.num_examples,
        loss=reply.loss,
        metrics=entries_to_proto(reply.metrics),
        parameters=None if reply.parameters is None else payload_to_proto(reply.parameters),
        duration_s=reply.duration_s,
        worker_deaths=reply.worker_deaths,
    )


def reply_from_proto(message: records_pb2.Reply) -> Reply:
    """What a node returned for a task.

    Raises:
        InvalidArgument: The outcome is unknown, or a part is malformed.
    """
    if message.outcome not in _OUTCOMES_BACK:
        raise InvalidArgument(f"Unknown outcome {message.outcome}.")
    return Reply(
        outcome=_OUTCOMES_BACK[message.outcome],
        message=message.message,
        traceback=message.traceback,
        num_examples=message.num_examples,
        loss=message.loss,
        metrics=entries_from_proto(message.metrics),
        parameters=payload_from_proto(message.parameters) if message.HasField("parameters") else None,
        duration_s=message.duration_s,
        worker_deaths=message.worker_deaths,
    )


def outcome_to_proto(outcome: Outcome) -> records_pb2.Outcome:
    """How a task ended."""
    return _OUTCOMES[outcome]


def outcome_from_proto(number: int) -> Outcome:
    """How a task ended.

    Raises:
        InvalidArgument: The number is unknown.
    """
    for known, outcome in _OUTCOMES_BACK.items():
        if known == number:
            return outcome
    raise InvalidArgument(f"Unknown outcome {number}.")


def result_to_proto(result: TaskResult) -> records_pb2.TaskResult:
    """A final task."""
    return records_pb2.TaskResult(
        cursor=result.cursor,
        task_id=result.task_id,
        node_id=result.node_id,
        round=result.round,
        kind=result.kind,
        reply=reply_to_proto(result.reply),
    )


def result_from_proto(message: records_pb2.TaskResult) -> TaskResult:
    """A final task.

    Raises:
        InvalidArgument: The reply is malformed.
    """
    return TaskResult(
        message.cursor, message.task_id, message.node_id, message.round, message.kind, reply_from_proto(message.reply)
    )


def node_to_proto(node: Node) -> records_pb2.Node:
    """The server's record of a client."""
    return records_pb2.Node(
        node_id=node.node_id,
        name=node.name,
        state=_NODE_STATES[node.state],
        version=node.version,
        last_seen=node.last_seen,
        transport_dtypes=node.transport_dtypes,
    )


def node_from_proto(message: records_pb2.Node) -> Node:
    """The server's record of a client."""
    state = node_state_from_proto(message.state)
    return Node(message.node_id, message.name, state, message.version, message.last_seen, tuple(message.transport_dtypes))


def node_state_from_proto(number: int) -> NodeState:
    """State of a node; one that is not known here counts as lost."""
    return next((state for known, state in _NODE_STATES_BACK.items() if known == number), NodeState.LOST)


def run_state_to_proto(state: RunState) -> driver_pb2.RunState:
    """State of a run."""
    return _RUN_STATES[state]


def run_state_from_proto(number: int) -> RunState:
    """State of a run.

    Raises:
        InvalidArgument: The number is unknown.
    """
    for known, state in _RUN_STATES_BACK.items():
        if known == number:
            return state
    raise InvalidArgument(f"Unknown run state {number}.")


def data_plane_to_proto(plane: DataPlane) -> records_pb2.DataPlane:
    """Where blobs travel."""
    return records_pb2.DataPlane(
        blob_port=plane.blob_port, blob_public_url=plane.blob_public_url, inline_max_bytes=plane.inline_max_bytes
    )


def data_plane_from_proto(message: records_pb2.DataPlane) -> DataPlane:
    """Where blobs travel."""
    return DataPlane(message.blob_port, message.blob_public_url, message.inline_max_bytes)
