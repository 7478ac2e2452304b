"""Who may take over the session of a node, and who may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hedgerow.client.session import Session, Standing
from hedgerow.errors import Unauthenticated, WaitTimeout
from hedgerow.security import Identity, Role
from hedgerow.waits import Limit, wait
from hedgerow.wire.channel import open_channel
from hedgerow.wire.proto import fleet_pb2, fleet_pb2_grpc
from tests.integration.running_server import running

STANDING = Standing("a", "test", [], [])
SOON = Limit("soon_s", 10.0)
A_MOMENT = Limit("a_moment_s", 0.3)


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[fleet_pb2_grpc.FleetAsyncStub]:
    async with running(state_dir=tmp_path) as service, open_channel(service.fleet_address, None) as channel:
        yield fleet_pb2_grpc.FleetStub(channel)


async def next_event(session: Session) -> str | None:
    events = session.events()
    event: fleet_pb2.SessionDown = await anext(events)
    kind: str | None = event.WhichOneof("event")
    return kind


async def test_a_node_keeps_its_session_when_another_claims_its_id_with_a_wrong_secret(
    stub: fleet_pb2_grpc.FleetAsyncStub,
) -> None:
    node = Identity.fresh(Role.CLIENT)
    session = await Session.open(stub, node, STANDING)
    with pytest.raises(Unauthenticated):
        await Session.open(stub, Identity(Role.CLIENT, node.id, "f" * 64), STANDING)
    with pytest.raises(WaitTimeout):
        await wait(next_event(session), A_MOMENT, "a goodbye that must not come")


async def test_a_node_that_opens_another_session_ends_its_older_one_for_good(stub: fleet_pb2_grpc.FleetAsyncStub) -> None:
    node = Identity.fresh(Role.CLIENT)
    older = await Session.open(stub, node, STANDING)
    newer = await Session.open(stub, node, STANDING)
    assert newer.epoch > older.epoch
    assert await wait(next_event(older), SOON, "the goodbye") == "goodbye"
    newer.close()
