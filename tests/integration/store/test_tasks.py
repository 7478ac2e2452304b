"""Tasks and results in a real database: what is stored once, what is sent again, what is refused."""

from __future__ import annotations

import math

import pytest

from hedgerow.errors import AlreadyExists, Fenced, InvalidArgument, NotFound, PermissionDenied, RunEnded, Unauthenticated
from hedgerow.records import Outcome, Reply, RunState, Task
from hedgerow.security import Identity
from hedgerow.store.rounds import ROUND_IS_OVER
from hedgerow.store.store import Store
from hedgerow.task_states import TaskState
from tests.integration.store.conftest import RUN, HeldClock, client, digest, done, driver, fit, upload

A, B, DRIVER = client(1), client(2), driver()


async def start(store: Store, *nodes: Identity) -> None:
    await store.create_run(DRIVER, RUN, "demo", 2**64 - 1)
    for number, node in enumerate(nodes):
        await store.open_session(node, f"hospital_{number}", [], [])


async def test_task_for_an_online_node_is_stored_as_sent_and_handed_over_with_the_epoch(store: Store) -> None:
    await start(store, A)
    task = fit(A, config={"lr": 0.1, "epochs": 2, "raw": b"\0", "flag": True})
    pushed = await store.push_tasks(DRIVER, RUN, [task])
    assert (pushed.created, pushed.failed) == (1, False)
    assert [(a.node_id, a.epoch, a.task) for a in pushed.assign] == [(A.id, 1, task)]
    assert (await store.counts()).tasks[TaskState.SENT] == 1
    assert (await store.check_run(DRIVER, RUN)).state is RunState.RUNNING


async def test_task_pushed_twice_is_stored_once(store: Store) -> None:
    await start(store, A, B)
    first, second = fit(A), fit(B)
    assert (await store.push_tasks(DRIVER, RUN, [first, first])).created == 1
    again = await store.push_tasks(DRIVER, RUN, [first, second])
    assert (again.created, [a.task for a in again.assign]) == (1, [second])


async def test_task_pushed_again_after_its_blob_was_released_is_skipped_not_refused(store: Store) -> None:
    await start(store, A)
    task = fit(A, payload=await upload(store, DRIVER, 1))
    await store.push_tasks(DRIVER, RUN, [task])
    await store.complete_task(A.id, 1, task.task_id, done())
    assert (await store.acknowledge_round(DRIVER, RUN, 1, [])).files
    assert (await store.push_tasks(DRIVER, RUN, [task])).created == 0


async def test_result_sent_twice_is_accepted_once(store: Store) -> None:
    await start(store, A)
    task = fit(A)
    await store.push_tasks(DRIVER, RUN, [task])
    assert (await store.complete_task(A.id, 1, task.task_id, done(loss=0.1))).accepted
    second = await store.complete_task(A.id, 1, task.task_id, done(loss=0.9))
    assert (second.accepted, second.run_id) == (False, RUN)
    (result,) = await store.results_after(RUN, 0, 10)
    assert result.reply.loss == 0.1


async def test_inline_parameters_come_back_with_the_result_until_the_round_is_acknowledged(store: Store) -> None:
    await start(store, A)
    task = fit(A, payload=b"global")
    await store.push_tasks(DRIVER, RUN, [task])
    reply = Reply(Outcome.OK, "Success", "", 3, math.inf, {"a": 1}, b"local", 2.5, 1)
    await store.complete_task(A.id, 1, task.task_id, reply)
    assert [r.reply for r in await store.results_after(RUN, 0, 10)] == [reply]
    await store.acknowledge_round(DRIVER, RUN, 1, [])
    (result,) = await store.results_after(RUN, 0, 10)
    assert result.reply.parameters is None
    assert result.reply.num_examples == 3


async def test_results_are_read_by_cursor_in_the_order_in_which_they_were_stored(store: Store) -> None:
    await start(store, A, B)
    tasks = [fit(A), fit(B), fit(A, sequence=1)]
    await store.push_tasks(DRIVER, RUN, tasks)
    for task in reversed(tasks):
        await store.complete_task(task.node_id, 1, task.task_id, done())
    first = await store.results_after(RUN, 0, 2)
    rest = await store.results_after(RUN, first[-1].cursor, 2)
    assert [r.task_id for r in first + rest] == [t.task_id for t in reversed(tasks)]
    assert await store.results_after(RUN, rest[-1].cursor, 2) == []


async def test_result_of_an_older_session_is_fenced_and_leaves_no_trace(store: Store) -> None:
    await start(store, A)
    task = fit(A)
    await store.push_tasks(DRIVER, RUN, [task])
    assert (await store.open_session(A, "hospital_0", [task.task_id], [])).epoch == 2
    with pytest.raises(Fenced, match="newer session"):
        await store.complete_task(A.id, 1, task.task_id, done())
    assert await store.results_after(RUN, 0, 10) == []
    assert (await store.complete_task(A.id, 2, task.task_id, done())).accepted


async def test_result_for_another_nodes_task_is_not_found(store: Store) -> None:
    await start(store, A, B)
    task = fit(A)
    await store.push_tasks(DRIVER, RUN, [task])
    with pytest.raises(NotFound):
        await store.complete_task(B.id, 1, task.task_id, done())
    with pytest.raises(NotFound):
        await store.complete_task(A.id, 1, "0" * 32, done())


async def test_task_for_a_lost_or_unknown_node_fails_at_once(store: Store, clock: HeldClock) -> None:
    await start(store, A)
    await store.close_session(A.id, 1)
    clock.advance(1)
    await store.lose_nodes(clock.now(), clock.now())
    clock.advance(1)
    pushed = await store.push_tasks(DRIVER, RUN, [fit(A), fit(B)])
    assert (pushed.created, pushed.assign, pushed.failed) == (2, [], True)
    assert [r.reply.outcome for r in await store.results_after(RUN, 0, 10)] == [Outcome.NODE_LOST] * 2


@pytest.mark.parametrize(
    ("who", "error"), [(driver(2), PermissionDenied), (Identity(DRIVER.role, DRIVER.id, "f" * 64), Unauthenticated)]
)
async def test_other_driver_or_wrong_secret_is_refused_by_every_method_of_a_run(
    store: Store, who: Identity, error: type[Exception]
) -> None:
    await start(store, A)
    calls = [
        store.create_run(who, RUN, "demo", 2**64 - 1),
        store.check_run(who, RUN),
        store.push_tasks(who, RUN, [fit(A)]),
        store.cancel_tasks(who, RUN, [], "because"),
        store.acknowledge_round(who, RUN, 1, []),
        store.end_run(who, RUN, RunState.FINISHED, ""),
        store.start_upload(who, "upload00", 10, RUN),
        store.blob_for_driver(who, RUN, digest(1)),
    ]
    for call in calls:
        with pytest.raises(error):
            await call
    assert sum((await store.counts()).tasks.values()) == 0


async def test_task_that_names_another_run_or_a_taken_id_is_refused_with_the_whole_call(store: Store) -> None:
    await start(store, A)
    await store.create_run(driver(2), "run00000002", "other", 1)
    with pytest.raises(InvalidArgument, match="run00000002"):
        await store.push_tasks(DRIVER, RUN, [fit(A), fit(A, run_id="run00000002")])
    own = fit(A)
    await store.push_tasks(DRIVER, RUN, [own])
    stolen = Task(own.task_id, "run00000002", A.id, 1, 0, 1, own.instruction)
    with pytest.raises(AlreadyExists):
        await store.push_tasks(driver(2), "run00000002", [stolen])
    assert sum((await store.counts()).tasks.values()) == 1


async def test_cancelled_task_has_a_result_and_its_node_is_told_once(store: Store) -> None:
    await start(store, A)
    await store.open_session(B, "hospital_b", [], [])
    await store.close_session(B.id, 1)
    sent, queued = fit(A), fit(B)
    await store.push_tasks(DRIVER, RUN, [sent, queued])
    ids = [sent.task_id, queued.task_id, "0" * 32]
    cancelled = await store.cancel_tasks(DRIVER, RUN, ids, "late")
    assert (cancelled.count, cancelled.notify) == (2, [(A.id, 1, sent.task_id)])
    assert (await store.cancel_tasks(DRIVER, RUN, ids, "late")).count == 0
    results = await store.results_after(RUN, 0, 10)
    assert {(r.task_id, r.reply.outcome, r.reply.message) for r in results} == {
        (sent.task_id, Outcome.CANCELLED, "late"),
        (queued.task_id, Outcome.CANCELLED, "late"),
    }
    assert not (await store.complete_task(A.id, 1, sent.task_id, done())).accepted


async def test_task_sent_too_long_ago_expires(store: Store, clock: HeldClock) -> None:
    await start(store, A)
    old, new = fit(A), fit(A, sequence=1)
    await store.push_tasks(DRIVER, RUN, [old])
    clock.advance(100)
    await store.push_tasks(DRIVER, RUN, [new])
    expired = await store.expire_tasks(clock.now() - 50)
    assert (expired.run_ids, expired.notify) == ([RUN], [(A.id, 1, old.task_id)])
    assert [(r.task_id, r.reply.outcome) for r in await store.results_after(RUN, 0, 10)] == [(old.task_id, Outcome.EXPIRED)]


# --- runs -----------------------------------------------------------------------------------------------------------------


async def test_run_created_twice_is_the_same_run_and_keeps_its_64_bit_seed(store: Store) -> None:
    assert await store.create_run(DRIVER, RUN, "demo", 2**64 - 1) is RunState.PENDING
    assert await store.create_run(DRIVER, RUN, "demo", 2**64 - 1) is RunState.PENDING
    info = await store.check_run(DRIVER, RUN)
    assert (info.seed, info.name, info.ended_at) == (2**64 - 1, "demo", None)
    with pytest.raises(AlreadyExists, match="seed"):
        await store.create_run(DRIVER, RUN, "demo", 3)
    with pytest.raises(NotFound):
        await store.check_run(DRIVER, "run00000099")


async def test_ended_run_cancels_releases_and_refuses_new_tasks(store: Store, clock: HeldClock) -> None:
    await start(store, A, B)
    finished, open_task = fit(A, payload=await upload(store, DRIVER, 1)), fit(B)
    await store.push_tasks(DRIVER, RUN, [finished, open_task])
    await store.complete_task(A.id, 1, finished.task_id, done(await upload(store, A, 2)))
    clock.advance(5)
    ended = await store.end_run(DRIVER, RUN, RunState.FINISHED, "all rounds done")
    assert ended.notify == [(B.id, 1, open_task.task_id)]
    assert sorted(ended.release) == [(A.id, 1, [finished.task_id]), (B.id, 1, [open_task.task_id])]
    assert sorted(ended.files) == sorted([f"upload0001{DRIVER.id}", f"upload0002{A.id}"])
    info = await store.check_run(DRIVER, RUN)
    assert (info.state, info.message, info.ended_at) == (RunState.FINISHED, "all rounds done", clock.now())
    again = await store.end_run(DRIVER, RUN, RunState.FAILED, "no")
    assert (again.notify, again.release, again.files) == ([], [], [])
    assert (await store.check_run(DRIVER, RUN)).state is RunState.FINISHED
    with pytest.raises(RunEnded, match="finished"):
        await store.push_tasks(DRIVER, RUN, [fit(A, round=2)])


async def test_run_does_not_end_in_a_state_that_is_not_final(store: Store) -> None:
    await start(store)
    with pytest.raises(InvalidArgument):
        await store.end_run(DRIVER, RUN, RunState.INTERRUPTED, "")


async def test_operator_may_end_any_run(store: Store) -> None:
    await start(store)
    await store.end_run(None, RUN, RunState.STOPPED, "by hand")
    assert (await store.check_run(DRIVER, RUN)).state is RunState.STOPPED


async def test_unseen_run_is_interrupted_and_taken_up_again(store: Store, clock: HeldClock) -> None:
    await start(store, A)
    await store.push_tasks(DRIVER, RUN, [fit(A)])
    await store.run_seen(RUN, True)
    clock.advance(1_000)
    assert await store.interrupt_runs(clock.now()) == []  # it is watched
    await store.run_seen(RUN, False)
    clock.advance(10)
    assert await store.interrupt_runs(clock.now() - 20) == []
    assert await store.interrupt_runs(clock.now()) == [RUN]
    info = await store.check_run(DRIVER, RUN)
    assert (info.state, info.last_seen) == (RunState.INTERRUPTED, clock.now() - 10)
    assert await store.create_run(DRIVER, RUN, "demo", 2**64 - 1) is RunState.RUNNING


async def test_interrupted_run_goes_on_when_its_driver_watches_it_again(store: Store, clock: HeldClock) -> None:
    await start(store)
    clock.advance(10)
    assert await store.interrupt_runs(clock.now()) == [RUN]
    await store.run_seen(RUN, True)
    assert (await store.check_run(DRIVER, RUN)).state is RunState.PENDING


async def test_acknowledged_round_releases_its_results_once(store: Store) -> None:
    await start(store, A, B)
    first, straggler, second, open = fit(A, round=1), fit(B, round=1), fit(A, round=2), fit(B, round=2)
    await store.push_tasks(DRIVER, RUN, [first, straggler, second, open])
    await store.complete_task(A.id, 1, first.task_id, done())
    await store.complete_task(A.id, 1, second.task_id, done())
    acknowledged = await store.acknowledge_round(DRIVER, RUN, 1, [])
    assert acknowledged.release == [(A.id, 1, [first.task_id])]
    assert acknowledged.notify == [(B.id, 1, straggler.task_id)]
    again = await store.acknowledge_round(DRIVER, RUN, 1, [])
    assert (again.release, again.notify) == ([], [])
    cancelled = (await store.results_after(RUN, 0, 10))[-1]
    assert (cancelled.task_id, cancelled.reply.outcome) == (straggler.task_id, Outcome.CANCELLED)
    assert cancelled.reply.message == "the round is over"
    late = await store.complete_task(B.id, 1, straggler.task_id, done())
    assert (late.accepted, late.release) == (False, True)
    assert (await store.acknowledge_round(DRIVER, RUN, 2, [])).release == [(A.id, 1, [second.task_id])]


async def test_newest_runs_are_listed_first(store: Store, clock: HeldClock) -> None:
    for number in range(3):
        await store.create_run(DRIVER, f"run0000000{number}", "demo", 1)
        clock.advance(1)
    assert [run.info.run_id for run in await store.list_runs(2)] == ["run00000002", "run00000001"]


async def test_manifest_of_a_round_is_kept_as_it_came_first_also_when_the_run_is_over(store: Store) -> None:
    await start(store, A)
    await store.acknowledge_round(DRIVER, RUN, 0, [])
    for round, line in ((1, "one"), (2, "two"), (2, "two again")):
        await store.acknowledge_round(DRIVER, RUN, round, [], [(round, line)])
    await store.end_run(DRIVER, RUN, RunState.FINISHED, "")
    assert await store.manifest(RUN) == [(1, "one"), (2, "two")]
    assert await store.manifest(RUN, after_round=1) == [(2, "two")]
    assert await store.manifest("run00000009") == []


async def test_tasks_that_are_open_when_their_round_is_acknowledged_are_cancelled(store: Store) -> None:
    await start(store, A)
    old, new = fit(A, round=1), fit(A, round=2)
    await store.push_tasks(DRIVER, RUN, [old, new])
    done = await store.acknowledge_round(DRIVER, RUN, 1, [])
    assert done.notify == [(A.id, 1, old.task_id)]
    (result,) = await store.results_after(RUN, 0, 10)
    assert (result.task_id, result.reply.outcome, result.reply.message) == (old.task_id, Outcome.CANCELLED, ROUND_IS_OVER)
    assert (await store.acknowledge_round(DRIVER, RUN, 1, [])).notify == []
    assert [a.task_id for a in (await store.open_session(A, "hospital_0", [], [])).assign] == [new.task_id]


async def test_a_client_that_connects_anew_gets_no_more_time_for_its_task(store: Store, clock: HeldClock) -> None:
    await start(store, A)
    task = fit(A)
    await store.push_tasks(DRIVER, RUN, [task])
    clock.advance(60)
    for in_hand in ([], [task.task_id]):
        await store.open_session(A, "hospital_0", in_hand, [])
    expired = await store.expire_tasks(clock.now() - 30)
    assert expired.run_ids == [RUN]
