"""Framing between link and worker: both sides read the same messages from the same bytes, or refuse them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hedgerow.client import framing
from hedgerow.errors import CorruptData
from hedgerow.waits import Limit, wait
from hedgerow.wire.proto import records_pb2, worker_pb2
from tests.fuzz.mutation import Choices, mutated_bytes
from tests.fuzz.parser import Parser

MESSAGES = [
    worker_pb2.WorkerReply(ready=worker_pb2.WorkerReady(suggested_name="a")),
    worker_pb2.WorkerReply(broken=worker_pb2.WorkerBroken(message="no module")),
    worker_pb2.WorkerReply(
        done=worker_pb2.WorkerDone(
            task_id="task0000000000001",
            reply=records_pb2.Reply(
                outcome=records_pb2.OUTCOME_OK,
                num_examples=3,
                metrics=[records_pb2.Entry(key="loss", value=records_pb2.Scalar(float64=0.5))],
            ),
            has_parameters=True,
        )
    ),
]
SEEDS = [framing.frame(message) for message in MESSAGES] + [b"".join(map(framing.frame, MESSAGES)), b""]
MAX_BYTES = 64 * 1024  # fits into a socket's buffer
READ = Limit("read_s", 30.0)


def make(choices: Choices) -> bytes:
    """What comes over the socket before it closes."""
    return mutated_bytes(choices, SEEDS)[:MAX_BYTES]


def blocking(data: bytes) -> tuple[list[bytes], bool]:
    """The messages that the worker's side reads, and whether it refused the rest."""
    found = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reading = framing.FrameSocket(theirs)
        ours.sendall(data)
        ours.close()
        try:
            while reading.receive(message := worker_pb2.WorkerReply()):
                found.append(message.SerializeToString(deterministic=True))
        except CorruptData:
            return found, True
    return found, False


async def streaming(data: bytes) -> tuple[list[bytes], bool]:
    """The messages that the link's side reads, and whether it refused the rest."""
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    found = []
    try:
        while await wait(framing.receive(reader, message := worker_pb2.WorkerReply()), READ, "a message"):
            found.append(message.SerializeToString(deterministic=True))
    except CorruptData:
        return found, True
    return found, False


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[bytes], None]]:
    loop = asyncio.new_event_loop()

    def check(data: bytes) -> None:
        found, refused = blocking(data)
        assert (found, refused) == loop.run_until_complete(streaming(data))
        assert sum(map(len, found)) <= 2 * len(data)

    try:
        yield check
    finally:
        loop.close()


PARSER = Parser("framing", ("hedgerow.client.framing",), make, _open)
