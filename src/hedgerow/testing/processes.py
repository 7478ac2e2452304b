"""Processes of a test: started with their output in a file, killed at will, started again, and always gone at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hedgerow.errors import InvalidTransition, WaitTimeout
from hedgerow.waits import Limit, pause_thread

log = logging.getLogger(__name__)

POLL_S = 0.02
REAP = Limit("reap_s", 10.0)
STOP = Limit("stop_s", 10.0)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(predicate: Callable[[], bool], limit: Limit, what: str) -> None:
    """Block until something that only looking can tell has come true.

    Raises:
        WaitTimeout: It has not within the limit.
    """
    assert limit.seconds is not None, "looking for ever is no test"
    for _ in range(max(1, round(limit.seconds / POLL_S))):
        if predicate():
            return
        pause_thread(POLL_S, what)
    if not predicate():
        raise WaitTimeout(f"Waited {limit.seconds:g} s (the limit {limit.name}) for {what}.")


class Process:
    """One program, which may live several times.

    Args:
        name: For people.
        command: What to run.
        log_path: File that its output is appended to, over all its lives.
        env: Environment variables on top of this process's own.

    Attributes:
        lives: How often it was started.
    """

    def __init__(self, name: str, command: Sequence[str], log_path: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.command = list(command)
        self.log_path = log_path
        self.lives = 0
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Process:
        """Start it, for the first time or again.

        Raises:
            InvalidTransition: It is running.
        """
        if self.running:
            raise InvalidTransition(f"{self.name} is running already, as process {self.pid}.")
        with self.log_path.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal is for the test, which then ends everything in order.
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self._env},
                start_new_session=True,
            )
        self.lives += 1
        return self

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Id of the process in its present or last life.

        Raises:
            InvalidTransition: It was never started.
        """
        if self._process is None:
            raise InvalidTransition(f"{self.name} was never started.")
        return self._process.pid

    def wait(self, limit: Limit) -> int:
        """Wait for its end and return the exit code; negative for a signal.

        Raises:
            WaitTimeout: It lives on.
        """
        if self._process is None:
            raise InvalidTransition(f"{self.name} was never started.")
        try:
            return self._process.wait(limit.seconds)
        except subprocess.TimeoutExpired:
            raise WaitTimeout(
                f"Waited {limit.seconds} s (the limit {limit.name}) for the end of {self.name}. Its log ends:\n{self.tail()}"
            ) from None

    def kill(self) -> None:
        """SIGKILL, to it alone and not to its children; it is gone when this returns."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(REAP)

    def stop(self, limit: Limit = STOP) -> int:
        """SIGTERM, and wait for its end; the exit code."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
        return self.wait(limit)

    def clear_away(self) -> None:
        """End it and what it has started in its group, in any state."""
        if self._process is None:
            return
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
            with contextlib.suppress(WaitTimeout):
                self.wait(STOP)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(REAP)

    def output(self) -> str:
        """Everything that it has written, over all its lives."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self, lines: int = 30) -> str:
        """The last lines of the output."""
        return "\n".join(self.output().splitlines()[-lines:])

    def wait_for_output(self, text: str, limit: Limit, times: int = 1) -> None:
        """Block until the output holds a text so many times.

        Raises:
            WaitTimeout: It does not within the limit, or the process ended without it.
        """
        eventually(lambda: self.output().count(text) >= times or not self.running, limit, f"{text!r} in the log of {self.name}")
        if self.output().count(text) < times:
            raise WaitTimeout(f"{self.name} ended without saying {text!r}. Its log ends:\n{self.tail()}")
