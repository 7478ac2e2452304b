"""Rounds on demand: a driver runs as many as it is told, says how long each took, and does nothing until it is told again.

So several systems can live side by side and take turns. This module needs nothing but Python, for it is imported by the peers'
interpreters, too. A batch is a line with a number on the standard input; the answer is a line of JSON on the standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

MARK = "seconds a round: "
ANSWER_S = 900.0
"""How long a batch may last."""
END_S = 60.0


class Conducted:
    """Put before a strategy among the bases of a class: its rounds come in batches.

    A round lasts from the moment at which it is configured to the moment at which the next one is: it sends the instructions,
    waits for the results, folds them and, where there is one, writes the checkpoint.
    """

    _left = 0
    _starts: tuple[float, ...] = ()

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        """Note the time; at the end of a batch, tell the times and wait for the next batch; then configure as usual."""
        now = time.perf_counter()
        self._starts = (*self._starts, now)
        if not self._left:
            self._starts = self._next_batch()
        self._left -= 1
        return super().configure_fit(server_round, parameters, client_manager)  # type: ignore[misc]

    def _next_batch(self) -> tuple[float, ...]:
        times = [after - before for before, after in zip(self._starts, self._starts[1:])]  # noqa: B905 # not one as long as the other
        print(MARK + json.dumps(times), flush=True)
        word = sys.stdin.readline()
        if not word.strip():
            raise KeyboardInterrupt  # nobody conducts any longer: stop as for Ctrl-C
        self._left = int(word)
        return (time.perf_counter(),)


class Conductor:
    """A conducted driver as a process of its own; the first batch may begin as soon as its ``with`` block does.

    Args:
        command: What to run.
        log_path: Where its log goes.
        env: Environment variables on top of this process's own.

    Attributes:
        seconds: The seconds of all rounds, batch by batch.
    """

    def __init__(self, command: Sequence[str], log_path: Path, env: Mapping[str, str]) -> None:
        self.seconds: list[list[float]] = []
        self._log_path = log_path
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **env}, text=True
            )

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def ready(self) -> None:
        """Wait until the driver is connected and its first round is about to be configured.

        Raises:
            SystemExit: The driver ended, or took too long and was killed. So do all batches.
        """
        self._answer()

    def batch(self, rounds: int) -> list[float]:
        """Run some rounds; the seconds that each took."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{rounds}\n")
        self._process.stdin.flush()
        self.seconds.append(self._answer())
        return self.seconds[-1]

    def _answer(self) -> list[float]:
        assert self._process.stdout is not None
        overdue = threading.Timer(ANSWER_S, self._process.kill)
        overdue.start()
        try:
            for line in self._process.stdout:
                if line.startswith(MARK):
                    times: list[float] = json.loads(line[len(MARK) :])
                    return times
        finally:
            overdue.cancel()
        raise SystemExit(f"{self._process.args!r} ended:\n{self._log_path.read_text(errors='replace')[-3000:]}")

    def __enter__(self) -> Conductor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_S)
