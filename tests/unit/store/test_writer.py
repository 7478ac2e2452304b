"""The lane with a connection that fails as the test says; the real database is in the integration tier."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any, cast

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from hedgerow.errors import CorruptData, HedgerowError, LimitReached, NotFound, Unavailable
from hedgerow.store.notes import Note, note
from hedgerow.store.writer import Lane, explain


def database_error(name: str) -> OperationalError:
    orig = sqlite3.OperationalError("what SQLite says")
    orig.sqlite_errorname = name
    return OperationalError("COMMIT", {}, orig)


class FakeConnection:
    """Writes down what is asked of it; ``failures`` are raised by the next commits."""

    def __init__(self, *failures: Exception) -> None:
        self.calls: list[str] = []
        self.info: dict[str, object] = {}
        self.failures = list(failures)

    def begin(self) -> None:
        self.calls.append("begin")

    def exec_driver_sql(self, statement: str) -> None:
        self.calls.append(statement)

    def commit(self) -> None:
        self.calls.append("commit")
        if self.failures:
            raise self.failures.pop(0)

    def rollback(self) -> None:
        self.calls.append("rollback")

    def close(self) -> None:
        self.calls.append("close")


def lane(connection: FakeConnection) -> Lane:
    return Lane("writer", cast("Connection", connection), savepoints=True)


def work(answer: Any) -> Any:
    def carry_out(_: Connection) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return carry_out


@pytest.mark.parametrize(
    ("name", "cls", "says"),
    [
        ("SQLITE_FULL", LimitReached, "disk full"),
        ("SQLITE_BUSY", LimitReached, "locked"),
        ("SQLITE_BUSY_SNAPSHOT", LimitReached, "locked"),
        ("SQLITE_LOCKED", LimitReached, "locked"),
        ("SQLITE_READONLY", LimitReached, "permissions"),
        ("SQLITE_CANTOPEN", LimitReached, "permissions"),
        ("SQLITE_IOERR_SHMSIZE", LimitReached, "disk full"),
        ("SQLITE_CORRUPT", CorruptData, "damaged"),
        ("SQLITE_NOTADB", CorruptData, "damaged"),
        ("SQLITE_IOERR_WRITE", Unavailable, "SQLITE_IOERR_WRITE"),
    ],
)
def test_failure_of_the_database_says_what_it_means(name: str, cls: type[HedgerowError], says: str) -> None:
    error = explain(database_error(name))
    assert type(error) is cls
    assert says in str(error)


async def test_answer_comes_after_the_commit_and_the_error_after_the_rollback() -> None:
    connection = FakeConnection()
    writer = lane(connection)
    assert await writer.run(work(3)) == 3
    with pytest.raises(NotFound):
        await writer.run(work(NotFound("x")))
    writer.close()
    assert connection.calls == ["begin", "commit", "begin", "rollback", "close"]


async def test_commit_that_fails_fails_its_batch_and_the_lane_goes_on() -> None:
    connection = FakeConnection(database_error("SQLITE_FULL"), database_error("SQLITE_BUSY"))
    writer = lane(connection)
    with pytest.raises(LimitReached, match="disk full"):
        await writer.run(work(1))
    with pytest.raises(LimitReached, match="locked"):
        await writer.run(work(2))
    assert (writer.totals().failures, "locked" in writer.totals().problem) == (2, True)
    assert await writer.run(work(3)) == 3
    assert (writer.totals().failures, writer.totals().problem) == (2, "")
    writer.close()
    assert connection.calls[:3] == ["begin", "commit", "rollback"]


async def test_each_change_of_a_batch_has_its_savepoint_and_one_that_fails_is_undone() -> None:
    connection = FakeConnection()
    writer = lane(connection)
    with writer._condition:  # while this is held, the lane cannot take its batch
        calls = [asyncio.ensure_future(writer.run(work(a))) for a in (1, NotFound("x"), 3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    writer.close()
    assert answers[0] == 1
    assert isinstance(answers[1], NotFound)
    assert answers[2] == 3
    assert connection.calls == [
        "begin",
        "SAVEPOINT change",
        "RELEASE SAVEPOINT change",
        "SAVEPOINT change",
        "ROLLBACK TO SAVEPOINT change",
        "RELEASE SAVEPOINT change",
        "SAVEPOINT change",
        "RELEASE SAVEPOINT change",
        "commit",
        "close",
    ]


async def test_unexpected_error_is_logged_with_its_traceback_and_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    writer = lane(FakeConnection())
    with pytest.raises(ZeroDivisionError):
        await writer.run(work(ZeroDivisionError("x")))
    with pytest.raises(NotFound):
        await writer.run(work(NotFound("expected, and not logged")))
    writer.close()
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_totals_count_commits_and_changes() -> None:
    writer = lane(FakeConnection())
    for _ in range(3):
        await writer.run(work(1))
    writer.close()
    totals = writer.totals()
    assert (totals.commits, totals.changes) == (3, 3)
    assert totals.seconds >= 0


async def test_what_is_noted_is_told_after_the_commit() -> None:
    connection = FakeConnection()
    told: list[tuple[list[str], list[Note]]] = []
    writer = Lane(
        "writer",
        cast(Connection, connection),
        savepoints=True,
        committed=lambda noted: told.append((list(connection.calls), noted)),
    )
    await writer.run(lambda c: note(c, "run00000001", None))
    await writer.run(lambda c: None)
    writer.close()
    assert told == [(["begin", "commit"], [("run00000001", None)])], "nothing to tell is not told"


async def test_what_was_noted_by_a_change_that_was_undone_is_not_told() -> None:
    told: list[str] = []
    connection = FakeConnection()
    writer = Lane(
        "writer",
        cast(Connection, connection),
        savepoints=True,
        committed=lambda noted: told.extend(run_id for run_id, _ in noted),
    )

    def refused(c: Connection) -> None:
        note(c, "refused", None)
        raise NotFound("x")

    with writer._condition:  # while this is held, the lane cannot take its batch
        calls = [asyncio.ensure_future(writer.run(change)) for change in (lambda c: note(c, "kept", None), refused)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*calls, return_exceptions=True)
    assert told == ["kept"]
    connection.failures.append(database_error("SQLITE_FULL"))
    with pytest.raises(LimitReached):
        await writer.run(lambda c: note(c, "lost", None))
    await writer.run(lambda c: note(c, "after", None))
    writer.close()
    assert told == ["kept", "after"]
