"""What happens because time has passed, on a real store and a clock that the test holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.records import RunState
from hedgerow.security import Identity, Role
from hedgerow.server.bells import Bells
from hedgerow.server.notifier import Notifier
from hedgerow.server.options import ServerOptions
from hedgerow.server.sessions import Sessions
from hedgerow.server.sweeper import Sweeper
from hedgerow.store.blobs import BlobFolder
from hedgerow.store.store import Store
from tests.integration.store.conftest import HeldClock

RUN = "run00000001"
DRIVER = Identity.fresh(Role.DRIVER)


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def store(tmp_path: Path, clock: HeldClock) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'hedgerow.sqlite3'}", clock)
    yield opened
    opened.close()


@pytest.fixture
def sweeper(tmp_path: Path, store: Store, clock: HeldClock) -> Sweeper:
    bells, options = Bells(), ServerOptions(insecure=True, driver_lost_s=60, interrupted_kept_s=1000, state_dir=tmp_path)
    return Sweeper(store, bells, Notifier(Sessions(), bells, BlobFolder(tmp_path / "blobs")), clock, options)


async def test_a_run_whose_driver_stays_away_is_interrupted_and_fails_in_the_end(
    sweeper: Sweeper, store: Store, clock: HeldClock
) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    states = []
    for advance_s in (30, 60, 900, 100):
        clock.advance(advance_s)
        await sweeper.sweep()
        states.append((await store.check_run(DRIVER, RUN)).state)
    assert states == [RunState.PENDING, RunState.INTERRUPTED, RunState.INTERRUPTED, RunState.FAILED]
    assert "not taken up again within 1000 s" in (await store.check_run(DRIVER, RUN)).message
