"""The link's handle on one worker: starts the process, hands it tasks, and tells how it died.

Two kinds: a child process that the link starts and may replace, and the user's own process that started the link
(``start_client``), which can be neither killed nor replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hedgerow.client import framing
from hedgerow.errors import ConfigError, HedgerowError, WaitTimeout
from hedgerow.waits import Limit, wait
from hedgerow.wire.proto import worker_pb2

T = TypeVar("T")
log = logging.getLogger(__name__)

WORKER_START = Limit("worker_start_s", 3600.0)
"""Loading the callable may mean loading a data set."""
ATTACH = Limit("attach_s", 30.0)
WORKER_LIFE = Limit("worker_life", None)
WORKER_END = Limit("worker_end_s", 0.7)
WORKER_REAP = Limit("worker_reap_s", 5.0)
TASK_ANSWER = Limit("task_answer", None)
"""A task may take hours; the server has max_task_s."""


class WorkerDied(HedgerowError):
    """The worker process died."""


@dataclass(frozen=True)
class WorkerCommand:
    """How to start a worker."""

    callable: str
    callable_dir: Path
    log_level: str = "INFO"
    log_format: str = "text"


class Worker(Protocol):
    """A process that carries out one task at a time."""

    suggested_name: str
    replaceable: bool

    @property
    def alive(self) -> bool:
        """Whether it can be given a task."""
        ...

    async def carry_out(self, request: worker_pb2.WorkerRequest) -> worker_pb2.WorkerDone:
        """Hand over a task and wait for its end.

        Raises:
            WorkerDied: The process died.
        """
        ...

    async def stop(self, *, busy: bool) -> None:
        """End the process."""
        ...


class _Channel:
    """The link's end of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> _Channel:
        sock.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def receive(self) -> worker_pb2.WorkerReply | None:
        reply = worker_pb2.WorkerReply()
        return reply if await framing.receive(self.reader, reply) else None

    async def send(self, request: worker_pb2.WorkerRequest) -> None:
        """Send a request; that the other side is gone shows when the answer is read."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(framing.frame(request))
            await self.writer.drain()

    async def ask(self, request: worker_pb2.WorkerRequest) -> worker_pb2.WorkerDone | None:
        """The answer to one request; None when the other side is gone."""
        await self.send(request)
        while (reply := await self.receive()) is not None:
            if reply.WhichOneof("event") == "done" and reply.done.task_id == request.task.task_id:
                return reply.done
        return None

    def close(self) -> None:
        self.writer.close()


class ChildWorker:
    """A worker that the link has started."""

    replaceable = True

    def __init__(self, process: asyncio.subprocess.Process, channel: _Channel) -> None:
        self.suggested_name = ""
        self._process = process
        self._channel = channel
        self._ended = asyncio.get_running_loop().create_task(wait(process.wait(), WORKER_LIFE, "the end of the worker"))

    @classmethod
    async def start(cls, command: WorkerCommand) -> ChildWorker:
        """Start a worker and wait until its callable is loaded.

        Raises:
            ConfigError: The callable cannot be loaded.
            WorkerDied: The process died while loading it.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                # -P: the working directory is put on the path by the worker itself, after its own imports.
                *(sys.executable, "-P", "-u", "-m", "hedgerow.client.worker", "--fd", str(theirs.fileno())),
                *("--callable", command.callable, "--callable-dir", str(command.callable_dir), "--parent", str(os.getpid())),
                *("--log-level", command.log_level, "--log-format", command.log_format),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # A group of its own: Ctrl-C in the terminal is for the link alone; what user code starts can be ended too.
                start_new_session=True,
                # Sets of strings have the same order in every worker.
                env={"PYTHONHASHSEED": "0", **os.environ},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        worker = cls(process, await _Channel.open(ours))
        try:
            await worker._ready()
        except BaseException:
            await worker.stop(busy=True)
            raise
        return worker

    async def _ready(self) -> None:
        first = await self._or_death(self._channel.receive(), WORKER_START, "the worker to load its callable")
        if first is not None and first.WhichOneof("event") == "broken":
            raise ConfigError(first.broken.message)
        if first is None or first.WhichOneof("event") != "ready":
            raise WorkerDied(f"The worker process {self.pid} {await self._cause()} while it loaded its callable.")
        self.suggested_name = first.ready.suggested_name

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def carry_out(self, request: worker_pb2.WorkerRequest) -> worker_pb2.WorkerDone:
        """Hand over a task and wait for its end.

        Raises:
            WorkerDied: The process died.
        """
        done = await self._or_death(self._channel.ask(request), TASK_ANSWER, f"task {request.task.task_id}")
        if done is None:
            raise WorkerDied(f"The worker process {self.pid} {await self._cause()}.")
        return done

    async def _or_death(self, answer: Coroutine[Any, Any, T | None], limit: Limit, what: str) -> T | None:
        """The answer, or None as soon as the process is dead, even where processes that it forked still hold its socket."""
        asking = asyncio.get_running_loop().create_task(answer)
        try:
            await wait(asyncio.wait({asking, self._ended}, return_when=asyncio.FIRST_COMPLETED), limit, what)
            if not asking.done():
                self._kill(signal.SIGKILL)
                return await wait(asking, WORKER_END, "what the worker said before it died")
            return asking.result()
        except WaitTimeout:
            if self.alive:
                raise
            return None
        finally:
            asking.cancel()

    async def _cause(self) -> str:
        """How the process ended; one that closed its socket and lives on is killed."""
        try:
            code = await wait(asyncio.shield(self._ended), WORKER_REAP, "the worker's exit code")
        except WaitTimeout:
            await self.stop(busy=True)
            return "closed its socket and was killed"
        self._kill(signal.SIGKILL)  # what it left behind in its group
        if code < 0:
            return f"was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"exited with code {code}"

    def _kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is empty (macOS: or holds only zombies)
            os.killpg(self._process.pid, number)

    async def stop(self, *, busy: bool) -> None:
        """End the process: an idle one by closing its socket, a busy one by signal; both by force after a while."""
        self._channel.close()
        if busy:
            self._kill(signal.SIGTERM)
        try:
            await wait(asyncio.shield(self._ended), WORKER_END, "the worker to end")
        except WaitTimeout:
            log.debug("The worker %d did not end by itself", self.pid)
        finally:
            self._kill(signal.SIGKILL)
        await wait(asyncio.shield(self._ended), WORKER_REAP, "the worker's end")


class AttachedWorker:
    """The user's process, which has started the link; it is at the other end of a socket that the link was given."""

    replaceable = False

    def __init__(self, channel: _Channel, suggested_name: str) -> None:
        self.suggested_name = suggested_name
        self._gone = False
        self._when_gone: Callable[[], None] | None = None
        self._channel = channel
        self._answers: asyncio.Queue[worker_pb2.WorkerDone | None] = asyncio.Queue()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def attach(cls, fd: int) -> AttachedWorker:
        """Take over the link's end of the socket, and wait for the other side to say that it is ready."""
        channel = await _Channel.open(socket.socket(fileno=fd))
        first = await wait(channel.receive(), ATTACH, "the process that started the link")
        if first is None or first.WhichOneof("event") != "ready":
            raise WorkerDied("The process that started the link is gone.")
        return cls(channel, first.ready.suggested_name)

    @property
    def alive(self) -> bool:
        """Whether the other end is open."""
        return not self._gone

    def when_gone(self, call: Callable[[], None]) -> None:
        """Call this when the other end is closed, or now if it is."""
        self._when_gone = call
        if self._gone:
            call()

    async def _read(self) -> None:
        """Always reading, so that the end of the process is noticed at once, also between tasks."""
        while (reply := await self._channel.receive()) is not None:
            if reply.WhichOneof("event") == "done":
                self._answers.put_nowait(reply.done)
        self._gone = True
        self._answers.put_nowait(None)
        if self._when_gone is not None:
            self._when_gone()

    async def carry_out(self, request: worker_pb2.WorkerRequest) -> worker_pb2.WorkerDone:
        """Hand over a task and wait for its end.

        Raises:
            WorkerDied: The other end is closed.
        """
        if self.alive:
            await self._channel.send(request)
        while self.alive or not self._answers.empty():
            done = await wait(self._answers.get(), TASK_ANSWER, f"task {request.task.task_id}")
            if done is not None and done.task_id == request.task.task_id:
                return done
        raise WorkerDied("The process that started the link is gone.")

    async def stop(self, *, busy: bool) -> None:
        """Close the socket, which the other side takes as the end."""
        del busy
        self._channel.close()
        self._reading.cancel()
