"""Nodes and sessions in a real database."""

from __future__ import annotations

import pytest

from hedgerow.errors import AlreadyExists, NotFound, Unauthenticated
from hedgerow.records import NodeState, Outcome, RunState
from hedgerow.security import Identity
from hedgerow.store import nodes
from hedgerow.store.store import Store
from hedgerow.task_states import TaskState
from tests.integration.store.conftest import RUN, HeldClock, client, done, driver, fit

A, B, DRIVER = client(1), client(2), driver()


async def test_each_session_has_a_higher_epoch_and_each_change_a_higher_version(store: Store, clock: HeldClock) -> None:
    assert (await store.open_session(A, "a", [], [])).epoch == 1
    (first,) = await store.nodes_after(0, 10)
    assert (first.node_id, first.name, first.state, first.last_seen) == (A.id, "a", NodeState.ONLINE, clock.now())
    await store.close_session(A.id, 1)
    (second,) = await store.nodes_after(first.version, 10)
    assert second.state is NodeState.AWAY
    assert second.version > first.version
    assert (await store.open_session(A, "renamed", [], [])).epoch == 2
    (third,) = await store.nodes_after(second.version, 10)
    assert (third.state, third.name) == (NodeState.ONLINE, "renamed")
    assert await store.nodes_after(third.version, 10) == []


async def test_nodes_are_listed_by_version_up_to_the_limit(store: Store) -> None:
    for number in range(1, 4):
        await store.open_session(client(number), f"n{number}", [], [])
    await store.close_session(client(1).id, 1)
    assert [n.name for n in await store.nodes_after(0, 2)] == ["n2", "n3"]


async def test_end_of_an_old_session_does_not_touch_the_new_one(store: Store) -> None:
    await store.open_session(A, "a", [], [])
    await store.open_session(A, "a", [], [])
    await store.close_session(A.id, 1)
    await store.close_session("nobody00", 1)
    assert (await store.nodes_after(0, 10))[0].state is NodeState.ONLINE


async def test_node_with_another_secret_is_refused(store: Store) -> None:
    await store.open_session(A, "a", [], [])
    thief = Identity(A.role, A.id, "e" * 64)
    with pytest.raises(Unauthenticated):
        await store.open_session(thief, "a", [], [])
    with pytest.raises(Unauthenticated):
        await store.check_node(thief)
    with pytest.raises(NotFound):
        await store.check_node(B)
    assert (await store.check_node(A)).name == "a"
    assert (await store.open_session(A, "a", [], [])).epoch == 2


async def test_name_of_an_online_node_is_refused_and_leaves_no_trace(store: Store) -> None:
    await store.open_session(A, "a", [], [])
    with pytest.raises(AlreadyExists, match=A.id):
        await store.open_session(B, "a", [], [])
    assert [n.node_id for n in await store.nodes_after(0, 10)] == [A.id]


async def test_newcomer_takes_the_name_of_a_node_that_is_away_and_its_tasks_fail(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    await store.push_tasks(DRIVER, RUN, [fit(A)])
    await store.close_session(A.id, 1)
    opened = await store.open_session(B, "a", [], [])
    assert (opened.epoch, opened.assign, opened.run_ids) == (1, [], [RUN])
    nodes = {n.node_id: (n.name, n.state) for n in await store.nodes_after(0, 10)}
    assert nodes == {A.id: (f"a~{A.id[:8]}", NodeState.LOST), B.id: ("a", NodeState.ONLINE)}
    (result,) = await store.results_after(RUN, 0, 10)
    assert result.reply.outcome is Outcome.NODE_LOST
    # And back: the first one returns when the second is away.
    await store.close_session(B.id, 1)
    assert (await store.open_session(A, "a", [], [])).epoch == 2
    assert {n.node_id: n.name for n in await store.nodes_after(0, 10)} == {A.id: "a", B.id: f"a~{B.id}"}


async def test_new_session_is_sent_what_it_does_not_have_in_hand_in_order(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    tasks = [fit(A, sequence=n) for n in range(5)]
    await store.push_tasks(DRIVER, RUN, tasks[:3])
    await store.close_session(A.id, 1)
    await store.push_tasks(DRIVER, RUN, tasks[3:])
    assert (await store.counts()).tasks[TaskState.QUEUED] == 2
    opened = await store.open_session(A, "a", [tasks[0].task_id], [tasks[1].task_id])
    assert opened.assign == tasks[2:]
    assert (opened.cancel, opened.release) == ([], [])
    assert (await store.counts()).tasks[TaskState.SENT] == 5
    assert (await store.complete_task(A.id, 2, tasks[1].task_id, done())).accepted


async def test_task_that_was_handed_back_is_queued_and_sent_again(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    kept, back = fit(A), fit(A, sequence=1)
    await store.push_tasks(DRIVER, RUN, [kept, back])
    await store.close_session(A.id, 1, [back.task_id, "0" * 32])
    counts = await store.counts()
    assert (counts.tasks[TaskState.QUEUED], counts.tasks[TaskState.SENT]) == (1, 1)
    assert (await store.open_session(A, "a", [kept.task_id], [])).assign == [back]


async def test_a_node_that_connects_again_and_again_gets_no_more_time_for_a_task(store: Store, clock: HeldClock) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    given, waiting = fit(A), fit(A, round=2)
    await store.push_tasks(DRIVER, RUN, [given])
    clock.advance(60)
    await store.close_session(A.id, 1)
    await store.push_tasks(DRIVER, RUN, [waiting])
    opened = await store.open_session(A, "a", [], [])
    assert opened.assign == [given, waiting]
    clock.advance(50)
    assert (await store.expire_tasks(clock.now() - 100)).notify == [(A.id, 2, given.task_id)]
    await store.close_session(A.id, 2, [waiting.task_id])
    await store.open_session(A, "a", [], [])
    clock.advance(70)
    assert (await store.expire_tasks(clock.now() - 100)).notify == []
    clock.advance(40)
    assert (await store.expire_tasks(clock.now() - 100)).notify == [(A.id, 3, waiting.task_id)]


async def test_result_of_a_task_that_was_handed_back_is_taken(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    task = fit(A)
    await store.push_tasks(DRIVER, RUN, [task])
    await store.close_session(A.id, 1, [task.task_id])
    assert (await store.complete_task(A.id, 1, task.task_id, done())).accepted


async def test_new_session_is_told_what_to_cancel_and_what_to_release(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.create_run(DRIVER, "run00000002", "over", 1)
    await store.open_session(A, "a", [], [])
    acknowledged, accepted, cancelled, of_ended = fit(A), fit(A, round=2), fit(A, round=3), fit(A, run_id="run00000002")
    await store.push_tasks(DRIVER, RUN, [acknowledged, accepted, cancelled])
    await store.push_tasks(DRIVER, "run00000002", [of_ended])
    for task in (acknowledged, accepted, of_ended):
        await store.complete_task(A.id, 1, task.task_id, done())
    await store.close_session(A.id, 1)
    await store.cancel_tasks(DRIVER, RUN, [cancelled.task_id], "late")
    assert (await store.acknowledge_round(DRIVER, RUN, 1, [])).release == []  # nobody is there to be told
    await store.end_run(DRIVER, "run00000002", RunState.FINISHED, "")
    finished = [acknowledged.task_id, accepted.task_id, of_ended.task_id, "0" * 32]
    opened = await store.open_session(A, "a", [cancelled.task_id, "1" * 32], finished)
    assert opened.cancel == sorted([cancelled.task_id, "1" * 32])
    assert opened.release == sorted([acknowledged.task_id, of_ended.task_id, "0" * 32])
    assert opened.assign == []


async def test_result_for_a_task_of_an_acknowledged_round_may_go(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    straggler = fit(A)
    await store.push_tasks(DRIVER, RUN, [straggler])
    await store.acknowledge_round(DRIVER, RUN, 1, [])
    assert (await store.open_session(A, "a", [], [straggler.task_id])).release == [straggler.task_id]


async def test_another_nodes_tasks_are_unknown_to_a_session(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    task = fit(A)
    await store.push_tasks(DRIVER, RUN, [task])
    opened = await store.open_session(B, "b", [task.task_id], [])
    assert (opened.cancel, opened.assign) == ([task.task_id], [])


async def test_node_that_stays_away_is_lost_and_its_tasks_fail(store: Store, clock: HeldClock) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    for node, name in ((A, "a"), (B, "b")):
        await store.open_session(node, name, [], [])
        await store.push_tasks(DRIVER, RUN, [fit(node)])
    clock.advance(10)
    await store.close_session(A.id, 1)
    clock.advance(600)
    assert (await store.lose_nodes(clock.now() - 600, clock.now() - 60)).nodes == []
    clock.advance(1)
    lost = await store.lose_nodes(clock.now() - 600, clock.now() - 60)
    assert ([n.node_id for n in lost.nodes], lost.run_ids) == ([A.id], [RUN])
    assert lost.nodes[0].state is NodeState.LOST
    (result,) = await store.results_after(RUN, 0, 10)
    assert (result.node_id, result.reply.outcome) == (A.id, Outcome.NODE_LOST)
    assert (await store.lose_nodes(clock.now() - 600, clock.now() - 60)).nodes == []


async def test_many_nodes_are_lost_a_few_at_a_time_and_each_once(
    store: Store, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "LOST_AT_ONCE", 3)
    await store.create_run(DRIVER, RUN, "demo", 1)
    who = [client(number) for number in range(8)]
    for node in who:
        await store.open_session(node, node.id, [], [])
        await store.push_tasks(DRIVER, RUN, [fit(node), fit(node, round=2)])
    for number, node in enumerate(who):
        await store.close_session(node.id, 1, left=number >= 4)
    clock.advance(601)
    lost = []
    while True:
        some = await store.lose_nodes(clock.now() - 600, clock.now() - 60)
        lost.append([node.node_id for node in some.nodes])
        assert some.run_ids == ([RUN] if some.nodes else [])
        if not some.more:
            break
    assert [len(part) for part in lost] == [3, 3, 2]
    assert [node_id for part in lost for node_id in part] == [node.id for node in who], (
        "those that were away, then those that left"
    )
    assert {result.reply.outcome for result in await store.results_after(RUN, 0, 100)} == {Outcome.NODE_LOST}
    assert len(await store.results_after(RUN, 0, 100)) == 16


async def test_node_that_left_is_not_available_and_has_a_short_time_to_come_back(store: Store, clock: HeldClock) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    tasks = {node: fit(node) for node in (A, B)}
    for node, task in tasks.items():
        await store.open_session(node, node.id, [], [])
        await store.push_tasks(DRIVER, RUN, [task])
        await store.close_session(node.id, 1, [task.task_id], left=True)
        await store.close_session(node.id, 1)  # the stream ends
    nodes = await store.nodes_after(0, 10)
    assert [(node.state, node.state.available) for node in nodes] == [(NodeState.LEFT, False)] * 2
    clock.advance(59)
    assert (await store.open_session(A, "a", [], [])).assign == [tasks[A]], "started again"
    clock.advance(2)
    lost = await store.lose_nodes(clock.now() - 600, clock.now() - 60)
    assert [(node.node_id, node.state) for node in lost.nodes] == [(B.id, NodeState.LOST)]
    (result,) = await store.results_after(RUN, 0, 10)
    assert (result.node_id, result.reply.outcome) == (B.id, Outcome.NODE_LOST)
    assert "was stopped, and not started again in time" in result.reply.message


async def test_task_for_a_node_that_left_waits_for_it(store: Store, clock: HeldClock) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    await store.close_session(A.id, 1, left=True)
    assert not (await store.push_tasks(DRIVER, RUN, [fit(A)])).failed
    assert (await store.open_session(A, "a", [], [])).assign == [fit(A)]


async def test_lost_node_comes_back_without_the_tasks_that_failed(store: Store, clock: HeldClock) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    task = fit(A)
    await store.push_tasks(DRIVER, RUN, [task])
    await store.close_session(A.id, 1)
    clock.advance(1)
    await store.lose_nodes(clock.now(), clock.now())
    opened = await store.open_session(A, "a", [task.task_id], [])
    assert (opened.epoch, opened.cancel, opened.assign) == (2, [task.task_id], [])
    assert (await store.nodes_after(0, 10))[0].state is NodeState.ONLINE
