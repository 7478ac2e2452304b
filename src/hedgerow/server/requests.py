"""Bounds how long the request of a unary call may be on its way.

gRPC gives a handler nothing before a unary call's request is whole, and waits for that as long as the connection lives: a peer
that sends half a message holds a call and what has come of it for ever. So unary calls are served as calls whose requests are
a stream of one, which is the same on the wire: the handler begins with the call and reads its request within a limit.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import grpc
import grpc.aio

from hedgerow.errors import HedgerowError, InvalidArgument, WaitTimeout
from hedgerow.waits import Limit, wait
from hedgerow.wire.status import to_status

log = logging.getLogger(__name__)

REQUEST_S = 60.0
"""For at most 16 MiB; the largest requests in practice, batches of tasks, have less than one."""


def hurried(server: grpc.aio.Server, request_s: float = REQUEST_S) -> grpc.aio.Server:
    """What to add services to in place of the server; their requests may be on their way for ``request_s``."""
    return cast("grpc.aio.Server", _Hurried(server, request_s))


class _Hurried:
    """The part of a server that adding a service uses."""

    def __init__(self, server: grpc.aio.Server, request_s: float) -> None:
        self._server = server
        self._limit = Limit("request_s", request_s)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """As the server's own."""
        self._server.add_generic_rpc_handlers([_HurriedService(handler, self._hurried) for handler in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """As the server's own."""
        hurried = {name: self._hurried(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, hurried)

    def _hurried(self, name: str, handler: Any) -> Any:
        if handler is None or handler.request_streaming or handler.response_streaming:
            return handler
        serve: Callable[[Any, Any], Awaitable[Any]] = handler.unary_unary

        async def read_and_serve(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                request = await wait(context.read(), self._limit, f"the request of {name}")
            except WaitTimeout as error:
                return await _refuse(context, WaitTimeout(f"{error} Send it faster, or less at once."))
            if request is grpc.aio.EOF:
                return await _refuse(context, InvalidArgument(f"{name} was called without a request."))
            return await serve(request, context)

        return grpc.stream_unary_rpc_method_handler(
            read_and_serve, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


class _HurriedService(grpc.GenericRpcHandler):
    """A service that is looked up by name, where gRPC does not use registered methods."""

    def __init__(self, service: grpc.GenericRpcHandler, hurried: Callable[[str, Any], Any]) -> None:
        self._service = service
        self._hurried = hurried

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The method's handler, or None when it is not of this service."""
        return self._hurried(handler_call_details.method, self._service.service(handler_call_details))


async def _refuse(context: grpc.aio.ServicerContext[Any, Any], error: HedgerowError) -> Any:
    log.info("A call of %s is refused: %s", context.peer(), error, extra={"action": "request_refused"})
    code, details, trailing = to_status(error)
    return await context.abort(code, details, trailing)
