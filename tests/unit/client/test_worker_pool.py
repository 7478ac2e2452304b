"""Turns between runs, and which worker a task gets."""

from __future__ import annotations

import asyncio

import pytest

from hedgerow.client.worker_pool import Turns, WorkerPool
from hedgerow.client.worker_process import WorkerDied
from hedgerow.errors import ConfigError
from hedgerow.wire.proto import worker_pb2


class FakeWorker:
    replaceable = True

    def __init__(self, suggested_name: str = "") -> None:
        self.suggested_name = suggested_name
        self.alive = True
        self.stopped_busy: bool | None = None

    async def carry_out(self, request: worker_pb2.WorkerRequest) -> worker_pb2.WorkerDone:
        return worker_pb2.WorkerDone(task_id=request.task.task_id)

    async def stop(self, *, busy: bool) -> None:
        self.alive = False
        self.stopped_busy = busy


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def take_turns(turns: Turns, runs: list[str]) -> list[str]:
    """The order in which waiting tasks of these runs get the only place."""
    order: list[str] = []

    async def one(run: str) -> None:
        async with turns.turn(run):
            order.append(run)
            await asyncio.sleep(0)

    async with turns.turn("first"):
        waiting = [asyncio.create_task(one(run)) for run in runs]
        await settle()
        assert order == []
    await asyncio.gather(*waiting)
    return order


async def test_runs_take_turns_however_many_tasks_each_has() -> None:
    assert await take_turns(Turns(1), ["a", "a", "a", "b", "b", "c"]) == ["a", "b", "c", "a", "b", "a"]


async def test_a_cancelled_waiter_leaves_and_its_place_goes_to_the_next() -> None:
    turns = Turns(1)
    got: list[str] = []

    async def one(run: str) -> None:
        async with turns.turn(run):
            got.append(run)

    async with turns.turn("x"):
        tasks = [asyncio.create_task(one(run)) for run in ("a", "b", "c")]
        await settle()
        tasks[0].cancel()
    tasks[1].cancel()  # its place was granted in this very moment
    await asyncio.gather(*tasks, return_exceptions=True)
    assert got == ["c"]
    assert turns.free == 1


def pool_of(max_parallel: int) -> tuple[WorkerPool, FakeWorker, list[FakeWorker]]:
    first, started = FakeWorker(), list[FakeWorker]()

    async def start() -> FakeWorker:
        started.append(FakeWorker())
        return started[-1]

    return WorkerPool(start, first, max_parallel), first, started


async def test_get_properties_uses_the_idle_worker() -> None:
    pool, first, started = pool_of(1)
    async with pool.place("run", light=True) as place:
        assert await pool.worker(place) is first
    assert started == []


async def test_get_properties_does_not_wait_for_training() -> None:
    pool, _, started = pool_of(1)
    async with pool.place("run", light=False):
        for _ in range(2):
            async with pool.place("run", light=True) as place:
                assert await pool.worker(place) is started[0]
    assert len(started) == 1


async def test_workers_beyond_the_first_are_started_when_they_are_needed() -> None:
    pool, first, started = pool_of(2)
    async with pool.place("a", light=False) as one:
        assert await pool.worker(one) is first
        async with pool.place("b", light=False) as two:
            assert await pool.worker(two) is started[0]
    async with pool.place("c", light=False) as again:
        assert await pool.worker(again) in (first, started[0])
    assert len(started) == 1


async def test_a_dead_worker_is_replaced() -> None:
    pool, first, started = pool_of(1)
    first.alive = False
    async with pool.place("a", light=False) as place:
        assert await pool.worker(place) is started[0]


async def test_a_discarded_worker_is_ended_as_busy() -> None:
    pool, first, started = pool_of(1)
    async with pool.place("a", light=False) as place:
        await pool.discard(place)
        assert first.stopped_busy is True
        assert await pool.worker(place) is started[0]


async def test_closing_ends_all_workers() -> None:
    pool, first, started = pool_of(2)
    async with pool.place("a", light=False), pool.place("b", light=False) as two:
        await pool.worker(two)
    await pool.close()
    assert first.stopped_busy is False
    assert started[0].stopped_busy is False


async def test_a_worker_that_cannot_be_started_again_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(seconds: float, why: str) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("hedgerow.client.worker_pool.pause", pause)

    async def start() -> FakeWorker:
        raise ConfigError("the module is gone")

    first = FakeWorker()
    first.alive = False
    pool = WorkerPool(start, first, 1)
    async with pool.place("a", light=False) as place:
        for _ in range(3):
            with pytest.raises(WorkerDied, match="the module is gone"):
                await pool.worker(place)
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1 <= pauses[2] <= 2


async def test_an_attached_worker_is_never_replaced() -> None:
    first = FakeWorker()
    pool = WorkerPool(None, first, 1)
    assert not pool.replaces_workers
    first.alive = False
    async with pool.place("a", light=False) as place:
        with pytest.raises(WorkerDied, match="is gone"):
            await pool.worker(place)
