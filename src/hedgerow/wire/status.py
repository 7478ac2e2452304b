"""The one table between Hedgerow's errors and gRPC's status codes, used in both directions.

The name of the error's class travels in the trailing metadata, so that the other side raises the same class; from the code alone
(a proxy's answer, say) it raises the first class of the table that has this code.
"""

from __future__ import annotations

from collections.abc import Iterable

import grpc
import grpc.aio

from hedgerow import errors

ERROR_KEY = "hedgerow-error"
MAX_DETAILS_BYTES = 2_000
"""gRPC writes a byte as up to three characters, and drops a status that is longer than 8 KiB with all that it says."""

CODES: dict[type[errors.HedgerowError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ConfigError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Fenced: grpc.StatusCode.ABORTED,
    errors.InvalidTransition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ProtocolMismatch: grpc.StatusCode.UNIMPLEMENTED,
    errors.BadUpdate: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TaskFailed: grpc.StatusCode.UNKNOWN,
    errors.RunEnded: grpc.StatusCode.CANCELLED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.LimitReached: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.WaitTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CorruptData: grpc.StatusCode.DATA_LOSS,
    errors.HedgerowError: grpc.StatusCode.INTERNAL,
}
_BY_NAME = {cls.__name__: cls for cls in CODES}
_BY_CODE: dict[grpc.StatusCode, type[errors.HedgerowError]] = {}
for _cls, _code in CODES.items():
    _BY_CODE.setdefault(_code, _cls)


def to_status(error: errors.HedgerowError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Code, details and trailing metadata that carry the error; a long message is cut, whatever it repeats of the request."""
    cls = _in_table(error)
    return CODES[cls], _details(error), ((ERROR_KEY, cls.__name__),)


def to_words(error: errors.HedgerowError) -> tuple[str, str]:
    """Name and message of the error, where the call goes on."""
    return _in_table(error).__name__, _details(error)


def from_words(name: str, message: str) -> errors.HedgerowError:
    """The error of which the other side gave name and message."""
    return _BY_NAME.get(name, errors.HedgerowError)(message or "The server refused, and did not say why.")


def _in_table(error: errors.HedgerowError) -> type[errors.HedgerowError]:
    return next(cls for cls in type(error).__mro__ if cls in CODES)  # HedgerowError itself is in the table


def _details(error: errors.HedgerowError) -> str:
    details = str(error)
    if len(details.encode()) > MAX_DETAILS_BYTES:
        details = details.encode()[:MAX_DETAILS_BYTES].decode(errors="ignore") + "…"
    return details


def from_status(
    code: grpc.StatusCode, details: str | None, trailing: Iterable[tuple[str, str | bytes]] | None
) -> errors.HedgerowError:
    """The error that a status carries; its message is the status's details."""
    name = next((str(value) for key, value in trailing or () if key == ERROR_KEY), "")
    cls = _BY_NAME.get(name) or _BY_CODE.get(code, errors.HedgerowError)
    return cls(details or f"The call ended with {code.name}.")


def from_rpc_error(error: grpc.aio.AioRpcError) -> errors.HedgerowError:
    """The error that a failed call of grpc.aio carries."""
    return from_status(error.code(), error.details(), error.trailing_metadata())
