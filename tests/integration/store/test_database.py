"""Opening, closing and reopening; what is refused; what happens when the database itself fails."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert
from sqlalchemy.exc import OperationalError

from hedgerow.errors import ConfigError, Fenced, HedgerowError, LimitReached, NotFound, PermissionDenied, Unavailable
from hedgerow.records import NodeState, Outcome, Reply, RunState, Task
from hedgerow.security import Identity
from hedgerow.store import schema, tasks
from hedgerow.store.schema import VERSION
from hedgerow.store.store import Store
from hedgerow.task_states import TaskState
from tests.integration.store.conftest import RUN, HeldClock, client, done, driver, fit, upload

A, B, DRIVER = client(1), client(2), driver()


def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def test_reopened_database_has_everything_that_was_acknowledged(path: Path, clock: HeldClock) -> None:
    store = Store.open(url(path), clock)
    server_id, key = store.server_id, store.url_key
    await store.create_run(DRIVER, RUN, "demo", 5)
    await store.open_session(A, "a", [], [])
    first, second = fit(A, payload=await upload(store, DRIVER, 1)), fit(A, sequence=1, payload=b"inline")
    await store.push_tasks(DRIVER, RUN, [first, second])
    await store.complete_task(A.id, 1, first.task_id, done())
    await store.run_seen(RUN, True)
    results = await store.results_after(RUN, 0, 10)
    store.close()

    clock.advance(5_000)
    store = Store.open(url(path), clock)
    try:
        assert (store.server_id, store.url_key) == (server_id, key)
        assert len(key) == 32
        assert await store.results_after(RUN, 0, 10) == results
        (node,) = await store.nodes_after(0, 10)
        assert (node.state, node.version) == (NodeState.AWAY, 2)
        # While the server was down nobody could come back or be seen.
        assert (await store.lose_nodes(clock.now(), clock.now())).nodes == []
        assert await store.interrupt_runs(clock.now()) == []
        assert (await store.open_session(A, "a", [], [])).assign == [second]
        clock.advance(1)
        assert await store.interrupt_runs(clock.now()) == [RUN]  # nobody watches it any longer
    finally:
        store.close()


async def test_copy_of_the_files_of_a_running_store_has_what_was_acknowledged(
    store: Store, path: Path, tmp_path: Path, clock: HeldClock
) -> None:
    await store.create_run(DRIVER, RUN, "demo", 5)
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in (path.name, f"{path.name}-wal"):  # as a kill would leave them
        shutil.copy(path.with_name(name), killed / name)
    copy = Store.open(url(killed / path.name), clock)
    try:
        assert (await copy.check_run(DRIVER, RUN)).state is RunState.PENDING
    finally:
        copy.close()


def test_nobody_else_may_read_the_database_whatever_its_folder_is(store: Store, path: Path) -> None:
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.glob(f"{path.name}*")}
    assert modes == {f"{path.name}{end}": "0o600" for end in ("", "-wal", "-shm")}


def test_database_commits_to_disk_in_write_ahead_mode(store: Store) -> None:
    with store._engines[0].connect() as connection:
        pragmas = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "synchronous")}
        foreign_keys = connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one()
        connection.rollback()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}
    assert foreign_keys == 1


def test_database_of_another_version_is_refused_and_not_touched(path: Path, clock: HeldClock) -> None:
    Store.open(url(path), clock).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"{path.name} has the schema version 99, this program needs {VERSION}"):
        Store.open(url(path), clock)
    assert path.read_bytes() == before


def test_file_that_is_no_database_is_refused_and_not_touched(path: Path, clock: HeldClock) -> None:
    path.write_bytes(b"certainly not a database" * 100)
    with pytest.raises(ConfigError, match="is not a database"):
        Store.open(url(path), clock)
    assert path.read_bytes() == b"certainly not a database" * 100


def test_database_of_another_program_is_refused(path: Path, clock: HeldClock) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    connection.close()
    with pytest.raises(ConfigError, match="not one of Hedgerow's"):
        Store.open(url(path), clock)


@pytest.mark.parametrize("bad", ["", "hedgerow.sqlite3", "sqlite://", "sqlite:///:memory:", "mysql://host/name"])
def test_url_that_cannot_be_used_is_refused(bad: str, clock: HeldClock) -> None:
    with pytest.raises(ConfigError):
        Store.open(bad, clock)


def test_sqlite_that_is_too_old_is_refused_and_nothing_is_made(
    path: Path, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(ConfigError, match=r"needs 3\.35\.0 or newer"):
        Store.open(url(path), clock)
    assert not path.exists()


def test_missing_folder_and_folder_in_place_of_a_file_are_refused(tmp_path: Path, clock: HeldClock) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Store.open(url(tmp_path / "missing" / "db.sqlite3"), clock)
    with pytest.raises(ConfigError, match="cannot be opened"):
        Store.open(url(tmp_path), clock)


async def test_closed_store_refuses_and_closes_twice(path: Path, clock: HeldClock) -> None:
    store = Store.open(url(path), clock)
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        await store.counts()


# --- group commit ---------------------------------------------------------------------------------------------------------


class Gate:
    """Holds the writer in a change until it is opened, so that what is handed in meanwhile becomes one batch."""

    def __init__(self, store: Store) -> None:
        self._entered, self._open = threading.Event(), threading.Event()
        self._held = asyncio.ensure_future(store._write(self._hold))
        self.store = store

    def _hold(self, _: Connection) -> None:
        self._entered.set()
        assert self._open.wait(20)

    async def __aenter__(self) -> Gate:
        assert await asyncio.to_thread(self._entered.wait, 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # the tasks that the test made hand in their changes
        self._open.set()
        await self._held


async def test_failing_change_in_a_batch_fails_alone(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    tasks = [fit(A, sequence=n) for n in range(5)]
    await store.push_tasks(DRIVER, RUN, tasks)

    def broken(connection: Connection) -> None:
        connection.execute(insert(schema.meta).values(key="half", value="done"))
        raise ValueError("no")

    before = store.commit_totals()
    async with Gate(store):
        good = [asyncio.ensure_future(store.complete_task(A.id, 1, t.task_id, done())) for t in tasks[:2]]
        unknown = asyncio.ensure_future(store.complete_task(A.id, 1, "0" * 32, done()))
        bad = asyncio.ensure_future(store._write(broken))
        good += [asyncio.ensure_future(store.complete_task(A.id, 1, t.task_id, done())) for t in tasks[2:]]
    assert all(completed.accepted for completed in await asyncio.gather(*good))
    with pytest.raises(NotFound):
        await unknown
    with pytest.raises(ValueError, match="no"):
        await bad
    assert len(await store.results_after(RUN, 0, 10)) == 5
    assert await store._read(lambda c: c.execute(schema.meta.select().where(schema.meta.c.key == "half")).first()) is None
    totals = store.commit_totals()
    assert (totals.commits - before.commits, totals.changes - before.changes) == (2, 8)  # the gate, then all in one


async def _handed_in(store: Store, *handed: tuple[Identity, int, str, Reply]) -> list[object]:
    """What becomes of results that are stored together: accepted, or the class of the refusal, in their order."""
    async with Gate(store):
        answers = [asyncio.ensure_future(store.complete_task(who.id, epoch, task, reply)) for who, epoch, task, reply in handed]
    gathered = await asyncio.gather(*answers, return_exceptions=True)
    return [type(answer) if isinstance(answer, BaseException) else answer.accepted for answer in gathered]


async def _with_tasks(store: Store) -> list[Task]:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    await store.open_session(B, "b", [], [])
    tasks = [fit(node, sequence=n) for n in range(2) for node in (A, B)]
    await store.push_tasks(DRIVER, RUN, tasks)
    return tasks


async def test_of_results_that_are_stored_together_each_has_its_own_answer(store: Store) -> None:
    told: list[object] = []
    store.watch(lambda run_id, results: told.extend(results or ["to be read"]))
    a0, b0, a1, b1 = (task.task_id for task in await _with_tasks(store))
    foreign = await upload(store, B, 1)
    own = await upload(store, A, 2)
    answers = await _handed_in(
        store,
        (B, 1, b1, done(loss=1.0)),
        (A, 1, "0" * 32, done()),
        (A, 1, a0, done(foreign)),
        (A, 2, a1, done()),
        (A, 1, a0, done(own, loss=2.0)),
        (A, 1, a0, done(loss=3.0)),
        (B, 1, a1, done()),
        (A, 1, a1, done(b"inline", loss=4.0)),
        (B, 1, b0, Reply(Outcome.USER_ERROR, "no data")),
    )
    assert answers == [True, NotFound, PermissionDenied, Fenced, True, False, NotFound, True, True]
    results = await store.results_after(RUN, 0, 10)
    assert [(result.task_id, result.reply.loss) for result in results] == [(b1, 1.0), (a0, 2.0), (a1, 4.0), (b0, 0.0)]
    assert [result.reply.parameters for result in results] == [None, own, b"inline", None]
    assert told == results, "each once, as it is read"


async def test_results_that_cannot_be_stored_together_are_stored_one_by_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    store.watch(lambda run_id, results: told.extend(results or ["to be read"]))
    a0, b0, *_ = (task.task_id for task in await _with_tasks(store))
    finish_each = tasks.finish_each

    def alone(connection: Connection, ends: Sequence[tasks.Finish]) -> None:
        finish_each(connection, ends)
        if len(ends) > 1:
            raise ValueError("not together")

    monkeypatch.setattr(tasks, "finish_each", alone)
    assert await _handed_in(store, (A, 1, a0, done()), (A, 1, "0" * 32, done()), (B, 1, b0, done())) == [True, NotFound, True]
    results = await store.results_after(RUN, 0, 10)
    assert [result.task_id for result in results] == [a0, b0]
    assert told == results


async def test_change_that_fails_alone_in_its_transaction_is_undone(store: Store) -> None:
    def broken(connection: Connection) -> None:
        connection.execute(insert(schema.meta).values(key="half", value="done"))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store._write(broken)
    assert await store._read(lambda c: c.execute(schema.meta.select().where(schema.meta.c.key == "half")).first()) is None


async def test_cancelled_awaiter_does_not_disturb_its_batch(store: Store) -> None:
    async with Gate(store):
        cancelled = asyncio.ensure_future(store.create_run(DRIVER, RUN, "demo", 1))
        other = asyncio.ensure_future(store.create_run(DRIVER, "run00000002", "demo", 1))
        await asyncio.sleep(0)
        cancelled.cancel()
    assert await other is RunState.PENDING
    assert cancelled.cancelled()
    assert (await store.counts()).runs[RunState.PENDING] == 2  # what was handed in is carried out


async def test_store_answers_in_each_callers_own_event_loop(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    tasks = [fit(A, sequence=n) for n in range(60)]
    await store.push_tasks(DRIVER, RUN, tasks)

    async def complete(some: list[Task]) -> int:
        answers = await asyncio.gather(*(store.complete_task(A.id, 1, t.task_id, done()) for t in some))
        return sum(a.accepted for a in answers)

    other = asyncio.to_thread(lambda: asyncio.run(complete(tasks[20:])))
    assert sum(await asyncio.gather(complete(tasks[:40]), other)) == 60  # 20 of them were sent from both
    assert (await store.counts()).tasks[TaskState.DONE] == 60


async def test_closing_carries_out_what_is_waiting(path: Path, clock: HeldClock) -> None:
    store = Store.open(url(path), clock)
    async with Gate(store):
        waiting = [asyncio.ensure_future(store.create_run(DRIVER, f"run{n:08d}", "demo", 1)) for n in range(5)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(asyncio.to_thread(store.close))
    await closing
    assert await asyncio.gather(*waiting) == [RunState.PENDING] * 5


# --- the database fails ---------------------------------------------------------------------------------------------------


async def test_full_disk_fails_the_batch_keeps_the_rest_and_recovers(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    pages = await store._write(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())
    await store._write(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}"))  # SQLite's own SQLITE_FULL
    big, small = fit(A, payload=b"x" * 60_000), fit(A, sequence=1)
    async with Gate(store):
        calls = [asyncio.ensure_future(store.push_tasks(DRIVER, RUN, [task])) for task in (small, big, small)]
    for call in calls:
        with pytest.raises(LimitReached, match="disk full"):
            await call
    assert sum((await store.counts()).tasks.values()) == 0
    await store._write(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000"))
    assert (await store.push_tasks(DRIVER, RUN, [big, small])).created == 2


async def test_locked_database_refuses_until_the_lock_is_gone(path: Path, clock: HeldClock) -> None:
    store = Store.open(url(path), clock)
    try:
        await store._write(lambda c: c.exec_driver_sql("PRAGMA busy_timeout = 50"))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LimitReached, match="locked"):
            await store.create_run(DRIVER, RUN, "demo", 1)
        assert await store.nodes_after(0, 10) == []  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        assert await store.create_run(DRIVER, RUN, "demo", 1) is RunState.PENDING
    finally:
        store.close()


async def test_database_that_cannot_be_written_refuses_and_recovers(store: Store) -> None:
    # What SQLite says on a file system that has become read-only.
    connection = store._writer._connection.connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    connection.execute("PRAGMA query_only = ON")
    with pytest.raises(LimitReached, match="permissions"):
        await store.create_run(DRIVER, RUN, "demo", 1)
    assert "permissions" in store.commit_totals().problem
    assert await store.nodes_after(0, 10) == []  # reading goes on
    connection.execute("PRAGMA query_only = OFF")
    assert await store.create_run(DRIVER, RUN, "demo", 1) is RunState.PENDING
    assert store.commit_totals().problem == ""


async def test_each_waiter_of_a_failed_batch_gets_an_error_of_its_own(store: Store) -> None:
    def full(_: Connection) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"
        raise OperationalError("INSERT", {}, error)

    async with Gate(store):
        calls = [asyncio.ensure_future(store._write(full)) for _ in range(2)]
    first, second = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(first, HedgerowError)
    assert first is not second
    assert str(first) == str(second)


def test_wait_for_a_closed_loop_does_not_stop_the_writer(store: Store) -> None:
    opened, entered = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        entered.set()
        assert opened.wait(20)

    async def leave() -> None:
        waiting = asyncio.ensure_future(store._write(hold))
        assert await asyncio.to_thread(entered.wait, 20)
        waiting.cancel()

    asyncio.run(leave())
    opened.set()
    assert asyncio.run(store.create_run(DRIVER, RUN, "demo", 1)) is RunState.PENDING
