"""Runs whose parameters travel in a 16-bit float, over the real server: with clients that know it, and with some that do not."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hedgerow.driver import (
    Driver,
    DriverLimits,
    History,
    Server,
    ServerConfig,
    SimpleClientManager,
    parameter_files,
    start_driver,
)
from hedgerow.errors import ConfigError, InvalidArgument
from hedgerow.records import Blob, Kind, NDArray, Parameters, Task, ndarrays_to_parameters, parameters_to_ndarrays
from hedgerow.sampling import task_seed
from hedgerow.server.service import Service
from hedgerow.strategy import FedAvg, FedBuff
from hedgerow.strategy.asynchronous import Update
from hedgerow.wire import narrow, tensors
from tests.integration.driver.fleet_client import FleetClient, real_server

SIZE, ROUNDS, SEED = 3000, 3, 6
LIMITS = DriverLimits(connect_s=10, reconnect_s=10, wait_for_clients_s=10)
AS_BLOBS, AS_MESSAGES = 1024, 64 * 1024
KNOWN = tuple(narrow.DTYPES)
START = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)


def trained(w: NDArray, seed: int) -> NDArray:
    return np.asarray(w * np.float32(0.5) + np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32))


def work(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
    if task.instruction.kind == "evaluate":
        return None, 3, float(parameters["w"].mean())
    return Parameters({"w": trained(parameters["w"], task.seed), "n": parameters["n"] + 1}), 1 + task.seed % 5, 0.0


@contextlib.contextmanager
def site(
    folder: Path, knowing: dict[str, tuple[str, ...]], inline_max_bytes: int = AS_BLOBS, working: Any = work
) -> Iterator[tuple[Service, dict[str, FleetClient]]]:
    """A server, and clients that know these 16-bit floats."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(real_server(folder / "state", inline_max_bytes))
        clients = {}
        for name, known in knowing.items():
            (folder / name).mkdir()
            clients[name] = FleetClient(service, name, folder / name, working, transport_dtypes=known)
            stack.callback(clients[name].close)
        yield service, clients


def run(service: Service, strategy: FedAvg | None = None, rounds: int = ROUNDS, **options: Any) -> tuple[History, Parameters]:
    server = Server(client_manager=SimpleClientManager(10), strategy=strategy or averaging())
    config = ServerConfig(num_rounds=rounds, seed=SEED)
    history = start_driver(server_address=service.driver_address.text, server=server, config=config, limits=LIMITS, **options)
    return history, server.parameters


def averaging(kind: type[FedAvg] = FedAvg, **options: Any) -> FedAvg:
    return kind(initial_parameters=Parameters({"w": START, "n": np.array([0])}), **options)


def in_a_loop(knowing: dict[str, tuple[str, ...]], transport_dtype: str) -> tuple[list[float], NDArray]:
    """The same training without any of this: what is sent is rounded, what is kept is not."""

    def sent(name: str, w: NDArray) -> NDArray:
        return w.astype(narrow.DTYPES[transport_dtype]).astype(np.float32) if transport_dtype in knowing[name] else w

    w, losses = START, []
    for server_round in range(1, ROUNDS + 1):
        total, weight = np.zeros(SIZE), 0
        for name in knowing:
            seed = task_seed(SEED, server_round, name, "fit", 0)
            total += (1 + seed % 5) * sent(name, trained(sent(name, w), seed)).astype(np.float64)
            weight += 1 + seed % 5
        w = (total / weight).astype(np.float32)
        losses.append(float(np.mean([float(sent(name, w).mean()) for name in knowing])))
    return losses, w


@pytest.mark.parametrize("inline_max_bytes", [AS_BLOBS, AS_MESSAGES])
@pytest.mark.parametrize("transport_dtype", KNOWN)
def test_parameters_travel_rounded_both_ways_and_the_drivers_own_are_not(
    tmp_path: Path, transport_dtype: str, inline_max_bytes: int
) -> None:
    knowing = {"a": KNOWN, "b": KNOWN}
    with site(tmp_path, knowing, inline_max_bytes) as (service, clients):
        history, parameters = run(service, transport_dtype=transport_dtype)
        again = run(service, transport_dtype=transport_dtype)[1]
    losses, expected = in_a_loop(knowing, transport_dtype)
    np.testing.assert_array_equal(parameters["w"], expected)
    np.testing.assert_array_equal(again["w"], expected)
    assert [loss for _, loss in history.losses_distributed] == pytest.approx(losses, rel=1e-12)
    assert parameters["w"].dtype == np.float32
    assert parameters["n"].tolist() == [ROUNDS]
    if inline_max_bytes == AS_BLOBS:
        for client in clients.values():
            assert len(client.sizes) == 2 * 3 * ROUNDS, "each round the model twice, and an update"
            assert max(client.sizes) < 2 * SIZE + 400, "16 bits a number, and the header"


def test_a_client_that_knows_no_16_bit_float_gives_and_takes_full_precision(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    knowing: dict[str, tuple[str, ...]] = {"new": KNOWN, "newer": (*KNOWN, "float4"), "old": (), "other": ("float16",)}
    strategy = averaging(min_fit_clients=4, min_evaluate_clients=4, min_available_clients=4)
    with caplog.at_level(logging.INFO), site(tmp_path, knowing) as (service, clients):
        _, parameters = run(service, strategy, transport_dtype="bfloat16", checkpoint_dir=tmp_path / "run")
    np.testing.assert_array_equal(parameters["w"], in_a_loop(knowing, "bfloat16")[1])
    assert [max(clients[name].sizes) > 4 * SIZE for name in knowing] == [False, False, True, True]
    told = [record.getMessage() for record in caplog.records if "full precision" in record.getMessage()]
    assert sorted(told) == [
        f"The client of node {name} does not know bfloat16: parameters travel to it, and back, in full precision"
        for name in ("old", "other")
    ]
    assert caplog.text.count("Parameters travel as bfloat16") == 1


def test_nothing_is_rounded_unless_it_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), site(tmp_path, {"a": KNOWN, "b": KNOWN}) as (service, clients):
        _, parameters = run(service)
    np.testing.assert_array_equal(parameters["w"], in_a_loop({"a": (), "b": ()}, "bfloat16")[1])
    assert min(clients["a"].sizes) > 4 * SIZE
    assert "travel" not in caplog.text


def test_a_strategy_written_for_lists_of_arrays_sees_the_models_own_dtypes(tmp_path: Path) -> None:
    class Listing(FedAvg):
        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            lists = [parameters_to_ndarrays(res.parameters) for _, res in results]
            self.seen = [[array.dtype for array in arrays] for arrays in lists]
            self.arrived = [type(res.parameters) for _, res in results]
            return ndarrays_to_parameters(
                [np.mean(arrays, axis=0).astype(arrays[0].dtype) for arrays in zip(*lists, strict=True)]
            ), {}

    strategy = averaging(Listing, fraction_evaluate=0.0)
    with site(tmp_path, {"a": KNOWN, "b": KNOWN}) as (service, _):
        _, parameters = run(service, strategy, rounds=1, transport_dtype="bfloat16")
    assert strategy.seen == [[np.float32, np.int64]] * 2  # type: ignore[attr-defined]
    assert strategy.arrived == [narrow.NarrowParameters] * 2  # type: ignore[attr-defined]
    assert parameters.arrays()[0].dtype == np.float32


def test_an_update_in_another_16_bit_float_is_a_failure_with_a_reason(tmp_path: Path) -> None:
    def other(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
        update, examples, loss = work(task, parameters)
        if update is not None and task.node_id == wrong[0]:
            update = tensors.view(tensors.dumps(update, "float16"))
        return update, examples, loss

    wrong: list[str] = []
    with site(tmp_path, {"a": KNOWN, "b": KNOWN}, working=other) as (service, clients):
        wrong.append(clients["a"].identity.id)
        clients["a"].as_it_lies = True
        history, _ = run(service, rounds=1, transport_dtype="bfloat16")
        unasked, _ = run(service, rounds=1)
    assert [(one.node, one.reason) for one in history.failures[1]] == [("a", "bad_update")]
    assert "They travelled as float16; bfloat16 was asked for" in history.failures[1][0].message
    assert "They travelled as float16; no 16-bit float was asked for" in unasked.failures[1][0].message


def test_a_model_that_does_not_fit_is_an_error_at_the_driver(tmp_path: Path) -> None:
    strategy = FedAvg(initial_parameters=Parameters({"w": np.array([1.0, 7e4], np.float32)}))
    with (
        site(tmp_path, {"a": KNOWN, "b": KNOWN}) as (service, _),
        pytest.raises(InvalidArgument, match=r"'w' does not fit into float16.*element 1 is 70000.0. bfloat16 has the range"),
    ):
        run(service, strategy, transport_dtype="float16")


def test_parameters_that_do_not_fit_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    w = np.zeros(3 * narrow.BLOCK, np.float32)
    w[-1] = 7e4
    model = Parameters({"w": w})
    with (
        site(tmp_path, {}) as (service, _),
        Driver(service.driver_address.text, seed=1, limits=LIMITS, transport_dtype="float16") as driver,
    ):
        with pytest.raises(InvalidArgument, match="does not fit into float16"):
            driver.upload(model, "float16")
        assert list(tmp_path.glob("hedgerow-driver-*/*")) == []
        assert isinstance(driver.upload(model, "bfloat16"), Blob)


def test_a_run_keeps_its_transport_dtype_when_it_is_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Dying(FedAvg):
        dies = True

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            if server_round == 2 and self.dies:
                raise RuntimeError("dies")
            return super().aggregate_fit(server_round, results, failures)

    knowing: dict[str, tuple[str, ...]] = {"a": KNOWN, "b": ()}
    with site(tmp_path, knowing) as (service, _):
        with pytest.raises(RuntimeError, match="dies"):
            run(service, averaging(Dying), transport_dtype="bfloat16", checkpoint_dir=tmp_path / "run")
        for wrong in ("float16", "int8"):
            with pytest.raises(ConfigError, match="transport_dtype"):
                run(service, averaging(Dying), transport_dtype=wrong, resume=tmp_path / "run")
        going_on = averaging(Dying)
        going_on.dies = False  # type: ignore[attr-defined]
        caplog.clear()
        _, parameters = run(service, going_on, resume=tmp_path / "run")
        assert "The client of node b does not know bfloat16" in caplog.text
        assert "The client of node a" not in caplog.text
        np.testing.assert_array_equal(parameters["w"], in_a_loop(knowing, "bfloat16")[1])
        with pytest.raises(RuntimeError, match="dies"):
            run(service, averaging(Dying), checkpoint_dir=tmp_path / "plain")
        with pytest.raises(ConfigError, match=r"has the transport_dtype None, not bfloat16\. Leave it out"):
            run(service, transport_dtype="bfloat16", resume=tmp_path / "plain")


@pytest.mark.parametrize("inline_max_bytes", [AS_BLOBS, AS_MESSAGES])
def test_an_asynchronous_run_counts_changes_from_what_clients_started_from_also_when_it_is_taken_up(
    tmp_path: Path, inline_max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that change nothing change nothing, although what they got was rounded."""

    class Buffered(FedBuff):
        dies = True

        def fold(self, server_round: int, update: Update) -> bool:
            if server_round == 3 and self.dies:
                raise RuntimeError("dies")
            bases.append(update.base["w"])
            return super().fold(server_round, update)

    def buffered() -> Buffered:
        return Buffered(initial_parameters=Parameters({"w": START}), min_available_clients=2, buffer_size=1, concurrency=2)

    monkeypatch.setattr(parameter_files, "MIN_BYTES", 1000 if inline_max_bytes == AS_BLOBS else 10**6)
    bases: list[NDArray] = []
    with site(tmp_path, {"a": KNOWN, "b": KNOWN}, inline_max_bytes, lambda task, parameters: (parameters, 1, 0.0)) as (
        service,
        _,
    ):
        with pytest.raises(RuntimeError, match="dies"):
            run(service, buffered(), rounds=5, transport_dtype="bfloat16", checkpoint_dir=tmp_path / "run")
        going_on = buffered()
        going_on.dies = False
        _, parameters = run(service, going_on, rounds=5, resume=tmp_path / "run")
    assert len(bases) == 5
    rounded = START.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert (rounded != START).any()
    for base in bases:
        np.testing.assert_array_equal(base, rounded)
    np.testing.assert_array_equal(parameters["w"], START)


def test_an_asynchronous_run_lets_go_of_versions_that_travel_as_they_are(tmp_path: Path) -> None:
    class Counting(FedBuff):
        def fold(self, server_round: int, update: Update) -> bool:
            bases.append(weakref.ref(update.base))
            alive.append(sum(base() is not None for base in bases))
            return super().fold(server_round, update)

    bases: list[weakref.ref[Parameters]] = []
    alive: list[int] = []
    strategy = Counting(initial_parameters=Parameters({"n": np.arange(9)}), min_available_clients=1, buffer_size=1, concurrency=1)
    working = lambda task, parameters: (Parameters({"n": parameters["n"] + 1}), 1, 0.0)  # noqa: E731
    with site(tmp_path, {"a": KNOWN}, working=working) as (service, _):
        _, parameters = run(service, strategy, rounds=8, transport_dtype="bfloat16")
    assert parameters["n"].tolist() == list(range(8, 17))
    assert max(alive) <= 3


def test_the_low_level_driver_sends_each_node_what_it_knows(tmp_path: Path) -> None:
    forms: dict[str, Any] = {}

    def noting(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
        forms[task.node_id] = task.instruction.transport_dtype, parameters.stored("w").dtype, parameters["w"].dtype
        return work(task, parameters)

    with (
        site(tmp_path, {"new": KNOWN, "old": ()}, working=noting) as (service, _),
        Driver(service.driver_address.text, seed=1, limits=LIMITS, transport_dtype="bfloat16") as driver,
    ):
        driver.wait_for_nodes(2)
        model = Parameters({"w": START, "n": np.array([0])})
        tasks = [driver.task(node, Kind.FIT, round=1, parameters=model) for node in driver.nodes()]
        assert len({task.instruction.parameters for task in tasks}) == 2
        assert all(isinstance(task.instruction.parameters, Blob) for task in tasks)
        updates = {
            r.node_id: driver.download(r.reply.parameters) for r in driver.results(driver.push(tasks)) if r.reply.parameters
        }
        names = {node.node_id: node.name for node in driver.nodes()}
    assert {names[node_id]: seen for node_id, seen in forms.items()} == {
        "new": ("bfloat16", ml_dtypes.bfloat16, np.float32),
        "old": ("", np.float32, np.float32),
    }
    assert {names[node_id]: type(update) for node_id, update in updates.items()} == {
        "new": narrow.NarrowParameters,
        "old": Parameters,
    }


@pytest.mark.parametrize("make", [Driver, start_driver])
def test_another_dtype_is_an_error_before_anything_happens(make: Callable[..., Any], tmp_path: Path) -> None:
    options = {} if make is Driver else {"checkpoint_dir": tmp_path / "run"}
    with pytest.raises(ConfigError, match="transport_dtype is 'int8'; give 'bfloat16', 'float16', or None"):
        make(server_address="127.0.0.1:1", transport_dtype="int8", **options)
    assert not (tmp_path / "run").exists()
