"""What people are told about runs and nodes."""

from __future__ import annotations

import pytest

from hedgerow.errors import InvalidArgument, NotFound
from hedgerow.records import NodeState, Outcome, Reply, RunState
from hedgerow.store.store import Store
from hedgerow.task_states import TaskState
from tests.integration.store.conftest import RUN, HeldClock, client, done, driver, fit, upload

A, B, DRIVER = client(1), client(2), driver()


async def test_run_is_found_by_its_id_and_by_a_beginning_that_is_unique(store: Store) -> None:
    for run_id in ("abcd0001", "abcd00012", "abce0001"):
        await store.create_run(DRIVER, run_id, "", 1)
    assert (await store.find_run("abcd0001")).info.run_id == "abcd0001", "the whole id is meant, although another begins so"
    assert (await store.find_run("abce")).info.run_id == "abce0001"
    with pytest.raises(InvalidArgument, match="abcd0001, abcd00012, abce0001"):
        await store.find_run("abc")
    with pytest.raises(NotFound, match="hedgerow runs"):
        await store.find_run("abcd00013")
    for bad in ("", "a%", "a_", "ä", "a" * 65):
        with pytest.raises(InvalidArgument):
            await store.find_run(bad)


async def test_run_is_told_with_rounds_failures_and_blobs(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 2**64 - 1)
    for node, name in ((A, "a"), (B, "b")):
        await store.open_session(node, name, [], [])
    blob = await upload(store, DRIVER, 1, size=1000)
    tasks = [fit(A, payload=blob), fit(B, payload=blob), fit(A, round=2), fit(driver(9), round=2)]
    await store.push_tasks(DRIVER, RUN, tasks)
    await store.complete_task(A.id, 1, tasks[0].task_id, done())
    await store.complete_task(B.id, 1, tasks[1].task_id, Reply(Outcome.USER_ERROR, "no data"))
    detail = await store.run_detail(RUN[:5])
    assert (detail.run.info.seed, detail.run.round, detail.blobs, detail.blob_bytes) == (2**64 - 1, 2, 1, 1000)
    some = {TaskState.SENT: 1, TaskState.DONE: 1, TaskState.FAILED: 2}
    assert detail.run.tasks == dict.fromkeys(TaskState, 0) | some
    assert [(r.round, r.kind, r.tasks[TaskState.FAILED]) for r in detail.rounds] == [(1, "fit", 1), (2, "fit", 1)]
    told = [(f.node, f.round, f.outcome) for f in detail.failures]
    assert sorted(told) == sorted([("b", 1, Outcome.USER_ERROR), (driver(9).id, 2, Outcome.NODE_LOST)])
    nodes = await store.list_nodes()
    assert [(n.node.name, n.node.state, n.open_tasks) for n in nodes] == [("a", NodeState.ONLINE, 1), ("b", NodeState.ONLINE, 0)]


async def test_watched_run_is_seen_with_every_sweep(store: Store, clock: HeldClock) -> None:
    await store.create_run(DRIVER, RUN, "", 1)
    await store.create_run(DRIVER, "run00000002", "", 1)
    await store.run_seen(RUN, True)
    clock.advance(30)
    await store.see_watched_runs()
    seen = {run.info.run_id: (run.info.last_seen, run.info.watched) for run in await store.list_runs(10)}
    assert seen == {RUN: (1030.0, True), "run00000002": (1000.0, False)}


async def test_run_ended_by_an_operator_says_whether_it_was_over(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "", 1)
    assert (await store.end_run(None, RUN, RunState.STOPPED, "enough")).changed
    assert not (await store.end_run(None, RUN, RunState.STOPPED, "again")).changed
    assert (await store.find_run(RUN)).info.message == "enough"
