"""How many queue cycles the store does in a second, against the number of clients: a task is pushed, completed, its result read.

``python -m benchmarks.store_cycles [--clients 1 10 100 1000] [--folder FOLDER]``; the database is made in FOLDER (default: the
temporary directory) on whatever disk that is on, every commit with an fsync. The limit is how often a block can be appended to
a file there and brought to the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.figures import OURS, Figure, Plot, Report
from benchmarks.harness import new_report, parser, write_and_sync_s
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


async def measure(store: Store, report: Report, options: argparse.Namespace) -> None:
    """Measure each number of clients, and a batch."""
    driver = Identity.fresh(Role.DRIVER)
    nodes = [Identity.fresh(Role.CLIENT) for _ in range(max(options.clients))]
    await store.create_run(driver, RUN, "benchmark", 1)
    for number, node in enumerate(nodes):
        await store.open_session(node, f"node{number}", [], [])
    await cycles(store, driver, nodes[:1], 50, 0)  # statements are compiled now
    rates = []
    for turn, clients in enumerate(options.clients, start=1):
        each = max(2, (500 if options.quick else 2_000) // clients)
        before = store.commit_totals()
        rates.append(await cycles(store, driver, nodes[:clients], each, turn * 10_000))
        after = store.commit_totals()
        commits, changes = after.commits - before.commits, after.changes - before.changes
        what = f"{clients} at once"
        report.add(Figure(name=f"tasks, {what}", system=OURS, value=rates[-1], unit="1/s"))
        report.add(Figure(name=f"changes a commit, {what}", system=OURS, value=changes / commits, unit="changes"))
        report.add(
            Figure(name=f"a commit, {what}", system=OURS, value=1e3 * (after.seconds - before.seconds) / commits, unit="ms")
        )
    pushed = await batch(store, driver, nodes[0], 500)
    report.add(Figure(name="tasks, 500 pushed in one call", system=OURS, value=pushed, unit="1/s"))
    lines = {"Hedgerow": (list(map(float, options.clients)), rates)}
    report.plot(Plot(name="clients", title="Tasks a second", x="clients at once", y="tasks/s", lines=lines, log=True))


def main() -> None:
    """Run the benchmark."""
    p = parser(__doc__)
    p.add_argument("--clients", type=int, nargs="+", default=[1, 10, 100, 1000], help="at once; default: %(default)s")
    p.add_argument("--folder", type=Path, help="where the database goes (default: a temporary folder)")
    options = p.parse_args()
    report = new_report("store_cycles", "Tasks a second through the store", options)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        synced = write_and_sync_s(Path(folder))
        report.add(Figure(name="a block brought to the disk", system="fdatasync", value=synced * 1e3, unit="ms"))
        store = Store.open(f"sqlite:///{folder}/hedgerow.sqlite3", SystemClock())
        try:
            asyncio.run(measure(store, report, options))
        finally:
            store.close()
    report.write()


if __name__ == "__main__":
    main()
