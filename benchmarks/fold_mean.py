"""How fast the weighted mean is folded, against plain numpy and against the memory's bandwidth, all in the same run.

Repeats vary by 30-40 % on a shared machine, so look at the ratios. Usage::

    python benchmarks/fold_mean.py [--millions 25] [--repeats 5] [--dtype float32|float16|bfloat16|float64]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import ml_dtypes
import numpy as np

from hedgerow.aggregation import WeightedMean
from hedgerow.aggregation import mean as fold
from hedgerow.records import NDArray, Parameters

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float64": np.float64}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=25, help="elements, in millions (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the update (default: %(default)s)")
    options = parser.parse_args()
    size = int(options.millions * 1e6)
    update = np.random.default_rng(0).standard_normal(size).astype(DTYPES[options.dtype])
    # Filled, not zeros: pages that were never written all share one page, which the cache holds.
    sums, other, scaled = np.full(size, 1.0), np.full(size, 1.0), np.full(size, 1.0)
    weight = np.float64(137)
    mean = WeightedMean()
    parameters = Parameters([update])

    def plain() -> None:
        np.add(sums, update * weight, out=sums)

    def plain_without_temporaries() -> None:
        np.multiply(update, weight, out=scaled)
        np.add(sums, scaled, out=sums)

    kernels: dict[str, Callable[[], object]] = {
        "WeightedMean.add": lambda: mean.add(parameters, 137),
        "numpy: sums += update * weight": plain,
        "numpy: the same into a second array": plain_without_temporaries,
    }
    # One pass over memory: what a fold cannot beat is reading the update and reading and writing the float64 sums.
    traffic = update.nbytes + 2 * sums.nbytes
    bandwidth = 3 * sums.nbytes / median(lambda: np.add(sums, other, out=other), options.repeats)
    limit = traffic / bandwidth
    seconds = {name: median(kernel, options.repeats) for name, kernel in kernels.items()}
    ours = seconds["WeightedMean.add"]
    best = min(s for name, s in seconds.items() if name.startswith("numpy"))
    print(f"{size / 1e6:g} million {options.dtype}, median of {options.repeats}; memory {bandwidth / 1e9:.1f} GB/s of traffic")
    for name, s in seconds.items():
        print(f"  {name:38} {s * 1e3:8.1f} ms  {update.nbytes / s / 1e9:6.2f} GB/s of update  {limit / s:5.0%} of the limit")
    print(f"  result()                               {median(mean.result, options.repeats) * 1e3:8.1f} ms")
    print(f"WeightedMean is {best / ours:.2f} times as fast as the best plain numpy kernel.")
    check(mean, update)
    compare_blocks(parameters, options.repeats)


def median(kernel: Callable[[], object], repeats: int) -> float:
    """Median of the seconds that a call takes, after one call that does not count."""
    kernel()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        kernel()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def compare_blocks(parameters: Parameters, repeats: int) -> None:
    """Time other sizes of block, in turn and in random order, so that what else runs here hits all of them alike."""
    chosen, rng = fold.BLOCK, random.Random(0)
    seconds: dict[int, list[float]] = {size: [] for size in (16_384, 32_768, 65_536, 131_072, 262_144, 1_048_576)}
    mean = WeightedMean()
    mean.add(parameters, 1)
    for _ in range(repeats):
        for size in rng.sample(list(seconds), len(seconds)):
            fold.BLOCK = size
            started = time.perf_counter()
            mean.add(parameters, 137)
            seconds[size].append(time.perf_counter() - started)
    fold.BLOCK = chosen
    base = statistics.median(seconds[chosen])
    shares = ", ".join(f"{size:,}: {statistics.median(times) / base:.2f}" for size, times in seconds.items())
    print(f"Time by size of block, relative to {chosen:,}: {shares}")


def check(mean: WeightedMean, update: NDArray) -> None:
    """The mean of equal updates is the update."""
    found = mean.result()["000000"].astype(np.float64)
    assert np.allclose(found, update.astype(np.float64), rtol=1e-14, atol=0)


if __name__ == "__main__":
    main()
