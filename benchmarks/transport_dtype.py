"""Parameters that travel in 16 bits: accuracy and bytes with and without, for the hospitals example as it is.

    python -m benchmarks.transport_dtype [--seeds 5] [--rounds 5] [--quick]

A server, the two hospitals with their real images, and the example's driver (``driver.py enroll=all transport_dtype=…``), all as
real processes with their defaults. Accuracy is that on the 10,000 test images after the last round, over the seeds. Bytes are
those through the server's blob port, in and out.

The speed of the conversion is measured in this process: values converted and checked block by block, from memory to memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import OURS, ROOT, Figure, Report, figure
from benchmarks.harness import new_report, parser
from hedgerow.records import NDArray
from hedgerow.testing import Federation
from hedgerow.waits import Limit
from hedgerow.wire import narrow

EXAMPLE = ROOT / "examples" / "hospitals"
FORMS = (None, *narrow.DTYPES)
DRIVER = Limit("driver_s", 1800.0)
CONVERTED = 1 << 24
"""Values that are converted to measure the speed: 64 MB of float32."""


def label(form: str | None) -> str:
    """What the table calls a form."""
    return form or "as they are (float32)"


def train(federation: Federation, form: str | None, seed: int, rounds: int, folder: Path) -> tuple[list[float], float]:
    """Run the example's driver; the accuracy in percent after each round, and the MB through the blob port."""
    before = moved_mb(federation)
    arguments = [f"address={federation.driver.text}", "enroll=all", f"num_rounds={rounds}", f"seed={seed}"]
    arguments += [f"transport_dtype={form or 'null'}", f"hydra.run.dir={folder}"]
    driver = federation.start_driver(EXAMPLE / "driver.py", *arguments)
    code = driver.wait(DRIVER)
    if code:
        raise SystemExit(f"driver.py ended with {code}:\n{driver.tail()}")
    found = json.loads((folder / "history.json").read_text(encoding="utf-8"))["rounds"]
    return [100 * record["accuracy"] for record in found], moved_mb(federation) - before


def moved_mb(federation: Federation) -> float:
    """MB through the server's blob port so far, in and out."""
    metrics = federation.metrics()
    return sum(value for name, value in metrics.items() if name.startswith("hedgerow_blob_bytes{")) / 1e6


def measure_training(report: Report, options: argparse.Namespace, folder: Path) -> None:
    """Train with every form and seed."""
    last: dict[str | None, list[float]] = {form: [] for form in FORMS}
    moved: dict[str | None, list[float]] = {form: [] for form in FORMS}
    with Federation(folder, env={"HYDRA_FULL_ERROR": "1"}) as federation:
        federation.start_server()
        for site in ("a", "b"):
            federation.start_client(f"hospital_{site}", f"client:hospital_{site}", EXAMPLE)
        federation.wait_for_sessions(2)
        for seed in range(1, options.seeds + 1):
            for form in FORMS:
                accuracies, mb = train(federation, form, seed, options.rounds, folder / f"{seed}-{form}")
                print(f"seed {seed}, {label(form)}: {', '.join(f'{one:.2f}' for one in accuracies)} %", flush=True)
                last[form].append(accuracies[-1])
                moved[form].append(mb)
    for form in FORMS:
        name = f"test accuracy after {options.rounds} rounds"
        report.add(figure(f"{name}, {options.seeds} seeds", label(form), last[form], "%"))
        report.add(figure("through the blob port in a round", label(form), [mb / options.rounds for mb in moved[form]], "MB"))
    for form in FORMS[1:]:
        differences = [ours - base for ours, base in zip(last[form], last[None], strict=True)]
        report.add(figure("accuracy, compared with float32 of the same seed", label(form), differences, "points"))
        shares = [ours / base for ours, base in zip(moved[form], moved[None], strict=True)]
        report.add(
            Figure(name="bytes of the run", system=label(form), value=statistics.median(shares), unit="times", peer="float32")
        )
    report.note(
        f"{options.rounds} rounds, {options.seeds} seeds; 105,866 numbers. One hospital gives the initial parameters: they "
        "travel once, as they are, and are counted."
    )


def measure_conversion(report: Report) -> None:
    """How fast values become 16-bit floats and get back."""
    values = np.random.default_rng(0).standard_normal(CONVERTED, np.float32)
    for name, dtype in narrow.DTYPES.items():
        small = values.astype(dtype)
        there, back = [], []
        for _ in range(5):
            there.append(gigabytes_a_second(values, dtype))
            back.append(gigabytes_a_second(small, np.dtype(np.float32)))
        report.add(figure(f"float32 to {name}, one core", OURS, there, "GB/s of float32"))
        report.add(figure(f"{name} to float32, one core", OURS, back, "GB/s of float32"))


def gigabytes_a_second(values: NDArray, dtype: np.dtype[Any]) -> float:
    """How fast one conversion is."""
    started = time.perf_counter()
    for _ in narrow.converted("values", values, dtype):
        pass
    return 4 * values.size / 1e9 / (time.perf_counter() - started)


def main() -> None:
    """Run and report."""
    p = parser(__doc__)
    p.add_argument("--seeds", type=int, help="default: 1 when quick, 5 otherwise")
    p.add_argument("--rounds", type=int, help="default: 1 when quick, 5 otherwise")
    options = p.parse_args()
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.rounds = options.rounds or (1 if options.quick else 5)
    os.environ.setdefault("HOSPITALS_DATA", str(EXAMPLE / ".data"))
    report = new_report("transport_dtype", "Parameters in 16-bit floats", options)
    measure_conversion(report)
    with tempfile.TemporaryDirectory(prefix="hedgerow-transport-") as folder:
        measure_training(report, options, Path(folder))
    report.write()


if __name__ == "__main__":
    main()
