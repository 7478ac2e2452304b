"""Mutated inputs for every parser of foreign bytes, in numbers: what was tried, what was found, which branches were reached.

    make fuzz                          50,000 cases for each parser
    make fuzz CASES=2000 PARSERS="tensors blob_port" SEED=7

Each parser runs in a process of its own, several at once. The table names, for each, the cases, the seconds, the longest case, by
how much the process grew, the findings, and the branches of its modules that were reached out of those that there are. A finding
is printed with the case that shows it; the same seed finds it again. What a finding is stands in tests/fuzz.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
CASE_ENDS_S = 30.0
"""A case that takes longer hangs."""
MAX_GROWTH_MB = 512
"""The process may grow so much, the cases themselves and what hypothesis remembers of them included."""
ALL_CASES_END_S = 4 * 3600.0


@dataclass
class Row:
    """What came of one parser."""

    parser: str
    cases: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    growth_mb: float = 0.0
    findings: list[str] = field(default_factory=list)
    branches: dict[str, tuple[int, int]] = field(default_factory=dict)
    missed: dict[str, list[tuple[int, int]]] = field(default_factory=dict)


class Around:
    """Stands around each case: one that hangs fails, and branches are counted here alone, not while hypothesis thinks."""

    def __init__(self) -> None:
        self._tracer = sys.gettrace()
        signal.signal(signal.SIGALRM, self._hangs)

    def _hangs(self, number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"The case had no end after {CASE_ENDS_S} s.")

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Around one case."""
        signal.setitimer(signal.ITIMER_REAL, CASE_ENDS_S)
        sys.settrace(self._tracer)
        try:
            yield
        finally:
            sys.settrace(None)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _file(module: str) -> Path:
    return ROOT / "src" / Path(*module.split(".")).with_suffix(".py")


def run_one(name: str, cases: int, seed: int) -> Row:
    """Try one parser in this process."""
    import coverage

    measured = coverage.Coverage(branch=True, data_file=None, config_file=False, include=[str(ROOT / "src" / "*")])
    measured.start()  # before anything of the package is imported
    parsers, table = importlib.import_module("tests.fuzz.parser"), importlib.import_module("tests.fuzz.table")
    parser = table.parser(name)
    row = Row(name)
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        before_mb, started, tracer = _peak_mb(), time.monotonic(), sys.gettrace()
        tally = parsers.try_parser(parser, Path(folder), cases, seed, Around())
        row.seconds, row.growth_mb = time.monotonic() - started, _peak_mb() - before_mb
    sys.settrace(tracer)
    measured.stop()
    row.cases, row.slowest_ms = tally.cases, 1000 * tally.slowest_s
    row.findings = ["".join(traceback.format_exception(error)) for error in tally.findings]
    if row.growth_mb > MAX_GROWTH_MB:
        row.findings.append(f"The process grew by {row.growth_mb:.0f} MB; at most {MAX_GROWTH_MB} are allowed.")
    with tempfile.NamedTemporaryFile("r") as report:
        with contextlib.redirect_stdout(sys.stderr):
            measured.json_report(outfile=report.name, morfs=[str(_file(module)) for module in parser.modules])
        files = json.load(report)["files"]
    by_path = {Path(path).resolve(): found for path, found in files.items()}
    for module in parser.modules:
        found = by_path[_file(module)]
        row.branches[module] = found["summary"]["covered_branches"], found["summary"]["num_branches"]
        row.missed[module] = found["missing_branches"]
    return row


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def in_own_process(name: str, cases: int, seed: int) -> Row:
    """Try one parser in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--cases", str(cases), "--seed", str(seed)]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=ALL_CASES_END_S, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    if ended.returncode:
        return Row(name, findings=[f"The process ended with {ended.returncode}:\n{ended.stderr[-4000:]}"])
    return Row(**json.loads(ended.stdout))


def show(row: Row, *, missed: bool) -> None:
    """One parser's lines of the table, and its findings."""
    counts = f"{row.cases:,} | {row.seconds:.0f} | {row.slowest_ms:.0f} | {row.growth_mb:.0f} | {len(row.findings)}"
    for number, (module, (covered, known)) in enumerate(row.branches.items()):
        part = f"{100 * covered / known:.0f} % ({covered} of {known})" if known else "no branches"
        first = f"{row.parser} | {counts}" if number == 0 else " | | | | | "
        print(f"| {first} | `{module}` | {part} |", flush=True)
        if missed and row.missed[module]:
            print(f"    missed: {', '.join(f'{start}->{end}' for start, end in row.missed[module])}", flush=True)
    for finding in row.findings:
        print(f"\nFINDING in {row.parser}:\n{finding}", flush=True)


def main() -> int:
    """Run it; the exit code is 1 where something was found."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", type=int, default=50_000, help="for each parser (default: %(default)s)")
    p.add_argument("--seed", type=int, default=None, help="a random one is chosen and told where none is given")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parsers at once (default: %(default)s)")
    p.add_argument("--missed", action="store_true", help="list the branches that were not reached")
    p.add_argument("--one", metavar="PARSER", help=argparse.SUPPRESS)
    p.add_argument("parsers", nargs="*", metavar="PARSER", help="which ones (default: all)")
    args = p.parse_args()
    if args.one:
        print(json.dumps(asdict(run_one(args.one, args.cases, args.seed))))
        return 0
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    known = importlib.import_module("tests.fuzz.table").PLACES
    unknown = set(args.parsers) - set(known)
    if unknown:
        p.error(f"no such parser: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    print(f"Seed {seed}, {args.cases:,} cases for each parser\n")
    print("| parser | cases | seconds | longest case, ms | growth, MB | findings | module | branches reached |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    found = False
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda name: in_own_process(name, args.cases, seed), args.parsers or known):
            show(row, missed=args.missed)
            found = found or bool(row.findings) or row.cases < args.cases
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
