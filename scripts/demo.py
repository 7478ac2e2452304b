"""The demo: a server, two hospitals and four drivers as real processes on this machine, with their logs side by side.

``make demo`` runs it. First one driver trains at hospital A alone. Then three drivers at once use the same server and hospitals:
A alone, B alone, both. What is shown in the end comes from the files that the drivers wrote. Everything lands in
``.demo/<date>_<time>``: logs, checkpoints, the plot. No process outlives the demo, however it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "hospitals"
SEED = 1
ROUNDS = 3

FETCH_S = 900.0
START_S = 120.0
RUN_S = 900.0
STOP_S = 10.0
KILL_S = 5.0

LOG_LINE = re.compile(
    # flower-server and flower-client, then Hydra's format, which the drivers use.
    r"^(?P<level>[A-Z]+) hedgerow \S+ (?P<time>[\d:]+),\d+ \| \S+ \| (?P<text>.*)$"
    r"|^\[\S+ (?P<time2>[\d:]+),\d+\]\[\S+\]\[(?P<level2>[A-Z]+)\] - (?P<text2>.*)$"
)
LEVEL_STYLES = {"DEBUG": "dim", "INFO": "", "WARNING": "yellow", "ERROR": "bold red"}


class DemoFailed(Exception):
    """The demo cannot go on."""


class Child:
    """A process of the demo. Its output goes to a file as it is, and line by line to the demo's queue."""

    def __init__(self, stage: Stage, name: str, style: str, command: Sequence[str | Path]) -> None:
        self.name = name
        self.style = style
        self.log_path = stage.folder / "logs" / f"{name}.log"
        self.log_path.parent.mkdir(exist_ok=True)
        self.exit_code: int | None = None
        # A session of its own: Ctrl-C reaches the demo alone, which then stops everybody in order.
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=stage.folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(stage.events,), daemon=True)
        self._reader.start()

    def _read(self, events: queue.Queue[tuple[Child, str | None]]) -> None:
        assert self.process.stdout is not None
        rest = b""
        with self.log_path.open("wb") as log_file:
            while chunk := self.process.stdout.read1():  # type: ignore[attr-defined]
                log_file.write(chunk)
                log_file.flush()
                *lines, rest = re.split(rb"[\r\n]", rest + chunk)
                for line in lines:
                    events.put((self, line.decode(errors="replace")))
        if rest:
            events.put((self, rest.decode(errors="replace")))
        events.put((self, None))

    def finish_reading(self) -> None:
        """Wait until all that the process said is in the queue."""
        self._reader.join(STOP_S)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process.poll() is None

    def tell(self, signal_number: int) -> None:
        """Send a signal, if the process is there."""
        if self.running:
            self.process.send_signal(signal_number)

    def kill_group(self) -> None:
        """End whatever is left of the process and of those that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait(KILL_S)


class Stage:
    """Where the demo happens: a folder, the processes, and the screen that shows what they say."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        self.events: queue.Queue[tuple[Child, str | None]] = queue.Queue()
        self.children: list[Child] = []

    def start(self, name: str, style: str, command: Sequence[str | Path]) -> Child:
        """Start a process."""
        child = Child(self, name, style, command)
        self.children.append(child)
        return child

    def say(self, title: str) -> None:
        """Show a heading."""
        self.console.rule(f"[bold]{title}", align="left")

    def wait_for_line(self, child: Child, pattern: str) -> str:
        """Show what everybody says until one process says something; gives the pattern's first group."""
        found: list[str] = []

        def look(speaker: Child, line: str) -> bool:
            match = re.search(pattern, line)
            if speaker is child and match:
                found.append(match[1])
            return bool(found)

        self._show_until(look, lambda: False, START_S, f"{child.name} to say {pattern!r}", may_end=())
        return found[0]

    def wait_for_end(self, children: Sequence[Child], limit_s: float) -> None:
        """Show what everybody says until these processes have ended well."""
        what = f"{', '.join(child.name for child in children)} to end"
        self._show_until(
            lambda _, __: False, lambda: all(child.exit_code == 0 for child in children), limit_s, what, may_end=children
        )

    def _show_until(
        self,
        said: Callable[[Child, str], bool],
        ended: Callable[[], bool],
        limit_s: float,
        what: str,
        may_end: Sequence[Child],
    ) -> None:
        deadline = time.monotonic() + limit_s
        while True:
            try:
                child, line = self.events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise DemoFailed(f"Waited {limit_s:g} s for {what}.") from None
            if line is not None:
                self._show(child, line)
                if said(child, line):
                    return
                continue
            child.exit_code = child.process.wait(STOP_S)
            if child.exit_code != 0 or child not in may_end:
                raise DemoFailed(f"{child.name} ended with exit code {child.exit_code}. Its log: {child.log_path}")
            if ended():
                return

    def _show(self, child: Child, line: str) -> None:
        if not line.strip() or ("it/s]" in line and "100%" not in line):  # of a progress bar, only the end
            return
        match = LOG_LINE.match(line)
        level = (match["level"] or match["level2"]) if match else "INFO"
        shown = f"{match['time'] or match['time2']} {match['text'] or match['text2']}" if match else line
        shown = shown.replace(str(self.folder) + os.sep, "")
        text = Text.assemble((f"{child.name:<10} │ ", child.style), (shown, LEVEL_STYLES.get(level, "")))
        self.console.print(text, no_wrap=True, overflow="ellipsis", crop=True, highlight=False)

    def stop_everybody(self) -> None:
        """Ask the processes to stop, the last started first; end those that do not."""
        try:
            for child in reversed(self.children):
                child.tell(signal.SIGTERM)
                try:
                    child.process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    self.console.print(f"{child.name} does not stop; it is killed.", style="yellow")
                    child.kill_group()
        finally:
            for child in self.children:
                child.kill_group()

    def show_rest(self) -> None:
        """Show what the processes said when they stopped."""
        for child in self.children:
            child.finish_reading()
        while not self.events.empty():
            child, line = self.events.get_nowait()
            if line is not None:
                self._show(child, line)


@dataclass(frozen=True)
class Run:
    """One driver's run, as it told it in its ``history.json``."""

    title: str
    style: str
    rounds: list[dict[str, Any]]

    @property
    def accuracy(self) -> float:
        """Accuracy after the last round."""
        return float(self.rounds[-1]["accuracy"])


def main() -> int:
    """Run the demo; gives the exit code."""
    parser = argparse.ArgumentParser(description="Train across two hospitals, with real processes on this machine.")
    parser.add_argument("--folder", type=Path, help="a new folder for everything (default: .demo/<date>_<time>)")
    folder: Path = (parser.parse_args().folder or ROOT / ".demo" / time.strftime("%Y-%m-%d_%H-%M-%S")).resolve()
    folder.mkdir(parents=True)
    console = Console(width=None if sys.stdout.isatty() else 150)
    stage = Stage(folder, console)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        try:
            alone, together = perform(stage)
        finally:
            stage.say("Stopping")
            stage.stop_everybody()
            stage.show_rest()
            shutil.rmtree(folder / "state", ignore_errors=True)
        report(stage, alone, together)
    except KeyboardInterrupt:
        console.print("Interrupted; everything is stopped.", style="bold yellow")
        return 130
    except DemoFailed as error:
        console.print(f"The demo failed: {error}", style="bold red", highlight=False)
        return 1
    return 0


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def perform(stage: Stage) -> tuple[Run, list[Run]]:
    """Everything up to the last driver's end: the run of one driver alone, and those of three drivers at once."""
    python, programs = sys.executable, Path(sys.executable).parent
    stage.say("The images: real ones, fetched once")
    stage.wait_for_end([stage.start("images", "white", [python, EXAMPLE / "dataset.py"])], FETCH_S)

    stage.say("The long-running part: a server and two hospitals")
    any_port = "127.0.0.1:0"
    server = stage.start(
        "server",
        "cyan",
        [
            programs / "flower-server",
            "--insecure",
            f"--grpc-rere-fleet-api-address={any_port}",
            f"--driver-api-address={any_port}",
            f"--blob-address={any_port}",
            f"--web-address={any_port}",
            f"--state-dir={stage.folder / 'state' / 'server'}",
        ],
    )
    driver_address = stage.wait_for_line(server, r"Starting Driver API \(gRPC-rere\) on (\S+)")
    fleet_address = stage.wait_for_line(server, r"Starting Fleet API \(gRPC-rere\) on (\S+)")
    for letter, style in (("a", "green"), ("b", "magenta")):
        stage.start(
            f"hospital {letter.upper()}",
            style,
            [
                programs / "flower-client",
                f"--callable=client:hospital_{letter}",
                f"--callable-dir={EXAMPLE}",
                "--insecure",
                f"--server={fleet_address}",
                f"--state-dir={stage.folder / 'state' / letter}",
            ],
        )

    def drive(name: str, style: str, enroll: str) -> Child:
        settings = [f"address={driver_address}", f"enroll={enroll}", f"num_rounds={ROUNDS}", f"seed={SEED}"]
        return stage.start(name, style, [python, EXAMPLE / "driver.py", *settings])

    stage.say("A job: one driver, which enrolls hospital A only")
    first = drive("driver", "yellow", "A")
    stage.wait_for_end([first], RUN_S)
    alone = read_run(first, "A only (first job)")

    stage.say("Three more jobs at once, on the same server and hospitals: A only, B only, both")
    jobs = {
        "A only": drive("driver A", "yellow", "A"),
        "B only": drive("driver B", "bright_blue", "B"),
        "both": drive("driver AB", "bright_red", "all"),
    }
    stage.wait_for_end(list(jobs.values()), RUN_S)
    return alone, [read_run(child, title) for title, child in jobs.items()]


def read_run(child: Child, title: str) -> Run:
    """What the driver wrote.

    Raises:
        DemoFailed: It is not a whole run.
    """
    log_text = child.log_path.read_text(encoding="utf-8", errors="replace")
    checkpoints = re.findall(r"Saved checkpoint in: (.+)$", log_text, re.MULTILINE)
    if not checkpoints:
        raise DemoFailed(f"{child.name} saved no checkpoint. Its log: {child.log_path}")
    path = Path(checkpoints[0]).parents[1] / "history.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        run = Run(title, child.style, content["rounds"])
    except (OSError, ValueError, KeyError) as error:
        raise DemoFailed(f"{child.name} left no usable {path}: {error}") from error
    if len(run.rounds) != ROUNDS + 1 or content["failures"]:
        raise DemoFailed(f"{child.name} did not train {ROUNDS} rounds without failures; see {path}")
    return run


def report(stage: Stage, alone: Run, together: list[Run]) -> None:
    """Show the table, draw the plot, and name the files."""
    stage.say("What came out")
    table = Table("run", "round", "loss", "accuracy")
    for column in table.columns[1:]:
        column.justify = "right"
    for run in (alone, *together):
        for record in run.rounds:
            last = record is run.rounds[-1]
            name = run.title if record["round"] == 0 else ""
            figures = (str(record["round"]), f"{record['loss']:.4f}", f"{record['accuracy']:.4f}")
            table.add_row(Text(name, run.style), *figures, end_section=last, style="bold" if last else None)
    stage.console.print(table)
    comparison = compare(together)
    stage.console.print(comparison, style="bold", highlight=False)
    again = next(run for run in together if run.title == "A only")
    same = [r["sha256"] for r in alone.rounds] == [r["sha256"] for r in again.rounds]
    stage.console.print(
        f"The job that enrolls A only gave {'the same bits' if same else 'DIFFERENT BITS'} alone and beside two other jobs.",
        style="" if same else "bold red",
    )
    if not same:
        raise DemoFailed("Runs with the same seed must give the same checkpoints.")
    picture = plot(together, comparison, stage.folder / "accuracy.png")
    stage.console.print("\nCheckpoints (safetensors):")
    for run in (alone, *together):
        stage.console.print(f"  {run.title:<19}{shown(run.rounds[-1]['checkpoint'])}", highlight=False, soft_wrap=True)
    stage.console.print(f"Plot: {shown(picture)}\nLogs: {shown(stage.folder / 'logs')}", highlight=False, soft_wrap=True)


def shown(path: str | Path) -> str:
    """A path as short as it can be from here."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else str(path)


def compare(runs: Sequence[Run]) -> str:
    """What the accuracies after the last round say about training together."""
    both = next(run for run in runs if run.title == "both")
    best = max((run for run in runs if run is not both), key=lambda run: run.accuracy)
    points = 100 * (both.accuracy - best.accuracy)
    verdict = f"{points:.1f} points better than" if points > 0 else f"{-points:.1f} points worse than, or equal to,"
    return (
        f"Both hospitals together reach {both.accuracy:.1%} on the 10,000 test images, {verdict} "
        f"the better one alone ({best.title}: {best.accuracy:.1%})."
    )


def plot(runs: Sequence[Run], comparison: str, path: Path) -> Path:
    """Draw accuracy over rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    colours = {"A only": "tab:orange", "B only": "tab:blue", "both": "tab:green"}
    for run in runs:
        rounds, accuracies = zip(*((r["round"], r["accuracy"]) for r in run.rounds), strict=True)
        width = 3.0 if run.title == "both" else 1.5
        axes.plot(
            rounds, accuracies, marker="o", label=f"{run.title}: {run.accuracy:.3f}", color=colours[run.title], linewidth=width
        )
    axes.set(xlabel="round", ylabel="accuracy on the 10,000 test images", ylim=(0, 1), xticks=range(ROUNDS + 1))
    axes.set_title(textwrap.fill(comparison, 90), fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", title="after the last round")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


if __name__ == "__main__":
    sys.exit(main())
