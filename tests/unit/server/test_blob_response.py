"""A download whose reader goes away at any moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from hedgerow.server.blob_response import BlobResponse


def request_over(monkeypatch: pytest.MonkeyPatch, *, closing: bool) -> web.Request:
    """A request whose connection has begun to close, or not."""
    request = make_mocked_request("GET", "/blobs/0")
    monkeypatch.setattr(request.transport, "is_closing", lambda: closing)
    return request


async def test_connection_that_begins_to_close_is_a_reader_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"abc")
    ended: list[int] = []

    async def prepare(response: web.FileResponse, request: web.BaseRequest) -> None:
        assert request.transport is not None
        with path.open("rb") as file:
            await asyncio.get_running_loop().sendfile(request.transport, file)  # as aiohttp does

    monkeypatch.setattr(web.FileResponse, "prepare", prepare)
    with pytest.raises(ConnectionResetError):
        await BlobResponse(path, lambda _, count: ended.append(count)).prepare(request_over(monkeypatch, closing=True))
    assert ended == [0]


async def test_other_failure_is_not_blamed_on_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def prepare(response: web.FileResponse, request: web.BaseRequest) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(web.FileResponse, "prepare", prepare)
    with pytest.raises(RuntimeError, match="a bug"):
        await BlobResponse(tmp_path / "blob", lambda _, count: None).prepare(request_over(monkeypatch, closing=False))
