"""How a blob's bytes leave the server: ``sendfile`` where nothing is encrypted, block by block through TLS."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from hedgerow.errors import CorruptData
from hedgerow.server.buffers import Buffers
from hedgerow.waits import Limit, wait

log = logging.getLogger(__name__)

BLOCK_BYTES = 1024 * 1024
PIECE_BYTES = 256 * 1024  # encrypted at once: what fits the cache
Reading = Callable[[Callable[[int], bytes], int], Awaitable[bytes]]
"""Runs a read, which blocks, on another thread."""


class BlobResponse(web.FileResponse):
    """Sends a file, or the range of it that was asked for; ``sent`` is called at the end, with 0 bytes if that came early."""

    def __init__(self, path: Path, sent: Callable[[BlobResponse, int], None]) -> None:
        super().__init__(path, chunk_size=BLOCK_BYTES, headers={"Content-Type": "application/octet-stream"})
        self._blob_path = path
        self._sent = sent

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send everything; aiohttp calls this when the handler has returned."""
        count = 0
        try:
            writer = await super().prepare(request)
            count = self.content_length or 0
        except (OSError, RuntimeError) as error:
            # asyncio has no class of its own for a connection that has begun to close when the file is to be sent.
            if isinstance(error, RuntimeError) and request.transport is not None and not request.transport.is_closing():
                raise
            log.debug("The reader of %s is gone: %s", self._blob_path, error, extra={"action": "download_cut"})
            raise ConnectionResetError("The reader is gone.") from error
        finally:
            self._sent(self, count)
        return writer


async def send_encrypted(
    request: web.Request, path: Path, size: int, reading: Reading, stalled: Limit, buffers: Buffers
) -> tuple[web.StreamResponse, int]:
    """Send a file, or the range of it that was asked for, through TLS; the response, and how many bytes it had.

    asyncio's own substitute for ``sendfile`` reads 16 KiB at a time, each on another thread, at a fraction of this rate.

    Raises:
        ConnectionError: The reader is gone.
        WaitTimeout: The reader takes nothing. The connection is cut then, as with any other error.
        CorruptData: The file has shrunk.
    """
    start, stop, _ = request.http_range.indices(size)
    response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
    response.content_type = "application/octet-stream"
    response.content_length = count = stop - start
    if response.status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    await response.prepare(request)
    try:
        with buffers.piece_bytes(count) as block_bytes:
            await _send_blocks(response, path, range(start, stop), reading, stalled, block_bytes)
    except BaseException:
        if request.transport is not None:
            request.transport.abort()  # an answer now would be taken for bytes of the blob
        raise
    return response, count


async def _send_blocks(
    response: web.StreamResponse, path: Path, which: range, reading: Reading, stalled: Limit, block_bytes: int
) -> None:
    """Read the next block while the one before is sent."""
    what, offset = f"the reader of {path.name}", which.start
    with path.open("rb", buffering=0) as file:

        def read(offset: int) -> bytes:
            return os.pread(file.fileno(), min(block_bytes, which.stop - offset), offset)

        block = await reading(read, offset)
        while block:
            offset += len(block)
            following = asyncio.ensure_future(reading(read, offset))
            try:
                view = memoryview(block)
                for place in range(0, len(block), PIECE_BYTES):
                    await wait(response.write(view[place : place + PIECE_BYTES]), stalled, what)
            finally:
                block = await following  # it uses the file
    if offset < which.stop:
        raise CorruptData(f"{path} ends at byte {offset}; it had {which.stop}.")
    await wait(response.write_eof(), stalled, what)


def check_range(request: web.Request, size: int) -> None:
    """Refuse a range that the blob does not have."""
    try:
        start = request.http_range.start or 0
    except ValueError:
        start = size + 1
    if start > max(0, size - 1):
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
