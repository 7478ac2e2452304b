"""How a client is told to end."""

from __future__ import annotations

import os
import signal

import pytest

from hedgerow.client.launch import EXIT_ENDED, Stop


async def test_second_signal_ends_the_client_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    stop = Stop()
    stop.request(signal.SIGTERM.name)
    assert (codes, stop.reason) == ([], "SIGTERM")
    stop.request("the process that started the link is gone")
    assert codes == [], "that is no second signal"
    stop.request(signal.SIGINT.name)
    assert (codes, stop.reason) == ([EXIT_ENDED], "SIGTERM")
