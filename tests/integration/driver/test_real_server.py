"""Runs over the real server, with parameters that travel as blobs."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.driver import Callback, Driver, DriverLimits, RoundEnd, Server, ServerConfig, SimpleClientManager, start_driver
from hedgerow.driver.checkpoint import PreparedCheckpoint
from hedgerow.driver.run_folder import RunFolder
from hedgerow.errors import NotFound
from hedgerow.records import Blob, Code, FitIns, GetPropertiesIns, Kind, Parameters, Task
from hedgerow.sampling import task_seed
from hedgerow.security import Identity
from hedgerow.store.store import Store
from hedgerow.strategy import FedAvg
from hedgerow.waits import Limit, wait_condition
from hedgerow.wire import tensors
from tests.integration.driver.fleet_client import fleet

SIZE = 50_000
LIMITS = DriverLimits(connect_s=10, reconnect_s=10, wait_for_clients_s=10)


def work(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
    if task.instruction.kind == "get_parameters":
        return Parameters({"w": np.zeros(SIZE, np.float32)}), 0, 0.0
    if task.instruction.kind == "evaluate":
        return None, 3, float(parameters["w"].mean())
    noise = np.random.default_rng(task.seed).standard_normal(parameters["w"].size).astype(np.float32)
    return Parameters({"w": parameters["w"] + noise}), 1 + task.seed % 5, 0.0


@pytest.fixture
def transit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where drivers of this test keep files in transit."""
    folder = tmp_path / "transit"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def train(address: str, rounds: int, seed: int, strategy: FedAvg | None = None) -> tuple[Any, Parameters]:
    server = Server(client_manager=SimpleClientManager(10), strategy=strategy)
    config = ServerConfig(num_rounds=rounds, seed=seed)
    return start_driver(server_address=address, server=server, config=config, limits=LIMITS), server.parameters


def reference(rounds: int, seed: int, names: list[str]) -> Parameters:
    """The same training without any of this: a loop."""
    w = np.zeros(SIZE, np.float32)
    for server_round in range(1, rounds + 1):
        total, weight = np.zeros(SIZE), 0
        for name in names:
            s = task_seed(seed, server_round, name, "fit", 0)
            update = w + np.random.default_rng(s).standard_normal(SIZE).astype(np.float32)
            total += update.astype(np.float64) * (1 + s % 5)
            weight += 1 + s % 5
        w = (total / weight).astype(np.float32)
    return Parameters({"w": w})


def test_blobs_give_the_bits_of_a_plain_loop(tmp_path: Path, transit: Path) -> None:
    with fleet(tmp_path, work, ["b", "a", "c"]) as (service, _):
        history, parameters = train(service.driver_address.text, 3, 5)
    assert tensors.dumps(parameters) == tensors.dumps(reference(3, 5, ["a", "b", "c"]))
    assert len(history.losses_distributed) == 3
    assert history.failures == {}


def test_parameters_are_uploaded_once_and_nothing_is_left_behind(tmp_path: Path, transit: Path) -> None:
    with fleet(tmp_path, work, ["a", "b"]) as (service, clients):
        train(service.driver_address.text, 3, 5)
        assert list((tmp_path / "state" / "blobs").iterdir()) == []
    assert list(transit.iterdir()) == []
    # Fit and evaluate of each model name the same blob: initial + 3 rounds, of which the first and last are named once.
    uses = sorted(Counter(clients[0].downloads).values())
    assert uses == [1, 1, 2, 2]


def test_blobs_of_a_round_are_released_when_it_is_over(tmp_path: Path, transit: Path) -> None:
    left: list[int] = []

    class Counting(FedAvg):
        def configure_fit(self, *args: Any) -> Any:
            left.append(len(list((tmp_path / "state" / "blobs").iterdir())))
            return super().configure_fit(*args)

    with fleet(tmp_path, work, ["a", "b", "c"]) as (service, _):
        train(service.driver_address.text, 4, 5, Counting())
    assert left == [1, 1, 1, 1], "only the current parameters stay"


def test_callback_may_ask_clients_although_the_round_is_acknowledged(
    tmp_path: Path, transit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged, changed = {-1}, threading.Condition()
    acknowledge_round = Store.acknowledge_round

    async def noted(self: Store, who: Identity, run_id: str, round: int, *args: Any) -> Any:
        done = await acknowledge_round(self, who, run_id, round, *args)
        with changed:
            acknowledged.add(round)
            changed.notify_all()
        return done

    def hesitant(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
        """Answers what is asked when a round is over only when that is told."""
        if task.instruction.kind != "get_properties":
            return work(task, parameters)
        with changed:
            wait_condition(changed, lambda: task.round in acknowledged, Limit("test_s", 10), "the acknowledgement")
        return None, 0, 0.0

    class Asking(Callback):
        def on_round_end(self, end: RoundEnd) -> None:
            for client in manager.all().values():
                answers.append(client.get_properties(GetPropertiesIns({}), 10.0).status.code)

    monkeypatch.setattr(Store, "acknowledge_round", noted)
    manager, answers = SimpleClientManager(10), list[Code]()
    with fleet(tmp_path, hesitant, ["a", "b"]) as (service, _):
        start_driver(
            server_address=service.driver_address.text,
            strategy=FedAvg(initial_parameters=Parameters({"w": np.zeros(3, np.float32)}), fraction_evaluate=0.0),
            client_manager=manager,
            config=ServerConfig(num_rounds=2, seed=5),
            limits=LIMITS,
            checkpoint_dir=tmp_path / "run",
            callbacks=[Asking()],
        )
    assert answers[-4:] == [Code.OK] * 4, "clients may come after the first parameters are there"


class Personal(FedAvg):
    """In round 2 each client goes on with its own update."""

    def __init__(self) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.updates: dict[str, Parameters] = {}

    def configure_fit(self, server_round: int, *args: Any) -> Any:
        chosen = super().configure_fit(server_round, *args)
        return chosen if server_round == 1 else [(client, FitIns(self.updates[client.cid])) for client, _ in chosen]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        self.updates = {client.cid: res.parameters for client, res in results}
        return super().aggregate_fit(server_round, results, failures)


def test_what_was_noted_and_not_sent_is_at_the_server_when_the_driver_is_restarted(
    tmp_path: Path, transit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class _Death(Exception):
        pass

    push = Driver.push

    def dying(driver: Driver, tasks: Any) -> Any:
        if tasks[0].round == 2:
            raise _Death
        return push(driver, tasks)

    options: dict[str, Any] = {"config": ServerConfig(num_rounds=2, seed=5), "limits": LIMITS}
    with fleet(tmp_path, work, ["a", "b"]) as (service, _):
        undisturbed = Server(strategy=Personal())
        start_driver(server_address=service.driver_address.text, server=undisturbed, **options)
        with monkeypatch.context() as patch:
            patch.setattr(Driver, "push", dying)
            with pytest.raises(_Death):
                start_driver(
                    server_address=service.driver_address.text, strategy=Personal(), checkpoint_dir=tmp_path / "run", **options
                )
        gc.collect()
        resumed = Server(strategy=Personal())
        history = start_driver(server_address=service.driver_address.text, server=resumed, resume=tmp_path / "run", **options)
    assert history.failures == {}
    assert tensors.dumps(resumed.parameters) == tensors.dumps(undisturbed.parameters)


class WithoutB(FedAvg):
    """Does not let b evaluate."""

    def configure_evaluate(self, *args: Any) -> Any:
        return [(client, ins) for client, ins in super().configure_evaluate(*args) if client.cid != "b"]


def test_late_update_that_is_at_the_server_by_now_is_not_folded_when_the_run_is_taken_up(
    tmp_path: Path, transit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    come, evaluated = threading.Event(), set()

    def at_the_client(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
        if task.instruction.kind == "evaluate":
            evaluated.add(tensors.dumps(parameters))
        elif task.instruction.kind == "fit" and task.node_id == ids["b"]:
            come.wait(20)
        return work(task, parameters)

    write = RunFolder.write_checkpoint

    def dying(folder: RunFolder, prepared: PreparedCheckpoint, passed_over: Sequence[str] = ()) -> None:
        if prepared.checkpoint.round == 1:
            raise RuntimeError("dies")
        write(folder, prepared, passed_over)

    with fleet(tmp_path, at_the_client, ["a", "b", "c"]) as (service, _):
        with Driver(service.driver_address.text, limits=LIMITS) as asking:
            asking.wait_for_nodes(3)
            ids = {node.name: node.node_id for node in asking.nodes()}
        config = ServerConfig(num_rounds=1, seed=5, round_timeout=1.0)
        second = Server(strategy=WithoutB())
        options: dict[str, Any] = {"server_address": service.driver_address.text, "config": config, "limits": LIMITS}
        with monkeypatch.context() as patch:
            patch.setattr(Driver, "cancel", lambda *args: None)  # it dies before the server hears who is late
            patch.setattr(RunFolder, "write_checkpoint", dying)
            with pytest.raises(RuntimeError, match="dies"):
                start_driver(strategy=WithoutB(), checkpoint_dir=tmp_path / "run", **options)
        come.set()
        history = start_driver(server=second, resume=tmp_path / "run", **options)
    assert [(failure.node, failure.reason) for failure in history.failures[1]] == [("b", "late")]
    assert evaluated == {tensors.dumps(second.parameters)}


def test_run_of_another_server_is_refused_and_leaves_nothing_behind(tmp_path: Path, transit: Path) -> None:
    with fleet(tmp_path, work, []) as (service, _):
        with pytest.raises(NotFound, match="another state"):
            Driver(service.driver_address.text, limits=LIMITS, run_id="run00000001", server_id="another1").connect()
        (database,) = (tmp_path / "state").glob("*.sqlite3")
        with contextlib.closing(sqlite3.connect(database)) as connection:
            assert connection.execute("SELECT count(*) FROM runs").fetchone() == (0,)


def test_server_tells_how_many_rounds_are_acknowledged(tmp_path: Path, transit: Path) -> None:
    with fleet(tmp_path, work, ["a"]) as (service, _), Driver(service.driver_address.text, limits=LIMITS) as driver:
        assert driver.watcher.acknowledged_rounds == 0
        driver.push([driver.task(driver.nodes()[0], Kind.GET_PARAMETERS, round=4)])
        driver.acknowledge(4)
        again = Driver(
            service.driver_address.text, limits=LIMITS, run_id=driver.run_id, seed=driver.seed, identity=driver.identity
        )
        again.connect()
        assert again.watcher.acknowledged_rounds == 5
        again.close()


def test_update_of_a_client_can_be_handed_on_without_upload(tmp_path: Path, transit: Path) -> None:
    with fleet(tmp_path, work, ["a", "b"]) as (service, _), Driver(service.driver_address.text, seed=1, limits=LIMITS) as driver:
        driver.wait_for_nodes(2)
        a, b = driver.nodes()
        (first,) = driver.results(driver.push([driver.task(a, Kind.GET_PARAMETERS, round=1)]))
        assert isinstance(first.reply.parameters, Blob)
        update = driver.download(first.reply.parameters)
        assert driver.upload(update) == first.reply.parameters
        (second,) = driver.results(driver.push([driver.task(b, Kind.FIT, round=1, parameters=update)]))
        assert isinstance(second.reply.parameters, Blob)
        fetched = driver.download(second.reply.parameters)
        del first, second
        driver.acknowledge(1)
        assert len(list((tmp_path / "state" / "blobs").iterdir())) == 2, "what is in use here stays"
        del update, fetched
        gc.collect()
        driver.acknowledge(1)
        assert list((tmp_path / "state" / "blobs").iterdir()) == []
