"""How many queue cycles the store does in a second: a task is pushed, completed, and its result read.

``python benchmarks/store_cycles.py [--folder FOLDER]``; the database is made in FOLDER (default: the temporary directory) on
whatever disk that is on, every commit with an fsync.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from hedgerow.clock import SystemClock
from hedgerow.records import Instruction, Outcome, Reply, Task
from hedgerow.sampling import task_id
from hedgerow.security import Identity, Role
from hedgerow.store.store import Store

RUN = "benchmark0001"


async def cycles(store: Store, driver: Identity, nodes: list[Identity], each: int, first: int) -> float:
    """Cycles per second when every node does ``each`` of them, all nodes at the same time."""

    async def one_after_the_other(node: Identity) -> None:
        for sequence in range(first, first + each):
            task = Task(task_id(RUN, 1, node.id, "fit", sequence), RUN, node.id, 1, sequence, 1, Instruction("fit", {"lr": 0.1}))
            pushed = await store.push_tasks(driver, RUN, [task])
            reply = Reply(Outcome.OK, "Success", num_examples=10, metrics={"accuracy": 0.9})
            await store.complete_task(node.id, pushed.assign[0].epoch, task.task_id, reply)

    started = time.perf_counter()
    await asyncio.gather(*(one_after_the_other(node) for node in nodes))
    return len(nodes) * each / (time.perf_counter() - started)


async def batch(store: Store, driver: Identity, node: Identity, count: int) -> float:
    """Cycles per second when all tasks are pushed in one call and completed at the same time."""
    tasks = [Task(task_id(RUN, 2, node.id, "fit", n), RUN, node.id, 2, n, 1, Instruction("fit")) for n in range(count)]
    started = time.perf_counter()
    pushed = await store.push_tasks(driver, RUN, tasks)
    epoch = pushed.assign[0].epoch
    await asyncio.gather(*(store.complete_task(node.id, epoch, t.task_id, Reply(Outcome.OK, num_examples=10)) for t in tasks))
    assert len(await store.results_after(RUN, 0, 1_000_000)) >= count
    return count / (time.perf_counter() - started)


async def measure(store: Store) -> None:
    """Print a line for each way."""
    driver = Identity.fresh(Role.DRIVER)
    nodes = [Identity.fresh(Role.CLIENT) for _ in range(50)]
    await store.create_run(driver, RUN, "benchmark", 1)
    for number, node in enumerate(nodes):
        await store.open_session(node, f"node{number}", [], [])
    await cycles(store, driver, nodes[:1], 50, 0)  # statements are compiled now
    for label, some, each, first in (("one by one", nodes[:1], 500, 100), ("50 callers", nodes, 50, 1_000)):
        before = store.commit_totals()
        rate = await cycles(store, driver, some, each, first)
        after = store.commit_totals()
        commits, changes = after.commits - before.commits, after.changes - before.changes
        per_commit = 1_000 * (after.seconds - before.seconds) / commits
        print(f"{label:12} {rate:8.0f} cycles/s   {changes / commits:5.1f} changes a commit, {per_commit:.2f} ms a commit")
    print(f"{'batch of 500':12} {await batch(store, driver, nodes[0], 500):8.0f} cycles/s")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None)
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as folder:
        store = Store.open(f"sqlite:///{folder}/hedgerow.sqlite3", SystemClock())
        try:
            asyncio.run(measure(store))
        finally:
            store.close()


if __name__ == "__main__":
    main()
