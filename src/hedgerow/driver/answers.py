"""From a task's reply to the answer that a strategy sees, or to the failure that it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from hedgerow.aggregation.updates import UpdateSpec, check_update
from hedgerow.errors import BadUpdate, CorruptData, NotFound, TaskFailed
from hedgerow.records import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Kind,
    Outcome,
    Parameters,
    Payload,
    Reply,
    Status,
)

Ins: TypeAlias = GetPropertiesIns | GetParametersIns | FitIns | EvaluateIns
Download: TypeAlias = Callable[[Payload], Parameters]

LATE = "late"
TIME_IS_UP = "the round's time is up"
"""With this reason the server cancels a task whose client was too late."""
BAD_UPDATE = "bad_update"
LOST_BYTES = "lost_bytes"
_TEXTS = {
    Outcome.NOT_IMPLEMENTED: "the client has no such method",
    Outcome.WORKER_DIED: "the client's worker process died",
    Outcome.NODE_LOST: "the client has been away for too long",
    Outcome.EXPIRED: "the task took too long",
    Outcome.CANCELLED: "the task was cancelled",
    Outcome.REFUSED: "the site's policy does not allow the task",
}


def reason_of(error: Exception) -> str:
    """Why a client failed, in one word."""
    return (error.reason if isinstance(error, TaskFailed) else "") or BAD_UPDATE


def failure_of(node: str, kind: str, reply: Reply) -> TaskFailed:
    """The failure that a reply is."""
    if reply.outcome is Outcome.CANCELLED and reply.message == TIME_IS_UP:  # before the driver was restarted
        return TaskFailed("no answer in time", node=node, kind=kind, reason=LATE)
    text = reply.message or _TEXTS.get(reply.outcome, "the task failed")
    return TaskFailed(text, node=node, kind=kind, reason=str(reply.outcome), traceback=reply.traceback)


def late(node: str, kind: str, within: str) -> TaskFailed:
    """The failure of a client that did not answer in time."""
    return TaskFailed(f"no answer within {within}", node=node, kind=kind, reason=LATE)


def unfetched(node: str, kind: str, within: str) -> TaskFailed:
    """The failure of a client whose answer came to the server in time and could not be fetched from there in time."""
    return TaskFailed(f"the answer could not be fetched from the server within {within}", node=node, kind=kind, reason=LATE)


def failure_again(node: str, kind: str, reason: str, message: str) -> Exception:
    """A failure as it was before the driver was restarted."""
    return BadUpdate(message) if reason == BAD_UPDATE else TaskFailed(message, node=node, kind=kind, reason=reason)


def _parameters(reply: Reply, download: Download) -> Parameters:
    if reply.parameters is None:
        raise BadUpdate("The client returned no parameters.")
    try:
        return download(reply.parameters)
    except CorruptData as error:
        raise BadUpdate(f"The client's parameters cannot be read: {error}") from error
    except NotFound as error:
        raise TaskFailed(f"the server has not got the client's parameters any longer: {error}", reason=LOST_BYTES) from error


def fit_res(reply: Reply, download: Download, spec: UpdateSpec) -> FitRes:
    """The result of training.

    Raises:
        BadUpdate: It cannot be used.
        TaskFailed: Its parameters are lost.
    """
    parameters = _parameters(reply, download)
    check_update(parameters, reply.num_examples, spec)
    return FitRes(Status(Code.OK, reply.message), parameters, reply.num_examples, reply.metrics)


def evaluate_res(reply: Reply) -> EvaluateRes:
    """The result of an evaluation.

    Raises:
        BadUpdate: It cannot be used.
    """
    if not math.isfinite(reply.loss):
        raise BadUpdate(f"The loss is {reply.loss}; it must be finite.")
    return EvaluateRes(Status(Code.OK, reply.message), reply.loss, reply.num_examples, reply.metrics)


def get_parameters_res(reply: Reply, download: Download) -> GetParametersRes:
    """Parameters of a client; without tensors where it has no such method.

    Raises:
        BadUpdate: They cannot be used.
    """
    if reply.outcome is Outcome.NOT_IMPLEMENTED:
        return GetParametersRes(Status(Code.GET_PARAMETERS_NOT_IMPLEMENTED, reply.message), Parameters({}))
    parameters = _parameters(reply, download)
    check_update(parameters, 0, UpdateSpec())
    return GetParametersRes(Status(Code.OK, reply.message), parameters)


def get_properties_res(reply: Reply) -> GetPropertiesRes:
    """Properties of a client; none where it has no such method."""
    code = Code.OK if reply.outcome is Outcome.OK else Code.GET_PROPERTIES_NOT_IMPLEMENTED
    return GetPropertiesRes(Status(code, reply.message), reply.metrics)


def kind_of(ins: Ins) -> Kind:
    """The kind of task that carries an instruction out."""
    match ins:
        case FitIns():
            return Kind.FIT
        case EvaluateIns():
            return Kind.EVALUATE
        case GetParametersIns():
            return Kind.GET_PARAMETERS
        case GetPropertiesIns():
            return Kind.GET_PROPERTIES
