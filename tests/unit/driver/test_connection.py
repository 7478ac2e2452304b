"""What the driver's network side says and does, without any network."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest

from hedgerow.driver import daemon_pool
from hedgerow.driver.config import DriverLimits, ServerConfig
from hedgerow.driver.connection import STILL_AWAY_LOG_S, Absence, error_of
from hedgerow.driver.daemon_pool import DaemonPool
from hedgerow.driver.watcher import Mirror
from hedgerow.errors import ConfigError, HedgerowError, NotFound, RunEnded, Unavailable
from hedgerow.records import Node, NodeState, Outcome, Reply, TaskResult
from hedgerow.wire.status import to_status


def failed(code: grpc.StatusCode, details: str = "", trailing: Any = ()) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_silence_of_the_server_is_unavailable(code: grpc.StatusCode) -> None:
    assert isinstance(error_of(failed(code)), Unavailable)


@pytest.mark.parametrize("details", ["Stream removed (x)", "Received RST_STREAM with error code 2", "GOAWAY received"])
def test_cut_stream_is_unavailable(details: str) -> None:
    assert isinstance(error_of(failed(grpc.StatusCode.UNKNOWN, details)), Unavailable)


@pytest.mark.parametrize("error", [NotFound("no such run"), RunEnded("over")])
def test_what_the_server_says_itself_is_believed(error: HedgerowError) -> None:
    code, details, trailing = to_status(error)
    found = error_of(failed(code, details, trailing))
    assert (type(found), str(found)) == (type(error), str(error))


def test_fault_of_the_server_is_not_tried_again() -> None:
    assert not isinstance(error_of(failed(grpc.StatusCode.UNKNOWN, "Unexpected <class 'KeyError'>")), Unavailable)


def test_absence_is_told_once_then_every_half_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    time = [0.0]
    absence = Absence("host:1", now=lambda: time[0])
    limit = DriverLimits().limit("connect_s")
    for now in (0.0, 1.0, STILL_AWAY_LOG_S - 1, STILL_AWAY_LOG_S, STILL_AWAY_LOG_S + 1, 2 * STILL_AWAY_LOG_S):
        time[0] = now
        absence.noticed(Unavailable("refused"), limit)
    absence.ended()
    absence.ended()
    assert [r.getMessage() for r in caplog.records] == [
        "No answer from the server at host:1; trying for up to 600 s (connect_s): refused",
        "Still no answer from the server at host:1 after 30 s: refused",
        "Still no answer from the server at host:1 after 60 s: refused",
        "The server at host:1 answers again after 60.0 s",
    ]


def node(name: str, version: int, state: NodeState = NodeState.ONLINE) -> Node:
    return Node(f"id{name}", name, state, version, 0.0)


def test_nodes_are_known_by_name_with_their_newest_state() -> None:
    mirror = Mirror()
    mirror.add_nodes([node("b", 1), node("a", 2), node("c", 3, NodeState.AWAY)], complete=True)
    mirror.add_nodes([node("a", 4, NodeState.LOST)], complete=False)
    assert [n.name for n in mirror.nodes()] == ["b", "c"]
    assert mirror.node_version == 4


def test_subscriber_hears_of_nodes_when_the_list_is_whole() -> None:
    mirror = Mirror()
    heard: list[list[str]] = []
    mirror.subscribe(lambda ids: heard.append(sorted(ids)), lambda error: None)
    mirror.add_nodes([node("a", 1)], complete=False)
    mirror.add_nodes([node("b", 2)], complete=True)
    mirror.add_nodes([node("c", 3)], complete=False)
    assert heard == [["ida", "idb"], ["idc"]]
    mirror.subscribe(lambda ids: heard.append(sorted(ids)), lambda error: None)
    assert heard[-1] == ["ida", "idb", "idc"]


def test_subscriber_hears_of_nodes_that_a_server_with_another_state_does_not_know() -> None:
    mirror = Mirror()
    mirror.add_nodes([node("a", 1), node("b", 2)], complete=True)
    heard: list[list[str]] = []
    mirror.subscribe(lambda ids: heard.append(sorted(ids)), lambda error: None)
    mirror.renew()
    mirror.add_nodes([node("b", 1)], complete=True)
    assert heard[-1] == ["ida", "idb"]
    assert list(mirror.find(["ida", "idb"])) == ["idb"]


def result(task_id: str, cursor: int, round: int = 1) -> TaskResult:
    return TaskResult(cursor, task_id, "node", round, "fit", Reply(Outcome.OK))


def test_result_that_comes_before_it_is_expected_is_kept() -> None:
    mirror = Mirror()
    mirror.add_results([result("early", 5)])
    assert mirror.expect("early").result(0).cursor == 5
    assert mirror.cursor == 5


def test_result_that_comes_twice_is_taken_once() -> None:
    mirror = Mirror()
    future = mirror.expect("t")
    mirror.add_results([result("t", 1)])
    mirror.add_results([result("t", 1), result("u", 2)])
    assert (future.result(0).cursor, mirror.cursor) == (1, 2)


def test_waiter_that_gives_up_does_not_lose_the_result_for_others() -> None:
    mirror = Mirror()
    assert not mirror.expect("t").cancel()
    mirror.add_results([result("t", 1)])
    assert mirror.expect("t").result(0).task_id == "t"


def test_rounds_that_are_over_are_forgotten() -> None:
    mirror = Mirror()
    mirror.add_results([result("old", 1, round=1), result("new", 2, round=2)])
    still_open = mirror.expect("open")
    mirror.forget(1)
    assert not mirror.expect("old").done()
    assert mirror.expect("new").done()
    assert mirror.expect("open") is still_open


def test_end_of_the_run_reaches_everybody_now_and_later() -> None:
    mirror = Mirror()
    heard: list[BaseException] = []
    before, error = mirror.expect("before"), RunEnded("over")
    mirror.subscribe(lambda ids: None, heard.append)
    mirror.abort(error)
    mirror.abort(RunEnded("again"))
    mirror.subscribe(lambda ids: None, heard.append)
    assert heard == [error, error]
    for future in (before, mirror.expect("after")):
        assert future.exception(0) is error
    with pytest.raises(RunEnded, match="over"):
        mirror.nodes()


def test_pool_runs_every_job_and_survives_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, done, logged = DaemonPool(2, "test"), threading.Event(), threading.Event()
    monkeypatch.setattr(daemon_pool.log, "exception", lambda message: logged.set())
    ran: list[int] = []

    def fail() -> None:
        raise ValueError("broken job")

    pool.submit(fail)

    def job(i: int) -> None:
        ran.append(i)
        if len(ran) == 50:
            done.set()

    for i in range(50):
        pool.submit(partial(job, i))
    assert done.wait(10)
    assert sorted(ran) == list(range(50))
    assert logged.wait(10)


@pytest.mark.parametrize(
    "config",
    [
        *(ServerConfig(seed=-1), ServerConfig(seed=2**64), ServerConfig(round_timeout=-1.0), ServerConfig(grace_s=float("nan"))),
        ServerConfig(num_rounds="3"),  # type: ignore[arg-type]
        ServerConfig(num_rounds=1.5),  # type: ignore[arg-type]
        ServerConfig(round_timeout="60"),  # type: ignore[arg-type]
        ServerConfig(seed=0.5),  # type: ignore[arg-type]
        ServerConfig(min_fit_results="all"),  # type: ignore[arg-type]
        ServerConfig(grace_s=[]),  # type: ignore[arg-type]
    ],
)
def test_impossible_config_is_refused(config: ServerConfig) -> None:
    with pytest.raises(ConfigError):
        config.check()
