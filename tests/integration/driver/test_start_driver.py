"""start_driver and Driver over real gRPC, against a Driver API that can be told to fail."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hedgerow.driver import Driver, DriverLimits, Server, ServerConfig, SimpleClientManager, checkpoint, durable, start_driver
from hedgerow.driver.answers import TIME_IS_UP
from hedgerow.errors import ConfigError, CorruptData, NotFound, RunEnded, TaskFailed, WaitTimeout
from hedgerow.records import (
    Blob,
    GetPropertiesIns,
    Kind,
    Node,
    NodeState,
    Outcome,
    Parameters,
    Reply,
    RunState,
    Task,
)
from hedgerow.strategy import FedAvg, FedAvgM
from hedgerow.waits import Limit
from hedgerow.wire import tensors
from tests.integration.driver.driver_api import Answer, FakeServer

MODEL = Parameters({"w": np.arange(3, dtype=np.float32)})
QUICK = DriverLimits(connect_s=10, reconnect_s=10, wait_for_clients_s=10, end_run_s=5)


def trained(task: Task) -> Reply:
    """What a good client answers: seeded noise on top of what came."""
    match task.instruction.kind:
        case "get_properties":
            return Reply(Outcome.OK, metrics={"location": task.node_id})
        case "get_parameters":
            return Reply(Outcome.OK, parameters=tensors.dumps(MODEL))
        case "evaluate":
            return Reply(Outcome.OK, num_examples=2, loss=float(arrays(task)[0][0]))
        case _:
            noise = np.random.default_rng(task.seed).standard_normal(3).astype(np.float32)
            update = Parameters({"w": arrays(task)[0] + noise})
            return Reply(Outcome.OK, num_examples=1 + task.seed % 7, parameters=tensors.dumps(update))


def arrays(task: Task) -> list[Any]:
    assert isinstance(task.instruction.parameters, bytes)
    return tensors.view(task.instruction.parameters).arrays()


def failing(node_id: str, reply: Reply) -> Answer:
    return lambda task: reply if (task.node_id, task.instruction.kind) == (node_id, "fit") else trained(task)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(trained, ["b", "a", "c"]) as fake:
        yield fake


def run(fake: FakeServer, rounds: int = 1, seed: int | None = 3, **kwargs: Any) -> Any:
    config = ServerConfig(num_rounds=rounds, seed=seed, round_timeout=kwargs.pop("round_timeout", None))
    return start_driver(server_address=fake.address, config=config, limits=QUICK, **kwargs)


def test_log_of_a_run_reads_as_documented(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "hedgerow")
    run(server, strategy=FedAvg(fraction_fit=0.0, min_fit_clients=1, evaluate_fn=lambda r, a, c: (0.25, {"accuracy": 0.5})))
    story = [
        r"INFO Opened insecure gRPC connection \(no certificates were passed\)",
        rf"INFO \[Driver\] Connected to {server.address}",
        r"INFO Starting Flower server, config: ServerConfig\(num_rounds=1, round_timeout=None, seed=3\)",
        r"INFO Initializing global parameters",
        r"INFO Requesting initial parameters from one random client",
        r"INFO Received initial parameters from one random client",
        r"INFO Evaluating initial parameters",
        r"INFO initial parameters \(loss, other metrics\): 0.25, {'accuracy': 0.5}",
        r"INFO FL starting",
        r"DEBUG fit_round 1: strategy sampled 1 clients \(out of 3\)",
        r"DEBUG fit_round 1 received 1 results and 0 failures",
        r"INFO fit progress: \(1, 0.25, {'accuracy': 0.5}, [0-9.e-]+\)",
        r"DEBUG evaluate_round 1: strategy sampled 3 clients \(out of 3\)",
        r"DEBUG evaluate_round 1 received 3 results and 0 failures",
        r"INFO FL finished in [0-9.e-]+",
        r"INFO app_fit: losses_distributed \[\(1, .*\)\]",
        r"INFO app_fit: metrics_distributed_fit {}",
        r"INFO app_fit: metrics_distributed {}",
        r"INFO app_fit: losses_centralized \[\(0, 0.25\), \(1, 0.25\)\]",
        r"INFO app_fit: metrics_centralized {'accuracy': \[\(0, 0.5\), \(1, 0.5\)\]}",
    ]
    log = iter([f"{r.levelname} {r.getMessage()}" for r in caplog.records])
    for line in story:  # in order; other lines may come between
        assert any(re.fullmatch(line, found) for found in log), line


def test_run_is_finished_and_every_round_acknowledged(server: FakeServer) -> None:
    run(server, rounds=2)
    assert server.api.ended == (RunState.FINISHED, "")
    assert max(server.api.keep) == 2, "one may stand for several"
    assert sorted(server.api.manifests) == [1, 2]


def test_same_seed_gives_the_same_bits_whatever_the_nodes_order() -> None:
    def outcome(names: list[str], seed: int) -> tuple[Any, bytes]:
        with FakeServer(trained, names) as fake:
            made = Server(client_manager=SimpleClientManager(), strategy=FedAvg(fraction_fit=0.5, min_available_clients=4))
            return run(fake, 3, seed, server=made), tensors.dumps(made.parameters)

    first = outcome(["a", "b", "c", "d"], 3)
    assert outcome(["d", "c", "b", "a"], 3) == first
    assert outcome(["a", "b", "c", "d"], 4) != first


@pytest.mark.parametrize(
    ("reply", "reason", "message"),
    [
        (Reply(Outcome.USER_ERROR, "ValueError: boom", "Traceback (most recent call last)\n…"), "user_error", "ValueError: boom"),
        (Reply(Outcome.WORKER_DIED), "worker_died", "worker process died"),
        (Reply(Outcome.NODE_LOST), "node_lost", "away for too long"),
        (Reply(Outcome.NOT_IMPLEMENTED), "not_implemented", "no such method"),
        (Reply(Outcome.REFUSED, "The site's policy allows no tasks of the kind 'fit'."), "refused", "policy allows no tasks"),
        (Reply(Outcome.OK, num_examples=1), "bad_update", "returned no parameters"),
        (Reply(Outcome.OK, num_examples=1, parameters=b"rubbish"), "bad_update", "cannot be read"),
        (
            Reply(Outcome.OK, num_examples=1, parameters=tensors.dumps(Parameters({"w": np.full(3, np.nan, np.float32)}))),
            "bad_update",
            "'w' is not finite",
        ),
        (
            Reply(Outcome.OK, num_examples=1, parameters=tensors.dumps(Parameters({"w": np.zeros(4, np.float32)}))),
            "bad_update",
            r"has the shape \(4,\), expected \(3,\)",
        ),
    ],
)
def test_round_goes_on_without_a_client_that_fails(
    reply: Reply, reason: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeServer(failing("node0001", reply), ["a", "b", "c"]) as fake:
        history = run(fake)
    (failure,) = history.failures[1]
    assert (failure.kind, failure.node, failure.reason) == ("fit", "b", reason)
    assert re.search(message, failure.message)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith(f"fit_round 1: client b failed ({reason}): ")
    assert reply.traceback.split("\n", maxsplit=1)[0] in warning
    assert len(history.losses_distributed) == 1


def test_deadline_of_a_round_cancels_what_is_open_and_folds_the_rest() -> None:
    def answer(task: Task) -> Reply | None:
        return None if (task.node_id, task.instruction.kind) == ("node0002", "fit") else trained(task)

    with FakeServer(answer, ["a", "b", "c"]) as fake:
        history = run(fake, round_timeout=0.2)
        (failure,) = history.failures[1]
        assert (failure.node, failure.reason, failure.message) == ("c", "late", "no answer within 0.2 s")
        assert [fake.api.tasks[task_id].node_id for task_id in fake.api.cancelled] == ["node0002"]
        assert fake.api.ended == (RunState.FINISHED, "")


def test_stragglers_have_a_grace_time_once_the_quorum_is_there() -> None:
    def answer(task: Task) -> Reply | None:
        return None if task.node_id == "node0002" and task.instruction.kind != "get_parameters" else trained(task)

    with FakeServer(answer, ["a", "b", "c"]) as fake:
        config = ServerConfig(num_rounds=1, seed=3, min_fit_results=2, grace_s=0.2)
        history = start_driver(server_address=fake.address, config=config, limits=QUICK)
        fit, evaluate = history.failures[1]
        assert (fit.node, fit.reason, fit.message) == ("c", "late", "no answer within 0.2 s after 2 of 3 clients")
        assert (evaluate.kind, evaluate.node, evaluate.reason) == ("evaluate", "c", "late")
        assert [fake.api.tasks[task_id].node_id for task_id in fake.api.cancelled] == ["node0002"] * 2
        assert history.invalid_rounds == {}
        line = json.loads(fake.api.manifests[1])
        assert [(entry["node"], entry["outcome"]) for entry in line["fit"]] == [
            ("a", "contributed"),
            ("b", "contributed"),
            ("c", "late"),
        ]
        assert line["fit"][0].keys() == {"node", "asked", "outcome", "examples", "bytes", "seconds"}


def test_nobody_is_late_before_the_quorum_is_there() -> None:
    waiting: list[Task] = []

    def two_finish() -> None:
        for task in waiting[:2]:
            fake.api.finish(task, trained(task))

    def answer(task: Task) -> Reply | None:
        if task.instruction.kind != "fit":
            return trained(task)
        waiting.append(task)
        if len(waiting) == 3:
            fake.loop.call_later(0.3, two_finish)
        return None

    with FakeServer(answer, ["a", "b", "c"]) as fake:
        config = ServerConfig(num_rounds=1, seed=3, min_fit_results=2, grace_s=0.0)
        history = start_driver(server_address=fake.address, config=config, limits=QUICK)
        assert [failure.node for failure in history.failures[1] if failure.kind == "fit"] == ["c"]


def in_a_blob(*node_ids: str) -> Answer:
    """These clients' updates are blobs, which the server has not got."""

    def answer(task: Task) -> Reply:
        if task.instruction.kind == "fit" and task.node_id in node_ids:
            return Reply(Outcome.OK, num_examples=1, parameters=Blob(f"{task.round:064}", 1000), duration_s=0.5)
        return trained(task)

    return answer


def test_update_whose_bytes_the_server_has_lost_is_that_one_failure() -> None:
    with FakeServer(in_a_blob("node0001"), ["a", "b", "c"]) as fake:
        history = run(fake)
        (failure,) = history.failures[1]
        assert (failure.node, failure.reason) == ("b", "lost_bytes")
        assert "no such blob here" in failure.message
        fit = json.loads(fake.api.manifests[1])["fit"]
        assert [entry["outcome"] for entry in fit] == ["contributed", "failed", "contributed"]
        assert fake.api.ended == (RunState.FINISHED, "")


def test_update_that_cannot_be_fetched_is_waited_for_no_longer_than_the_round_lasts() -> None:
    nodes = [f"node{i:04d}" for i in range(5)]  # more than are fetched at once

    with FakeServer(in_a_blob(*nodes), ["a", "b", "c", "d", "e", "f"]) as fake:
        fake.api.no_blob = {f"{1:064}": grpc.StatusCode.UNAVAILABLE}
        history = run(fake, rounds=2, round_timeout=0.6, strategy=FedAvg(fraction_evaluate=0.0))
        assert {(f.node, f.reason, f.message) for f in history.failures[1]} == {
            (name, "late", "the answer could not be fetched from the server within 0.6 s") for name in "abcde"
        }
        assert fake.api.cancelled == [], "there is nothing to cancel"
        entry = json.loads(fake.api.manifests[1])["fit"][0]
        assert (entry["outcome"], entry["bytes"], entry["seconds"]) == ("late", 1000, 0.5)
        assert {f.reason for f in history.failures[2]} == {"lost_bytes"}, "fetching for round 1 does not hold up round 2"


def test_manifest_tells_who_was_available_and_not_asked(server: FakeServer) -> None:
    run(server, strategy=FedAvg(fraction_fit=0.7))
    entries = json.loads(server.api.manifests[1])["fit"]
    assert sorted(entry["node"] for entry in entries) == ["a", "b", "c"]
    (left,) = [entry for entry in entries if not entry["asked"]]
    assert (left["outcome"], left["reason"]) == ("excluded", "not_sampled")


def test_client_that_was_late_before_the_driver_was_restarted_is_late_after_it() -> None:
    reply = Reply(Outcome.CANCELLED, TIME_IS_UP)
    with FakeServer(failing("node0001", reply), ["a", "b", "c"]) as fake:
        (failure,) = run(fake).failures[1]
        assert (failure.node, failure.reason) == ("b", "late")


def test_error_in_user_code_fails_the_run_and_comes_through(server: FakeServer) -> None:
    class Broken(FedAvg):
        def aggregate_fit(self, *args: Any) -> Any:
            raise ZeroDivisionError("user code")

    with pytest.raises(ZeroDivisionError, match="user code"):
        run(server, strategy=Broken())
    assert server.api.ended == (RunState.FAILED, "ZeroDivisionError: user code")


def test_ctrl_c_stops_the_run() -> None:
    def answer(task: Task) -> Reply | None:
        if task.instruction.kind == "fit":
            signal.raise_signal(signal.SIGINT)
            return None
        return trained(task)

    with FakeServer(answer, ["a", "b"]) as fake:
        with pytest.raises(KeyboardInterrupt):
            run(fake)
        assert fake.api.ended == (RunState.STOPPED, "stopped by Ctrl-C at the driver")


def test_sigterm_stops_the_run_as_ctrl_c_does_and_is_the_programs_own_afterwards() -> None:
    def answer(task: Task) -> Reply | None:
        if task.instruction.kind == "fit":
            signal.raise_signal(signal.SIGTERM)
            return None
        return trained(task)

    with FakeServer(answer, ["a", "b"]) as fake:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            run(fake)
        assert fake.api.ended == (RunState.STOPPED, "stopped by SIGTERM at the driver")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_program_that_handles_sigterm_goes_on_to_do_so(server: FakeServer) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        strategy = Failing()
        strategy.how = sigterm
        assert len(run(server, rounds=2, strategy=strategy).losses_distributed) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_run_that_an_operator_ends_is_over_for_the_driver() -> None:
    def answer(task: Task) -> Reply | None:
        if task.instruction.kind == "fit":
            fake.api.ended = (RunState.STOPPED, "by an operator")
            fake.api.ring()
            return None
        return trained(task)

    with FakeServer(answer, ["a", "b"]) as fake:
        with pytest.raises(RunEnded, match="by an operator"):
            run(fake)
        assert "EndRun" not in fake.api.calls


def test_who_waits_for_clients_is_woken_when_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hedgerow")
    with FakeServer(trained, ["a"]) as fake:

        def come() -> None:
            fake.api.nodes.append(Node("node0009", "z", NodeState.ONLINE, 9, 0.0))
            fake.api.ring()

        fake.do(lambda: fake.loop.call_later(0.1, come))
        assert run(fake).losses_distributed
    assert "Waiting for 2 clients to be available (now 1: a)" in caplog.text


def test_node_that_takes_over_a_name_replaces_the_lost_one() -> None:
    def answer(task: Task) -> Reply | None:
        if (task.round, task.instruction.kind) == (1, "evaluate"):
            # The newcomer is told of before its name is free.
            fake.api.nodes.append(Node("node0009", "a", NodeState.ONLINE, 10, 0.0))
            fake.api.ring()
            fake.api.nodes.append(Node("node0000", "a~node0000", NodeState.LOST, 11, 0.0))
            fake.api.ring()
        return trained(task)

    with FakeServer(answer, ["a", "b"]) as fake:
        run(fake, rounds=2)
        assert {t.node_id for t in fake.api.tasks.values() if t.round == 2} == {"node0009", "node0001"}


def test_calls_that_fail_for_a_moment_are_made_again(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hedgerow")
    names = ("CreateRun", "PushTasks", "AcknowledgeRound", "EndRun", "Watch")
    server.api.refuse = dict.fromkeys(names, 1)
    run(server)
    assert server.api.ended == (RunState.FINISHED, "")
    assert "No answer from the server" in caplog.text
    assert "answers again" in caplog.text


def test_stream_goes_on_where_it_was_cut(server: FakeServer) -> None:
    class Cutting(FedAvg):
        def configure_evaluate(self, *args: Any) -> Any:
            server.api.cut += 1
            server.do(server.api.ring)
            return super().configure_evaluate(*args)

    history = run(server, rounds=3, strategy=Cutting())
    assert [server_round for server_round, _ in history.losses_distributed] == [1, 2, 3]
    assert server.api.calls.count("Watch") >= 3


def test_server_that_does_not_come_is_given_up_with_a_named_limit(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(WaitTimeout, match="connect_s"):
        start_driver(server_address="127.0.0.1:1", limits=DriverLimits(connect_s=0.5))
    assert caplog.text.count("No answer from the server at 127.0.0.1:1") == 1


def test_driver_works_under_a_running_event_loop(server: FakeServer) -> None:
    async def notebook_cell() -> Any:
        return run(server)

    assert asyncio.run(notebook_cell()).losses_distributed


def test_two_drivers_of_one_process_do_not_disturb_each_other() -> None:
    histories: dict[int, Any] = {}
    with FakeServer(trained, ["a", "b"]) as one, FakeServer(trained, ["a", "b"]) as other:
        threads = [
            threading.Thread(target=lambda i=i, fake=fake: histories.update({i: run(fake, 5)}))
            for i, fake in enumerate((one, other))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert histories[0] == histories[1]
    assert len(histories[0].losses_distributed) == 5


def test_strategy_may_ask_clients_for_their_properties(server: FakeServer) -> None:
    seen = {}

    class Asking(FedAvg):
        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
            instructions = super().configure_fit(server_round, parameters, client_manager)
            for client, _ in instructions:
                seen[client.cid] = client.get_properties(GetPropertiesIns({}), timeout=5).properties["location"]
            return [(client, ins) for client, ins in instructions if client.cid == "a"]

    run(server, strategy=Asking())
    assert seen == {"a": "node0001", "b": "node0000", "c": "node0002"}
    assert {t.node_id for t in server.api.tasks.values() if t.instruction.kind == "fit"} == {"node0001"}


def test_single_question_has_a_time_limit() -> None:
    with FakeServer(lambda task: None if task.instruction.kind == "get_properties" else trained(task), ["a", "b"]) as fake:

        class Asking(FedAvg):
            def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
                return client_manager.sample(1)[0].get_properties(GetPropertiesIns({}), timeout=0.1)

        with pytest.raises(TaskFailed, match=r"no answer within 0.1 s"):
            run(fake, strategy=Asking())


def test_a_server_keeps_its_own_strategy(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    own = FedAvg(fraction_evaluate=0)
    history = run(server, server=Server(strategy=own), strategy=FedAvg())
    assert history.losses_distributed == []
    assert "Both a server and a strategy or client_manager were given; the server's own are used" in caplog.text


def test_wrong_arguments_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(ConfigError, match="num_rounds is -1"):
        start_driver(config=ServerConfig(num_rounds=-1))
    with pytest.raises(ConfigError, match="round_timeout is 0"):
        start_driver(config=ServerConfig(round_timeout=0))
    with pytest.raises(ConfigError, match="is not an address"):
        start_driver(server_address="http://x:1/y")


def test_low_level_driver_gives_results_as_they_arrive(server: FakeServer) -> None:
    with Driver(server.address, seed=1, limits=QUICK) as driver:
        driver.wait_for_nodes(3)
        assert [node.name for node in driver.nodes()] == ["a", "b", "c"]
        tasks = [driver.task(node, Kind.FIT, round=1, parameters=MODEL) for node in driver.nodes()]
        assert len({task.task_id for task in tasks}) == 3
        results = list(driver.results(driver.push(tasks)))
        assert {result.task_id for result in results} == {task.task_id for task in tasks}
        assert results[0].reply.parameters is not None
        assert list(driver.download(results[0].reply.parameters)) == ["w"]
        driver.push(tasks)
        driver.acknowledge(1)
    assert len(server.api.results) == 3, "tasks that are pushed twice are carried out once"
    assert server.api.ended == (RunState.FINISHED, "")


def test_a_task_of_a_round_that_is_over_is_another_one(server: FakeServer) -> None:
    with Driver(server.address, seed=1, limits=QUICK) as driver:
        driver.wait_for_nodes(3)
        node, *_ = driver.nodes()
        asked = [driver.task(node, Kind.FIT, round=1, parameters=MODEL)]
        driver.acknowledge(1, later=True)
        asked.append(driver.task(node, Kind.FIT, round=1, parameters=MODEL))
        list(driver.results(driver.push(asked)))
        assert asked[0].task_id != asked[1].task_id
        assert driver.sequences(1) == [(node.node_id, "fit", 2)]
        driver.acknowledge(2)
        assert driver.sequences(1) == []
    assert server.api.calls.index("AcknowledgeRound") < server.api.calls.index("PushTasks")


def test_wait_for_results_has_the_limit_that_is_given() -> None:
    with FakeServer(lambda task: None, ["a"]) as fake, Driver(fake.address, limits=QUICK) as driver:
        tasks = driver.push([driver.task(node, "custom", round=1) for node in driver.nodes()])
        with pytest.raises(WaitTimeout, match="my_limit"):
            next(driver.results(tasks, Limit("my_limit", 0.05)))


def restore(server: FakeServer) -> None:
    """The server is another one now."""

    def change() -> None:
        server.api.server_id = "restored"
        server.api.tasks.clear()
        server.api.results.clear()
        server.api.cut += 1
        server.api.ring()

    server.do(change)


def test_server_that_was_restored_is_told_the_rounds_that_are_over_and_the_tasks_of_the_others() -> None:
    silent = True
    with FakeServer(lambda task: None if silent else Reply(Outcome.OK), ["a"]) as fake:
        with Driver(fake.address, limits=QUICK) as driver:
            (node,) = driver.nodes()
            driver.push([driver.task(node, "custom", round=1)])
            unwanted = driver.push([driver.task(node, "custom", round=2)])
            driver.acknowledge(1)
            wanted = driver.push([driver.task(node, "custom", round=2)])
            driver.cancel(unwanted, "too late")
            list(driver.results(unwanted))
            silent = False
            fake.api.keep.clear()
            restore(fake)
            assert [result.task_id for result in driver.results(wanted)] == [wanted[0].task_id]
            assert list(fake.api.tasks) == [wanted[0].task_id]
            assert list(fake.api.keep) == [1]
        assert fake.api.ended == (RunState.FINISHED, "")


def test_server_that_does_not_know_the_run_ends_the_driver_and_not_the_run(server: FakeServer) -> None:
    def drive() -> None:
        with Driver(server.address, limits=QUICK) as driver:
            server.api.forgotten = True
            restore(server)
            next(driver.results([driver.task(driver.nodes()[0], "custom", round=1)]))

    with pytest.raises(NotFound):
        drive()
    assert "EndRun" not in server.api.calls


def interrupted(fake: FakeServer, folder: Path, **kwargs: Any) -> None:
    """A run whose driver dies in round 2, in its own strategy."""

    class Dying(FedAvg):
        def configure_fit(self, server_round: int, *args: Any) -> Any:
            if server_round == 2:
                raise _Death
            return super().configure_fit(server_round, *args)

    Dying.__name__ = "FedAvg"
    with pytest.raises(_Death):
        run(fake, rounds=2, strategy=Dying(), checkpoint_dir=folder, **kwargs)
    fake.api.ended = None


class _Death(RunEnded):
    """The server is not told."""


def test_run_that_is_resumed_keeps_its_id_seed_and_driver(server: FakeServer, tmp_path: Path) -> None:
    interrupted(server, tmp_path / "run", seed=7)
    before = {task.run_id for task in server.api.tasks.values()}
    history = run(server, rounds=2, seed=None, resume=tmp_path / "run")
    assert {task.run_id for task in server.api.tasks.values()} == before
    assert [number for number, _ in history.losses_distributed] == [1, 2]
    assert server.api.ended == (RunState.FINISHED, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 8}, "has the seed 3, not 8"),
        ({"strategy": FedAvgM()}, "started with the strategy FedAvg, not FedAvgM"),
        ({"checkpoint_dir": "elsewhere"}, "keeps its folder"),
    ],
)
def test_run_is_not_resumed_as_another_one_and_can_be_resumed_later(
    server: FakeServer, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    interrupted(server, tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        run(server, rounds=2, resume=tmp_path / "run", **{"seed": 3, **arguments})
    assert server.api.ended is None, "a wrong call does not end the run"
    assert run(server, rounds=2, resume=tmp_path / "run").losses_distributed


def test_run_is_not_resumed_from_a_folder_that_is_older_than_what_was_released(server: FakeServer, tmp_path: Path) -> None:
    interrupted(server, tmp_path / "run")
    server.api.acknowledged_rounds = 3
    with pytest.raises(ConfigError, match="released 3 rounds, the folder holds 2"):
        run(server, rounds=2, resume=tmp_path / "run")
    assert server.api.ended is None


def test_run_is_not_resumed_at_a_server_that_does_not_know_it(server: FakeServer, tmp_path: Path) -> None:
    interrupted(server, tmp_path / "run")
    server.api.forgotten = True
    with pytest.raises(NotFound):
        run(server, rounds=2, resume=tmp_path / "run")
    assert server.api.ended is None


def test_run_that_is_resumed_at_a_server_that_was_restored_reads_all_results(server: FakeServer, tmp_path: Path) -> None:
    interrupted(server, tmp_path / "run")
    server.api.server_id = "restored"
    del server.api.results[1:]  # fewer than the checkpoint's cursor says
    server.api.tasks.clear()
    assert [n for n, _ in run(server, rounds=2, resume=tmp_path / "run").losses_distributed] == [1, 2]
    record = json.loads(json.loads((tmp_path / "run" / "run.json").read_bytes())["content"])
    assert record["server_id"] == "restored"


class Failing(FedAvg):
    """Fails in round 2 in the way that it is told."""

    how: Callable[[], object]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        if server_round == 2:
            self.how()
        return super().aggregate_fit(server_round, results, failures)


Failing.__name__ = "FedAvg"


def user_error() -> None:
    raise ZeroDivisionError("user code")


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


def wait_in_vain() -> None:
    raise WaitTimeout("Waited 10 s (the limit wait_for_clients_s) for 5 clients to be available.")


@pytest.mark.parametrize(
    ("how", "error"),
    [(user_error, ZeroDivisionError), (ctrl_c, KeyboardInterrupt), (sigterm, KeyboardInterrupt), (wait_in_vain, WaitTimeout)],
)
def test_run_that_has_a_folder_stays_open_when_its_driver_gives_up_and_can_be_resumed(
    server: FakeServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    how: Callable[[], object],
    error: type[BaseException],
) -> None:
    strategy = Failing()
    strategy.how = how
    with pytest.raises(error):
        run(server, rounds=2, strategy=strategy, checkpoint_dir=tmp_path / "run")
    assert "EndRun" not in server.api.calls
    (run_id,) = {task.run_id for task in server.api.tasks.values()}
    assert f"start_driver(resume={str(tmp_path / 'run')!r})" in caplog.text
    assert f"hedgerow stop {run_id}" in caplog.text
    asked = len(server.api.tasks)
    history = run(server, rounds=2, resume=tmp_path / "run")
    assert [number for number, _ in history.losses_distributed] == [1, 2]
    assert server.api.ended == (RunState.FINISHED, "")
    assert [task.instruction.kind for task in list(server.api.tasks.values())[asked:]] == ["evaluate"] * 3, "nobody trains again"


def test_run_stays_open_when_the_disk_is_full_at_the_checkpoint(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[Path] = []

    def full(path: Path, *args: Any) -> Any:
        if "round-000002" in str(path) and not failed:
            failed.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return durable.write_new(path, *args)

    monkeypatch.setattr(checkpoint, "write_new", full)
    with pytest.raises(OSError, match="No space left"):
        run(server, rounds=2, checkpoint_dir=tmp_path / "run")
    assert "EndRun" not in server.api.calls
    asked = len(server.api.tasks)
    assert len(run(server, rounds=2, resume=tmp_path / "run").losses_distributed) == 2
    assert len(server.api.tasks) == asked, "all of it was done already"
    assert server.api.ended == (RunState.FINISHED, "")


def test_damaged_journal_is_refused_before_the_server_hears_of_it_and_may_be_mended(server: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(_Death):
        run(server, strategy=DyingInTheEvaluation(), checkpoint_dir=tmp_path / "run")
    server.api.ended = None
    calls = len(server.api.calls)
    path = tmp_path / "run" / "tasks" / "round-000001-evaluate.json"
    content = path.read_text()
    path.write_text(content.replace("node0001", "node0009"))
    with pytest.raises(CorruptData, match=r"round-000001-evaluate\.json is damaged"):
        run(server, resume=tmp_path / "run")
    assert len(server.api.calls) == calls
    path.write_text(content)
    assert run(server, resume=tmp_path / "run").losses_distributed


class DyingInTheEvaluation(FedAvg):
    """Its driver dies when all clients have evaluated in round 1."""

    def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
        len(results)
        raise _Death


DyingInTheEvaluation.__name__ = "FedAvg"


def two_lives(fake: FakeServer, folder: Path, between: Any = lambda: None, **limits: Any) -> tuple[Any, bytes, list[str]]:
    """A run of one round whose driver dies before the checkpoint; history, parameters and the models that were sent."""
    options: dict[str, Any] = {"server_address": fake.address, "config": ServerConfig(1, seed=3, **limits), "limits": QUICK}
    with pytest.raises(_Death):
        start_driver(server=Server(strategy=DyingInTheEvaluation()), checkpoint_dir=folder, **options)
    fake.api.ended = None
    between()
    second = Server(strategy=FedAvg())
    history = start_driver(server=second, resume=folder, **options)
    sent = {t.instruction.parameters for t in fake.api.tasks.values() if t.instruction.kind == "evaluate"}
    assert sent == {tensors.dumps(second.parameters)}, "what was evaluated is what came out"
    return history, tensors.dumps(second.parameters), [f.node for f in history.failures.get(1, [])]


def test_who_was_late_stays_late_although_the_result_is_at_the_server_when_the_driver_is_restarted(tmp_path: Path) -> None:
    def answer(task: Task) -> Reply | None:
        return None if (task.node_id, task.instruction.kind) == ("node0002", "fit") else trained(task)

    with FakeServer(answer, ["a", "b", "c"]) as fake:
        fake.api.too_late = trained
        history, _, failed = two_lives(fake, tmp_path / "run", round_timeout=0.2)
        assert failed == ["c"]
        (failure,) = history.failures[1]
        assert (failure.reason, failure.message) == ("late", "no answer within 0.2 s")
        fit = json.loads(fake.api.manifests[1])["fit"]
        assert [entry["outcome"] for entry in fit] == ["contributed", "contributed", "late"]
        assert [fake.api.tasks[task_id].node_id for task_id in fake.api.cancelled] == ["node0002"] * 2, "told again"


def test_what_was_folded_is_folded_again_however_long_it_takes_to_come(server: FakeServer, tmp_path: Path) -> None:
    def slowly() -> None:
        def release() -> None:
            server.api.results_held = False
            server.api.ring()

        server.api.results_held = True
        server.do(lambda: server.loop.call_later(0.8, release))

    history, _, failed = two_lives(server, tmp_path / "run", slowly, round_timeout=0.4)
    assert failed == []
    assert history.losses_distributed


def test_evaluation_of_other_parameters_than_those_that_were_sent_is_refused_and_the_run_stays(
    server: FakeServer, tmp_path: Path
) -> None:
    class Noisy(FedAvg):
        def aggregate_fit(self, *args: Any) -> Any:
            parameters, metrics = super().aggregate_fit(*args)
            assert parameters is not None
            return Parameters({"w": parameters["w"] + 1}), metrics

    Noisy.__name__ = "FedAvg"
    with pytest.raises(_Death):
        run(server, strategy=DyingInTheEvaluation(), checkpoint_dir=tmp_path / "run")
    server.api.ended = None
    with pytest.raises(ConfigError, match="evaluate_round 1: the parameters are not those that were sent"):
        run(server, strategy=Noisy(), resume=tmp_path / "run")
    assert run(server, strategy=FedAvg(), resume=tmp_path / "run").losses_distributed


def test_more_rounds_may_be_asked_for_when_a_run_is_resumed(server: FakeServer, tmp_path: Path) -> None:
    interrupted(server, tmp_path / "run")
    assert [n for n, _ in run(server, rounds=4, resume=tmp_path / "run").losses_distributed] == [1, 2, 3, 4]
