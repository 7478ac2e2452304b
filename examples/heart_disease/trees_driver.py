"""Boosted trees for heart disease: each hospital alone, bagging, one model that goes round, and all records in one place.

::

    python trees_driver.py --address=<DRIVER_ADDRESS>

As in ``logistic_driver.py``, the hospitals judge the federated models, and what needs all records in one place is there because
these are public.
"""

from __future__ import annotations

import xgboost as xgb

import hedgerow as hg
from heart_jobs import Options, all_metrics, compare_all, each_alone, options, run, scores_of
from heart_records import HOSPITALS, Patients, load_split, pooled
from heart_scores import POOLED, Score
from hedgerow.frameworks.xgboost import load_parameters
from trees_model import grow, matrix, score


def federated(options: Options, name: str, split: int, test: Patients) -> dict[str, Score]:
    """One run; ``test`` are the test patients of all hospitals. A round of bagging grows four trees, a cyclic one grows one."""
    bagging = name == "bagging"
    booster = xgb.Booster()

    def evaluate(server_round: int, arrays: hg.NDArrays, config: hg.Config) -> tuple[float, hg.Metrics] | None:
        if load_parameters(booster, arrays) == 0:
            return None
        found = score(booster, test)
        return found.loss, {"accuracy": found.accuracy, "auc": found.auc}

    def config(server_round: int) -> hg.Config:
        return {"split": split, "sites": len(HOSPITALS) if bagging else 1, "whole": not bagging}

    strategy = (hg.FedXgbBagging if bagging else hg.FedXgbCyclic)(
        initial_parameters=hg.Parameters([]),
        min_fit_clients=len(HOSPITALS),
        min_evaluate_clients=len(HOSPITALS),
        min_available_clients=len(HOSPITALS),
        on_fit_config_fn=config,
        on_evaluate_config_fn=config,
        evaluate_fn=evaluate,
        evaluate_metrics_aggregation_fn=all_metrics,
    )
    history = run(options, strategy, name, split)
    return scores_of(history, score(booster, test))


def compare(options: Options, number: int) -> dict[str, dict[str, Score]]:
    """All methods on one split."""
    splits = {name: load_split(name, number) for name in HOSPITALS}
    tests = {name: split.test for name, split in splits.items()} | {POOLED: pooled([split.test for split in splits.values()])}
    alone = [grow(split.train, options.rounds).predict(matrix(split.test)) for split in splits.values()]
    found = {"local only": each_alone(alone, splits)}
    found |= {name: federated(options, name, number, tests[POOLED]) for name in ("bagging", "cyclic")}
    central = grow(pooled([split.train for split in splits.values()]), options.rounds)
    found["centralised"] = {name: score(central, test) for name, test in tests.items()}
    return found


def main() -> None:
    """Run everything and show it."""
    chosen = options(__doc__)
    compare_all(chosen, lambda number: compare(chosen, number), "trees", "Heart disease, boosted trees")


if __name__ == "__main__":
    main()
