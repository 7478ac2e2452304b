"""How fast updates are folded: against numpy, against Flower, and against the memory's bandwidth, all in the same run.

    python -m benchmarks.folds [--quick] [--peers flwr-1.6] [--millions 10] [--clients 10] [--dtype float32]

The updates are memory maps of files, as in a driver. Repeats vary by 30-40 % on a shared machine, so look at the ratios; "limit"
is what reading the updates once (and reading and writing the float64 sums, where a fold has them) takes at the bandwidth that is
measured in this run. BLAS runs on one thread. Ends with the peak of anonymous memory while few and while many updates are
folded.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import hedgerow as hg
from benchmarks.figures import OURS, ROOT, Figure, Report, figure, ratio
from benchmarks.harness import anonymous_bytes, interleaved, new_report, parser
from benchmarks.peers import Peer, installed
from hedgerow import aggregation
from hedgerow.aggregation import blocks
from hedgerow.records import NDArray, Parameters
from hedgerow.wire import tensors

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
MEMORY = "memory bandwidth"
FLOWER = """
import sys, time, numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters
from flwr.server.strategy import FedAvg
folder, clients, repeats = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
results = []
for i in range(clients):
    array = np.load(f"{folder}/flower-{i}.npy")
    results.append((None, FitRes(Status(Code.OK, ""), ndarrays_to_parameters([array]), i + 1, {})))
del array
strategy = FedAvg()
times = []
for _ in range(repeats):
    started = time.perf_counter()
    strategy.aggregate_fit(2, results, [])
    times.append(time.perf_counter() - started)
print(sorted(times)[len(times) // 2])
"""


@dataclass(frozen=True)
class Bench:
    """What is folded, and how often it is timed."""

    folder: Path
    updates: list[Parameters]
    sent: Parameters
    repeats: int
    bandwidth: float
    report: Report

    @property
    def size(self) -> int:
        """Elements of an update."""
        return self.sent["000000"].size

    @property
    def read(self) -> int:
        """Bytes of all updates."""
        return sum(update.nbytes for update in self.updates)

    def compare(self, what: str, ours: Callable[[], object], others: dict[str, Callable[[], object]], traffic: int) -> None:
        """Time kernels in turn, and report them with the ratios to all others and to the memory's limit."""
        seconds = interleaved({OURS: ours} | others, self.repeats)
        for name, times in seconds.items():
            self.report.add(figure(what, name, [1e3 * s for s in times], "ms"))
        for name in others:
            self.report.add(ratio(what, seconds[OURS], seconds[name], name))
        share = statistics.median(seconds[OURS]) / (traffic / self.bandwidth)
        self.report.add(Figure(name=what, system=OURS, value=share, unit="times", peer=MEMORY))


def main() -> None:
    """Measure and report."""
    p = parser(__doc__)
    p.add_argument("--millions", type=float, help="elements of an update, in millions (default: 2 when quick, 10 otherwise)")
    p.add_argument("--clients", type=int, default=10, help="updates (default: %(default)s)")
    p.add_argument("--repeats", type=int, help="default: 3 when quick, 5 otherwise")
    p.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the updates (default: %(default)s)")
    p.add_argument("--peak", nargs=2, metavar=("FOLD", "FOLDER"), help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.peak:
        print(json.dumps(peak_of(options.peak[0], Path(options.peak[1]))))
        return
    options.millions = options.millions or (2 if options.quick else 10)
    options.repeats = options.repeats or (3 if options.quick else 5)
    report = new_report("folds", "Folds of updates", options)
    first, _ = installed(options.peers)
    with tempfile.TemporaryDirectory(prefix="hedgerow-folds-") as folder:
        bench = prepare(Path(folder), options, report)
        report.note(f"{options.clients} updates of {bench.size / 1e6:g} million {options.dtype}, medians of {bench.repeats}.")
        report.add(Figure(name="traffic", system=MEMORY, value=bench.bandwidth / 1e9, unit="GB/s"))
        compare_mean(bench)
        compare_flower(bench, first)
        compare_order(bench)
        compare_distances(bench)
        compare_steps(bench)
        compare_blocks(bench)
    show_peaks(report)
    report.write()


def prepare(folder: Path, options: argparse.Namespace, report: Report) -> Bench:
    """Updates as memory maps of files, and the memory's bandwidth."""
    size, dtype = int(options.millions * 1e6), DTYPES[options.dtype]
    rng = np.random.default_rng(0)
    sent = rng.standard_normal(size, np.float32)
    updates = [
        write(folder / f"{i}", (sent + 0.1 * rng.standard_normal(size, np.float32)).astype(dtype)) for i in range(options.clients)
    ]
    # Filled, not zeros: pages that were never written all share one page, which the cache holds.
    source, other, target = (np.full(size, 1.0) for _ in range(3))
    times = []
    for _ in range(options.repeats + 1):
        started = time.perf_counter()
        np.add(source, other, out=target)
        times.append(time.perf_counter() - started)
    return Bench(folder, updates, Parameters([sent.astype(dtype)]), options.repeats, 3 * target.nbytes / min(times), report)


def write(path: Path, array: NDArray) -> Parameters:
    """An update in a file, mapped."""
    with path.open("xb") as file:
        tensors.write(Parameters([array]), file)
    return tensors.map_file(path)


def compare_mean(bench: Bench) -> None:
    """One update folded into the sums, as it is while the others are on their way."""
    update, mean, weight = bench.updates[0], aggregation.WeightedMean(), np.float64(137)
    array, sums, scaled = update["000000"], np.full(bench.size, 1.0), np.full(bench.size, 1.0)

    def blocked(block: int) -> Callable[[], None]:
        scratch = np.empty(block)

        def kernel() -> None:
            for start in range(0, array.size, block):
                part = sums[start : start + block]
                product = scratch[: part.size]
                np.multiply(array[start : start + block], weight, out=product)
                np.add(part, product, out=part)

        return kernel

    def plain() -> None:
        np.add(sums, array * weight, out=sums)

    def without_temporaries() -> None:
        np.multiply(array, weight, out=scaled)
        np.add(sums, scaled, out=sums)

    others: dict[str, Callable[[], object]] = {
        "numpy: sums += update * weight": plain,
        "numpy: the same into a second array": without_temporaries,
    }
    others |= {f"numpy: in blocks of {block:,}": blocked(block) for block in (16_384, 65_536, 262_144, 1_048_576)}
    bench.compare("mean, one update added in float64", lambda: mean.add(update, 137), others, array.nbytes + 2 * sums.nbytes)
    expected = array.astype(np.float64)
    assert np.allclose(mean.take()["000000"], expected, rtol=1e-14, atol=0), "the mean of equal updates is the update"


def compare_flower(bench: Bench, peer: Peer | None) -> None:
    """A whole ``aggregate_fit``."""
    if peer is None:
        bench.report.note("aggregate_fit against Flower: SKIPPED; flwr-1.6 was not among the peers.")
        return
    for i, update in enumerate(bench.updates):
        np.save(bench.folder / f"flower-{i}.npy", update["000000"].astype(np.float32))
    command = [peer.python, "-c", FLOWER, bench.folder, str(len(bench.updates)), str(bench.repeats)]
    theirs = float(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
    strategy, status = hg.FedAvg(), hg.Status(hg.Code.OK, "")
    results: Any = [(None, hg.FitRes(status, update, i + 1, {})) for i, update in enumerate(bench.updates)]
    times = []
    for _ in range(bench.repeats):
        started = time.perf_counter()
        strategy.aggregate_fit(2, results, [])
        times.append(time.perf_counter() - started)
    name, what = f"Flower {peer.version}, float32 sums", "aggregate_fit"
    bench.report.add(figure(what, OURS, [1e3 * t for t in times], "ms"))
    bench.report.add(Figure(name=what, system=name, value=1e3 * theirs, unit="ms"))
    bench.report.add(Figure(name=what, system=OURS, value=statistics.median(times) / theirs, unit="times", peer=name))


def compare_order(bench: Bench) -> None:
    """Median, trimmed mean, and the mean of the values near the median; of a million coordinates, for numpy takes long."""
    count = len(bench.updates)
    part = Bench(bench.folder, [head(u) for u in bench.updates], head(bench.sent), bench.repeats, bench.bandwidth, bench.report)
    stacked = np.stack([update["000000"].astype(np.float32) for update in part.updates])
    cut = count // 5
    part.compare(
        f"median of {count}",
        lambda: aggregation.coordinate_median(part.updates),
        {"np.median": lambda: np.median(stacked, axis=0), "np.sort, middle of it": lambda: np.sort(stacked, axis=0)[count // 2]},
        part.read,
    )
    part.compare(
        f"trimmed mean of {count} without {cut} on either side",
        lambda: aggregation.trimmed_mean(part.updates, cut),
        {
            "np.sort, mean": lambda: np.sort(stacked, axis=0)[cut : count - cut].mean(axis=0),
            "np.partition, mean": lambda: np.partition(stacked, (cut, count - cut - 1), axis=0)[cut : count - cut].mean(axis=0),
        },
        part.read,
    )
    keep = max(1, count - 2 * cut)

    def nearest() -> NDArray:
        away = np.abs(stacked - np.median(stacked, axis=0))
        chosen = np.argpartition(away, keep - 1, axis=0)[:keep]
        return np.asarray(np.take_along_axis(stacked, chosen, axis=0).mean(axis=0))

    part.compare(
        f"mean of the {keep} of {count} nearest to the median",
        lambda: aggregation.mean_near_median(part.updates, keep),
        {"np.median, argpartition, mean": nearest},
        part.read,
    )
    assert np.array_equal(
        aggregation.coordinate_median(part.updates)["000000"].astype(np.float64),
        np.median(stacked.astype(np.float64), axis=0).astype(part.sent["000000"].dtype).astype(np.float64),
    )


def head(parameters: Parameters) -> Parameters:
    """The first million elements."""
    return Parameters([parameters["000000"][:1_000_000]])


def compare_distances(bench: Bench) -> None:
    """All pairwise distances, a norm, and an update clipped."""
    count, origin = len(bench.updates), bench.sent["000000"].astype(np.float64)

    def pairs() -> None:
        for i in range(count):
            for j in range(i):
                np.linalg.norm(bench.updates[i]["000000"].astype(np.float64) - bench.updates[j]["000000"].astype(np.float64))

    def gram() -> NDArray:
        table = np.stack([update["000000"] for update in bench.updates]).astype(np.float64) - origin
        return np.asarray(table @ table.T)

    bench.compare(
        f"squared distances of {count}",
        lambda: aggregation.squared_distances(bench.updates, bench.sent),
        {"numpy: pair by pair": pairs, "numpy: one Gram matrix of whole models": gram},
        bench.read + bench.sent.nbytes,
    )
    update, reference = bench.updates[0], bench.sent
    bench.compare(
        "norm",
        lambda: aggregation.squared_norm(update, reference),
        {"np.linalg.norm": lambda: np.linalg.norm(update["000000"].astype(np.float64) - origin)},
        2 * update.nbytes,
    )
    bench.compare(
        "clipping",
        lambda: aggregation.clip_update(update, reference, 1.0),
        {"numpy": lambda: clip_plainly(update["000000"], origin)},
        5 * update.nbytes,  # the norm reads both, and then they are read again and one is written
    )


def clip_plainly(array: NDArray, origin: NDArray) -> NDArray:
    """The same in plain numpy."""
    delta = array.astype(np.float64) - origin
    return (origin + delta / max(1.0, float(np.linalg.norm(delta)))).astype(array.dtype)


def compare_steps(bench: Bench) -> None:
    """A step of the server's optimisers."""
    x, mean = bench.sent, Parameters([bench.updates[0]["000000"].astype(np.float64)])
    rule = aggregation.Adam(0.1, 0.9, 0.99, 1e-3)
    state = aggregation.server_step(rule, x, mean, None).state
    m, v = state["m"]["000000"], state["v"]["000000"]

    def plain() -> tuple[NDArray, ...]:
        wide = x["000000"].astype(np.float64)
        delta = mean["000000"] - wide
        new_m, new_v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        return (
            (wide + 0.1 * new_m / (np.sqrt(new_v) + 1e-3)).astype(x["000000"].dtype),
            new_m.astype(m.dtype),
            new_v.astype(v.dtype),
        )

    traffic = 2 * x.nbytes + mean.nbytes + 2 * (m.nbytes + v.nbytes)
    bench.compare("step of Adam", lambda: aggregation.server_step(rule, x, mean, state), {"numpy": plain}, traffic)


def compare_blocks(bench: Bench) -> None:
    """Other sizes of block than the chosen ones."""
    mean, part = aggregation.WeightedMean(), [head(update) for update in bench.updates]
    for name, sizes, kernel in (
        ("BLOCK", (16_384, 65_536, 131_072, 262_144, 1_048_576), lambda: mean.add(bench.updates[0], 137)),
        ("CACHE_BYTES", (655_360, 1 << 20, 1 << 22, 1 << 24), lambda: aggregation.coordinate_median(part)),
    ):
        chosen = getattr(blocks, name)

        def with_block(size: int, name: str = name, kernel: Callable[[], object] = kernel) -> None:
            setattr(blocks, name, size)
            kernel()

        times = interleaved({str(size): functools.partial(with_block, size) for size in {*sizes, chosen}}, bench.repeats)
        setattr(blocks, name, chosen)
        base = statistics.median(times[str(chosen)])
        shares = ", ".join(f"{size:,}: {statistics.median(times[str(size)]) / base:.2f}" for size in sorted({*sizes, chosen}))
        bench.report.note(f"Time by {name}, relative to {chosen:,}: {shares}.")


def show_peaks(report: Report, megabytes: int = 20, counts: Sequence[int] = (2, 10, 40)) -> None:
    """The peak of anonymous memory of a process that folds, beyond what it had before."""
    report.note(f"Peaks: of anonymous memory, folding memory maps of {megabytes} MB (a result has as many, float64 sums twice).")
    for fold in FOLDS:
        for count in counts:
            with tempfile.TemporaryDirectory(prefix="hedgerow-folds-") as folder:
                for i in range(count):
                    write(Path(folder) / f"{i:03d}", np.random.default_rng(i).standard_normal(megabytes * 250_000, np.float32))
                command = [sys.executable, "-m", "benchmarks.folds", "--peak", fold, folder]
                run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            peak = json.loads(run.stdout) / 1e6
            report.add(Figure(name=f"peak of {fold}, {count} updates", system=OURS, value=peak, unit="MB"))


def fold_mean(updates: list[Parameters]) -> object:
    """The weighted mean."""
    return aggregation.weighted_mean((update, 1) for update in updates)


FOLDS: dict[str, Callable[[list[Parameters]], object]] = {
    "mean": fold_mean,
    "median": aggregation.coordinate_median,
    "trimmed": lambda updates: aggregation.trimmed_mean(updates, (len(updates) - 1) // 4),
    "near": lambda updates: aggregation.mean_near_median(updates, len(updates) // 2),
    "distances": lambda updates: aggregation.squared_distances(updates, updates[0]),
}


def peak_of(fold: str, folder: Path) -> int:
    """Bytes of anonymous memory that a fold adds at its peak, sampled every few milliseconds."""
    updates = [tensors.map_file(path) for path in sorted(folder.iterdir())]
    before, peak, done = anonymous_bytes(), 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        folded = FOLDS[fold](updates)
        peak = max(peak, anonymous_bytes())
        del folded
    finally:
        done.set()
        sampler.join()
    return peak - before


if __name__ == "__main__":
    main()
