"""How fast updates are folded: against numpy, against Flower, and against the memory's bandwidth, all in the same run.

    python benchmarks/folds.py [--millions 10] [--clients 10] [--dtype float32] [--flower PYTHON | --install-flower FOLDER]

The updates are memory maps of files, as in a driver. Repeats vary by 30-40 % on a shared machine, so look at the ratios; "limit"
is what reading the updates once (and reading and writing the float64 sums, where a fold has them) takes at the bandwidth that is
measured in this run. ``--flower`` names the Python of a virtual environment with flwr==1.6.0, ``--install-flower`` makes one;
without them that comparison is skipped. BLAS runs on one thread. Ends with the peak of anonymous memory while few and while many
updates are folded.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import hedgerow as hg
from hedgerow import aggregation
from hedgerow.aggregation import blocks
from hedgerow.records import NDArray, Parameters
from hedgerow.wire import tensors

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}
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

    @property
    def size(self) -> int:
        """Elements of an update."""
        return self.sent["000000"].size

    @property
    def read(self) -> int:
        """Bytes of all updates."""
        return sum(update.nbytes for update in self.updates)

    def compare(self, what: str, ours: Callable[[], object], others: dict[str, Callable[[], object]], traffic: int) -> None:
        """Time kernels in turn, in random order, and print them against the best of the others and against the memory's limit."""
        kernels = {"hedgerow": ours} | others
        seconds: dict[str, list[float]] = {name: [] for name in kernels}
        for kernel in kernels.values():
            kernel()
        rng = random.Random(0)
        for _ in range(self.repeats):
            for name in rng.sample(list(kernels), len(kernels)):
                started = time.perf_counter()
                kernels[name]()
                seconds[name].append(time.perf_counter() - started)
        taken = {name: statistics.median(times) for name, times in seconds.items()}
        mine, limit = taken["hedgerow"], traffic / self.bandwidth
        print(f"{what}: {self.size / 1e6 / mine:.1f} million parameters/s, {limit / mine:.0%} of the memory's limit")
        for name, s in taken.items():
            print(f"  {name:44} {s * 1e3:9.1f} ms  hedgerow is {s / mine:6.2f} times as fast")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=10, help="elements of an update, in millions (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=10, help="updates (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the updates (default: %(default)s)")
    parser.add_argument("--flower", type=Path, help="the Python of an environment with flwr==1.6.0")
    parser.add_argument("--install-flower", type=Path, help="a folder for such an environment; made unless it is there")
    parser.add_argument("--peak", nargs=2, metavar=("FOLD", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak_of(options.peak[0], Path(options.peak[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="hedgerow-folds-") as folder:
        bench = prepare(Path(folder), options)
        print(
            f"{options.clients} updates of {bench.size / 1e6:g} million {options.dtype}, medians of {bench.repeats}; "
            f"memory {bench.bandwidth / 1e9:.1f} GB/s of traffic"
        )
        compare_mean(bench)
        compare_flower(bench, flower_python(options))
        compare_order(bench)
        compare_distances(bench)
        compare_steps(bench)
        compare_blocks(bench)
    show_peaks()


def prepare(folder: Path, options: argparse.Namespace) -> Bench:
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
    return Bench(folder, updates, Parameters([sent.astype(dtype)]), options.repeats, 3 * target.nbytes / min(times))


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


def flower_python(options: argparse.Namespace) -> Path | None:
    """The Python that has Flower; None if nobody named one."""
    if options.install_flower is None:
        named: Path | None = options.flower
        return named
    python: Path = options.install_flower / "bin" / "python"
    if not python.exists():
        venv.create(options.install_flower, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "flwr==1.6.0"], check=True)
    return python


def compare_flower(bench: Bench, python: Path | None) -> None:
    """A whole ``aggregate_fit``."""
    if python is None:
        print("aggregate_fit against Flower: SKIPPED, name a Python with --flower or --install-flower")
        return
    for i, update in enumerate(bench.updates):
        np.save(bench.folder / f"flower-{i}.npy", update["000000"].astype(np.float32))
    command = [python, "-c", FLOWER, bench.folder, str(len(bench.updates)), str(bench.repeats)]
    theirs = float(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)
    strategy, status = hg.FedAvg(), hg.Status(hg.Code.OK, "")
    results: Any = [(None, hg.FitRes(status, update, i + 1, {})) for i, update in enumerate(bench.updates)]
    times = []
    for _ in range(bench.repeats):
        started = time.perf_counter()
        strategy.aggregate_fit(2, results, [])
        times.append(time.perf_counter() - started)
    ours, gigabytes = statistics.median(times), bench.read / 1e9
    print(
        f"aggregate_fit: hedgerow {ours * 1e3:.1f} ms ({gigabytes / ours:.2f} GB/s of updates), Flower 1.6 {theirs * 1e3:.1f} ms "
        f"({gigabytes / theirs:.2f} GB/s, float32 sums); hedgerow is {theirs / ours:.2f} times as fast"
    )


def compare_order(bench: Bench) -> None:
    """Median, trimmed mean, and the mean of the values near the median; of a million coordinates, for numpy takes long."""
    count = len(bench.updates)
    part = Bench(bench.folder, [head(u) for u in bench.updates], head(bench.sent), bench.repeats, bench.bandwidth)
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
        times: dict[int, list[float]] = {size: [] for size in {*sizes, chosen}}
        kernel()
        rng = random.Random(0)
        for _ in range(bench.repeats):
            for size in rng.sample(list(times), len(times)):
                setattr(blocks, name, size)
                started = time.perf_counter()
                kernel()
                times[size].append(time.perf_counter() - started)
        setattr(blocks, name, chosen)
        base = statistics.median(times[chosen])
        shares = ", ".join(f"{size:,}: {statistics.median(times[size]) / base:.2f}" for size in sorted(times))
        print(f"time by {name}, relative to {chosen:,}: {shares}")


def show_peaks(megabytes: int = 20, counts: Sequence[int] = (2, 10, 40)) -> None:
    """The peak of anonymous memory of a process that folds, beyond what it had before."""
    print(f"peak of anonymous memory, MB, folding memory maps of {megabytes} MB each (a result has as many, float64 sums twice):")
    for fold in FOLDS:
        peaks = []
        for count in counts:
            with tempfile.TemporaryDirectory(prefix="hedgerow-folds-") as folder:
                for i in range(count):
                    write(Path(folder) / f"{i:03d}", np.random.default_rng(i).standard_normal(megabytes * 250_000, np.float32))
                command = [sys.executable, __file__, "--peak", fold, folder]
                run = subprocess.run(command, check=True, capture_output=True, text=True)
                peaks.append(f"{count} updates {json.loads(run.stdout) / 1e6:.0f}")
        print(f"  {fold:10} {', '.join(peaks)}")


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


def anonymous_bytes() -> int:
    """This process's memory that is no file's, now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("This system does not tell a process's anonymous memory.")


if __name__ == "__main__":
    main()
