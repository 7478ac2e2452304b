"""What the server says of a task that it sends: whose run it is, and how many nodes take part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hedgerow.records import Origin, Outcome, Reply, Task
from hedgerow.security import Identity
from hedgerow.store.changes import Pushed, SessionOpened, phase_of
from hedgerow.store.store import Store
from tests.integration.store.conftest import RUN, HeldClock, client, driver, fit

A, B, C, D = (client(number) for number in range(1, 5))
ANN = replace(driver(), certificate="hedgerow://driver/ann")


async def start(store: Store, *nodes: Identity) -> None:
    await store.create_run(ANN, RUN, "demo", 1)
    for number, node in enumerate(nodes):
        await store.open_session(node, f"hospital_{number}", [], [])


async def push(store: Store, *new: Task) -> list[int]:
    """How many sites each of these tasks is sent with."""
    return sites(await store.push_tasks(ANN, RUN, new))


def sites(told: Pushed | SessionOpened) -> list[int]:
    given: Sequence[Task] = [one.task for one in told.assign] if isinstance(told, Pushed) else told.assign
    return [told.origins[phase_of(task)].sites for task in given]


async def test_a_task_has_the_name_in_its_drivers_certificate(store: Store) -> None:
    await start(store, A)
    pushed = await store.push_tasks(ANN, RUN, [fit(A)])
    assert pushed.origins == {(RUN, 1, "fit"): Origin("hedgerow://driver/ann", 1)}
    eve = driver(2)
    await store.create_run(eve, "run00000002", "", 1)
    pushed = await store.push_tasks(eve, "run00000002", [fit(A, run_id="run00000002")])
    assert pushed.origins == {("run00000002", 1, "fit"): Origin(f"driver/{eve.id}", 1)}, "it showed no certificate"


async def test_nodes_that_are_asked_together_count_all_and_later_ones_count_those_before(store: Store) -> None:
    await start(store, A, B, C)
    assert await push(store, fit(A), fit(B)) == [2, 2]
    assert await push(store, fit(C)) == [3]
    assert await push(store, fit(A, sequence=1)) == [3], "a node counts once"
    assert await push(store, fit(A)) == [], "what is known is not sent again"


async def test_rounds_kinds_and_runs_are_counted_apart(store: Store) -> None:
    await start(store, A, B)
    evaluate = replace(fit(B), task_id="evaluate0001", instruction=replace(fit(B).instruction, kind="evaluate"))
    assert await push(store, fit(A), evaluate, fit(B, round=2)) == [1, 1, 1]
    await store.create_run(ANN, "run00000002", "", 1)
    pushed = await store.push_tasks(ANN, "run00000002", [fit(A, run_id="run00000002")])
    assert sites(pushed) == [1]


async def test_a_node_that_nobody_knows_or_that_is_lost_does_not_count(store: Store, clock: HeldClock) -> None:
    await start(store, A, B)
    await store.close_session(B.id, 1)
    clock.advance(10)
    assert [node.node_id for node in (await store.lose_nodes(clock.now(), clock.now())).nodes] == [B.id]
    assert await push(store, fit(B), fit(A)) == [1]
    await store.open_session(B, "hospital_1", [], [])
    assert await push(store, fit(B, sequence=1)) == [1], "a node that was lost first counts no more in this phase"


async def test_invented_nodes_do_not_count(store: Store) -> None:
    await start(store, A)
    assert await push(store, fit(A), *(fit(client(number)) for number in range(100, 110))) == [1]


async def test_a_site_whose_client_comes_as_another_node_again_and_again_counts_once(store: Store) -> None:
    await start(store, A, D)
    assert await push(store, fit(A), fit(D)) == [2, 2]
    await store.close_session(A.id, 1)
    for again in (client(11), client(12), client(13)):
        await store.open_session(again, "hospital_0", [], [])
        assert await push(store, fit(again)) == [2]
        await store.close_session(again.id, 1)
    await store.open_session(B, "hospital_2", [], [])
    assert await push(store, fit(B), fit(D, sequence=1)) == [3, 3]


async def test_whatever_became_of_its_task_a_node_counts_and_what_is_sent_again_has_the_newest_number(
    store: Store,
) -> None:
    await start(store, A, B, C, D)
    tasks = [fit(node) for node in (A, B)]
    assert await push(store, *tasks) == [2, 2]
    await store.complete_task(A.id, 1, tasks[0].task_id, Reply(Outcome.REFUSED, "The site's policy"))
    await store.cancel_tasks(ANN, RUN, [tasks[1].task_id], "not needed")
    assert await push(store, fit(C)) == [3]
    assert await push(store, fit(D), fit(A, sequence=1)) == [4, 4]
    opened = await store.open_session(C, "hospital_2", [], [])
    assert opened.origins == {(RUN, 1, "fit"): Origin("hedgerow://driver/ann", 4)}


async def test_who_is_away_counts_and_is_told_later_how_many_there_are(store: Store) -> None:
    await start(store, A, B)
    await store.close_session(B.id, 1)
    assert await push(store, fit(A), fit(B)) == [2]
    assert sites(await store.open_session(B, "hospital_1", [], [])) == [2]
