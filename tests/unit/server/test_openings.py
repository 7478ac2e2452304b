"""Turns to open a session: a bounded queue, and times to come back for the rest."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from hedgerow.errors import Unavailable
from hedgerow.server.openings import FIRST_GUESS_S, MAX_AWAY_S, Openings
from hedgerow.waits import Limit, wait

A_MOMENT = Limit("a_moment_s", 5.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_so_many_have_their_turn_at_once_and_the_others_in_their_order() -> None:
    openings, order = Openings(at_once=2), list[int]()
    leave = [asyncio.Event() for _ in range(4)]

    async def one(number: int) -> None:
        async with openings.turn():
            order.append(number)
            await wait(leave[number].wait(), A_MOMENT, "leave")

    tasks = [asyncio.create_task(one(number)) for number in range(4)]
    await settle()
    assert (order, openings.waiting) == ([0, 1], 2)
    leave[1].set()
    await settle()
    assert (order, openings.waiting) == ([0, 1, 2], 1)
    for event in leave:
        event.set()
    await asyncio.gather(*tasks)
    assert (order, openings.waiting) == ([0, 1, 2, 3], 0)


async def test_who_would_wait_for_too_long_is_sent_away_one_after_the_other() -> None:
    clock = Clock()
    openings = Openings(at_once=1, patience_s=2.5 * FIRST_GUESS_S, now=clock)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(openings.turn())
        waiting = [asyncio.create_task(stack.enter_async_context(openings.turn())) for _ in range(3)]
        await settle()
        away = []
        for _ in range(3):
            with pytest.raises(Unavailable) as refused:
                await openings.turn().__aenter__()
            away.append(refused.value.come_back_after_s)
        assert away == pytest.approx([4 * FIRST_GUESS_S, 5 * FIRST_GUESS_S, 6 * FIRST_GUESS_S])
        assert openings.sent_away == 3
        clock.now += 1.0  # all of these had their time
        with pytest.raises(Unavailable) as refused:
            await openings.turn().__aenter__()
        assert refused.value.come_back_after_s == pytest.approx(4 * FIRST_GUESS_S)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_the_time_to_come_back_follows_the_speed_of_openings_and_has_a_limit() -> None:
    clock = Clock()
    openings = Openings(at_once=1, patience_s=1.0, now=clock)

    async def one() -> None:
        async with openings.turn():
            await asyncio.sleep(0)
            clock.now += 0.01

    for _ in range(20):
        await asyncio.gather(*(one() for _ in range(10)))
    async with openings.turn():
        waiting = [asyncio.create_task(one()) for _ in range(200)]  # 2 s of waiting
        await settle()
        let_in = openings.waiting
        assert 95 < let_in < 110  # 1 s at 0.01 s each, as far as that is known by now
        with pytest.raises(Unavailable) as refused:
            await openings.turn().__aenter__()
        assert refused.value.come_back_after_s > 1.0
        for _ in range(100_000):
            with pytest.raises(Unavailable) as refused:
                await openings.turn().__aenter__()
        assert refused.value.come_back_after_s == MAX_AWAY_S
    gone = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(one, Unavailable) for one in gone) == 200 - let_in


async def test_a_turn_that_is_given_up_is_free_for_the_next() -> None:
    openings = Openings(at_once=1)

    async def fails() -> None:
        async with openings.turn():
            raise ValueError("given up")

    for _ in range(3):
        with pytest.raises(ValueError, match="given up"):
            await fails()
    async with openings.turn():
        assert openings.waiting == 0
