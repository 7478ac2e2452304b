"""How good predictions are, and the table and the plot that compare methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import matplotlib as mpl
import numpy as np
from sklearn.metrics import roc_auc_score

from heart_records import HOSPITALS, Floats, Labels

POOLED = "pooled"
PLACES = (*HOSPITALS, POOLED)
MEASURES = ("accuracy", "AUC")
COLORS = ("#9a9a9a", "#1f77b4", "#ff7f0e", "#2ca02c", "#202020")
MARKERS = ("s", "o", "^", "D", "*")


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood, part of the patients who are told right at a threshold of 0.5, area under the ROC curve."""

    loss: float
    accuracy: float
    auc: float

    @classmethod
    def of(cls, probabilities: Floats, labels: Labels) -> Score:
        """The score of probabilities of heart disease for patients of both labels."""
        sure = np.clip(probabilities, 1e-12, 1 - 1e-12)
        loss = -np.mean(np.where(labels == 1, np.log(sure), np.log(1 - sure)))
        accuracy = np.mean((probabilities > 0.5) == (labels == 1))
        return cls(float(loss), float(accuracy), float(roc_auc_score(labels, probabilities)))


Results: TypeAlias = Mapping[str, Mapping[str, Sequence[Score]]]
"""From a method and a place to the scores on each of the splits."""


def table(results: Results) -> str:
    """Mean and standard deviation over the splits; and how far from the last method, split by split."""
    *others, last = results
    splits = len(results[last][POOLED])
    lines = [f"Mean ± standard deviation over {splits} random splits"]
    for measure in MEASURES:
        lines += ["", _row(measure, PLACES)]
        for method, places in results.items():
            cells = [values_of(places[place], measure) for place in PLACES]
            lines.append(_row(method, [f"{v.mean():.3f} ± {v.std():.3f}" for v in cells]))
    lines += ["", f"AUC above (+) or below (-) {last} on the same split: mean ± standard error", _row("", PLACES)]
    for method in others:
        cells = [values_of(results[method][place], "AUC") - values_of(results[last][place], "AUC") for place in PLACES]
        lines.append(_row(method, [f"{v.mean():+.3f} ± {v.std() / max(splits - 1, 1) ** 0.5:.3f}" for v in cells]))
    return "\n".join(lines)


def _row(title: str, cells: Sequence[str]) -> str:
    return f"{title:<12}" + "".join(f"{cell:>17}" for cell in cells)


def values_of(scores: Sequence[Score], measure: str) -> Floats:
    """One measure of some scores."""
    return np.array([score.accuracy if measure == "accuracy" else score.auc for score in scores])


def plot(results: Results, path: Path, title: str) -> None:
    """One panel for each measure: every method at every place, with its standard deviation, as a PNG file."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(len(MEASURES), 1, figsize=(9, 7), sharex=True, layout="constrained")
    places = np.arange(len(PLACES))
    for panel, measure in zip(panels, MEASURES, strict=True):
        for number, (method, scores) in enumerate(results.items()):
            cells = [values_of(scores[place], measure) for place in PLACES]
            panel.errorbar(
                places + 0.13 * (number - (len(results) - 1) / 2),
                [v.mean() for v in cells],
                [v.std() for v in cells],
                label=method,
                color=COLORS[number % len(COLORS)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle="none",
                capsize=2,
            )
        for border in places[:-1] + 0.5:
            panel.axvline(border, color="0.9", linewidth=1)
        panel.set_ylabel(measure)
        panel.set_ylim(top=1.0)
        panel.grid(axis="y", color="0.92")
    panels[-1].set_xticks(places, PLACES)
    figure.suptitle(title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(results), frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
