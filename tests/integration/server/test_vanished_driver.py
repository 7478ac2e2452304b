"""A driver that dies in the middle of a call: what the server has begun, it ends."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from hedgerow.records import Instruction, Task
from hedgerow.security import Identity, Role
from hedgerow.server.service import Service
from hedgerow.store.store import Store
from hedgerow.waits import Limit, wait
from hedgerow.wire import convert
from hedgerow.wire.channel import open_channel
from hedgerow.wire.proto import driver_pb2, driver_pb2_grpc
from tests.integration.running_server import on_free_ports

RUN = "run0000000000001"
DRIVER = Identity.fresh(Role.DRIVER)
SOON = Limit("soon_s", 10.0)


async def test_tasks_are_sent_to_their_clients_though_the_driver_is_gone_when_they_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stored, go_on, told = asyncio.Event(), asyncio.Event(), asyncio.Event()
    push_tasks = Store.push_tasks

    async def slow(*args: Any) -> Any:
        pushed = await push_tasks(*args)
        stored.set()
        await wait(go_on.wait(), SOON, "leave to go on")
        return pushed

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Received 1 fit task"):
                told.set()

    monkeypatch.setattr(Store, "push_tasks", slow)
    service = Service(on_free_ports(state_dir=tmp_path / "state"))
    heard = Heard(logging.INFO)
    log = logging.getLogger("hedgerow.server.driver_api")
    caplog.set_level(logging.INFO, log.name)
    log.addHandler(heard)
    await service.start()
    try:
        channel = open_channel(service.driver_address, None)
        stub: driver_pb2_grpc.DriverAsyncStub = driver_pb2_grpc.DriverStub(channel)
        create = driver_pb2.CreateRunRequest(run_id=RUN, name="", seed=1)
        await stub.CreateRun(create, metadata=DRIVER.metadata())
        task = convert.task_to_proto(Task("task000000000001", RUN, "node000000000001", 1, 1, 0, Instruction("fit")))
        call = stub.PushTasks(driver_pb2.PushTasksRequest(run_id=RUN, tasks=[task]), metadata=DRIVER.metadata())
        await wait(stored.wait(), SOON, "the tasks to be stored")
        await channel.close(None)
        assert call.cancelled()
        again = open_channel(service.driver_address, None)
        for _ in range(20):  # so that the server has seen the connection end
            await driver_pb2_grpc.DriverStub(again).CreateRun(create, metadata=DRIVER.metadata())
        await again.close(None)
        go_on.set()
        await wait(told.wait(), SOON, "the rest of the call")
    finally:
        log.removeHandler(heard)
        await service.stop()
