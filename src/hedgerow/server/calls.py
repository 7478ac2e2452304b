"""What every call of both gRPC APIs has in common: who calls, and how an error gets back."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc
import grpc.aio

from hedgerow.errors import HedgerowError
from hedgerow.security import Identity, Role
from hedgerow.server.admission import Admission
from hedgerow.wire.status import to_status

log = logging.getLogger(__name__)

STREAMS = frozenset({"Session", "Watch"})
"""Calls that last: their beginning is noted, too."""


class Servicer(Protocol):
    """What serves one of the APIs."""

    admission: Admission


def what_to_tell(error: Exception, what: str, peer: str) -> tuple[HedgerowError, str]:
    """The error that a peer is told, and the outcome for the audit log; one that is not of ours is logged with its traceback."""
    if isinstance(error, HedgerowError):
        log.debug("%s of %s refused: %s", what, peer, error)
        return error, type(error).__name__
    log.error("%s of %s failed", what, peer, exc_info=error)
    return HedgerowError(f"The server failed in {what}; its log says why."), "failed"


S = TypeVar("S", bound=Servicer)
Context = grpc.aio.ServicerContext[Any, Any]


def call(
    role: Role,
) -> Callable[[Callable[[S, Any, Context, Identity], Awaitable[Any]]], Callable[[S, Any, Context], Awaitable[Any]]]:
    """Wrap a method ``(self, request, context, who)`` as a gRPC handler for callers of one role.

    An error of :mod:`hedgerow.errors` ends the call with its status; any other is logged with its traceback and becomes INTERNAL.
    """

    def wrap(method: Callable[[S, Any, Context, Identity], Awaitable[Any]]) -> Callable[[S, Any, Context], Awaitable[Any]]:
        @functools.wraps(method)
        async def handler(self: S, request: Any, context: Context) -> Any:
            by, outcome = context.peer(), "cancelled"
            self.admission.begun[type(self).__name__, method.__name__] += 1
            try:
                with self.admission.call(context, role) as who:
                    by = who.label
                    if method.__name__ in STREAMS:
                        self.admission.note(by, method.__name__, "began", request)
                    answer = await method(self, request, context, who)
                    outcome = "ok"
                    return answer
            except Exception as error:  # noqa: BLE001 (logged, and told as an error of ours)
                problem, outcome = what_to_tell(error, method.__name__, context.peer())
            finally:
                self.admission.note(by, method.__name__, outcome, request)
            code, details, trailing = to_status(problem)
            return await context.abort(code, details, trailing)

        return handler

    return wrap
