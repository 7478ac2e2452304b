"""Rounds with large models: seconds against plain sockets that move the same bytes, and the memory of every process.

    python -m benchmarks.large_models [--quick] [--cases 4x100 2x1000] [--rounds 5] [--gigabytes 5]

A case ``NxM`` is N clients and a model of M MB in one float32 tensor. Server, clients and driver are real processes with their
defaults; clients return random weights that differ (:mod:`benchmarks.large_site`). A round is configure, fit, aggregate and
checkpoint, from one ``configure_fit`` to the next; it is timed with a checkpoint folder and without. The limit, in the same run
and before and after, is :mod:`benchmarks.plain_sockets`.

Memory is the peak of ``RssAnon`` of a process: what it has for itself, without mapped files, which the kernel can drop. The
curves of memory are of two rounds each. At last one client returns a model of 5 GB as it came.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import hedgerow as hg
from benchmarks.conducted import Conducted, Conductor
from benchmarks.figures import OURS, ROOT, Figure, Plot, Report, figure
from benchmarks.harness import Sampler, kinds_of, new_report, parser, service
from benchmarks.plain_sockets import plain_rounds
from hedgerow.records import NDArray

PLAIN, BARE = "plain sockets", "plain sockets, bare"
MUST, STRETCH = 2.0, 1.3
"""Times what plain sockets need."""
SERVER_MB, LINK_MB, DRIVER_MB = 150.0, 100.0, 150.0
"""Anonymous memory; the driver's comes on top of two models."""
CASES, QUICK_CASES = ("4x100", "2x1000"), ("4x100",)
SIZES, QUICK_SIZES = (1, 10, 100, 1000), (1, 10, 100)
NUMBERS, QUICK_NUMBERS = (1, 2, 4, 7, 10), (1, 4, 10)
PER_MB = 250_000
KINDS = ("server", "link", "driver")


class ConductedFedAvg(Conducted, hg.FedAvg):
    """FedAvg in batches."""


def drive(address: str, clients: int, megabytes: int, checkpoints: str, source: str, transport_dtype: str) -> None:
    """The driver's process. Initial parameters are drawn, or lie in a file; they travel in a 16-bit float, if one is given."""
    logging.getLogger("hedgerow").setLevel(logging.WARNING)
    model: NDArray
    if source:
        model = np.memmap(source, np.float32, "r")
    else:
        model = np.random.default_rng(0).standard_normal(megabytes * PER_MB, np.float32)
    strategy = ConductedFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        initial_parameters=hg.Parameters([model]),
        accept_failures=False,
    )
    del model  # or this program would hold it for as long as it runs
    config = hg.ServerConfig(num_rounds=1_000_000, seed=1)
    with contextlib.suppress(KeyboardInterrupt):
        hg.start_driver(
            server_address=address,
            strategy=strategy,
            config=config,
            checkpoint_dir=checkpoints or None,
            transport_dtype=transport_dtype or None,
        )


@dataclass
class Case:
    """What was measured of one case: seconds of rounds, and peaks of anonymous memory in MB by kind of process.

    ``transport_dtype`` is the 16-bit float in which parameters travel, "" for none.
    """

    clients: int
    megabytes: int
    transport_dtype: str = ""
    seconds: list[float] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.clients} x {self.megabytes} MB"


@contextlib.contextmanager
def fresh(where: Path | None) -> Iterator[Path]:
    """A folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="hedgerow-large-", dir=where) as folder:
        yield Path(folder)


def rounds_of(case: Case, rounds: int, where: Path | None, *, checkpoint: bool, site: str = "site", source: str = "") -> None:
    """Measure some rounds after one that nobody looks at; the memory is that of all of them."""
    with fresh(where) as folder, service(folder, case.clients, site=f"benchmarks.large_site:{site}") as federation:
        words = [federation.driver.text, case.clients, case.megabytes, folder / "run" if checkpoint else "", source]
        words.append(case.transport_dtype)
        command = [sys.executable, "-m", "benchmarks.large_models", "--drive", *map(str, words)]
        env = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        with (
            Conductor(command, folder / "driver.log", env) as driver,
            Sampler(kinds_of(federation, driver=driver.pid)) as sampler,
        ):
            driver.ready()
            driver.batch(1)
            case.seconds = driver.batch(rounds)
    case.memory = {kind: sampler.used[kind].peak_anon_mb for kind in KINDS}


def compare(report: Report, clients: int, megabytes: int, rounds: int, where: Path | None) -> None:
    """One case: the limits, and Hedgerow with and without a checkpoint."""
    case, off = Case(clients, megabytes), Case(clients, megabytes)
    limits: dict[str, list[float]] = {PLAIN: [], BARE: []}

    def plain() -> None:
        for system, seconds in limits.items():
            with fresh(where) as folder:
                seconds += plain_rounds(clients, megabytes, rounds // 2 + 2, folder, bare=system is BARE)

    plain()
    rounds_of(case, rounds, where, checkpoint=True)
    rounds_of(off, rounds, where, checkpoint=False)
    plain()
    report.add(*(figure(f"round, {case.name}", system, seconds, "s") for system, seconds in limits.items()))
    for one, what in ((case, "checkpoint on"), (off, "checkpoint off")):
        name = f"round, {case.name}, {what}"
        report.add(figure(name, OURS, one.seconds, "s"))
        for system, seconds in limits.items():
            times = statistics.median(one.seconds) / statistics.median(seconds)
            counts = one is case and system is PLAIN
            must, stretch = (MUST, STRETCH) if counts else (None, None)
            report.add(Figure(name=name, system=OURS, value=times, unit="times", must=must, stretch=stretch, peer=system))
    add_memory(report, case)


def add_memory(report: Report, case: Case) -> None:
    """The peaks, with what they may be."""
    bounds = {"server": SERVER_MB, "link": LINK_MB, "driver": 2 * case.megabytes + DRIVER_MB}
    for kind in KINDS:
        name = f"anonymous memory of the {kind}, {case.name}"
        report.add(Figure(name=name, system=OURS, value=case.memory[kind], unit="MB", must=bounds[kind]))


def curve(report: Report, name: str, x: str, cases: Sequence[Case], where: Path | None) -> None:
    """Memory over model sizes or numbers of clients."""
    for case in cases:
        rounds_of(case, 1, where, checkpoint=True)
        add_memory(report, case)
    at = [float(case.megabytes if name == "sizes" else case.clients) for case in cases]
    lines = {kind: (at, [case.memory[kind] for case in cases]) for kind in KINDS}
    title = "Peak of anonymous memory, checkpoint on"
    report.plot(Plot(name=name, title=title, x=x, y="MB", lines=lines, log=name == "sizes"))


def huge(report: Report, gigabytes: int, where: Path | None) -> None:
    """One client returns a model as it came."""
    case = Case(1, gigabytes * 1000)
    with fresh(where) as folder:
        source = folder / "model"
        rng = np.random.default_rng(0)
        with source.open("xb", buffering=0) as file:
            for _ in range(case.megabytes):
                file.write(rng.standard_normal(PER_MB, np.float32).data)
        rounds_of(case, 1, where, checkpoint=True, site="same", source=str(source))
    report.add(figure(f"round, {case.name}, returned as it came", OURS, case.seconds, "s"))
    add_memory(report, case)


def main() -> None:
    """Measure and report."""
    p = parser(__doc__)
    p.add_argument("--cases", nargs="*", help="clients x MB (default: 4x100 when quick, 4x100 2x1000 otherwise)")
    p.add_argument("--rounds", type=int, help="of each case (default: 4 when quick, 8 otherwise)")
    p.add_argument("--gigabytes", type=int, help="of the largest model; 0 for none (default: 0 when quick, 5 otherwise)")
    p.add_argument("--no-curves", action="store_true")
    p.add_argument("--where", type=Path, help="where the models go (default: the system's folder for temporary files)")
    p.add_argument("--drive", nargs=6, help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.drive:
        address, clients, megabytes, *others = options.drive
        drive(address, int(clients), int(megabytes), *others)
        return
    report = new_report("large_models", "Rounds with large models", options)
    for case in options.cases or (QUICK_CASES if options.quick else CASES):
        count, size = map(int, case.split("x"))
        compare(report, count, size, options.rounds or (4 if options.quick else 8), options.where)
    if not options.no_curves:
        sizes, numbers = (QUICK_SIZES, QUICK_NUMBERS) if options.quick else (SIZES, NUMBERS)
        curve(report, "sizes", "MB of the model, 2 clients", [Case(2, size) for size in sizes], options.where)
        curve(report, "clients", "clients, 100 MB", [Case(number, 100) for number in numbers], options.where)
    gigabytes = options.gigabytes if options.gigabytes is not None else (0 if options.quick else 5)
    if gigabytes:
        huge(report, gigabytes, options.where)
    report.write()


if __name__ == "__main__":
    main()
