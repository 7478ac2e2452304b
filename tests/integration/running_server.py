"""A real server on free ports, in the test's own event loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from hedgerow.server.options import ServerOptions
from hedgerow.server.service import Service
from hedgerow.waits import Limit, wait
from hedgerow.wire.channel import Address

ANY_PORT = Address("127.0.0.1", 0)
STOPPED = Limit("test_server_stopped_s", 20.0)


def on_free_ports(**more: Any) -> ServerOptions:
    """Options of a server on ports that are free; insecure unless certificates are given."""
    ports: dict[str, Any] = {f"{name}_address": ANY_PORT for name in ("fleet", "driver", "blob", "web")}
    return ServerOptions(insecure="certificates" not in more, **ports, **more)


@contextlib.asynccontextmanager
async def running(**more: Any) -> AsyncIterator[Service]:
    """A server with these options, stopped at the end whatever happens."""
    service = Service(on_free_ports(**more))
    await service.start()
    try:
        yield service
    finally:
        await wait(service.stop(), STOPPED, "the server to stop")
