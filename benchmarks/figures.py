"""What a benchmark found: figures with their targets, written as JSON, as a Markdown table and as plots.

A :class:`Figure` is one number of one system. A ratio is a figure of its own, whose ``peer`` says what it is relative to. A
target is a bound on the figure's value: *must* is what the project promises, *stretch* what it hopes for.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
QUICK_RESULTS = RESULTS / "quick"
"""Where quick runs write, so that they never replace what a full run has found."""
GIT_S = 10.0
OURS = "hedgerow"
Line = tuple[Sequence[float], Sequence[float]]
"""Positions and heights of a plot's line."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number.

    Attributes:
        name: What was measured, such as ``"round, 2 clients"``.
        system: Of whom: ``"hedgerow"``, a peer, or a physical limit such as ``"plain sockets"``.
        value: The number; the median where there were several measurements.
        unit: Such as ``"ms"`` or ``"MB"``; ``"times"`` for a ratio.
        low, high: The spread of several measurements, their quartiles; None where there was one.
        must, stretch: Bounds; the value should be at most so much, or at least where ``at_least`` is true.
        peer: What a ratio is relative to.
    """

    name: str
    system: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    must: float | None = None
    stretch: float | None = None
    at_least: bool = False
    peer: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the *must* holds; None where there is none."""
        return None if self.must is None else self._within(self.must)

    @property
    def stretched(self) -> bool | None:
        """Whether the *stretch* holds; None where there is none."""
        return None if self.stretch is None else self._within(self.stretch)

    def _within(self, bound: float) -> bool:
        return self.value >= bound if self.at_least else self.value <= bound

    @property
    def targets(self) -> str:
        """The bounds and whether they hold, for people."""
        sign = "≥" if self.at_least else "≤"
        kinds = (("must", self.must, self.met), ("stretch", self.stretch, self.stretched))
        return ", ".join(f"{kind} {sign} {short(b)}: {'holds' if ok else 'MISSED'}" for kind, b, ok in kinds if b is not None)

    @property
    def text(self) -> str:
        """The value with its spread and unit, for people."""
        spread = "" if self.low is None or self.high is None else f" ({short(self.low)} - {short(self.high)})"
        return f"{short(self.value)}{spread} {self.unit}"


def short(value: float) -> str:
    """Three digits, or the whole number where it has more.

    >>> short(0.01234), short(3.14159), short(271.8), short(10_000)
    ('0.0123', '3.14', '272', '10,000')
    """
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 or not math.isfinite(value) else f"{value:.3g}"


def figure(name: str, system: str, samples: Sequence[float], unit: str, **targets: float | bool) -> Figure:
    """The median of several measurements, with their quartiles, and the targets ``must``, ``stretch`` and ``at_least``."""
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else (None, None, None)
    bounds = Figure(name=name, system=system, value=statistics.median(samples), unit=unit, low=low, high=high)
    return dataclasses.replace(bounds, **targets)  # type: ignore[arg-type]  # each has the type of its field


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], peer: str, **targets: float | bool) -> Figure:
    """Ours relative to a peer's: the median and the quartiles of the ratios of measurements that were made side by side.

    Args:
        name: What was measured.
        ours: Measurements in the order in which they were made.
        theirs: As many of the peer, the first made beside the first, and so on.
        peer: Whose the latter are.
        targets: ``must``, ``stretch`` and ``at_least`` of :class:`Figure`.
    """
    shares = [a / b for a, b in zip(ours, theirs, strict=True)]
    return dataclasses.replace(figure(name, OURS, shares, "times", **targets), peer=peer)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Lines to draw.

    Attributes:
        name: Of the file, after the benchmark's name.
        title: Above the plot.
        x: What the horizontal axis shows, with its unit.
        y: What the vertical axis shows, with its unit.
        lines: Positions and heights by name.
        log: Whether both axes are logarithmic.
        target: A height to draw as a dashed line.
    """

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Line]
    log: bool = False
    target: float | None = None


@dataclass
class Report:
    """The figures of one benchmark; they are printed as they come, and written by :meth:`write`.

    Attributes:
        name: The benchmark's, and of its files.
        title: For people.
        folder: Where the files go.
    """

    name: str
    title: str
    folder: Path = RESULTS
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=lambda: machine())

    def add(self, *figures: Figure) -> None:
        """Keep figures and print them."""
        for found in figures:
            self.figures.append(found)
            name = f"{found.name} / {found.peer}" if found.peer else found.name
            print(f"{name:56} {found.system:24} {found.text:30} {found.targets}".rstrip(), flush=True)

    def note(self, text: str) -> None:
        """Keep a sentence for the page, and print it; also: what was skipped and why."""
        self.notes.append(text)
        print(text, flush=True)

    def plot(self, plot: Plot) -> None:
        """Draw lines into ``<benchmark>-<plot>.png``."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        drawing, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for label, (xs, ys) in plot.lines.items():
            axes.plot(xs, ys, marker="o", label=label)
        if plot.target is not None:
            axes.axhline(plot.target, linestyle="--", color="grey", label="target")
        if plot.log:
            axes.set_xscale("log")
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
        axes.grid(alpha=0.3)
        axes.legend()
        self.folder.mkdir(parents=True, exist_ok=True)
        file = f"{self.name}-{plot.name}.png"
        drawing.savefig(self.folder / file, dpi=110)
        pyplot.close(drawing)
        self.plots.append(file)

    def write(self) -> None:
        """Write ``<benchmark>.json`` and ``<benchmark>.md``."""
        self.machine["load at the end"] = load()
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"benchmark": self.name, "title": self.title, "machine": self.machine, "notes": self.notes, "plots": self.plots}
        figures = [dataclasses.asdict(found) | {"met": found.met, "stretched": found.stretched} for found in self.figures]
        text = json.dumps(about | {"figures": figures}, indent=1, ensure_ascii=False)
        (self.folder / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")
        (self.folder / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """The figures as a table, with what is to be known of the machine, the notes and the plots."""
        rows = ["| what | system | value (quartiles) | relative to | target |", "| --- | --- | --- | --- | --- |"]
        rows += [f"| {f.name} | {f.system} | {f.text} | {f.peer} | {f.targets} |" for f in self.figures]
        parts = ["\n".join(rows), *self.notes, *(f"![{self.title}]({plot})" for plot in self.plots)]
        told = "; ".join(f"{name} {value}" for name, value in self.machine.items())
        return "\n\n".join([*parts, f"Measured on: {told}."]) + "\n"


def read_figures(path: Path) -> list[Figure]:
    """The figures of a benchmark's JSON file."""
    names = {known.name for known in dataclasses.fields(Figure)}
    found = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return [Figure(**{name: value for name, value in each.items() if name in names}) for each in found]


def load() -> str:
    """The load averages of the last 1, 5 and 15 minutes."""
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())


def machine() -> dict[str, str]:
    """What is to be known of the machine, the code and the moment."""
    cpu = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?")
    kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    ask = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(ask, capture_output=True, text=True, timeout=GIT_S, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "commit": commit or "?",
        "CPU": f"{os.cpu_count()} cores, {cpu}",
        "memory": f"{kib / 2**20:.0f} GiB",
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load at the start": load(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
