"""Bounds how long the request of a unary call may be on its way.

gRPC gives a handler nothing before a unary call's request is whole, and waits for that as long as the connection lives: a peer
that sends half a message holds a call and what has come of it for ever. So calls with one request are served as
calls whose requests are a stream of one, which is the same on the wire: the handler begins with the call and reads its request
within a limit.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import grpc
import grpc.aio

from hedgerow.errors import HedgerowError, InvalidArgument, WaitTimeout
from hedgerow.waits import Limit, wait
from hedgerow.wire.status import to_status

log = logging.getLogger(__name__)

REQUEST_S = 60.0
"""For at most 16 MiB; the largest requests in practice, batches of tasks, have less than one."""
Serve = Callable[[Any, Any], Any]


Guard = Callable[[grpc.aio.ServicerContext[Any, Any]], AbstractContextManager[object]]
"""Lets a caller in for as long as a call runs, or raises why not."""


def hurried(server: grpc.aio.Server, request_s: float = REQUEST_S, guard: Guard = nullcontext) -> grpc.aio.Server:
    """What to add services to in place of the server; their requests may be on their way for ``request_s``.

    Args:
        server: Serves them.
        request_s: Seconds from the beginning of a call to the end of its request. Streams of requests are not bounded here.
        guard: Asked by every call before its request is read, for services that do not look at their callers themselves.
    """
    return cast("grpc.aio.Server", _Hurried(server, request_s, guard))


class _Hurried:
    """The part of a server that adding a service uses."""

    def __init__(self, server: grpc.aio.Server, request_s: float, guard: Guard) -> None:
        self._server = server
        self._limit = Limit("request_s", request_s)
        self._guard = guard

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """As the server's own."""
        self._server.add_generic_rpc_handlers([_HurriedService(handler, self._hurried) for handler in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """As the server's own."""
        hurried = {name: self._hurried(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, hurried)

    def _hurried(self, name: str, handler: Any) -> Any:
        if handler is None:
            return None
        forms = {"request_deserializer": handler.request_deserializer, "response_serializer": handler.response_serializer}
        if handler.request_streaming:
            # What looks at its callers itself is served as it is: thousands of sessions would each keep one call more.
            serve = handler.stream_stream if self._guard is nullcontext else self._guarded(handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(serve, **forms)
        serve = self._read_first(name, handler.unary_stream if handler.response_streaming else handler.unary_unary)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(serve, **forms)
        return grpc.stream_unary_rpc_method_handler(serve, **forms)

    def _read_first(self, name: str, serve: Serve) -> Serve:
        async def read_and_serve(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                with self._guard(context):
                    try:
                        request = await wait(context.read(), self._limit, f"the request of {name}")
                    except WaitTimeout as error:
                        raise WaitTimeout(f"{error} Send it faster, or less at once.") from None
                    if request is grpc.aio.EOF:
                        raise InvalidArgument(f"{name} was called without a request.")
                    return await serve(request, context)
            except HedgerowError as error:
                return await _refuse(context, error)

        return read_and_serve

    def _guarded(self, serve: Serve) -> Serve:
        async def serve_guarded(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                with self._guard(context):
                    if not inspect.isasyncgenfunction(serve):
                        return await serve(requests, context)
                    async for response in serve(requests, context):
                        await context.write(response)
            except HedgerowError as error:
                return await _refuse(context, error)

        return serve_guarded


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
