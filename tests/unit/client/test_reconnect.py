"""How long a client pauses before it tries again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from hedgerow.client.reconnect import STEADY_S, Reconnect
from hedgerow.client.session import Rhythm, Session
from hedgerow.errors import HedgerowError, Unavailable, WaitTimeout
from hedgerow.wire.proto import fleet_pb2


def session(within_s: float) -> Session:
    return cast(Session, SimpleNamespace(rhythm=Rhythm(15.0, within_s)))


async def test_pauses_grow_while_there_is_no_server() -> None:
    reconnect = Reconnect()
    pauses = [reconnect.pause_s(None, Unavailable("refused")) for _ in range(12)]
    assert pauses[0] <= 0.1
    assert 5.0 <= pauses[-1] <= 10.0


async def test_a_steady_session_lets_pauses_begin_anew_and_a_short_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    reconnect, loop = Reconnect(), asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    for _ in range(8):
        reconnect.pause_s(None, None)
    reconnect.opened()
    assert reconnect.pause_s(session(0.0), None) >= 5.0
    reconnect.opened()
    now += STEADY_S + 0.1
    assert reconnect.pause_s(session(0.0), None) <= 0.1


async def test_clients_spread_over_the_time_that_the_server_named_also_when_the_first_attempt_fails() -> None:
    first, second = [], []
    for _ in range(400):
        reconnect = Reconnect()
        reconnect.opened()
        first.append(reconnect.pause_s(session(20.0), Unavailable("lost")))
        second.append(reconnect.pause_s(None, Unavailable("refused")))
    for pauses in (first, second):
        assert max(pauses) <= 20.0
        for quarter in range(4):  # 400 draws: fewer than 60 in a quarter would be 5 standard deviations from 100
            assert sum(5.0 * quarter <= pause < 5.0 * (quarter + 1) for pause in pauses) > 60


async def test_a_server_that_says_when_to_come_back_is_obeyed_with_some_jitter() -> None:
    pauses = [Reconnect().pause_s(None, Unavailable("full", come_back_after_s=8.0)) for _ in range(100)]
    assert 8.0 <= min(pauses) < max(pauses) <= 10.0
    assert Reconnect().pause_s(None, HedgerowError("refused"), 30.0) == 30.0


def test_what_the_server_says_about_the_pace_has_bounds() -> None:
    assert Rhythm.told(fleet_pb2.Welcome(beat_interval_s=0.0, reconnect_within_s=1e9)) == Rhythm(0.05, 600.0)
    assert Rhythm.told(fleet_pb2.Beat(beat_interval_s=100.0, reconnect_within_s=-1.0)) == Rhythm(100.0, 0.0)


async def test_attempts_that_a_busy_server_leaves_without_an_answer_are_spread_over_more_and_more_time() -> None:
    pauses: list[list[float]] = [[], [], []]
    for _ in range(200):
        reconnect = Reconnect()
        reconnect.pause_s(session(40.0), Unavailable("lost"))
        for attempt in range(3):
            pauses[attempt].append(reconnect.pause_s(None, WaitTimeout("no welcome")))
    assert 40.0 < max(pauses[0]) <= 80.0 < max(pauses[1]) <= 120.0
    assert 80.0 < max(pauses[2]) <= 120.0
