"""One task with one client: seeds, call of the user's method, and a reply that can be sent, whatever the method did.

Runs in the process of the user's code. Everything a user's method may do wrong becomes an outcome here; what goes wrong in this
package itself is raised.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from mmap import ACCESS_COPY, mmap
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from hedgerow.client.client import Client, InvalidResult
from hedgerow.client.context import Context, load_state, save_state
from hedgerow.client.loader import ClientSource, user_traceback
from hedgerow.client.numpy_client import NumPyAdapter, NumPyClient, describe
from hedgerow.copies import copied
from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.records import (
    Code,
    Config,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Kind,
    NDArray,
    Outcome,
    Parameters,
    Payload,
    Reply,
    Status,
)
from hedgerow.wire import tensors
from hedgerow.wire.convert import instruction_from_proto, reply_to_proto
from hedgerow.wire.narrow import DTYPES, NarrowParameters
from hedgerow.wire.proto import records_pb2, worker_pb2

log = logging.getLogger(__name__)

LIGHT_KINDS = frozenset({Kind.GET_PROPERTIES.value})
"""Kinds that never wait for training."""
MAX_REPLY_BYTES = 4 * 1024 * 1024
MAX_TRACEBACK_CHARS = 64 * 1024


def seed_everything(seed: int) -> None:
    """Seed Python, numpy, and torch where it is imported, from 64 bits."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "manual_seed"):
        torch.manual_seed(seed)


def perform(source: ClientSource, request: worker_pb2.WorkerRequest) -> worker_pb2.WorkerDone:
    """Carry out one task."""
    started = time.perf_counter()
    reply, parameters = _perform(source, request)
    message, has_parameters = _written(replace(reply, duration_s=time.perf_counter() - started), parameters, request)
    return worker_pb2.WorkerDone(task_id=request.task.task_id, reply=message, has_parameters=has_parameters)


def _perform(source: ClientSource, request: worker_pb2.WorkerRequest) -> tuple[Reply, Parameters | None]:
    task = request.task
    try:
        instruction = instruction_from_proto(task.instruction)
        if instruction.transport_dtype not in ("", *DTYPES):
            raise InvalidArgument(f"Parameters are to travel as {instruction.transport_dtype}, which is not known here.")
        parameters = _sent_parameters(request, instruction.parameters)
        context = Context(request.node_name, task.run_id, load_state(Path(request.state_path)) if request.state_path else {})
    except (CorruptData, InvalidArgument, OSError) as error:
        return Reply(Outcome.INVALID_RESULT, f"The task cannot be read at the client: {error}"), None
    if instruction.kind not in LIGHT_KINDS:
        seed_everything(task.seed)
    try:
        client = source.make(context)
        call = _call_for(client, instruction.kind, instruction.config, parameters)
        if isinstance(call, str):
            return Reply(Outcome.NOT_IMPLEMENTED, call), None
        reply, returned = _checked(call(), instruction.kind)
    except InvalidResult as error:
        log.warning("Task %s gave no valid result: %s", instruction.kind, error)
        return Reply(Outcome.INVALID_RESULT, str(error)), None
    except (Exception, SystemExit) as error:  # noqa: BLE001 (user code may raise anything; it is logged and reported)
        text = user_traceback(error)
        log.error("Task %s raised an exception\n%s", instruction.kind, text, extra={"action": "user_error"})
        return Reply(Outcome.USER_ERROR, f"{type(error).__name__}: {error}"[:1000], text[-MAX_TRACEBACK_CHARS:]), None
    return _with_state(reply, returned, context, request)


def _with_state(
    reply: Reply, returned: Parameters | None, context: Context, request: worker_pb2.WorkerRequest
) -> tuple[Reply, Parameters | None]:
    """Write the new state of the run beside the result; a reply that is a failure keeps the old state.

    So does a light task: it may run beside a training, and would put back the state from before it, or be overwritten by it.
    """
    if reply.outcome is not Outcome.OK or not request.new_state_path or request.task.instruction.kind in LIGHT_KINDS:
        return reply, returned
    try:
        if context.state or Path(request.state_path).exists():
            save_state(context.state, Path(request.new_state_path))
    except InvalidArgument as error:
        return Reply(Outcome.INVALID_RESULT, str(error)), None
    except OSError as error:
        return Reply(Outcome.INVALID_RESULT, f"context.state cannot be kept: {error}"), None
    return reply, returned


def _sent_parameters(request: worker_pb2.WorkerRequest, payload: Payload | None) -> Parameters | None:
    """The task's parameters: from their file, or out of the message."""
    if request.parameters_path:
        return open_writable(Path(request.parameters_path), Path(f"{request.result_path}.wide"))
    if not isinstance(payload, bytes):
        return None
    copied("parameters of a message to the worker", len(payload))
    buffer = bytearray(payload)
    received = tensors.view(buffer)
    if isinstance(received, NarrowParameters):
        buffer = bytearray(tensors.dumps(received))
        copied("parameters widened", len(buffer))
    return _writable(buffer)


def open_writable(path: Path, wide: Path) -> Parameters:
    """The parameters in a file as arrays that may be changed: the first change of a page copies that page, never the file.

    Args:
        path: The file.
        wide: Where there is room for another one. Parameters that travelled in a 16-bit float are written there as they were,
            block by block, so that memory need not hold the model twice; the file's name is gone when this returns.

    Raises:
        CorruptData: The file is no safetensors file.
        OSError: It cannot be mapped, or the disk is full.
    """
    if path.stat().st_size == 0:
        raise CorruptData(f"{path} is empty.")
    with path.open("rb") as file:
        buffer = mmap(file.fileno(), 0, access=ACCESS_COPY)
    received = tensors.view(buffer)
    if isinstance(received, NarrowParameters):
        with wide.open("x+b", buffering=0) as file:
            wide.unlink()
            copied("parameters widened", tensors.write(received, file))
            buffer = mmap(file.fileno(), 0, access=ACCESS_COPY)
    return _writable(buffer)


def _writable(buffer: mmap | bytearray) -> Parameters:
    """Arrays over a buffer in which they may be changed."""
    checked = tensors.view(buffer)
    raw = np.frombuffer(buffer, np.uint8)
    position = len(raw) - checked.nbytes  # the data fills the rest of the file, without gaps, in order
    arrays: dict[str, NDArray] = {}
    for name, array in checked.items():
        writable = raw[position : position + array.nbytes].view(array.dtype).reshape(array.shape)
        arrays[name] = writable if writable.flags.aligned else writable.copy()
        position += array.nbytes
    return Parameters(arrays)


def _call_for(client: Client, kind: str, config: Config, parameters: Parameters | None) -> Callable[[], Any] | str:
    """The call of the user's method, or why there is none."""
    if kind not in frozenset(Kind):
        return f"The client knows no tasks of the kind {kind!r}, only {', '.join(Kind)}."
    owner: object = client.numpy_client if isinstance(client, NumPyAdapter) else client
    base = NumPyClient if isinstance(client, NumPyAdapter) else Client
    if getattr(getattr(owner, kind), "__func__", None) is getattr(base, kind):
        return f"The client {type(owner).__name__} does not define {kind}()."
    match Kind(kind):
        case Kind.GET_PROPERTIES:
            return lambda: client.get_properties(GetPropertiesIns(config))
        case Kind.GET_PARAMETERS:
            return lambda: client.get_parameters(GetParametersIns(config))
        case Kind.FIT:
            return lambda: client.fit(FitIns(_given(parameters, kind), config))
        case Kind.EVALUATE:
            return lambda: client.evaluate(EvaluateIns(_given(parameters, kind), config))


def _given(parameters: Parameters | None, kind: str) -> Parameters:
    if parameters is None:
        raise InvalidResult(f"The driver sent a {kind} task without parameters.")
    return parameters


def _checked(res: Any, kind: str) -> tuple[Reply, Parameters | None]:
    """What a method returned, as a reply.

    Raises:
        InvalidResult: It is not what it should be.
    """
    expected: dict[str, type[Any]] = {
        Kind.GET_PROPERTIES.value: GetPropertiesRes,
        Kind.GET_PARAMETERS.value: GetParametersRes,
        Kind.FIT.value: FitRes,
        Kind.EVALUATE.value: EvaluateRes,
    }
    if not isinstance(res, expected[kind]):
        raise InvalidResult(f"{kind}() must return a {expected[kind].__name__}; it returned {describe(res)}.")
    if not isinstance(res.status, Status) or not isinstance(res.status.code, Code):
        raise InvalidResult(f"The status that {kind}() returned must be a Status; it is {describe(res.status)}.")
    if res.status.code is not Code.OK:
        message = res.status.message or f"{kind}() returned the status {res.status.code.name}."
        return Reply(Outcome.NOT_IMPLEMENTED, message), None
    reply = Reply(Outcome.OK, res.status.message)
    match res:
        case GetPropertiesRes():
            return replace(reply, metrics=_scalars(res.properties, kind, "the properties")), None
        case GetParametersRes():
            return reply, _parameters(res.parameters, kind)
        case FitRes():
            reply = replace(
                reply, num_examples=_examples(res.num_examples, kind), metrics=_scalars(res.metrics, kind, "the metrics")
            )
            return reply, _parameters(res.parameters, kind)
        case _:
            reply = replace(reply, loss=_loss(res.loss, kind), num_examples=_examples(res.num_examples, kind))
            return replace(reply, metrics=_scalars(res.metrics, kind, "the metrics")), None


def _loss(value: Any, kind: str) -> float:
    """A number; a tensor or array counts as one if it has one element."""
    try:
        if not isinstance(value, bool | str | bytes):
            return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise InvalidResult(f"The loss that {kind}() returned must be a number; it is {describe(value)}.")


def _examples(value: Any, kind: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < 2**63:
        raise InvalidResult(f"The number of examples that {kind}() returned must be an int from 0 up; it is {describe(value)}.")
    return int(value)


def _scalars(value: Any, kind: str, what: str) -> Any:
    if not isinstance(value, dict):
        raise InvalidResult(f"{what.capitalize()} that {kind}() returned must be a dict; it is {describe(value)}.")
    return value


def _parameters(value: Any, kind: str) -> Parameters:
    if not isinstance(value, Parameters):
        raise InvalidResult(f"The parameters that {kind}() returned must be a Parameters object; it is {describe(value)}.")
    return value


def _written(reply: Reply, parameters: Parameters | None, request: worker_pb2.WorkerRequest) -> tuple[records_pb2.Reply, bool]:
    """The reply as a message, with its parameters in it or in their file; what cannot be written becomes a failure."""
    path, transport_dtype = Path(request.result_path), request.task.instruction.transport_dtype
    try:
        message = reply_to_proto(reply)
        if message.ByteSize() > MAX_REPLY_BYTES:
            raise InvalidArgument(
                f"The metrics or properties need {message.ByteSize():,} bytes; at most {MAX_REPLY_BYTES:,} can be sent."
            )
        if parameters is None:
            return message, False
        if (size := tensors.nbytes(parameters, transport_dtype)) < request.inline_max_bytes:
            copied("parameters to a message", size)
            message.parameters.inline = tensors.dumps(parameters, transport_dtype)
            return message, False
        with path.open("xb", buffering=0) as file:
            tensors.write(parameters, file, transport_dtype)
        copied("parameters to a file", size)
        return message, True
    except (InvalidArgument, OSError) as error:
        for leftover in (path, Path(request.new_state_path)):
            if str(leftover) != ".":
                leftover.unlink(missing_ok=True)
        kind = request.task.instruction.kind
        problem = Reply(Outcome.INVALID_RESULT, f"What {kind}() returned cannot be sent: {error}", duration_s=reply.duration_s)
        return reply_to_proto(problem), False
