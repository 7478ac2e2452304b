"""What the store tells of the results that a commit has brought is what a reader finds."""

from __future__ import annotations

import asyncio

from hedgerow.records import TaskResult
from hedgerow.store.store import Store
from tests.integration.store.conftest import RUN, client, done, driver, fit

A, B, DRIVER = client(1), client(2), driver()


async def test_results_are_told_as_they_are_read(store: Store) -> None:
    told: list[tuple[str, list[TaskResult] | None]] = []
    store.watch(lambda run_id, results: told.append((run_id, results)))
    await store.create_run(DRIVER, RUN, "demo", 7)
    for number, node in enumerate((A, B)):
        await store.open_session(node, f"hospital_{number}", [], [])
    tasks = [fit(A), fit(B), fit(A, sequence=1), fit(B, sequence=1)]
    await store.push_tasks(DRIVER, RUN, tasks)
    await asyncio.gather(
        store.complete_task(A.id, 1, tasks[0].task_id, done(b"inline parameters")),
        store.complete_task(B.id, 1, tasks[1].task_id, done(loss=0.25)),
    )
    await store.complete_task(A.id, 1, tasks[0].task_id, done(loss=9.0))  # known already
    singles = [result for _, results in told for result in results or []]
    assert singles == await store.results_after(RUN, 0, 10)
    assert len(singles) == 2
    told.clear()
    await store.cancel_tasks(DRIVER, RUN, [task.task_id for task in tasks], "enough")
    assert told == [(RUN, None)], "two at once are to be read"
    assert len(await store.results_after(RUN, singles[-1].cursor, 10)) == 2
