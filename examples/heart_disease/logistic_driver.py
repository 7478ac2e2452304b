"""Logistic regression for heart disease: each hospital alone, three federated algorithms, and all records in one place.

::

    python logistic_driver.py --address=<DRIVER_ADDRESS>

The hospitals tell how good each federated model is for their own test patients. Local-only and centralised training, and numbers
over the test patients of all hospitals together, need all records in one place. Here they can be had, because these records are
public; a real federation does without.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import hedgerow as hg
from heart_jobs import Options, all_metrics, compare_all, each_alone, options, run, scores_of
from heart_preparation import Scaling, Statistics
from heart_records import HOSPITALS, Patients, Split, load_split, pooled
from heart_scores import POOLED, Score
from hedgerow.frameworks.sklearn import load_parameters, parameters_of
from logistic_model import fit_to_the_end, new_model, score

STRATEGIES: dict[str, Callable[..., hg.FedAvg]] = {
    "FedAvg": hg.FedAvg,
    "FedAdam": functools.partial(hg.FedAdam, eta=0.1, tau=1e-3),
    "SCAFFOLD": hg.Scaffold,
}
PROPERTIES_TIMEOUT_S = 60.0


class AskForStatistics(hg.FedAvg):
    """Trains nothing: asks each hospital for the sums over its training patients."""

    def __init__(self, split: int) -> None:
        super().__init__(min_available_clients=len(HOSPITALS))
        self.split = split
        self.scaling: Scaling | None = None

    def initialize_parameters(self, client_manager: hg.ClientManager) -> hg.Parameters:
        """Ask, add up, and begin with a model that has learned nothing."""
        client_manager.wait_for(self.min_available_clients)
        ins = hg.GetPropertiesIns({"split": self.split})
        answers = [client.get_properties(ins, timeout=PROPERTIES_TIMEOUT_S) for client in client_manager.all().values()]
        told = {answer.properties["hospital"]: answer.properties["statistics"] for answer in answers}
        if set(told) != set(HOSPITALS):
            raise RuntimeError(
                f"This example needs the hospitals {', '.join(HOSPITALS)}; connected are {', '.join(map(str, told))}."
            )
        self.scaling = Statistics.total(
            Statistics.from_bytes(data) for data in told.values() if isinstance(data, bytes)
        ).scaling()
        return parameters_of(new_model())


def federated(options: Options, name: str, split: int, scaling: Scaling, test: Patients) -> dict[str, Score]:
    """One run of an algorithm; ``test`` are the test patients of all hospitals, scaled."""
    model = new_model()

    def evaluate(server_round: int, arrays: hg.NDArrays, config: hg.Config) -> tuple[float, hg.Metrics]:
        load_parameters(model, arrays)
        found = score(model, test)
        return found.loss, {"accuracy": found.accuracy, "auc": found.auc}

    def config(server_round: int) -> hg.Config:
        return {"algorithm": name, "split": split, "scaling": scaling.to_bytes()}

    strategy = STRATEGIES[name](
        initial_parameters=parameters_of(new_model()),
        min_fit_clients=len(HOSPITALS),
        min_evaluate_clients=len(HOSPITALS),
        min_available_clients=len(HOSPITALS),
        on_fit_config_fn=config,
        on_evaluate_config_fn=config,
        evaluate_fn=evaluate,
        evaluate_metrics_aggregation_fn=all_metrics,
    )
    history = run(options, strategy, name, split)
    return scores_of(history, score(model, test))


def local_only(splits: dict[str, Split]) -> dict[str, Score]:
    """Each hospital trains on its own patients, scaled by its own statistics, and judges its own test patients."""
    judged = []
    for name in HOSPITALS:
        own = Statistics.of(splits[name].train).scaling()
        model = fit_to_the_end(own.apply(splits[name].train))
        judged.append(model.predict_proba(own.apply(splits[name].test).features)[:, 1])
    return each_alone(judged, splits)


def centralised(splits: dict[str, Split], scaling: Scaling) -> dict[str, Score]:
    """All training patients in one place."""
    model = fit_to_the_end(scaling.apply(pooled([splits[name].train for name in HOSPITALS])))
    tests = {name: splits[name].test for name in HOSPITALS} | {POOLED: pooled([splits[name].test for name in HOSPITALS])}
    return {name: score(model, scaling.apply(test)) for name, test in tests.items()}


def compare(options: Options, number: int) -> dict[str, dict[str, Score]]:
    """All methods on one split."""
    splits = {name: load_split(name, number) for name in HOSPITALS}
    asking = AskForStatistics(number)
    run(options, asking, "statistics", number, rounds=0)
    scaling = asking.scaling
    assert scaling is not None
    test = scaling.apply(pooled([splits[name].test for name in HOSPITALS]))
    found = {"local only": local_only(splits)}
    found |= {name: federated(options, name, number, scaling, test) for name in STRATEGIES}
    found["centralised"] = centralised(splits, scaling)
    return found


def main() -> None:
    """Run everything and show it."""
    chosen = options(__doc__)
    compare_all(chosen, lambda number: compare(chosen, number), "logistic", "Heart disease, logistic regression")


if __name__ == "__main__":
    main()
