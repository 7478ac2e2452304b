"""How many queue cycles the store does in a second, against the number of clients, beside what raw SQLite does in the same run.

    python -m benchmarks.store_cycles [--quick] [--clients 1 10 100 1000 10000] [--folder FOLDER]

A cycle: a task is pushed (which marks it as sent: its node is online), and completed. Each client does one after the other, all
clients at the same time. The raw limit does the same with ``sqlite3`` alone on a database of its own: as many tasks are inserted
and marked in one commit as there are clients (at most as many as the store puts into one), then as many are completed in one.
Every commit of both is on the disk before it counts. FOLDER says on whose disk (default: the temporary directory).
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.figures import OURS, Figure, Plot, figure, ratio
from benchmarks.harness import new_report, parser
from hedgerow.clock import SystemClock
from hedgerow.records import Instruction, Outcome, Reply, Task
from hedgerow.sampling import task_id
from hedgerow.security import Identity, Role
from hedgerow.store.store import Store
from hedgerow.store.writer import MAX_BATCH
from hedgerow.wire import convert

RUN = "benchmark0001"
RAW = "raw SQLite"
REPLY = Reply(Outcome.OK, "Success", num_examples=10, metrics={"accuracy": 0.9})


def new_task(node_id: str, sequence: int) -> Task:
    """A task as a driver makes it."""
    return Task(task_id(RUN, 1, node_id, "fit", sequence), RUN, node_id, 1, sequence, 1, Instruction("fit", {"lr": 0.1}))


class Ours:
    """The store, with a run and nodes that are online."""

    def __init__(self, folder: Path) -> None:
        self.store = Store.open(f"sqlite:///{folder}/hedgerow.sqlite3", SystemClock())
        self._driver = Identity.fresh(Role.DRIVER)
        self._nodes: list[tuple[Identity, int]] = []
        self._sequence = 0

    async def connect(self, clients: int) -> None:
        """Have as many nodes as that online."""
        if not self._nodes:
            await self.store.create_run(self._driver, RUN, "benchmark", 1)
        new = [Identity.fresh(Role.CLIENT) for _ in range(clients - len(self._nodes))]
        opened = await asyncio.gather(*(self.store.open_session(node, f"node-{node.id}", [], []) for node in new))
        self._nodes += [(node, session.epoch) for node, session in zip(new, opened, strict=True)]

    async def cycles_per_s(self, clients: int, each: int) -> float:
        """Every client does ``each`` of them."""
        first, self._sequence = self._sequence, self._sequence + each

        async def one_after_the_other(node: Identity, epoch: int) -> None:
            for sequence in range(first, first + each):
                task = new_task(node.id, sequence)
                await self.store.push_tasks(self._driver, RUN, [task])
                await self.store.complete_task(node.id, epoch, task.task_id, REPLY)

        started = time.perf_counter()
        await asyncio.gather(*(one_after_the_other(*node) for node in self._nodes[:clients]))
        return clients * each / (time.perf_counter() - started)


class Raw:
    """Two tables and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "raw.sqlite3", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._connection.execute(f"PRAGMA {pragma}").close()
        self._connection.execute("CREATE TABLE tasks (task_id TEXT PRIMARY KEY, node_id TEXT, state TEXT, body BLOB)")
        self._connection.execute("CREATE TABLE results (cursor INTEGER PRIMARY KEY, task_id TEXT UNIQUE, reply BLOB)")
        self._reply = convert.reply_to_proto(REPLY).SerializeToString()
        self._sequence = 0

    def cycles_per_s(self, clients: int, each: int) -> float:
        """The same, in commits of as many tasks as there are clients."""
        batch = min(clients, MAX_BATCH)
        rounds = max(1, clients * each // batch)
        bodies = [convert.task_to_proto(new_task(f"node{number:08d}", 0)).SerializeToString() for number in range(batch)]
        started = time.perf_counter()
        for _ in range(rounds):
            self._sequence += 1
            ids = [f"{self._sequence:012d}-{number:06d}" for number in range(batch)]
            self._commit(
                ("INSERT INTO tasks VALUES (?, ?, 'queued', ?)", [(i, i, b) for i, b in zip(ids, bodies, strict=True)]),
                ("UPDATE tasks SET state = 'sent' WHERE task_id = ?", [(i,) for i in ids]),
            )
            self._commit(
                ("UPDATE tasks SET state = 'done', body = NULL WHERE task_id = ?", [(i,) for i in ids]),
                ("INSERT INTO results (task_id, reply) VALUES (?, ?)", [(i, self._reply) for i in ids]),
            )
        return rounds * batch / (time.perf_counter() - started)

    def _commit(self, *statements: tuple[str, list[tuple[object, ...]]]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        for statement, rows in statements:
            self._connection.executemany(statement, rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


async def measure(ours: Ours, raw: Raw, clients: int, cycles: int, repeats: int) -> tuple[list[float], list[float], float]:
    """Cycles per second of both, in turns; and how many of the store's changes shared a commit."""
    await ours.connect(clients)
    each = max(1, cycles // clients)
    await ours.cycles_per_s(min(clients, 100), 2)  # statements are compiled now
    rates: tuple[list[float], list[float]] = ([], [])
    before = ours.store.commit_totals()
    for _ in range(repeats):
        rates[0].append(await ours.cycles_per_s(clients, each))
        rates[1].append(await asyncio.to_thread(raw.cycles_per_s, clients, each))
    after = ours.store.commit_totals()
    return *rates, (after.changes - before.changes) / (after.commits - before.commits)


def run(options: argparse.Namespace, folder: Path) -> None:
    """Measure and write the figures."""
    report = new_report("store_cycles", "Queue cycles against the number of clients", options)
    counts = options.clients or ([1, 10, 100, 1_000] if options.quick else [1, 10, 100, 1_000, 10_000])
    cycles, repeats = (500, 2) if options.quick else (2_000, 3)
    ours, raw = Ours(folder), Raw(folder)
    medians: dict[str, list[float]] = {OURS: [], RAW: []}
    try:
        with asyncio.Runner() as runner:
            for clients in counts:
                mine, limit, shared = runner.run(measure(ours, raw, clients, cycles, repeats))
                name = f"queue cycles, {clients:,} client{'s' * (clients > 1)}"
                report.add(figure(name, OURS, mine, "cycles/s"), figure(name, RAW, limit, "cycles/s"))
                report.add(ratio(name, mine, limit, RAW))
                report.add(Figure(name=f"changes in a commit, {clients:,} clients", system=OURS, value=shared, unit="changes"))
                medians[OURS].append(statistics.median(mine))
                medians[RAW].append(statistics.median(limit))
    finally:
        ours.store.close()
        raw.close()
    lines = {name: (counts, rates) for name, rates in medians.items()}
    report.plot(Plot(name="clients", title="Queue cycles", x="clients", y="cycles per second", lines=lines, log=True))
    report.write()


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--clients", type=int, nargs="+", help="numbers of clients (default: 1 to 10,000, quick: to 1,000)")
    made.add_argument("--folder", type=Path, help="where the databases are made")
    options = made.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        run(options, Path(folder))


if __name__ == "__main__":
    main()
