"""What the jobs of this example have in common: a run over the four hospitals, and what came out of it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hedgerow as hg
from heart_records import HOSPITALS, Floats, Split
from heart_scores import POOLED, Results, Score, plot, table

MEASURED = tuple(field.name for field in dataclasses.fields(Score))


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    address: str
    splits: int
    rounds: int
    output: Path


def options(description: str | None) -> Options:
    """Read the command line; the folder for the output is made."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--address", default="127.0.0.1:9092", help="the server's Driver API (default: %(default)s)")
    parser.add_argument("--splits", type=int, default=10, help="random splits of the patients (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each run (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder for the results (default: %(default)s)")
    parser.add_argument("--log-level", default="WARNING", help="DEBUG shows every round (default: %(default)s)")
    given = parser.parse_args()
    logging.getLogger("hedgerow").setLevel(given.log_level.upper())
    given.output.mkdir(parents=True, exist_ok=True)
    return Options(given.address, given.splits, given.rounds, given.output)


def run(options: Options, strategy: hg.Strategy, name: str, split: int, rounds: int | None = None) -> hg.History:
    """One job over the hospitals that are connected; its seed is the split's number.

    Raises:
        RuntimeError: A hospital failed: results without it would not be comparable.
    """
    history = hg.start_driver(
        server_address=options.address,
        config=hg.ServerConfig(num_rounds=options.rounds if rounds is None else rounds, seed=split),
        strategy=strategy,
        run_name=f"{name}, split {split}",
        limits=hg.DriverLimits(connect_s=60, wait_for_clients_s=120),
    )
    if history.failures:
        raise RuntimeError(f"The run {name!r} on split {split} has failures: {history.failures}")
    return history


def all_metrics(answers: list[tuple[int, hg.Metrics]]) -> hg.Metrics:
    """What each hospital measured, under its name: the federation's own view of a model, hospital by hospital."""
    found = {str(metrics["hospital"]): metrics for _, metrics in answers}
    return {f"{name} {key}": metrics[key] for name, metrics in found.items() for key in MEASURED}


def scores_of(history: hg.History, pooled: Score) -> dict[str, Score]:
    """The scores after the last round: at the hospitals by themselves, and over all test patients."""

    def last(name: str) -> float:
        return float(history.metrics_distributed[name][-1][1])

    return {name: Score(*(last(f"{name} {key}") for key in MEASURED)) for name in HOSPITALS} | {POOLED: pooled}


def compare_all(options: Options, compare: Callable[[int], dict[str, dict[str, Score]]], name: str, title: str) -> None:
    """Compare on every split; print the table; leave it, the plot and the numbers in the output folder.

    Args:
        options: How many splits, and where the output goes.
        compare: From a split's number to the scores of each method and place.
        name: Of the files.
        title: Of the plot.
    """
    splits = []
    for number in range(1, options.splits + 1):
        splits.append(compare(number))
        print(f"Split {number} of {options.splits} is done", flush=True)
    results: Results = {
        method: {place: [split[method][place] for split in splits] for place in places} for method, places in splits[0].items()
    }
    text = table(results)
    print(text)
    (options.output / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    plot(results, options.output / f"{name}.png", f"{title}: {options.splits} random splits, mean and standard deviation")
    content = {
        method: {place: [dataclasses.asdict(score) for score in scores] for place, scores in places.items()}
        for method, places in results.items()
    }
    (options.output / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"\nThe plot is in {(options.output / name).with_suffix('.png').resolve()}")


def each_alone(judged: Sequence[Floats], splits: dict[str, Split]) -> dict[str, Score]:
    """Scores of probabilities that each hospital's own model gave its own test patients; pooled are all of these judgements."""
    labels = [splits[name].test.labels for name in HOSPITALS]
    scores = [Score.of(*pair) for pair in zip(judged, labels, strict=True)]
    return dict(zip(HOSPITALS, scores, strict=True)) | {POOLED: Score.of(np.concatenate(judged), np.concatenate(labels))}
