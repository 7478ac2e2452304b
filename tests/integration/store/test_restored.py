"""A store that was opened on a backup: what it does not know may still be named by a driver that comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hedgerow.errors import AlreadyExists, NotFound, PermissionDenied
from hedgerow.records import NodeState, Origin, Outcome, RunState
from hedgerow.store.backup import back_up
from hedgerow.store.store import RESTORED_GRACE_S, Store
from tests.integration.store.conftest import HeldClock, client, driver, fit

RUN = "run00000001"
DRIVER, A, B = driver(), client(1), client(2)


@pytest.fixture
async def restored(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Store]:
    """On a backup in which run and node A are known."""
    (tmp_path / "state").mkdir()
    original = Store.open(f"sqlite:///{tmp_path / 'state' / 'hedgerow.sqlite3'}", clock)
    await original.create_run(DRIVER, RUN, "demo", 1)
    await original.open_session(A, "a", [], [])
    await original.push_tasks(DRIVER, RUN, [fit(A), fit(A, sequence=1)])
    assert not original.settling
    back_up(tmp_path / "state", tmp_path / "copy")
    original.close()
    clock.advance(1e6)
    opened = Store.open(f"sqlite:///{tmp_path / 'copy' / 'hedgerow.sqlite3'}", clock)
    yield opened
    opened.close()


async def test_what_a_client_has_and_the_backup_does_not_know_is_kept_for_a_while(restored: Store, clock: HeldClock) -> None:
    opened = await restored.open_session(A, "a", ["0" * 32], ["1" * 32])
    assert (opened.cancel, opened.release) == ([], [])
    clock.advance(RESTORED_GRACE_S + 1)
    opened = await restored.open_session(A, "a", ["0" * 32], ["1" * 32])
    assert (opened.cancel, opened.release) == (["0" * 32], ["1" * 32])


async def test_the_while_counts_from_when_the_backup_was_put_in_use(restored: Store, clock: HeldClock, tmp_path: Path) -> None:
    assert restored.settling
    restored.close()
    clock.advance(RESTORED_GRACE_S - 1)
    for settling in (True, False):
        again = Store.open(f"sqlite:///{tmp_path / 'copy' / 'hedgerow.sqlite3'}", clock)
        assert again.settling == settling
        again.close()
        clock.advance(2)


async def test_tasks_in_the_backup_wait_until_their_driver_names_them_again(restored: Store, clock: HeldClock) -> None:
    old, unwanted = fit(A), fit(A, sequence=1)
    assert (await restored.open_session(A, "a", [], [])).assign == []
    for now in (True, False):
        pushed = await restored.push_tasks(DRIVER, RUN, [old])
        assert (pushed.created, [one.task for one in pushed.assign]) == (0, [old] if now else [])
    opened = await restored.open_session(A, "a", [], [])
    assert opened.assign == [old], "named, and not in hand"
    await restored.acknowledge_round(DRIVER, RUN, 1, [])
    assert {r.task_id for r in await restored.results_after(RUN, 0, 9)} == {old.task_id, unwanted.task_id}


async def test_tasks_wait_for_nodes_that_came_after_the_backup_and_fail_when_they_do_not_come(
    restored: Store, clock: HeldClock
) -> None:
    tasks = [fit(B, round=9), fit(client(3), round=9)]
    assert not (await restored.push_tasks(DRIVER, RUN, tasks)).failed
    opened = await restored.open_session(B, "b", [], [])
    assert opened.assign == tasks[:1]
    assert opened.origins == {(RUN, 9, "fit"): Origin(f"driver/{DRIVER.id}", 0)}, "nobody was known when they were counted"
    clock.advance(601)
    lost = await restored.lose_nodes(clock.now() - 600, clock.now() - 60)
    assert [node.state for node in lost.nodes] == [NodeState.LOST]  # A, which was online when the backup was made
    assert lost.run_ids == [RUN]
    ended = [(r.task_id, r.reply.outcome) for r in await restored.results_after(RUN, 0, 9) if r.node_id != A.id]
    assert ended == [(tasks[1].task_id, Outcome.NODE_LOST)]
    clock.advance(RESTORED_GRACE_S)
    assert (await restored.push_tasks(DRIVER, RUN, [fit(client(4))])).failed, "now it is too late to come back"


async def test_run_from_another_state_is_taken_up_by_its_driver_only_and_never_made_anew(restored: Store) -> None:
    assert await restored.create_run(DRIVER, RUN, "demo", 1, known=True) is RunState.RUNNING
    with pytest.raises(PermissionDenied):
        await restored.create_run(driver(2), RUN, "demo", 1, known=True)
    with pytest.raises(AlreadyExists):
        await restored.create_run(DRIVER, RUN, "demo", 2, known=True)
    with pytest.raises(NotFound, match="start it on a newer backup and resume the run"):
        await restored.create_run(DRIVER, "run00000002", "demo", 1, known=True)
    assert len(await restored.list_runs(9)) == 1
