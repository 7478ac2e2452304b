"""FedBuff against synchronous FedAvg where one of ten clients is ten times slower than the others, in simulated time.

    python -m benchmarks.slow_client [--seeds 5] [--slowness 10] [--alphas 100 0.1] [--rates 0.5 1 2 4 8]

The problem and the clients are those of ``benchmarks/non_iid.py`` (digits, softmax regression, 30 local steps; scikit-learn is
needed). A client's ``fit`` takes about 1 unit of time, 0.9 to 1.1; the slow one's ten times that. A round of FedAvg takes as
long as its slowest client; FedBuff is driven by events, in the order in which its clients are done. Nothing else takes time.
Every strategy is tried with each learning rate, on seeds that the tables do not use; shown is the one with the least training
loss at the end. Accuracy, in %, on examples that no client has, over the seeds, whatever comes out;
"slow client's digits" are the examples of the two digits of which the slow client has the most.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import hedgerow as hg
from benchmarks.figures import Report, figure
from benchmarks.harness import new_report, parser
from benchmarks.non_iid import DigitsClient, Name, Scenario, digits, federation, loss_and_accuracy
from hedgerow.client.perform import seed_everything
from hedgerow.records import NDArrays, Parameters
from hedgerow.sampling import task_seed
from hedgerow.strategy import FedAvg
from hedgerow.strategy.asynchronous import Idle, Update
from hedgerow.strategy.schedules import config as config_of

CLIENTS, STEPS = 10, 30
TIMES = (20.0, 50.0, 100.0)
TUNING_SEEDS = (1001, 1002)
Model = tuple[float, NDArrays]
"""When there was a model, and its arrays."""


@dataclass
class Fleet:
    """Clients, and how long each takes."""

    clients: dict[str, Any]
    durations: dict[str, float]
    manager: hg.SimpleClientManager
    start: Parameters

    @classmethod
    def made(cls, alpha: float, slowness: float, seed: int) -> Fleet:
        """Of one seed; the first client is the slow one."""
        clients = federation(Scenario("", CLIENTS, alpha, 1.0, -STEPS), seed)
        rng = np.random.default_rng([seed, 3])
        durations = {name: float(rng.uniform(0.9, 1.1)) for name in clients}
        durations[min(clients)] *= slowness
        manager = hg.SimpleClientManager(wait_for_clients_s=0.0)
        for name, client in clients.items():
            manager.register(Name(name))
            client.context = hg.Context(name, "loop")
        start = Parameters(next(iter(clients.values())).get_parameters({}))
        return cls({name: client.to_client() for name, client in clients.items()}, durations, manager, start)

    def fit(self, name: str, ins: hg.FitIns, seed: int, number: int) -> hg.FitRes:
        """The client's update; the number makes its batches others than those of its other tasks."""
        seed_everything(task_seed(seed, number, name, "fit", 0))
        found: hg.FitRes = self.clients[name].fit(ins)
        return found


def in_rounds(strategy: FedAvg, fleet: Fleet, seed: int) -> Iterator[Model]:
    """Models of rounds in which everybody is waited for."""
    x, now = fleet.start, 0.0
    for server_round in range(1, 1 << 30):
        fleet.manager.start_round(server_round, seed)
        pairs = strategy.configure_fit(server_round, x, fleet.manager)
        results = [(proxy, fleet.fit(proxy.cid, ins, seed, server_round)) for proxy, ins in pairs]
        new, _ = strategy.aggregate_fit(server_round, results, [])
        x = x if new is None else new
        now += max(fleet.durations[proxy.cid] for proxy, _ in pairs)
        yield now, x.arrays()


def by_events(strategy: hg.FedBuff, fleet: Fleet, seed: int) -> Iterator[Model]:
    """Versions of a model whose clients are given new work when they are done."""
    x, now, version, tasks, accepted = fleet.start, 0.0, 1, 0, 0
    under_way: list[tuple[float, str, int, Parameters, hg.FitRes]] = []
    fleet.manager.start_round(version, seed)
    while True:
        while len(under_way) < strategy.concurrency:
            task = strategy.configure_task(version, x, fleet.manager, Idle({name for _, name, *_ in under_way}))
            if task is None:
                break
            name, tasks = task[0].cid, tasks + 1
            res = fleet.fit(name, task[1], seed, tasks)
            heapq.heappush(under_way, (now + fleet.durations[name], name, version, x, res))
        now, name, began, base, res = heapq.heappop(under_way)
        accepted += strategy.fold(version, Update(fleet.manager.all()[name], base, res, version - began))
        if accepted == strategy.buffer_size:
            x, _ = strategy.flush(version, x)
            accepted, version = 0, version + 1
            fleet.manager.start_round(version, seed)
            yield now, x.arrays()


def measured(make: Callable[..., FedAvg], alpha: float, slowness: float, rate: float, seed: int) -> tuple[float, list[float]]:
    """The training loss at the end, the accuracy at each time, and that on the slow client's digits at the end."""
    fleet = Fleet.made(alpha, slowness, seed)
    strategy = make(min_fit_clients=1, on_fit_config_fn=config_of(lr=rate))
    models = by_events(strategy, fleet, seed) if isinstance(strategy, hg.FedBuff) else in_rounds(strategy, fleet, seed)
    train, test = digits()
    accuracies: list[float] = []
    newest = fleet.start.arrays()
    for now, arrays in models:
        while len(accuracies) < len(TIMES) and now > TIMES[len(accuracies)]:
            accuracies.append(100 * loss_and_accuracy(newest, test)[1])
        if len(accuracies) == len(TIMES):
            break
        newest = arrays
    slow = fleet.clients[min(fleet.clients)].numpy_client
    assert isinstance(slow, DigitsClient)
    own = np.isin(test[1], np.argsort(np.bincount(slow.data[1], minlength=10))[-2:])
    accuracies.append(100 * loss_and_accuracy(newest, (test[0][own], test[1][own]))[1])
    return loss_and_accuracy(newest, train)[0], accuracies


STRATEGIES: dict[str, Callable[..., FedAvg]] = {
    "FedAvg": hg.FedAvg,
    "FedBuff(K=5)": lambda **arguments: hg.FedBuff(buffer_size=5, concurrency=CLIENTS, **arguments),
    "FedBuff(K=10)": lambda **arguments: hg.FedBuff(buffer_size=10, concurrency=CLIENTS, **arguments),
    "FedBuff(K=5), staleness ≤ 5": lambda **arguments: hg.FedBuff(
        buffer_size=5, concurrency=CLIENTS, max_staleness=5, **arguments
    ),
}


def compare(report: Report, alpha: float, options: argparse.Namespace) -> None:
    """Measure one skew of the labels."""
    columns = [*(f"time {limit:g}" for limit in TIMES), "slow client's digits"]
    for name, make in STRATEGIES.items():
        losses = {
            rate: statistics.mean(measured(make, alpha, options.slowness, rate, seed)[0] for seed in TUNING_SEEDS)
            for rate in options.rates
        }
        rate = min(losses, key=lambda rate: losses[rate])
        found = [measured(make, alpha, options.slowness, rate, seed)[1] for seed in range(options.seeds)]
        for column, some in zip(columns, zip(*found, strict=True), strict=True):
            report.add(figure(f"alpha {alpha:g}, {column}, rate {rate:g}", name, some, "%"))


def main() -> None:
    """Run and report."""
    p = parser(__doc__)
    p.add_argument("--seeds", type=int, help="default: 1 when quick, 5 otherwise")
    p.add_argument("--slowness", type=float, default=10.0, help="default: %(default)s")
    p.add_argument("--alphas", type=float, nargs="+", help="default: 0.1 when quick, 100 and 0.1 otherwise")
    p.add_argument("--rates", type=float, nargs="+", help="default: 2 4 when quick, 0.5 1 2 4 8 otherwise")
    options = p.parse_args()
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.alphas = options.alphas or ([0.1] if options.quick else [100.0, 0.1])
    options.rates = options.rates or ([2.0, 4.0] if options.quick else [0.5, 1.0, 2.0, 4.0, 8.0])
    logging.disable(logging.WARNING)
    report = new_report("slow_client", "One of ten clients is slow", options)
    report.note(f"{CLIENTS} clients, one {options.slowness:g} times slower; {options.seeds} seeds; time is simulated.")
    for alpha in options.alphas:
        compare(report, alpha, options)
    report.write()


if __name__ == "__main__":
    main()
