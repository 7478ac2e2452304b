"""Rounds on demand: a conducted strategy runs as many rounds as it is told, and says how long each took."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest

from benchmarks.conducted import MARK, Conducted


class Plain:
    """A strategy that counts."""

    rounds = 0

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> int:
        self.rounds += 1
        return server_round


class Both(Conducted, Plain):
    """The two."""


def conducted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str) -> tuple[int, list[list[float]]]:
    """How many rounds were configured until nobody conducted any longer, and what was told."""
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    strategy = Both()
    with contextlib.suppress(KeyboardInterrupt):
        for server_round in range(1, 100):
            assert strategy.configure_fit(server_round, None, None) == server_round
    lines = capsys.readouterr().out.splitlines()
    return strategy.rounds, [json.loads(line.removeprefix(MARK)) for line in lines]


def test_rounds_come_in_the_batches_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds, told = conducted(monkeypatch, capsys, "2\n3\n")
    assert rounds == 5
    assert told == [[], [1.0, 1.0], [1.0, 1.0, 1.0]], "ready first; then each round from its beginning to that of the next"


def test_nothing_runs_when_nobody_conducts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert conducted(monkeypatch, capsys, "") == (0, [[]])
