"""``hedgerow backup`` of a running server, and servers that start on the copy."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import blake3
import numpy as np
import pytest

from hedgerow.clock import SystemClock
from hedgerow.driver import Driver, DriverLimits, ServerConfig, start_driver
from hedgerow.errors import ConfigError
from hedgerow.records import Blob, Kind, Parameters, RunState, Task
from hedgerow.security import Identity, Role
from hedgerow.store.backup import back_up
from hedgerow.store.store import Store
from hedgerow.strategy import FedAvg
from tests.integration.driver.fleet_client import fleet, real_server

LIMITS = DriverLimits(connect_s=10, reconnect_s=10, wait_for_clients_s=10)
CODE = "import sys; from hedgerow.cli.hedgerow import main; sys.exit(main(sys.argv[1:]))"


def work(task: Task, parameters: Parameters) -> tuple[Parameters | None, int, float]:
    noise = np.random.default_rng(task.seed).standard_normal(20_000).astype(np.float32)
    return Parameters({"w": noise}), 1, 0.0


def backup(state_dir: Path, target: Path, *more: str) -> dict[str, int]:
    command = [sys.executable, "-c", CODE, "backup", str(target), "--state-dir", str(state_dir), "--json", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    told: dict[str, int] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("more", [(), ("--copy",)])
def test_server_that_starts_on_the_copy_of_a_live_one_has_everything(tmp_path: Path, more: tuple[str, ...]) -> None:
    me = Identity.fresh(Role.DRIVER)
    run_id = "run00000001"
    with fleet(tmp_path, work, ["a", "b"]) as (service, _):
        with Driver(service.driver_address.text, seed=1, limits=LIMITS, run_id=run_id, identity=me) as driver:
            driver.wait_for_nodes(2)
            tasks = driver.push([driver.task(node, Kind.FIT, round=1) for node in driver.nodes()])
            results = {result.task_id: result.reply.parameters for result in driver.results(tasks)}
            originals = {task_id: driver.download(payload) for task_id, payload in results.items() if payload is not None}
            told = backup(tmp_path / "state", tmp_path / "copy", *more)
            assert (told["blobs"], told["linked"], told["missing"]) == (2, not more, 0)
            driver.end(RunState.FINISHED)  # the original lets everything go
        assert list((tmp_path / "state" / "blobs").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["blobs", "hedgerow.sqlite3"]
    assert not list((tmp_path / "state").glob("backup-*"))
    with (
        real_server(tmp_path / "copy", 1024) as service,
        Driver(service.driver_address.text, seed=1, limits=LIMITS, run_id=run_id, identity=me) as driver,
    ):
        again = {result.task_id: result.reply.parameters for result in driver.results(tasks)}
        assert again == results
        for task_id, payload in again.items():
            assert isinstance(payload, Blob)
            assert driver.download(payload)["w"].tobytes() == originals[task_id]["w"].tobytes()


def test_every_backup_while_blobs_come_and_go_is_whole(tmp_path: Path) -> None:
    with fleet(tmp_path, work, ["a", "b", "c"]) as (service, _):
        strategy = FedAvg(min_available_clients=3, initial_parameters=Parameters({"w": np.zeros(20_000, np.float32)}))

        def drive() -> None:
            config = ServerConfig(num_rounds=30, seed=1)
            start_driver(server_address=service.driver_address.text, config=config, strategy=strategy, limits=LIMITS)

        driving = threading.Thread(target=drive, daemon=True)
        driving.start()
        count = 0
        while driving.is_alive() and count < 20:
            done = back_up(tmp_path / "state", tmp_path / f"copy{count}")
            assert done.missing == 0
            count += 1
        driving.join(60)
        assert not driving.is_alive()
    assert count > 1
    for number in range(count):
        folder = tmp_path / f"copy{number}"
        store = Store.open(f"sqlite:///{folder / 'hedgerow.sqlite3'}", SystemClock())
        try:
            rows = store._reader._connection.exec_driver_sql("SELECT digest, file FROM blobs").all()
        finally:
            store._reader._connection.rollback()
            store.close()
        assert {path.name for path in (folder / "blobs").iterdir()} == {row.file for row in rows}
        for row in rows:
            assert blake3.blake3((folder / "blobs" / row.file).read_bytes()).hexdigest() == row.digest


def test_copy_has_a_server_id_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    ids = []
    for name in ("state", "copy"):
        store = Store.open(f"sqlite:///{tmp_path / name / 'hedgerow.sqlite3'}", SystemClock())
        ids.append((store.server_id, store.url_key))
        store.close()
        if name == "state":
            back_up(tmp_path / "state", tmp_path / "copy")
    assert ids[0][0] != ids[1][0]
    assert ids[0][1] == ids[1][1]


def test_places_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no hedgerow"):
        back_up(tmp_path, tmp_path / "copy")
    (tmp_path / "state").mkdir()
    Store.open(f"sqlite:///{tmp_path / 'state' / 'hedgerow.sqlite3'}", SystemClock()).close()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        back_up(tmp_path / "state", tmp_path / "full")
    with pytest.raises(ConfigError, match="inside"):
        back_up(tmp_path / "state", tmp_path / "state" / "copy")
