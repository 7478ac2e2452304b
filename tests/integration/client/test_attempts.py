"""Attempts to connect are made when the client decides so, and only then."""

from __future__ import annotations

import asyncio

import pytest

from hedgerow.client.connection import Connection
from hedgerow.client.session import Standing
from hedgerow.errors import Unavailable
from hedgerow.security import Identity, Role
from hedgerow.waits import pause
from hedgerow.wire.channel import Address

LONGER_THAN_GRPC_WAITS_S = 0.6
"""Its first attempts after a failure come after 0.1 s each."""


async def test_no_connection_is_tried_during_the_pause_after_one_that_failed() -> None:
    tried = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tried
        tried += 1
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    connection = Connection(Address("127.0.0.1", server.sockets[0].getsockname()[1]), None, Identity.fresh(Role.CLIENT))
    for attempt in (1, 2):
        with pytest.raises(Unavailable):
            await connection.open_session(Standing("a", "test", [], []))
        await pause(LONGER_THAN_GRPC_WAITS_S, "an attempt that must not come")
        assert tried == attempt
    await connection.close()
    server.close()
