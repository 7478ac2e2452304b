"""SCAFFOLD, FedNova and FedProx against FedAvg where clients are not alike: handwritten digits, softmax regression.

    python -m benchmarks.non_iid [--seeds 5] [--rounds 40] [--scenario NAME ...] [--rates 0.5 1 2 4 8]

Needs scikit-learn (its 1,797 digits of 8 x 8 pixels). Each client has the same number of examples; its share of each digit is
drawn from a Dirichlet distribution (alpha: smaller is less alike). Every strategy is tried with each learning rate; shown is the
one whose training loss is least at the end, so that none suffers from a rate that suits another: that loss, over the examples of
all clients, and the accuracy on examples that no client has, over the seeds, whatever comes out.

The strategies are run in a plain loop here, with the client that would run in the service, and the same bits would come out of
that (tests/integration/driver/test_algorithms.py): ``flower-client --callable benchmarks.non_iid:client_app --name 3-of-10``.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import hedgerow as hg
from benchmarks.figures import Figure, Report, figure
from benchmarks.harness import new_report, parser
from hedgerow.client.perform import seed_everything
from hedgerow.records import Config, Metrics, NDArray, NDArrays, Parameters
from hedgerow.sampling import task_seed
from hedgerow.strategy import ClientProxy, FedAvg
from hedgerow.strategy.schedules import config as config_of
from hedgerow.training import ControlVariates, NormalisedSteps, proximal_gradient

CLASSES, BATCH, MU = 10, 20, 0.1
CLEARLY = 0.001
"""A training loss is better than another if it is less by more than this."""
Data = tuple[NDArray, NDArray]


# --- the problem -----------------------------------------------------------------------------------------------------------


@cache
def digits() -> tuple[Data, Data]:
    """Examples for the clients and for the test, each with a constant feature, in an order that is always the same."""
    features, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    inputs = np.hstack([features / 16.0, np.ones((len(labels), 1))]).astype(np.float32)[order]
    return (inputs[:1400], labels[order][:1400]), (inputs[1400:], labels[order][1400:])


def partition(labels: NDArray, clients: int, alpha: float, seed: int) -> list[NDArray]:
    """The examples of each client: as many for all of them, none for two, with shares of the classes from a Dirichlet(alpha)."""
    rng = np.random.default_rng([seed, 1])
    pools = [list(rng.permutation(np.flatnonzero(labels == label))) for label in range(CLASSES)]
    found = []
    for _ in range(clients):
        shares, own = rng.dirichlet(np.full(CLASSES, alpha)), []
        for _ in range(len(labels) // clients):
            left = np.array([share if pool else 0.0 for share, pool in zip(shares, pools, strict=True)])
            if left.sum() < 1e-12:
                left = np.array([float(len(pool)) for pool in pools])
            own.append(pools[rng.choice(CLASSES, p=left / left.sum())].pop())
        found.append(np.array(own))
    return found


def chances(w: NDArray, b: NDArray, features: NDArray) -> NDArray:
    """The model's probabilities, (examples, classes)."""
    logits = features[:, :-1] @ w + features[:, -1:] * b
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def loss_and_accuracy(arrays: NDArrays, data: Data) -> tuple[float, float]:
    """Mean cross entropy, and the share of examples whose digit is recognised."""
    features, labels = data
    found = chances(arrays[0], arrays[1], features)
    loss = -np.log(np.maximum(found[np.arange(len(labels)), labels], 1e-12)).mean()
    return float(loss), float((found.argmax(axis=1) == labels).mean())


class DigitsClient(hg.NumPyClient):
    """Softmax regression by SGD, with whatever the driver's strategy needs of a client.

    Args:
        data: The site's examples.
        steps: Local steps in a round.
    """

    def __init__(self, data: Data, steps: int) -> None:
        self.data = data
        self.steps = steps

    def get_parameters(self, config: Config) -> NDArrays:
        """A model that knows nothing."""
        return [np.zeros((self.data[0].shape[1] - 1, CLASSES), np.float32), np.zeros(CLASSES, np.float32)]

    def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, Metrics]:
        """Train, by one step after the other."""
        variates = ControlVariates(parameters, config, self.context.state) if "scaffold_round" in config else None
        start = parameters if variates is None else variates.model
        corrections = [0.0] * len(start) if variates is None else variates.corrections
        rate, mu = float(config["lr"]), float(config.get("proximal_mu", 0.0))
        steps = NormalisedSteps(proximal=rate * mu)
        weights = [array.copy() for array in start]
        for features, labels in self._batches():
            error = chances(weights[0], weights[1], features)
            error[np.arange(len(labels)), labels] -= 1
            error /= len(labels)
            gradients = [features[:, :-1].T @ error, error.sum(axis=0)]
            terms = proximal_gradient(weights, start, mu)
            for w, g, c, term in zip(weights, gradients, corrections, terms, strict=True):
                w -= np.float32(rate) * (g + c + term)
            steps.count()
        if variates is not None:
            weights = variates.finish(weights, steps=self.steps, learning_rate=rate)
        return weights, len(self.data[1]), steps.metrics()

    def evaluate(self, parameters: NDArrays, config: Config) -> tuple[float, int, Metrics]:
        """Loss and accuracy on the site's examples."""
        loss, accuracy = loss_and_accuracy(parameters, self.data)
        return loss, len(self.data[1]), {"accuracy": accuracy}

    def _batches(self) -> Iterator[Data]:
        features, labels = self.data
        for _ in range(self.steps):  # numpy's own generator is seeded for each task
            batch = np.random.choice(len(labels), BATCH, replace=False)
            yield features[batch], labels[batch]


def make_client(context: hg.Context) -> hg.NumPyClient:
    """The client of a site whose name is its number and that of all sites, such as "3-of-10"; numbers begin with 0."""
    number, clients = (int(part) for part in context.node_name.split("-of-"))
    (features, labels), _ = digits()
    own = partition(labels, clients, 0.1, seed=0)[number]
    return DigitsClient((features[own], labels[own]), steps=10 * (number + 1))


client_app = hg.ClientApp(make_client)


# --- the loop --------------------------------------------------------------------------------------------------------------


class Name(ClientProxy):
    """A client as a strategy knows it; the loop asks the client itself."""

    get_properties = get_parameters = fit = evaluate = None  # type: ignore[assignment]


def run(strategy: FedAvg, clients: dict[str, hg.NumPyClient], rounds: int, seed: int) -> Parameters:
    """The model after so many rounds: what the service would make of these clients, bit for bit, without any process."""
    manager = hg.SimpleClientManager(wait_for_clients_s=0.0)
    adapters: dict[str, Any] = {}
    for name, client in clients.items():
        manager.register(Name(name))
        client.context = hg.Context(name, "loop")
        adapters[name] = client.to_client()
    x = Parameters(next(iter(clients.values())).get_parameters({}))
    for server_round in range(1, rounds + 1):
        manager.start_round(server_round, seed)
        results = []
        for proxy, ins in strategy.configure_fit(server_round, x, manager):
            seed_everything(task_seed(seed, server_round, proxy.cid, "fit", 0))
            results.append((proxy, adapters[proxy.cid].fit(ins)))
        new, _ = strategy.aggregate_fit(server_round, results, [])
        x = x if new is None else new
    return x


# --- the comparison --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """Who takes part, and how clients differ."""

    title: str
    clients: int
    alpha: float
    fraction: float
    most_steps: int
    """Each client takes from 1 to so many local steps; negative: every client takes so many."""


SCENARIOS = {
    "alike": Scenario("10 clients that are nearly alike (alpha 100), 30 steps each", 10, 100.0, 1.0, -30),
    "skew": Scenario("10 clients, skewed labels (alpha 0.1), 30 steps each", 10, 0.1, 1.0, -30),
    "partial": Scenario("4 of 20 clients a round, skewed labels (alpha 0.1), 30 steps each", 20, 0.1, 0.2, -30),
    "steps": Scenario("10 clients, skewed labels (alpha 0.1), from 1 to 60 steps", 10, 0.1, 1.0, 60),
}
STRATEGIES: dict[str, Callable[..., FedAvg]] = {
    "FedAvg": hg.FedAvg,
    f"FedProx({MU:g})": lambda **arguments: hg.FedProx(proximal_mu=MU, **arguments),
    "FedNova": hg.FedNova,
    "Scaffold": hg.Scaffold,
}


def federation(scenario: Scenario, seed: int) -> dict[str, hg.NumPyClient]:
    """The clients of a scenario."""
    (features, labels), _ = digits()
    rng = np.random.default_rng([seed, 2])
    clients: dict[str, hg.NumPyClient] = {}
    for number, own in enumerate(partition(labels, scenario.clients, scenario.alpha, seed)):
        steps = -scenario.most_steps if scenario.most_steps < 0 else int(rng.integers(1, scenario.most_steps + 1))
        clients[f"client{number:02d}"] = DigitsClient((features[own], labels[own]), steps)
    return clients


def outcomes(
    make: Callable[..., FedAvg], scenario: Scenario, rate: float, options: argparse.Namespace
) -> list[tuple[float, float]]:
    """For each seed, the training loss and the accuracy on the test in percent."""
    train, test = digits()
    found = []
    for seed in range(options.seeds):
        strategy = make(fraction_fit=scenario.fraction, min_fit_clients=1, on_fit_config_fn=config_of(lr=rate))
        arrays = run(strategy, federation(scenario, seed), options.rounds, seed).arrays()
        found.append((loss_and_accuracy(arrays, train)[0], 100 * loss_and_accuracy(arrays, test)[1]))
    return found


def compare(report: Report, name: str, options: argparse.Namespace) -> None:
    """Measure a scenario."""
    scenario = SCENARIOS[name]
    report.note(f"{name}: {scenario.title}; {options.rounds} rounds, {options.seeds} seeds.")
    base: list[tuple[float, float]] = []
    for strategy, make in STRATEGIES.items():
        tried = {rate: outcomes(make, scenario, rate, options) for rate in options.rates}
        rate = min(tried, key=lambda r: statistics.mean(loss for loss, _ in tried[r]))
        losses, accuracies = zip(*tried[rate], strict=True)
        base = base or tried[rate]
        report.add(figure(f"{name}: training loss, rate {rate:g}", strategy, losses, "nats"))
        report.add(figure(f"{name}: test accuracy, rate {rate:g}", strategy, accuracies, "%"))
        if strategy != "FedAvg":
            better = sum(loss < other - CLEARLY for loss, (other, _) in zip(losses, base, strict=True))
            report.add(
                Figure(name=f"{name}: better than FedAvg", system=strategy, value=better, unit=f"of {options.seeds} seeds")
            )


def main() -> None:
    """Run and report."""
    p = parser(__doc__)
    p.add_argument("--seeds", type=int, help="default: 1 when quick, 5 otherwise")
    p.add_argument("--rounds", type=int, default=40, help="default: %(default)s")
    p.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="default: all")
    p.add_argument("--rates", nargs="+", type=float, help="default: 1 2 when quick, 0.5 1 2 4 8 otherwise")
    options = p.parse_args()
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.rates = options.rates or ([1.0, 2.0] if options.quick else [0.5, 1.0, 2.0, 4.0, 8.0])
    logging.disable(logging.WARNING)
    report = new_report("non_iid", "Clients that are not alike", options)
    for name in options.scenario:
        compare(report, name, options)
    report.write()


if __name__ == "__main__":
    main()
