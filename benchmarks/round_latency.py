"""How long a round takes when training costs nothing: Hedgerow, Flower, and what the machine can do, in one run.

    python -m benchmarks.round_latency [--quick] [--peers flwr-1.6 flwr-1.42] [--clients 2 10] [--repeats 8]

The model is one tensor of 10 float32. Clients are real processes that return random weights; Hedgerow has its defaults, which
bring every acknowledged change to the disk, once with the driver's checkpoint and once without. Hedgerow and Flower 1.6's
bidirectional server live side by side and take turns, a batch of rounds each, in an order that changes: what else the machine
does hits all of them. Ratios are of batches of the same turn. The systems that poll run afterwards, a few rounds each.
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


def take_turns(systems: dict[str, Served], repeats: int) -> dict[str, dict[str, float]]:
    """Batches of rounds, in turns; the CPU milliseconds a round by system and kind of process."""
    rng = random.Random(0)
    cpu: dict[str, dict[str, float]] = {name: dict.fromkeys(system.pids, 0.0) for name, system in systems.items()}
    for system in systems.values():
        system.conductor.batch(WARM_UP)
        system.conductor.seconds.clear()
    for _ in range(repeats):
        for name in rng.sample(list(systems), len(systems)):
            with Sampler(systems[name].pids, every_s=60.0) as sampler:
                systems[name].conductor.batch(BATCH)
            for kind, used in sampler.used.items():
                cpu[name][kind] += used.cpu_s * 1e3 / (repeats * BATCH)
    return cpu


def compare(report: Report, clients: int, repeats: int, first: Peer | None) -> dict[str, float]:
    """Measure the systems that take turns; the median milliseconds by system."""
    what = f"round, {clients} clients"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as peers, contextlib.ExitStack() as stack:
        systems = dict(stack.enter_context(hedgerow(Path(folder), clients)))
        if first is not None:
            systems[BIDIRECTIONAL] = stack.enter_context(bidirectional(first, Path(peers), clients))
        cpu = take_turns(systems, repeats)
        batches = {name: [[s * 1e3 for s in batch] for batch in system.conductor.seconds] for name, system in systems.items()}
        disk, echo = write_and_sync_s(Path(folder)) * 1e3, loopback_echo_s() * 1e3
    medians = {}
    for name, found in batches.items():
        rounds = [ms for batch in found for ms in batch]
        medians[name] = statistics.median(rounds)
        if name == BIDIRECTIONAL:
            report.add(figure(what, name, rounds, "ms"))
        else:
            stretch = STRETCH_MS.get(clients) if name == DEFAULT else None
            report.add(dataclasses.replace(figure(f"{what}, {name}", OURS, rounds, "ms"), stretch=stretch))
    for name in (DEFAULT, WITHOUT) if first is not None else ():
        ours, theirs = ([statistics.median(batch) for batch in batches[system]] for system in (name, BIDIRECTIONAL))
        share = ratio(f"{what}, {name}", ours, theirs, BIDIRECTIONAL)
        report.add(dataclasses.replace(share, must=MUST.get(clients) if name == DEFAULT else None))
    for limit, taken in (("loopback echo", echo), ("fdatasync", disk)):
        report.add(Figure(name=f"beside {clients} clients", system=limit, value=taken, unit="ms"))
        report.add(Figure(name=f"{what}, {DEFAULT}", system=OURS, value=medians[DEFAULT] / taken, unit="times", peer=limit))
    for name, kinds in cpu.items():
        system = BIDIRECTIONAL if name == BIDIRECTIONAL else OURS
        for kind, ms in {**kinds, "all processes": sum(kinds.values())}.items():
            state = "" if name == BIDIRECTIONAL else f", {name}"
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
            seconds = way(Path(folder))
        report.add(figure(f"round, {clients} clients", name, [s * 1e3 for s in seconds], "ms"))
        share = ours / 1e3 / statistics.median(seconds)
        report.add(Figure(name=f"round, {clients} clients, {DEFAULT}", system=OURS, value=share, unit="times", peer=name))


def requests(peer: Peer, folder: Path, clients: int, rounds: int) -> list[float]:
    """Seconds of the rounds of Flower 1.6's documented service, after the first."""
    with driven(peer, folder, clients) as served:
        served.conductor.batch(1)
        return served.conductor.batch(rounds - 1)


@dataclass
class Curve:
    """The rounds of each system against the number of clients."""

    clients: list[float]
    by_system: dict[str, list[float]]


def main() -> None:
    """Measure and report."""
    p = parser(__doc__)
    p.add_argument("--clients", type=int, nargs="+", default=[2, 10], help="default: %(default)s")
    p.add_argument("--repeats", type=int, help=f"batches of {BATCH} rounds of each system (default: 5 when quick, 10 otherwise)")
    p.add_argument("--polling-rounds", type=int, default=4, help="of each system that polls, the first not counted (default: 4)")
    options = p.parse_args()
    repeats = options.repeats or (5 if options.quick else 10)
    report = new_report("round_latency", "Seconds a round when training costs nothing", options)
    first, apps = installed(options.peers)
    curve = Curve([], {})
    for clients in options.clients:
        medians = compare(report, clients, repeats, first)
        curve.clients.append(clients)
        for name, ms in medians.items():
            curve.by_system.setdefault(name if name == BIDIRECTIONAL else f"Hedgerow, {name}", []).append(ms)
        polling(report, clients, options.polling_rounds, medians[DEFAULT], first, apps)
    lines = {name: (curve.clients, ms) for name, ms in curve.by_system.items()}
    report.plot(Plot(name="clients", title="Median round", x="clients", y="ms", lines=lines))
    report.write()


if __name__ == "__main__":
    main()
