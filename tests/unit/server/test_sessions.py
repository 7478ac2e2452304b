"""What the number of sessions means for the pace of all."""

from __future__ import annotations

import pytest

from hedgerow.security import Identity, Role
from hedgerow.server.sessions import NodeSession, Sessions


def test_beats_and_reconnections_are_spread_over_more_time_with_more_sessions() -> None:
    sessions = Sessions()
    assert (sessions.beat_interval_s(), sessions.reconnect_within_s()) == (15.0, 0.0)
    for _ in range(3_000):
        sessions.add(NodeSession(Identity.fresh(Role.CLIENT)))
    assert sessions.beat_interval_s() == 30.0  # 100 beats a second
    assert sessions.reconnect_within_s() == pytest.approx(6.0)  # 500 sessions a second
