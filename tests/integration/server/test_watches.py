"""A driver that reconnects: its old stream may end after the new one has begun."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.security import Identity, Role
from hedgerow.server.service import Service
from hedgerow.waits import Limit, pause, wait
from hedgerow.wire.channel import open_channel
from hedgerow.wire.proto import driver_pb2, driver_pb2_grpc, operator_pb2, operator_pb2_grpc
from tests.integration.running_server import running

RUN = "run0000000000001"
DRIVER = Identity.fresh(Role.DRIVER)
SOON = Limit("test_s", 20.0)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running(state_dir=tmp_path / "state") as started:
        yield started


async def until_streams(service: Service, count: int) -> None:
    """Wait until so many streams are open at the server, and what the end of others has set off is done."""

    async def reached() -> None:
        while len(service.bells.listeners.get(f"run/{RUN}", ())) != count:
            await pause(0.01, "streams to begin or end")

    await wait(reached(), SOON, f"{count} open streams")
    await service._background.finish(SOON)


async def test_a_driver_is_away_when_its_last_stream_has_ended_not_its_oldest(service: Service) -> None:
    async with open_channel(service.driver_address, None) as channel:
        driver = driver_pb2_grpc.DriverStub(channel)
        await driver.CreateRun(driver_pb2.CreateRunRequest(run_id=RUN, seed=1), metadata=DRIVER.metadata())

        async def connected() -> bool:
            operator: Any = operator_pb2_grpc.OperatorStub(channel)
            me = Identity.fresh(Role.OPERATOR)
            reply = await operator.GetRun(operator_pb2.GetRunRequest(run_id=RUN), metadata=me.metadata())
            return bool(reply.run.driver_connected)

        streams: list[Any] = []
        for number in (1, 2):
            streams.append(driver.Watch(driver_pb2.WatchRequest(run_id=RUN), metadata=DRIVER.metadata()))
            await wait(streams[-1].read(), SOON, "the first event")
            await until_streams(service, number)
        streams[0].cancel()
        await until_streams(service, 1)
        assert await connected()
        streams[1].cancel()
        await until_streams(service, 0)
        assert not await connected()
