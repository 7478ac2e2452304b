"""What a server with many clients asks of them: to come back later, and to beat less often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from hedgerow.client.session import Rhythm, Session, Standing
from hedgerow.errors import LimitReached, Unavailable
from hedgerow.records import NodeState
from hedgerow.security import Identity, Role
from hedgerow.server import fleet, open_files, sessions
from hedgerow.server.openings import Openings
from hedgerow.server.service import Service
from hedgerow.store.changes import SessionOpened
from hedgerow.store.store import Store
from hedgerow.waits import Limit, pause, wait
from hedgerow.wire.channel import open_channel
from hedgerow.wire.proto import fleet_pb2, fleet_pb2_grpc
from tests.integration.running_server import running

SOON = Limit("soon_s", 10.0)


@asynccontextmanager
async def fleet_api(folder: Path) -> AsyncIterator[tuple[Service, fleet_pb2_grpc.FleetAsyncStub]]:
    async with running(state_dir=folder) as service, open_channel(service.fleet_address, None) as channel:
        yield service, fleet_pb2_grpc.FleetStub(channel)


async def test_client_that_finds_too_many_waiting_is_told_when_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "Openings", lambda: Openings(patience_s=-1.0))
    async with fleet_api(tmp_path) as (service, stub):
        with pytest.raises(Unavailable, match="waiting for their sessions") as refused:
            await Session.open(stub, Identity.fresh(Role.CLIENT), Standing("a", "test", [], []))
        assert refused.value.come_back_after_s > 0
        assert len(service.sessions) == 0


async def test_open_session_learns_that_there_are_more_clients_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SHORTEST_BEAT_INTERVAL_S", 0.1)
    async with fleet_api(tmp_path) as (_, stub):
        session = await Session.open(stub, Identity.fresh(Role.CLIENT), Standing("a", "test", [], []))
        assert session.rhythm == Rhythm(0.1, 1 / sessions.RECONNECTS_PER_S)
        monkeypatch.setattr(sessions, "SHORTEST_BEAT_INTERVAL_S", 0.2)
        monkeypatch.setattr(sessions, "RECONNECTS_PER_S", 10)

        reading = asyncio.create_task(_read_on(session))
        while session.rhythm != Rhythm(0.2, 0.1):
            assert not reading.done(), "the session has ended"
            await pause(0.01, "a beat")
        session.close()
        await asyncio.gather(reading, return_exceptions=True)


async def test_session_of_a_client_that_never_beats_ends_and_its_node_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SHORTEST_BEAT_INTERVAL_S", 0.1)
    async with fleet_api(tmp_path) as (service, stub):
        call = stub.Session(metadata=(node := Identity.fresh(Role.CLIENT)).metadata())
        await call.write(fleet_pb2.SessionUp(hello=fleet_pb2.Hello(node_id=node.id, name="a")))
        welcome = await wait(call.read(), SOON, "the welcome")
        assert isinstance(welcome, fleet_pb2.SessionDown)
        assert welcome.HasField("welcome")
        assert await wait(call.read(), SOON, "the end of the stream") is grpc.aio.EOF, "it gets no beats without its own"
        assert await call.code() is grpc.StatusCode.OK
        assert len(service.sessions) == 0


async def _read_on(session: Session) -> None:
    async for event in session.events():
        raise AssertionError(f"{event}: beats are not passed on")


async def test_session_whose_client_gave_up_while_it_was_opened_does_not_stay_online(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on = asyncio.Event(), asyncio.Event()
    stores, open_session = list[Store](), Store.open_session

    async def slow(store: Store, *args: Any) -> SessionOpened:
        stores.append(store)
        opening.set()
        await wait(go_on.wait(), SOON, "the test")
        return await open_session(store, *args)

    monkeypatch.setattr(Store, "open_session", slow)
    async with fleet_api(tmp_path) as (service, stub):
        call = stub.Session(metadata=(node := Identity.fresh(Role.CLIENT)).metadata())
        await call.write(fleet_pb2.SessionUp(hello=fleet_pb2.Hello(node_id=node.id, name="a")))
        await wait(opening.wait(), SOON, "the opening")
        call.cancel()
        with service.bells.listen("nodes") as listener:
            await listener.news()  # the first one is no news
            while len(service.sessions):
                await pause(0.01, "the server to see that the client has gone")
            go_on.set()
            await wait(listener.news(), SOON, "the node to be away")
            assert (await stores[0].check_node(node)).state is NodeState.AWAY


async def test_client_for_which_files_are_too_few_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(open_files, "allowed", lambda: 75)  # 64 of them are for other things, and 8 connections for refusals
    async with fleet_api(tmp_path) as (service, stub):
        nodes = [Identity.fresh(Role.CLIENT) for _ in range(4)]
        opened = [await Session.open(stub, node, Standing(node.id, "test", [], [])) for node in nodes[:3]]
        for _ in range(2):
            with pytest.raises(LimitReached, match=r"has 3 sessions .* 75 files .* ulimit -n"):
                await Session.open(stub, nodes[3], Standing("d", "test", [], []))
        again = await Session.open(stub, nodes[0], Standing(nodes[0].id, "test", [], []))  # takes the place of its older one
        assert len(service.sessions) == 3
        for session in [*opened, again]:
            session.close()
    assert sum("More clients want to connect" in record.message for record in caplog.records) == 1
