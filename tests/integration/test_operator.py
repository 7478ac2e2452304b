"""``hedgerow runs``, ``run``, ``stop`` and ``nodes`` as processes, with a real server, clients and drivers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.driver import Driver, DriverLimits, ServerConfig, start_driver
from hedgerow.errors import RunEnded
from hedgerow.records import Kind, Parameters, RunState, Task
from hedgerow.strategy import FedAvg
from hedgerow.testing import eventually
from tests.integration.driver.fleet_client import SOON, fleet

LIMITS = DriverLimits(connect_s=10, reconnect_s=10, wait_for_clients_s=10)
CODE = "import sys; from hedgerow.cli.hedgerow import main; sys.exit(main(sys.argv[1:]))"


def hedgerow(*arguments: str, code: int = 0) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def work(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
    return Parameters({"w": np.ones(5000, np.float32)}), 1, 0.0


class Held:
    """Work that lasts until the test lets it go."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
        self.begun.set()
        assert self.go_on.wait(30)
        return Parameters({"w": np.ones(10, np.float32)}), 1, 0.0


def test_runs_and_nodes_are_told_to_people_and_to_programs(tmp_path: Path) -> None:
    with fleet(tmp_path, work, ["b", "a"]) as (service, _):
        at = ("--server", service.driver_address.text, "--insecure")
        assert hedgerow("runs", *at) == "There are no runs.\n"
        with Driver(service.driver_address.text, run_name="demo", seed=5, limits=LIMITS) as driver:
            driver.wait_for_nodes(2)
            nodes = [*driver.nodes()]
            list(driver.results(driver.push([driver.task(node, Kind.FIT, round=1) for node in nodes])))
            table = hedgerow("runs", *at)
            assert re.search(rf"^{driver.run_id[:8]}  demo  running      1  2/2 +0  .*  connected$", table, re.MULTILINE)
            (run,) = json.loads(hedgerow("runs", "--json", *at))
            assert (run["run_id"], run["name"], run["seed"], run["state"]) == (driver.run_id, "demo", 5, "running")
            assert (run["driver_connected"], run["ended_at"], run["tasks"]["done"]) == (True, None, 2)

            detail = json.loads(hedgerow("run", driver.run_id[:6], "--json", *at))
            assert detail["run"]["run_id"] == driver.run_id
            assert [(r["round"], r["kind"], r["tasks"]["done"]) for r in detail["rounds"]] == [(1, "fit", 2)]
            assert (detail["blobs"], detail["blob_bytes"] > 20_000) == (1, True)
            text = hedgerow("run", driver.run_id, *at)
            assert re.search(r"^state: +running$", text, re.MULTILINE)
            assert re.search(r"^ +1  fit +0 +0 +2 +0 +0 +0$", text, re.MULTILINE)
        told = json.loads(hedgerow("nodes", "--json", *at))
        assert [(n["name"], n["state"], n["open_tasks"]) for n in told] == [("a", "online", 0), ("b", "online", 0)]
        assert re.search(r"^a +online +\S.* +0 ", hedgerow("nodes", *at), re.MULTILINE)
        (run,) = json.loads(hedgerow("runs", "--json", *at))
        assert (run["state"], run["driver_connected"]) == ("finished", False)


def test_what_came_of_each_node_in_a_round_is_told(tmp_path: Path) -> None:
    let_go = threading.Event()

    def partly(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
        if task.instruction.kind == Kind.EVALUATE:
            return None, 1, 0.5
        if slow_id and task.node_id == slow_id[0] and task.round == 2:
            assert let_go.wait(30)
        return Parameters({"w": np.ones(10, np.float32)}), 1, 0.0

    slow_id: list[str] = []
    with fleet(tmp_path, partly, ["a", "b", "the-slow-one"]) as (service, _):
        at = ("--server", service.driver_address.text, "--insecure")
        slow_id += [n["node_id"] for n in json.loads(hedgerow("nodes", "--json", *at)) if n["name"] == "the-slow-one"]

        def evaluate(server_round: int, *_: object) -> None:
            if server_round == 2:
                eventually(lambda: json.loads(hedgerow("runs", "--json", *at))[0]["tasks"]["cancelled"] == 1, SOON, "cancelling")
                let_go.set()

        strategy = FedAvg(
            min_available_clients=3,
            fraction_evaluate=0.7,
            initial_parameters=Parameters({"w": np.ones(10, np.float32)}),
            evaluate_fn=evaluate,
        )
        config = ServerConfig(2, seed=1, min_fit_results=2, grace_s=0.2)
        try:
            start_driver(server_address=service.driver_address.text, config=config, strategy=strategy, limits=LIMITS)
        finally:
            let_go.set()
        (run,) = json.loads(hedgerow("runs", "--json", *at))
        detail = json.loads(hedgerow("run", run["run_id"], "--json", *at))
        assert [(m["round"], m["valid"]) for m in detail["manifest"]] == [(1, True), (2, True)]
        outcomes = {one["node"]: (one["outcome"], one["asked"]) for one in detail["manifest"][1]["phases"]["fit"]}
        assert outcomes == {"a": ("contributed", True), "b": ("contributed", True), "the-slow-one": ("late", True)}
        text = hedgerow("run", run["run_id"], *at)
        assert re.search(r"^ +1  fit +3 +3 +0 +0 +0$", text, re.MULTILINE)
        assert re.search(r"^ +2  fit +3 +2 +1 +0 +0  late: the-slow-one$", text, re.MULTILINE)
        assert re.search(r"^ +2  evaluate +2 +2 +0 +0 +1  1 not_sampled$", text, re.MULTILINE)
        assert re.search(r"^ +2  fit +the-slow-one  late ", text, re.MULTILINE), "not as cancelled"


def test_stopped_run_ends_its_driver_with_the_reason_and_its_tasks(tmp_path: Path) -> None:
    held = Held()
    ended: list[Any] = []

    def drive(address: str) -> None:
        try:
            strategy = FedAvg(
                min_available_clients=1, min_fit_clients=1, initial_parameters=Parameters({"w": np.ones(10, np.float32)})
            )
            start_driver(server_address=address, config=ServerConfig(3), strategy=strategy, limits=LIMITS)
        except BaseException as error:  # noqa: BLE001
            ended.append(error)

    with fleet(tmp_path, held, ["a"]) as (service, _):
        at = ("--server", service.driver_address.text, "--insecure")
        driver = threading.Thread(target=drive, args=(service.driver_address.text,), daemon=True)
        driver.start()
        try:
            assert held.begun.wait(20)
            (run,) = json.loads(hedgerow("runs", "--json", *at))
            said = hedgerow("stop", run["run_id"][:8], "--reason", "wrong data", *at)
            assert said == f"Stopped run {run['run_id']}.\n"
            driver.join(10)
            assert not driver.is_alive()
            (error,) = ended
            assert isinstance(error, RunEnded)
            assert "wrong data" in str(error)
            again = hedgerow("stop", run["run_id"], *at)
            assert again == f"Run {run['run_id']} was over already: stopped: wrong data.\n"
            (run,) = json.loads(hedgerow("runs", "--json", *at))
            assert (run["state"], run["tasks"]["cancelled"]) == ("stopped", 1)
            assert "wrong data" in hedgerow("run", run["run_id"], *at)
        finally:
            held.go_on.set()


def test_what_is_wrong_is_told_with_what_to_do(tmp_path: Path) -> None:
    with fleet(tmp_path, work, []) as (service, _):
        at = ("--server", service.driver_address.text, "--insecure")
        for run_id in ("aaaa00000001", "aaaa00000002"):
            with Driver(service.driver_address.text, run_id=run_id, limits=LIMITS) as driver:
                driver.end(RunState.FINISHED)
        assert "begins with 'b'" in hedgerow("run", "b", *at, code=1)
        ambiguous = hedgerow("stop", "aaaa", *at, code=1)
        assert "aaaa00000001, aaaa00000002" in ambiguous
        assert "letters and digits" in hedgerow("run", "%", *at, code=1)
        assert "this version" in hedgerow("runs", "--server", service.fleet_address.text, "--insecure", code=1)
        assert "--insecure" in hedgerow("runs", "--server", service.driver_address.text, code=2)
    assert "No server answers" in hedgerow("runs", "--server", service.driver_address.text, "--insecure", code=1)
    assert "cannot" not in hedgerow("--help")
    assert "unknown command" in hedgerow("rnus", code=2)


@pytest.mark.parametrize("command", ["runs", "run", "stop", "nodes"])
def test_every_command_has_help(command: str) -> None:
    assert "--server" in hedgerow(command, "--help")
