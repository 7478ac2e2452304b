"""An upload's body as it comes off the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any
from unittest.mock import Mock

import pytest

from hedgerow.errors import WaitTimeout
from hedgerow.server import upload_body
from hedgerow.server.pace import Pace
from hedgerow.server.upload_body import UploadBody
from hedgerow.waits import Limit

STALLED = Limit("transfer_stalled_s", 1.0)


def arrive(body: UploadBody, data: bytes) -> None:
    """As the event loop does it."""
    body.get_buffer(-1)[: len(data)] = data
    body.buffer_updated(len(data))


@pytest.mark.parametrize("at_the_end", [b"", b"cd", b"c"])
async def test_bytes_that_come_in_the_moment_of_the_limit_count(monkeypatch: pytest.MonkeyPatch, at_the_end: bytes) -> None:
    body = UploadBody(Mock(asyncio.Transport), 4, Mock(), Pace(STALLED, "bytes"), 4)
    arrive(body, b"ab")
    came = [at_the_end] if at_the_end else []

    async def wait(waiting: Coroutine[Any, Any, bool], limit: Limit, what: str) -> None:
        waiting.close()
        if came:
            arrive(body, came.pop())
        raise WaitTimeout("Waited 1 s.")

    monkeypatch.setattr(upload_body, "wait", wait)
    if len(at_the_end) == 2:
        piece = await body.next()
        assert piece is not None
        assert bytes(piece) == b"abcd"
    else:
        with pytest.raises(WaitTimeout):
            await body.next()
        assert b"".join(map(bytes, body.rest())) == b"ab" + at_the_end
