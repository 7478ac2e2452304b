"""Messages between link and worker, on both sides of the socket."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from hedgerow.client import framing
from hedgerow.client.framing import FrameSocket
from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.wire.proto import worker_pb2


def request(name: str) -> worker_pb2.WorkerRequest:
    return worker_pb2.WorkerRequest(node_name=name)


def received(frames: FrameSocket) -> str | None:
    message = worker_pb2.WorkerRequest()
    return message.node_name if frames.receive(message) else None


def test_messages_arrive_whole_and_in_order_also_a_large_one() -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = FrameSocket(ours), FrameSocket(theirs)
    names = ["a", "", "x" * 3_000_000, "b"]
    thread = threading.Thread(target=lambda: list(map(sender.send, map(request, names))))
    thread.start()
    assert [received(receiver) for _ in names] == names
    thread.join(10)
    sender.close()
    receiver.close()


def test_a_closed_socket_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    FrameSocket(ours).close()
    assert received(FrameSocket(theirs)) is None
    theirs.close()


def test_a_message_that_breaks_off_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(framing.frame(request("abcdef"))[:-2])
    ours.close()
    assert received(FrameSocket(theirs)) is None
    theirs.close()


def test_an_absurd_length_is_refused_before_anything_is_read() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(b"\xff\xff\xff\xff")
    with pytest.raises(CorruptData, match="4,294,967,295"):
        received(FrameSocket(theirs))
    ours.close()
    theirs.close()


def test_bytes_that_are_no_message_are_refused() -> None:
    ours, theirs = socket.socketpair()
    ours.sendall(b"\x02\x00\x00\x00\xff\xff")
    with pytest.raises(CorruptData, match="no message"):
        received(FrameSocket(theirs))
    ours.close()
    theirs.close()


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(InvalidArgument, match="too long"):
        framing.frame(request("x" * (framing.MAX_FRAME_BYTES + 1)))


async def test_the_asyncio_side_reads_what_the_blocking_side_sends() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(framing.frame(request("a")) + framing.frame(request("b"))[:3])
    first, second = worker_pb2.WorkerRequest(), worker_pb2.WorkerRequest()
    assert await framing.receive(reader, first)
    assert first.node_name == "a"
    reader.feed_eof()
    assert not await framing.receive(reader, second)
