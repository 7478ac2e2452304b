"""Takes the body of an upload off its socket without the copies of an HTTP parser.

A sender that says ``Expect: 100-continue`` sends its body only after the server's word. Before that word is given, the
connection is handed from aiohttp's protocol to the one here, which receives straight into two buffers: one fills while the other
is being written. So no byte of the body can have gone astray in the parser. Afterwards the connection goes back, carries the
answer, and is closed. ``benchmarks/blob_transfer.py`` measures the CPU time of an upload.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from hedgerow.errors import WaitTimeout
from hedgerow.server.pace import Pace
from hedgerow.waits import wait

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class UploadBody(asyncio.BufferedProtocol):
    """The connection's protocol while the body arrives, from :meth:`begin` to :meth:`end`.

    Args:
        transport: The connection; its sender waits for leave to send.
        length: Bytes of the body.
        received: Called with the number of bytes whenever some have come.
        pace: How slowly they may come.
        piece_bytes: Length of each of the two buffers.

    Attributes:
        lost: Why the connection ended before the body did, or None.
    """

    def __init__(
        self, transport: asyncio.Transport, length: int, received: Callable[[int], None], pace: Pace, piece_bytes: int
    ) -> None:
        self._transport = transport
        self._http = transport.get_protocol()
        self._left = length
        self._received = received
        self._pace = pace
        self._filling: memoryview | None = memoryview(bytearray(min(piece_bytes, length)))
        self._filled = 0
        self._spare = [memoryview(bytearray(piece_bytes))] if length > piece_bytes else []
        self._full: deque[memoryview] = deque()
        self._given: memoryview | None = None
        self._changed = asyncio.Event()
        self.lost: Exception | None = None

    def begin(self) -> None:
        """Take the connection over and tell the sender to send."""
        self._transport.set_protocol(self)
        self._transport.resume_reading()
        self._transport.write(_CONTINUE)

    def end(self) -> None:
        """Give the connection back."""
        if self.lost is None:
            self._transport.set_protocol(self._http)
            if self._left:
                self._transport.resume_reading()

    async def next(self) -> memoryview | None:
        """The next piece, or None when there is none to come or the connection is lost. The piece before it is used again.

        Raises:
            WaitTimeout: The sender is too slow.
        """
        if self._given is not None:
            self._reuse(self._given)
            self._given = None
        while not self._full and self._left and self.lost is None:
            self._changed.clear()
            try:
                with self._pace.waiting() as limit:
                    await wait(self._changed.wait(), limit, self._pace.what)
            except WaitTimeout:
                if self._left:  # else the last bytes came at the very end
                    raise
        if self._full:
            self._given = self._full.popleft()
        return self._given

    def rest(self) -> list[memoryview]:
        """What has come and was not given out, in order: something only where the body ended early."""
        return [*self._full, *([] if self._filling is None else [self._filling[: self._filled]])]

    def _reuse(self, piece: memoryview) -> None:
        buffer = memoryview(piece.obj)
        if self._filling is not None or not self._left:
            self._spare.append(buffer)
        else:
            self._filling = buffer
            self._transport.resume_reading()

    # --- what the transport calls -----------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: never more than the body has left."""
        if self._filling is None:  # reading is paused then
            raise BufferError("No buffer is free.")
        return self._filling[self._filled : self._filled + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._received(nbytes)
        self._pace.came(nbytes)
        self._filled += nbytes
        self._left -= nbytes
        self._changed.set()
        if self._filling is None or (self._left and self._filled < len(self._filling)):
            return
        self._full.append(self._filling[: self._filled])
        self._filling, self._filled = (self._spare.pop() if self._left and self._spare else None), 0
        if self._filling is None:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.lost = exc or ConnectionResetError("The sender is gone.")
        self._changed.set()
        self._http.connection_lost(exc)

    def pause_writing(self) -> None:
        """The transport's write buffer is full."""
        self._http.pause_writing()

    def resume_writing(self) -> None:
        """The transport's write buffer has room."""
        self._http.resume_writing()
