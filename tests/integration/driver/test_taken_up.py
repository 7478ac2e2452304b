"""A run that is taken up at a server that has changed meanwhile, with strategies that send more than FedAvg does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.clock import SystemClock
from hedgerow.driver import Driver, DriverLimits, Server, ServerConfig, start_driver
from hedgerow.records import EvaluateIns, FitIns, Parameters, Task
from hedgerow.security import Identity, Role
from hedgerow.server.service import Service
from hedgerow.store.store import Store
from hedgerow.strategy import FedAvg, FedBuff, Strategy
from tests.integration.driver.fleet_client import FleetClient, real_server

NAMES = ("a", "b")
LIMITS = DriverLimits(connect_s=10, reconnect_s=10, wait_for_clients_s=10)
INITIAL = Parameters({"w": np.zeros(500, np.float32)})
AS_BLOBS, AS_MESSAGES = 64, 4096
Make = Callable[[], Strategy]


class Death(Exception):
    pass


def work(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
    if task.instruction.kind == "evaluate":
        return None, 1, float(parameters["w"].mean())
    return Parameters({"w": parameters["w"] + np.float32(1)}), 1, 0.0


def averaging() -> FedAvg:
    return FedAvg(initial_parameters=INITIAL)


def buffered() -> FedBuff:
    return FedBuff(initial_parameters=INITIAL, min_available_clients=2, buffer_size=2, concurrency=2)


class Site:
    """A server that is started anew for each part of a test, and two nodes that stay the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trained: list[tuple[int, str]] = []
        self._me = {name: Identity.fresh(Role.CLIENT) for name in NAMES}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def up(self, inline_max_bytes: int) -> Iterator[Service]:
        with contextlib.ExitStack() as stack:
            service = stack.enter_context(real_server(self.folder / "state", inline_max_bytes))
            for name in NAMES:
                (self.folder / name).mkdir(exist_ok=True)
                working = self._working(name)
                client = FleetClient(service, name, self.folder / name, working, self._me[name], ["bfloat16"])
                stack.callback(client.close)
            yield service

    def drive(self, service: Service, strategy: Strategy, **options: Any) -> Parameters:
        server = Server(strategy=strategy)
        config = ServerConfig(num_rounds=3, seed=5)
        start_driver(server_address=service.driver_address.text, server=server, config=config, limits=LIMITS, **options)
        return server.parameters

    def _working(self, name: str) -> Callable[[Task, Parameters], tuple[Parameters | None, int, float]]:
        def working(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
            if task.instruction.kind == "fit":
                with self._lock:
                    self.trained.append((task.round, name))
            return work(task, parameters)

        return working

    def collect_uploads(self) -> None:
        """What the server does with uploads that nobody names, when the time for it has come."""

        async def collect() -> None:
            store = Store.open(f"sqlite:///{(self.folder / 'state').absolute()}/hedgerow.sqlite3", SystemClock())
            try:
                assert await store.collect_blobs(time.time() + 1e6), "there was an upload that was not named"
            finally:
                store.close()

        asyncio.run(collect())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def die_before_a_push(monkeypatch: pytest.MonkeyPatch, round: int) -> None:
    push = Driver.push

    def dying(driver: Driver, tasks: Any) -> Any:
        if tasks[0].round == round:
            raise Death
        return push(driver, tasks)

    monkeypatch.setattr(Driver, "push", dying)


def die_in_the_fold(monkeypatch: pytest.MonkeyPatch, make: Make, round: int) -> None:
    owner, name = type(make()), "fold" if isinstance(make(), FedBuff) else "aggregate_fit"
    fold: Any = getattr(owner, name)

    def dying(self: Any, server_round: int, *args: Any) -> Any:
        if server_round == round:
            raise Death
        return fold(self, server_round, *args)

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.parametrize("make", [averaging, buffered])
def test_server_that_takes_less_in_a_message_than_before(site: Site, monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    run = site.folder / "run"
    with site.up(AS_MESSAGES) as service, monkeypatch.context() as patch:
        die_in_the_fold(patch, make, 2)
        with pytest.raises(Death):
            site.drive(service, make(), checkpoint_dir=run)
    with site.up(AS_BLOBS) as service:
        parameters = site.drive(service, make(), resume=run)
    assert float(parameters["w"].max()) > 0
    if make is averaging:
        assert len(set(site.trained)) == len(site.trained), "nobody trains twice"


@pytest.mark.parametrize("transport_dtype", [None, "bfloat16"])
@pytest.mark.parametrize("make", [averaging, buffered])
def test_upload_that_was_not_named_before_the_driver_died_is_sent_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, make: Make, transport_dtype: str | None
) -> None:
    run = site.folder / "run"
    with site.up(AS_BLOBS) as service, monkeypatch.context() as patch:
        die_before_a_push(patch, 1)
        with pytest.raises(Death):
            site.drive(service, make(), checkpoint_dir=run, transport_dtype=transport_dtype)
    site.collect_uploads()
    with site.up(AS_BLOBS) as service:
        parameters = site.drive(service, make(), resume=run)
    assert float(parameters["w"].max()) > 0


class BufferedPersonal(FedBuff):
    """Each client starts from a model of its own, and evaluates the common one at the end of each version."""

    def __init__(self) -> None:
        options: dict[str, Any] = {
            "initial_parameters": INITIAL,
            "min_available_clients": 2,
            "staleness_fn": lambda staleness: 1.0,
        }
        super().__init__(buffer_size=2, concurrency=2, **options)

    def configure_task(self, server_round: int, *args: Any) -> Any:
        chosen = super().configure_task(server_round, *args)
        if chosen is None:
            return None
        client, ins = chosen
        own = Parameters({"w": ins.parameters["w"] + np.float32(100 if client.cid == "a" else 200)})
        return client, FitIns(own, ins.config)

    def configure_evaluate(self, server_round: int, parameters: Parameters, client_manager: Any) -> Any:
        return [(client, EvaluateIns(parameters, {})) for client in client_manager.all().values()]

    def fold(self, server_round: int, update: Any) -> bool:
        # What the client gave is its base and 1.
        np.testing.assert_array_equal(update.res.parameters["w"], update.base["w"] + np.float32(1))
        return super().fold(server_round, update)


@pytest.mark.parametrize("transport_dtype", [None, "bfloat16"])
@pytest.mark.parametrize("inline_max_bytes", [AS_BLOBS, AS_MESSAGES])
def test_flights_are_taken_up_from_the_models_that_they_started_from(
    site: Site, monkeypatch: pytest.MonkeyPatch, inline_max_bytes: int, transport_dtype: str | None
) -> None:
    run = site.folder / "run"
    with site.up(inline_max_bytes) as service:
        with monkeypatch.context() as patch:
            die_in_the_fold(patch, BufferedPersonal, 2)
            with pytest.raises(Death):
                site.drive(service, BufferedPersonal(), checkpoint_dir=run, transport_dtype=transport_dtype)
        parameters = site.drive(service, BufferedPersonal(), resume=run)
    np.testing.assert_array_equal(parameters["w"], np.full(500, 3, np.float32))


def test_an_asynchronous_run_is_taken_up_while_clients_evaluate(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(self: Any, server_round: int, *args: Any) -> Any:
        if server_round == 2:
            raise Death
        return None, {}

    run = site.folder / "run"
    with site.up(AS_BLOBS) as service:
        with monkeypatch.context() as patch:
            patch.setattr(BufferedPersonal, "aggregate_evaluate", dying)
            with pytest.raises(Death):
                site.drive(service, BufferedPersonal(), checkpoint_dir=run)
        parameters = site.drive(service, BufferedPersonal(), resume=run)
    assert float(parameters["w"].max()) > 0


def test_a_round_in_which_nobody_trained_stays_so_when_it_is_taken_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(self: Any, server_round: int, *args: Any) -> Any:
        return [] if server_round == 2 else configure_fit(self, server_round, *args)

    def dying(self: Any, server_round: int, *args: Any) -> Any:
        if server_round == 2:
            raise Death
        return aggregate_evaluate(self, server_round, *args)

    configure_fit, aggregate_evaluate, run = FedAvg.configure_fit, FedAvg.aggregate_evaluate, site.folder / "run"
    with site.up(AS_BLOBS) as service:
        with monkeypatch.context() as patch:
            patch.setattr(FedAvg, "configure_fit", nobody)
            patch.setattr(FedAvg, "aggregate_evaluate", dying)
            with pytest.raises(Death):
                site.drive(service, averaging(), checkpoint_dir=run)
        # Now there would be somebody: clients have come that were not there before.
        parameters = site.drive(service, averaging(), resume=run)
    np.testing.assert_array_equal(parameters["w"], np.full(500, 2, np.float32))
    assert [json.loads(line)["reason"] for line in (run / "manifest.jsonl").read_text().splitlines()] == [
        *("", "no clients were selected to train", "")
    ]
