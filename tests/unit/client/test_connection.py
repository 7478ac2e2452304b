"""What a client makes of where its server wants parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hedgerow.client.connection import Connection
from hedgerow.client.session import Session, Standing
from hedgerow.errors import ConfigError
from hedgerow.records import DataPlane
from hedgerow.security import Identity, Role
from hedgerow.wire.channel import Address


async def test_a_session_whose_parameters_cannot_travel_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    opened = SimpleNamespace(data_plane=DataPlane(0, "ftp://elsewhere"), close=lambda: closed.append(True))

    async def open_session(*_: object) -> Any:
        return opened

    monkeypatch.setattr(Session, "open", open_session)
    connection = Connection(Address("127.0.0.1", 9), None, Identity.fresh(Role.CLIENT))
    with pytest.raises(ConfigError, match="ftp"):
        await connection.open_session(Standing("a", "test", [], []))
    assert (closed, connection.session) == ([True], None)
    await connection._channel.close(None)
