"""How long a round takes when training costs nothing: Hedgerow, Flower, and what the machine can do, in one run.

    python -m benchmarks.round_latency [--quick] [--peers flwr-1.6 flwr-1.42] [--clients 2 10] [--repeats 8]

The model is one tensor of 10 float32. Clients are real processes that return random weights; Hedgerow has its defaults, which
bring every acknowledged change to the disk, once with the driver's checkpoint and once without. Hedgerow and Flower 1.6's
bidirectional server live side by side and take turns, a batch of rounds each, in an order that changes: what else the machine
does hits all of them. Ratios are of batches of the same turn. The systems that poll run afterwards, a few rounds each, with 2
and with 10 clients.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.conducted import Conductor
from benchmarks.figures import OURS, ROOT, Figure, Plot, Report, figure, ratio
from benchmarks.harness import Sampler, kinds_of, loopback_echo_s, new_report, parser, service, write_and_sync_s
from benchmarks.peers import Peer, Served, app_rounds, bidirectional, driven, installed
from hedgerow.errors import WaitTimeout

BATCH = 10
WARM_UP = 5
BIDIRECTIONAL, REQUESTS = "Flower 1.6 bidirectional", "Flower 1.6 request-response"
DEFAULT, WITHOUT = "checkpoint on", "checkpoint off"
MUST = {2: 0.7, 10: 0.8}
"""Of a bidirectional Flower's round, by the number of clients."""
STRETCH_MS = {2: 4.0, 10: 10.0}


@contextlib.contextmanager
def hedgerow(folder: Path, clients: int) -> Iterator[dict[str, Served]]:
    """One service, and a driver with checkpoints and one without."""
    with service(folder, clients) as federation, contextlib.ExitStack() as stack:
        program = [sys.executable, "-m", "benchmarks.round_driver", federation.driver.text, str(clients)]
        env = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        drivers = {}
        for name, options in ((DEFAULT, [f"--checkpoints={folder / 'run'}"]), (WITHOUT, [])):
            drivers[name] = stack.enter_context(Conductor([*program, *options], folder / f"{name}.log", env))
            drivers[name].ready()
            drivers[name].batch(WARM_UP)
        yield {name: Served(driver, kinds_of(federation, driver=driver.pid)) for name, driver in drivers.items()}


@dataclass
class Turns:
    """What came out of batches of rounds that were run in turns.

    Attributes:
        rounds: Milliseconds of each round, by system and turn.
        limits: Milliseconds of what the machine can do, by name and turn.
        cpu: CPU milliseconds a round, by system and kind of process.
    """

    rounds: dict[str, list[list[float]]]
    limits: dict[str, list[float]]
    cpu: dict[str, dict[str, float]]

    def medians(self, system: str) -> list[float]:
        """Of each turn."""
        return [statistics.median(batch) for batch in self.rounds[system]]


def take_turns(systems: dict[str, Served], repeats: int, folder: Path) -> Turns:
    """Run batches of rounds, in turns, and look at the limits beside each."""
    rng = random.Random(0)
    turns = Turns({name: [] for name in systems}, {"loopback echo": [], "fdatasync": []}, {})
    turns.cpu = {name: dict.fromkeys(system.pids, 0.0) for name, system in systems.items()}
    for system in systems.values():
        system.conductor.batch(WARM_UP)
    for _ in range(repeats):
        for name in rng.sample(list(systems), len(systems)):
            with Sampler(systems[name].pids, every_s=60.0) as sampler:
                turns.rounds[name].append([1e3 * s for s in systems[name].conductor.batch(BATCH)])
            for kind, used in sampler.used.items():
                turns.cpu[name][kind] += used.cpu_s * 1e3 / (repeats * BATCH)
        turns.limits["loopback echo"].append(1e3 * loopback_echo_s(100))
        turns.limits["fdatasync"].append(1e3 * write_and_sync_s(folder, 10))
    return turns


def compare(report: Report, clients: int, repeats: int, first: Peer | None) -> dict[str, float]:
    """Measure the systems that take turns; the median milliseconds by system."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as peers, contextlib.ExitStack() as stack:
        systems = dict(stack.enter_context(hedgerow(Path(folder), clients)))
        if first is not None:
            systems[BIDIRECTIONAL] = stack.enter_context(bidirectional(first, Path(peers), clients))
        turns = take_turns(systems, repeats, Path(folder))
    what, medians = f"round, {clients} clients", {}
    for name, batches in turns.rounds.items():
        rounds = [ms for batch in batches for ms in batch]
        medians[name] = statistics.median(rounds)
        if name == BIDIRECTIONAL:
            report.add(figure(what, name, rounds, "ms"))
        else:
            stretch = STRETCH_MS.get(clients) if name == DEFAULT else None
            report.add(dataclasses.replace(figure(f"{what}, {name}", OURS, rounds, "ms"), stretch=stretch))
    for name in (DEFAULT, WITHOUT) if first is not None else ():
        share = ratio(f"{what}, {name}", turns.medians(name), turns.medians(BIDIRECTIONAL), BIDIRECTIONAL)
        report.add(dataclasses.replace(share, must=MUST.get(clients) if name == DEFAULT else None))
    for limit, taken in turns.limits.items():
        report.add(figure(f"beside {clients} clients", limit, taken, "ms"))
        report.add(ratio(f"{what}, {DEFAULT}", turns.medians(DEFAULT), taken, limit))
    for name, kinds in turns.cpu.items():
        system, state = (name, "") if name == BIDIRECTIONAL else (OURS, f", {name}")
        for kind, ms in {**kinds, "all processes": sum(kinds.values())}.items():
            report.add(Figure(name=f"CPU a round, {clients} clients{state}: {kind}", system=system, value=ms, unit="ms"))
    return medians


def polling(report: Report, clients: int, rounds: int, ours: float, first: Peer | None, apps: list[Peer]) -> None:
    """Measure the systems that poll."""
    ways: dict[str, Callable[[Path], list[float]]] = {}
    if first is not None:
        ways[REQUESTS] = lambda folder: requests(first, folder, clients, rounds)
    for peer in apps:
        ways[f"Flower {peer.version} apps"] = lambda folder, peer=peer: app_rounds(peer, folder, clients, rounds)[1:]  # type: ignore[misc]
    for name, way in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                seconds = way(Path(folder))
            except WaitTimeout as error:
                report.note(f"{name} did not get through its rounds with {clients} clients: {error}")
                continue
        report.add(figure(f"round, {clients} clients", name, [s * 1e3 for s in seconds], "ms"))
        share = ours / 1e3 / statistics.median(seconds)
        report.add(Figure(name=f"round, {clients} clients, {DEFAULT}", system=OURS, value=share, unit="times", peer=name))


def requests(peer: Peer, folder: Path, clients: int, rounds: int) -> list[float]:
    """Seconds of the rounds of Flower 1.6's documented service, after the first."""
    with driven(peer, folder, clients) as served:
        served.conductor.batch(1)
        return served.conductor.batch(rounds - 1)


def main() -> None:
    """Measure and report."""
    p = parser(__doc__)
    p.add_argument("--clients", type=int, nargs="+", help="default: 2 10 when quick, 1 2 5 10 20 otherwise")
    p.add_argument("--repeats", type=int, help=f"batches of {BATCH} rounds of each system (default: 5 when quick, 10 otherwise)")
    p.add_argument("--polling-rounds", type=int, default=4, help="of each system that polls, the first not counted (default: 4)")
    options = p.parse_args()
    options.clients = options.clients or ([2, 10] if options.quick else [1, 2, 5, 10, 20])
    repeats = options.repeats or (5 if options.quick else 10)
    report = new_report("round_latency", "Seconds a round when training costs nothing", options)
    first, apps = installed(options.peers)
    curves: dict[str, list[float]] = {}
    for clients in options.clients:
        medians = compare(report, clients, repeats, first)
        for name, ms in medians.items():
            curves.setdefault(name if name == BIDIRECTIONAL else f"Hedgerow, {name}", []).append(ms)
        if clients in MUST:
            polling(report, clients, options.polling_rounds, medians[DEFAULT], first, apps)
    lines = {name: (options.clients, ms) for name, ms in curves.items()}
    report.plot(Plot(name="clients", title="Median round", x="clients", y="ms", lines=lines))
    report.write()


if __name__ == "__main__":
    main()
