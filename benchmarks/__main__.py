"""Runs the benchmarks, each as a process of its own: ``python -m benchmarks [NAME ...] [--quick] [--peers flwr-1.6 ...]``.

``make bench`` calls this. A benchmark is a module here that makes a report (:func:`benchmarks.harness.new_report`). When all have
run, the figures that have targets are listed once more and written to ``summary.md``. The exit code tells whether the benchmarks
could be run, not whether the targets were met: that depends on the machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.figures import QUICK_RESULTS, RESULTS, ROOT, Figure, read_figures
from benchmarks.harness import parser

LONGEST_S = 3 * 3600.0


def names() -> list[str]:
    """The benchmarks by name."""
    scripts = (ROOT / "benchmarks").glob("[a-z]*.py")
    return sorted(path.stem for path in scripts if "\n    report = new_report(" in path.read_text(encoding="utf-8"))


def run(name: str, options: list[str]) -> bool:
    """Run one benchmark; whether it could be run."""
    print(f"\n== {name}", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    try:
        code = subprocess.run(command, cwd=ROOT, timeout=LONGEST_S, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"{name} did not end within {LONGEST_S:g} s")
        return False
    print(f"-- {name}: {time.monotonic() - started:.0f} s" + (f", FAILED with exit code {code}" if code else ""), flush=True)
    return not code


def summary(folder: Path, chosen: list[str]) -> str:
    """The figures that have targets, of those benchmarks whose results are there, as a Markdown table."""
    rows = ["| benchmark | what | value | relative to | target |", "| --- | --- | --- | --- | --- |"]
    for name in chosen:
        path = folder / f"{name}.json"
        rows += [row(name, found) for found in read_figures(path) if found.targets] if path.exists() else []
    return "\n".join(rows) + "\n"


def row(benchmark: str, found: Figure) -> str:
    """A row of the summary."""
    return f"| {benchmark} | {found.name} | {found.text} | {found.peer} | {found.targets} |"


def main() -> int:
    """Run what was asked for; 1 if something could not be run."""
    p = parser(__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(names())}")
    options, further = p.parse_known_args()
    chosen = options.names or names()
    if unknown := sorted(set(chosen) - set(names())):
        print(f"There is no benchmark {', '.join(unknown)}. There are {', '.join(names())}.", file=sys.stderr)
        return 2
    folder = options.results or (QUICK_RESULTS if options.quick else RESULTS)
    passed_on = [*(["--quick"] if options.quick else []), f"--results={folder}", "--peers", *options.peers, *further]
    failed = [name for name in chosen if not run(name, passed_on)]
    text = summary(folder, names())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nFigures, tables and plots are in {folder}.")
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
