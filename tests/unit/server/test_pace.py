"""How slowly a sender may send."""

from __future__ import annotations

import pytest

from hedgerow.errors import WaitTimeout
from hedgerow.server.pace import LEAST_BYTES, Pace
from hedgerow.waits import Limit


class Sender:
    """A sender, and the time that waiting for it takes."""

    def __init__(self, seconds: float | None) -> None:
        self.time = 0.0
        self.pace = Pace(Limit("transfer_stalled_s", seconds), "upload u", lambda: self.time)

    def sends(self, count: int, after_s: float) -> None:
        with self.pace.waiting() as limit:
            if limit.seconds is not None and after_s > limit.seconds:
                self.time += limit.seconds
                raise WaitTimeout("as wait does")
            self.time += after_s
        self.pace.came(count)


def test_sender_that_drips_has_no_more_time_than_a_silent_one() -> None:
    sender = Sender(60.0)
    for _ in range(60):
        sender.sends(1, after_s=1.0)
    with pytest.raises(WaitTimeout, match=r"60 s \(the limit transfer_stalled_s\) for 65,536 bytes of upload u; 60 came"):
        sender.sends(1, after_s=1.0)


def test_silent_sender_has_the_whole_limit() -> None:
    sender = Sender(60.0)
    sender.sends(1, after_s=60.0)
    with pytest.raises(WaitTimeout):
        Sender(60.0).sends(1, after_s=60.1)


def test_slow_sender_that_gets_on_may_take_for_ever() -> None:
    sender = Sender(60.0)
    for _ in range(100):
        sender.sends(LEAST_BYTES // 2, after_s=29.0)


def test_time_in_which_the_server_is_busy_does_not_count() -> None:
    sender = Sender(60.0)
    for _ in range(10):
        sender.sends(1, after_s=5.0)
        sender.time += 1000.0


def test_without_a_limit_nobody_is_too_slow() -> None:
    Sender(None).sends(1, after_s=1e9)
