"""Messages on the socket between link and worker: a 4-byte little-endian length, then the protobuf bytes.

The worker's side blocks on the socket; the link's side reads from asyncio streams. Nothing polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from google.protobuf.message import DecodeError, Message

from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.waits import Limit

NEXT_MESSAGE = Limit("next_message", None)
"""A worker waits for its next task as long as it lives."""
MAX_FRAME_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct("<I")


def frame(message: Message) -> bytes:
    """A message with its length before it.

    Raises:
        InvalidArgument: It is longer than MAX_FRAME_BYTES.
    """
    body = message.SerializeToString()
    if len(body) > MAX_FRAME_BYTES:
        raise InvalidArgument(f"A message of {len(body):,} bytes is too long; at most {MAX_FRAME_BYTES:,} are allowed.")
    return _LENGTH.pack(len(body)) + body


def body_length(head: bytes) -> int:
    """The length that a frame's first four bytes announce.

    Raises:
        CorruptData: It is longer than MAX_FRAME_BYTES; the two sides have lost step.
    """
    length: int = _LENGTH.unpack(head)[0]
    if length > MAX_FRAME_BYTES:
        raise CorruptData(f"The socket between link and worker announces a message of {length:,} bytes.")
    return length


def parse(message: Message, body: bytes) -> None:
    """Fill a message from its bytes.

    Raises:
        CorruptData: They are no such message.
    """
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise CorruptData(f"The socket between link and worker carried something that is no message: {error}") from None


class FrameSocket:
    """The blocking side."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.settimeout(NEXT_MESSAGE.seconds)

    def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            OSError: The other side is gone.
            InvalidArgument: The message is too long.
        """
        self._socket.sendall(frame(message))

    def receive(self, message: Message) -> bool:
        """Fill the message with the next one from the socket, however long that takes; False when the other side has closed it.

        Raises:
            CorruptData: What came is no message.
        """
        head = self._read(_LENGTH.size)
        body = self._read(body_length(head)) if head is not None else None
        if body is None:
            return False
        parse(message, body)
        return True

    def _read(self, count: int) -> bytes | None:
        data = bytearray()
        while len(data) < count:
            try:
                piece = self._socket.recv(count - len(data))
            except ConnectionResetError:
                return None
            if not piece:
                return None
            data += piece
        return bytes(data)

    def close(self) -> None:
        """Close the socket, so that the other side notices."""
        with contextlib.suppress(OSError):  # the other side was first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


async def receive(reader: asyncio.StreamReader, message: Message) -> bool:
    """The asyncio side of :meth:`FrameSocket.receive`."""
    try:
        head = await reader.readexactly(_LENGTH.size)
        body = await reader.readexactly(body_length(head))
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return False
    parse(message, body)
    return True
