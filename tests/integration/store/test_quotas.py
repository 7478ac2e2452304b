"""What one run, node or driver may have at most, and that what is counted for it is what is there."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.dialects import sqlite

from hedgerow.errors import ConfigError, HedgerowError, InvalidArgument, LimitReached, NotFound
from hedgerow.records import Blob, RunState
from hedgerow.security import Identity
from hedgerow.store import quotas, tasks, uploads
from hedgerow.store.quotas import Quotas
from hedgerow.store.store import Store
from tests.integration.store.conftest import RUN, HeldClock, client, digest, done, driver, fit, upload

A, B, DRIVER = client(1), client(2), driver()
QUOTAS = Quotas(max_run_blobs=3, max_run_bytes=1_000, max_node_tasks=4, max_driver_runs=2)


@pytest.fixture
async def store(path: Path, clock: HeldClock) -> AsyncIterator[Store]:
    opened = Store.open(f"sqlite:///{path}", clock, QUOTAS)
    await opened.create_run(DRIVER, RUN, "demo", 1)
    for node, name in ((A, "a"), (B, "b")):
        await opened.open_session(node, name, [], [])
    yield opened
    opened.close()


def rows(path: Path) -> list[list[object]]:
    """All that the database holds."""
    with closing(sqlite3.connect(path)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return [database.execute(f"SELECT * FROM {name}").fetchall() for name in names if name != "sqlite_sequence"]


def held(path: Path) -> dict[str, tuple[int, int]]:
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT run_id, held_blobs, held_bytes FROM runs").fetchall()
        counted = database.execute("SELECT run_id, count(*), sum(size) FROM uploads GROUP BY run_id").fetchall()
    really = {run_id: (number, size) for run_id, number, size in counted}
    said = {run_id: (number, size) for run_id, number, size in found}
    assert said == {run_id: really.get(run_id, (0, 0)) for run_id in said}
    return said


async def test_run_that_holds_as_many_blobs_as_it_may_is_given_more_when_a_round_is_over(store: Store, path: Path) -> None:
    blobs = [await upload(store, DRIVER, number, size=10) for number in range(3)]
    before = rows(path)
    with pytest.raises(LimitReached, match=rf"The run {RUN} holds 3 blobs; this server allows 3 \(--max-run-blobs\)"):
        await store.start_upload(DRIVER, "upload99", 10, RUN)
    assert rows(path) == before
    assert (await store.start_upload(DRIVER, f"upload0000{DRIVER.id}", 10, RUN)).done == blobs[0], "those that are there go on"
    await store.push_tasks(DRIVER, RUN, [fit(A, sequence=n, payload=blob) for n, blob in enumerate(blobs)])
    await store.acknowledge_round(DRIVER, RUN, 1, keep=[blobs[0].digest])
    assert held(path)[RUN] == (1, 10)
    await store.start_upload(DRIVER, "upload99", 10, RUN)


async def test_run_that_holds_as_many_bytes_as_it_may_is_given_more_when_some_are_gone(
    store: Store, path: Path, clock: HeldClock
) -> None:
    await store.push_tasks(DRIVER, RUN, [fit(A)])
    await store.start_upload(DRIVER, "upload01", 600, RUN)
    before = rows(path)
    for who in (DRIVER, A):
        with pytest.raises(LimitReached, match=r"holds 600 bytes and was to be given 401 more.*1,000 \(--max-run-bytes\)"):
            await store.start_upload(who, "upload02", 401, RUN)
    assert rows(path) == before
    await store.start_upload(A, "upload02", 400, RUN)
    await store.start_upload(A, "upload02", 400, RUN)
    assert held(path)[RUN] == (2, 1_000)
    clock.advance(100.0)
    await store.collect_blobs(clock.now())
    assert held(path)[RUN] == (0, 0), "what was announced and never sent is not held for ever"
    await store.start_upload(A, "upload02", 1_000, RUN)


async def test_runs_do_not_take_each_others_room(store: Store) -> None:
    await store.create_run(DRIVER, "run00000002", "demo", 1)
    await store.start_upload(DRIVER, "upload01", 1_000, RUN)
    await store.start_upload(DRIVER, "upload02", 1_000, "run00000002")


async def test_node_takes_no_room_in_a_run_that_it_has_no_task_of(store: Store, path: Path) -> None:
    await store.push_tasks(DRIVER, RUN, [fit(A)])
    before = rows(path)
    with pytest.raises(NotFound, match="has no task of the run"):
        await store.start_upload(B, "upload01", 10, RUN)
    assert rows(path) == before
    await store.acknowledge_round(DRIVER, RUN, 1, keep=[])
    await store.start_upload(A, "upload01", 10, RUN)  # late; it learns that when it hands the result in


async def test_node_that_has_as_many_open_tasks_as_it_may_is_given_more_when_some_have_ended(store: Store, path: Path) -> None:
    first = [fit(A, sequence=n) for n in range(4)]
    assert (await store.push_tasks(DRIVER, RUN, first)).created == 4
    before = rows(path)
    more = [fit(B), fit(A, sequence=4)]
    with pytest.raises(LimitReached, match=rf"The node {A.id} has 4 open tasks and was to be given 1 more.*\(--max-node-tasks\)"):
        await store.push_tasks(DRIVER, RUN, more)
    assert rows(path) == before
    assert (await store.push_tasks(DRIVER, RUN, first)).created == 0, "a batch that is said again is no more"
    await store.complete_task(A.id, 1, first[0].task_id, done())
    assert (await store.push_tasks(DRIVER, RUN, more)).created == 2


async def test_queued_tasks_of_a_node_that_is_away_and_tasks_of_other_drivers_count(store: Store) -> None:
    await store.close_session(A.id, 1)
    await store.push_tasks(DRIVER, RUN, [fit(A, sequence=n) for n in range(3)])
    await store.create_run(driver(2), "run00000002", "demo", 1)
    with pytest.raises(LimitReached, match="3 open tasks and was to be given 2 more"):
        await store.push_tasks(driver(2), "run00000002", [fit(A, run_id="run00000002", sequence=n) for n in range(2)])


async def test_more_tasks_for_a_node_than_it_could_ever_have_are_not_waited_for(store: Store) -> None:
    for node in (A, client(9)):
        with pytest.raises(InvalidArgument, match=r"5 tasks for the node .* are in one call; .*4 open tasks"):
            await store.push_tasks(DRIVER, RUN, [fit(node, sequence=n) for n in range(5)])


def certified(number: int, name: str) -> Identity:
    return replace(driver(number), certificate=f"hedgerow://driver/{name}")


async def test_driver_that_has_as_many_runs_as_it_may_opens_another_when_one_has_ended(
    store: Store, path: Path, clock: HeldClock
) -> None:
    for number in (2, 3):  # each start of a driver has an id of its own; the certificate says whose it is
        await store.create_run(certified(number, "ann"), f"run{number:08d}", "demo", 1)
    clock.advance(100.0)
    await store.interrupt_runs(clock.now())
    before = rows(path)
    with pytest.raises(LimitReached, match=r"hedgerow://driver/ann has 2 runs that are not over; .*2 \(--max-driver-runs\)"):
        await store.create_run(certified(4, "ann"), "run00000004", "demo", 1)
    assert rows(path) == before
    await store.create_run(certified(5, "bob"), "run00000005", "demo", 1)
    assert await store.create_run(certified(2, "ann"), "run00000002", "demo", 1) is RunState.PENDING, "it may be taken up"
    await store.end_run(certified(3, "ann"), "run00000003", RunState.STOPPED, "")
    await store.create_run(certified(4, "ann"), "run00000004", "demo", 1)


async def test_driver_without_a_certificate_is_known_by_its_id(store: Store) -> None:
    await store.create_run(DRIVER, "run00000002", "demo", 1)
    with pytest.raises(LimitReached, match=DRIVER.id):
        await store.create_run(DRIVER, "run00000003", "demo", 1)
    await store.create_run(driver(2), "run00000003", "demo", 1)


@pytest.mark.parametrize("seed", range(6))
async def test_what_runs_hold_is_counted_rightly_whatever_happens(path: Path, clock: HeldClock, seed: int) -> None:
    rng, store = random.Random(seed), Store.open(f"sqlite:///{path}", clock)
    peers, runs, names = (A, B, DRIVER), (RUN, "run00000002"), [f"upload{n:02d}" for n in range(12)]
    try:
        for number, run_id in enumerate(runs):
            await store.create_run(DRIVER, run_id, "demo", number)
        for node in (A, B):
            await store.open_session(node, node.id, [], [])
            for run_id in runs:
                await store.push_tasks(DRIVER, run_id, [fit(node, run_id=run_id, round=r) for r in range(8)])
        for step in range(120):
            run_id, who, name, number = rng.choice(runs), rng.choice(peers), rng.choice(names), rng.randrange(5)
            blob = Blob(digest(number), 100 * number)
            try:
                match rng.choice(
                    ("announce", "announce", "finish", "finish", "push", "complete", "acknowledge", "collect", "lose")
                ):
                    case "announce":
                        await store.start_upload(who, name, 100 * number, run_id)
                    case "finish":
                        await store.finish_upload(name, digest(number))
                    case "push":
                        await store.push_tasks(DRIVER, run_id, [fit(A, run_id=run_id, round=step, sequence=9, payload=blob)])
                    case "complete":
                        task = fit(rng.choice((A, B)), run_id=run_id, round=rng.randrange(8))
                        await store.complete_task(task.node_id, 1, task.task_id, done(blob))
                    case "acknowledge":
                        await store.acknowledge_round(DRIVER, run_id, step, keep=[digest(1)])
                    case "collect":
                        clock.advance(10.0)
                        await store.collect_blobs(clock.now() - rng.randrange(30))
                    case "lose":
                        await store.mark_lost_blobs([name])
            except HedgerowError:
                pass  # refused, and nothing changed
            held(path)
        for run_id in runs:
            await store.end_run(DRIVER, run_id, RunState.FINISHED, "")
        clock.advance(100.0)
        await store.collect_blobs(clock.now())
        assert set(held(path).values()) == {(0, 0)}
    finally:
        store.close()


def test_no_check_reads_a_whole_table(store: Store, path: Path) -> None:
    statements = {
        "tasks of nodes": tasks._NODES_WITH_OPEN.params(ids=["a", "b"]),
        "whether a node takes part": uploads._TAKES_PART.params(node="a", run="b"),
        "runs of a driver": quotas.runs_not_over(driver()),
        "runs of a certificate": quotas.runs_not_over(certified(1, "ann")),
    }
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        for name, statement in statements.items():
            text = statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
            plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
            assert plan, name
            assert not [line for line in plan if "SCAN" in line], (name, plan)
    engine.dispose()


@pytest.mark.parametrize("name", ["max_run_blobs", "max_run_bytes", "max_node_tasks", "max_driver_runs"])
def test_quota_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be more than 0"):
        Quotas(**{name: 0})
