"""The sequence that fills: order, waiting, failures, deadline."""

from __future__ import annotations

import pytest

from hedgerow.driver.results import Measure, Results
from hedgerow.errors import RunEnded, TaskFailed
from hedgerow.strategy import ClientProxy
from tests.unit.driver.fakes import FakeClient, waiting

CLIENTS = [FakeClient(name) for name in ("a", "b", "c")]


def results(**callbacks: object) -> Results[int]:
    return Results(CLIENTS, **callbacks)  # type: ignore[arg-type]


def names(pairs: object) -> list[tuple[str, int]]:
    return [(client.cid, answer) for client, answer in pairs]  # type: ignore[attr-defined]


def test_iteration_follows_the_instructions_not_the_arrival() -> None:
    r = results()
    for index in (2, 0, 1):
        r.put(index, index)
    assert names(r) == [("a", 0), ("b", 1), ("c", 2)]


def test_iteration_yields_what_is_here_before_the_last_answer() -> None:
    r = results()
    r.put(0, 10)
    r.put(2, 30)
    iterator = iter(r)
    assert next(iterator)[1] == 10
    with waiting(r._condition, lambda: next(iterator)[1]) as second:
        r.put(1, 20)
        assert second.result() == 20
    assert next(iterator)[1] == 30


def test_failures_are_skipped_and_listed_in_order() -> None:
    r = results()
    errors = [ValueError("a"), ValueError("c")]
    r.fail(2, errors[1])
    r.put(1, 5)
    r.fail(0, errors[0])
    assert names(r) == [("b", 5)]
    assert list(r.failures) == errors
    assert [(f.client.cid, f.error) for f in r.failed()] == [("a", errors[0]), ("c", errors[1])]
    assert (len(r), len(r.failures), r.failures[-1], r.failures[:1]) == (1, 2, errors[1], [errors[0]])


@pytest.mark.parametrize(
    "read",
    [
        len,
        bool,
        lambda r: r[0],
        lambda r: r[-1:],
        lambda r: list(reversed(r)),
        lambda r: bool(r.failures),
        lambda r: list(r.failures),
        lambda r: r.failures[:1],
    ],
)
def test_everything_but_iteration_waits_for_the_last_answer(read: object) -> None:
    r = results()
    r.put(0, 1)
    r.put(1, 2)
    with waiting(r._condition, lambda: read(r)) as reader:  # type: ignore[operator]
        r.put(2, 3)
        reader.result()


def test_whole_sequence_behaves_like_a_list() -> None:
    r = results()
    for index in range(3):
        r.put(index, index)
    expected = [(CLIENTS[i], i) for i in range(3)]
    assert list(r) == list(r) == expected
    assert r[1] == expected[1]
    assert r[:2] == expected[:2]
    assert list(reversed(r)) == expected[::-1]
    assert expected[2] in r
    assert r.index(expected[1]) == 1
    with pytest.raises(IndexError):
        r[3]


def test_second_answer_is_refused() -> None:
    r = results()
    assert r.put(0, 1)
    assert not r.put(0, 2)
    assert not r.fail(0, ValueError())
    r.put(1, 1)
    r.put(2, 1)
    assert [answer for _, answer in r] == [1, 1, 1]


def test_completion_is_told_once_and_before_readers_see_it() -> None:
    told: list[tuple[int, int]] = []
    seen: list[str] = []
    r = results(completed=lambda ok, bad: told.append((ok, bad)), failed=lambda c, e: seen.append(f"{c.cid} {e}"))
    r.put(0, 1)
    r.fail(1, ValueError("no"))
    with waiting(r._condition, lambda: (len(r), list(told))) as reader:
        assert told == []
        r.put(2, 1)
        assert reader.result() == (2, [(2, 1)])
    assert (told, seen) == ([(2, 1)], ["b no"])


def test_nobody_asked_is_complete_at_once() -> None:
    told: list[tuple[int, int]] = []
    r: Results[int] = Results([], completed=lambda ok, bad: told.append((ok, bad)))
    assert (list(r), len(r), list(r.failures), told) == ([], 0, [], [(0, 0)])


def late(client: ClientProxy) -> TaskFailed:
    return TaskFailed("too late", node=client.cid, reason="late")


def test_deadline_turns_what_is_missing_into_failures() -> None:
    r = results()
    r.put(0, 1)
    with waiting(r._condition, lambda: names(r)) as reader:
        assert r.expire(late) == [1, 2]
        assert reader.result() == [("a", 1)]
    assert [e.node for e in r.failures if isinstance(e, TaskFailed)] == ["b", "c"]
    assert not r.arrived(1), "what comes after the deadline is not wanted"
    assert not r.put(1, 2)


def test_answer_on_its_way_is_not_late() -> None:
    r = results()
    assert r.arrived(1)
    assert r.expire(late) == [0, 2]
    r.put(1, 7)
    assert names(r) == [("b", 7)]


def test_abort_reaches_those_who_wait_but_not_what_is_here() -> None:
    r = results()
    r.put(0, 1)
    with waiting(r._condition, lambda: len(r)) as reader:
        r.abort(RunEnded("stopped by an operator"))
        with pytest.raises(RunEnded, match="by an operator"):
            reader.result()
    iterator = iter(r)
    assert next(iterator)[1] == 1
    with pytest.raises(RunEnded):
        next(iterator)


def test_abort_after_the_last_answer_changes_nothing() -> None:
    r = results()
    for index in range(3):
        r.put(index, index)
    r.abort(RunEnded())
    assert len(r) == 3


def test_representation_does_not_wait() -> None:
    r = results()
    r.put(0, 1)
    assert repr(r) == "<Results of 3 clients, 2 open>"


def test_grace_begins_once_when_enough_results_are_there() -> None:
    told: list[str] = []
    r = results(enough=2, reached=lambda: told.append("now"))
    r.put(0, 1)
    r.fail(1, ValueError("not a result"))
    assert told == []
    r.put(2, 3)
    assert told == [], "nobody is left to wait for"
    r = results(enough=1, reached=lambda: told.append("now"))
    for index in range(3):
        r.put(index, index)
    assert told == ["now"]


def test_every_client_is_listed_with_its_answer() -> None:
    r = results()
    r.put(1, 20)
    r.fail(0, ValueError("no"))
    r.put(2, 30)
    assert [client.cid for client, _ in r.answers()] == ["a", "b", "c"]
    assert [answer for _, answer in r.answers()][1:] == [20, 30]


def test_closing_is_told_once_by_a_reader_and_before_it_sees_the_end() -> None:
    told: list[object] = []
    r = results(closed=lambda failed, measures: told.append((sorted(failed), dict(measures))))
    r.measures[0] = Measure(5, 0.5)
    r.put(0, 1)
    r.put(1, 2)
    r.fail(2, ValueError("no"))
    assert told == [], "the network's thread has no time for it"
    iterator = iter(r)
    assert (next(iterator)[1], next(iterator)[1]) == (1, 2)
    assert told == []
    with pytest.raises(StopIteration):
        next(iterator)
    assert told == [([2], {0: Measure(5, 0.5)})]
    assert (len(r), len(r.failures), len(told)) == (2, 1, 1)


def test_reader_gets_the_error_of_closing_and_the_next_one_tries_again() -> None:
    tries = [OSError("the disk is full"), None]

    def close(failed: object, measures: object) -> None:
        error = tries.pop(0)
        if error is not None:
            raise error

    r = results(closed=close)
    for index in range(3):
        r.put(index, index)
    with pytest.raises(OSError, match="full"):
        len(r)
    assert len(r) == 3


def test_last_deadline_catches_answers_that_are_on_their_way_too() -> None:
    r = results()
    r.put(0, 1)
    assert r.arrived(1)
    assert r.expire(late, lambda client: TaskFailed("not fetched", node=client.cid)) == [2], "only these are still at work"
    assert [str(error) for error in r.failures] == ["not fetched", "too late"]
    assert not r.is_open(1)
