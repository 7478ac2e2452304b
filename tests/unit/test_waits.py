from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
from collections.abc import Callable

import pytest

from hedgerow.errors import WaitTimeout
from hedgerow.waits import Backoff, Limit, wait, wait_condition, wait_future

NOW = Limit("tests_limit_s", 0.0)
FOR_EVER = Limit("tests_limit_s", None)
MESSAGE = r"Waited 0 s \(the limit tests_limit_s\) for a bus\."


async def test_wait_gives_the_result_and_passes_errors_on() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(3)
    assert await wait(future, FOR_EVER, "a bus") == 3

    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await wait(fail(), FOR_EVER, "a bus")


async def test_wait_that_reaches_its_limit_names_it_and_cancels_what_was_waited_for() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with pytest.raises(WaitTimeout, match=MESSAGE):
        await wait(future, NOW, "a bus")
    assert future.cancelled()


async def test_timeout_of_what_is_waited_for_is_not_taken_for_the_limit() -> None:
    async def inner() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own") as caught:
        await wait(inner(), Limit("tests_limit_s", 60.0), "a bus")
    assert not isinstance(caught.value, WaitTimeout)


def test_wait_future_gives_the_result_and_passes_errors_on() -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    future.set_result(3)
    assert wait_future(future, NOW, "a bus") == 3
    failed: concurrent.futures.Future[int] = concurrent.futures.Future()
    failed.set_exception(concurrent.futures.TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own") as caught:
        wait_future(failed, NOW, "a bus")
    assert not isinstance(caught.value, WaitTimeout)


def test_wait_future_that_reaches_its_limit_names_it_and_cancels_the_future() -> None:
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    with pytest.raises(WaitTimeout, match=MESSAGE):
        wait_future(future, NOW, "a bus")
    assert future.cancelled()


def test_ctrl_c_while_waiting_cancels_the_future() -> None:
    class Interrupted(concurrent.futures.Future[int]):
        def result(self, timeout: float | None = None) -> int:
            raise KeyboardInterrupt

    future = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        wait_future(future, FOR_EVER, "a bus")
    assert future.cancelled()


def test_wait_condition_returns_when_the_predicate_is_true_and_names_its_limit_when_not() -> None:
    condition = threading.Condition()
    with condition:
        wait_condition(condition, lambda: True, NOW, "a bus")
        with pytest.raises(WaitTimeout, match=MESSAGE):
            wait_condition(condition, lambda: False, NOW, "a bus")


def test_wait_condition_wakes_up_when_it_is_notified() -> None:
    condition, arrived = threading.Condition(), []

    def arrive() -> None:
        with condition:
            arrived.append("bus")
            condition.notify()

    with condition:
        threading.Thread(target=arrive, daemon=True).start()
        wait_condition(condition, lambda: bool(arrived), Limit("tests_limit_s", 20.0), "a bus")
    assert arrived == ["bus"]


def steps(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next() for _ in range(count)]


def rng_of(value: Callable[[float, float], float]) -> random.Random:
    class Fixed(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return value(a, b)

    return Fixed()


def test_backoff_doubles_up_to_its_cap_and_starts_again_after_a_success() -> None:
    backoff = Backoff(first_s=1, cap_s=5, rng=rng_of(max))
    assert steps(backoff, 5) == [1, 2, 4, 5, 5]
    backoff.reset()
    assert steps(backoff, 2) == [1, 2]


def test_backoff_is_spread_between_half_and_the_whole_step() -> None:
    assert steps(Backoff(first_s=1, cap_s=5, rng=rng_of(min)), 4) == [0.5, 1, 2, 2.5]
    spread = {Backoff(first_s=1, rng=random.Random(seed)).next() for seed in range(50)}
    assert len(spread) == 50
    assert all(0.5 <= pause <= 1 for pause in spread)


def test_backoff_stays_at_its_cap_for_ever() -> None:
    backoff = Backoff(first_s=0.2, cap_s=10, rng=rng_of(max))
    assert steps(backoff, 5_000)[-1] == 10
