"""The worker process: loads the callable once, then carries out tasks that come over its socket, one after the other.

``python -m hedgerow.client.worker --fd N --callable module:attribute --callable-dir DIR``, started by the link. The main thread
runs the user's code (libraries that insist on the main thread work); a second thread reads the socket, so that the worker ends as
soon as the link is gone, also in the middle of a task. It knows nothing of the network: importing this module loads no gRPC.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from collections import deque
from pathlib import Path

from hedgerow import logs
from hedgerow.client.framing import FrameSocket
from hedgerow.client.loader import ClientSource, load
from hedgerow.client.perform import perform, seed_everything
from hedgerow.errors import ConfigError
from hedgerow.sampling import derive_seed
from hedgerow.waits import Limit, wait_condition
from hedgerow.wire.proto import worker_pb2

log = logging.getLogger(__name__)

WORK = Limit("work", None)
PR_SET_PDEATHSIG = 1


class Inbox:
    """The requests that have come and were not taken yet."""

    def __init__(self, frames: FrameSocket) -> None:
        self._frames = frames
        self._changed = threading.Condition()
        self._requests: deque[worker_pb2.WorkerRequest] = deque()
        self._closed = False
        self._busy = False

    def start(self) -> None:
        """Read the socket on a thread of its own from now on."""
        threading.Thread(target=self._read, name="hedgerow-inbox", daemon=True).start()

    def next(self) -> worker_pb2.WorkerRequest | None:
        """The next request; None when the link has closed the socket."""
        with self._changed:
            self._busy = False
            wait_condition(self._changed, lambda: bool(self._requests) or self._closed, WORK, "a task")
            if not self._requests:
                return None
            self._busy = True
            return self._requests.popleft()

    def _read(self) -> None:
        while True:
            request = worker_pb2.WorkerRequest()
            alive = self._frames.receive(request)
            with self._changed:
                if alive:
                    self._requests.append(request)
                elif self._busy:
                    end_at_once()
                else:
                    self._closed = True
                self._changed.notify()
            if not alive:
                return


def end_at_once() -> None:
    """End this process and the processes that user code has started in its group; nobody is left to take a result."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def serve(source: ClientSource, frames: FrameSocket, inbox: Inbox) -> None:
    """Carry out tasks until the link closes the socket."""
    while (request := inbox.next()) is not None:
        done = perform(source, request)
        try:
            frames.send(worker_pb2.WorkerReply(done=done))
        except OSError:
            return  # the link is gone; what it had not received, it will be asked for again


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when the link dies, even in the middle of code that lets no other thread run (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before the request above


def main(argv: list[str] | None = None) -> int:
    """Run the worker until the link closes the socket."""
    parser = argparse.ArgumentParser(prog="hedgerow.client.worker", description="Started by the link, not by hand.")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--callable", required=True)
    parser.add_argument("--callable-dir", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--log-format", default="text")
    args = parser.parse_args(argv)
    logs.configure(args.log_level, args.log_format)
    frames = FrameSocket(socket.socket(fileno=args.fd))
    die_with_parent(args.parent)
    inbox = Inbox(frames)
    inbox.start()
    # So that weights which are made while the callable is loaded are the same in every worker.
    seed_everything(derive_seed("load", args.callable))
    try:
        source = load(args.callable, args.callable_dir)
    except ConfigError as error:
        frames.send(worker_pb2.WorkerReply(broken=worker_pb2.WorkerBroken(message=str(error))))
        return 2
    frames.send(worker_pb2.WorkerReply(ready=worker_pb2.WorkerReady(suggested_name=source.suggested_name)))
    serve(source, frames, inbox)
    return 0


if __name__ == "__main__":
    sys.exit(main())
