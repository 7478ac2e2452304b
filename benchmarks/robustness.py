"""What robust strategies are worth when some clients lie, and what they cost when none does, on a small problem that is not IID.

    python -m benchmarks.robustness [--seeds 5] [--rounds 40] [--clients 15] [--liars 3] [--alpha 1.0]

Softmax regression on ten Gaussian clouds in 20 dimensions. Each client's share of each class is drawn from a Dirichlet
distribution (``--alpha``: smaller is less alike), and it trains by a few steps of SGD. A liar trains honestly and sends the
opposite, five times as far: ``w - 5 (w_k - w)``. The accuracy on data from all clouds, over the seeds, whatever comes out.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

import numpy as np

import hedgerow as hg
from benchmarks.figures import figure
from benchmarks.harness import new_report, parser
from hedgerow.records import NDArray, Parameters
from hedgerow.strategy import ClientManager, ClientProxy, FedAvg

CLASSES, DIMENSIONS, EXAMPLES, STEPS, BATCH, RATE = 10, 20, 200, 10, 20, 0.5
Data = tuple[NDArray, NDArray]


class Everybody(hg.SimpleClientManager):
    """Clients that are only names."""

    def __init__(self, count: int) -> None:
        super().__init__(wait_for_clients_s=0.0)
        for i in range(count):
            self.register(Name(f"client{i:02d}"))


class Name(ClientProxy):
    """A client that nothing is asked of: the loop below trains in its place."""

    get_properties = get_parameters = fit = evaluate = None  # type: ignore[assignment]


def main() -> None:
    """Run and print."""
    p = parser(__doc__)
    p.add_argument("--seeds", type=int, help="default: 2 when quick, 5 otherwise")
    p.add_argument("--rounds", type=int, default=40, help="default: %(default)s")
    p.add_argument("--clients", type=int, default=15, help="default: %(default)s")
    p.add_argument("--liars", type=int, default=3, help="default: %(default)s")
    p.add_argument("--alpha", type=float, default=1.0, help="default: %(default)s")
    options = p.parse_args()
    options.seeds = options.seeds or (2 if options.quick else 5)
    logging.disable(logging.WARNING)
    f = options.liars
    strategies: dict[str, Callable[[], FedAvg]] = {
        "FedAvg": hg.FedAvg,
        "FedMedian": hg.FedMedian,
        f"FedTrimmedAvg(beta={(f + 0.5) / options.clients:.2f})": lambda: hg.FedTrimmedAvg(beta=(f + 0.5) / options.clients),
        f"Krum({f})": lambda: hg.Krum(num_malicious_clients=f),
        f"MultiKrum({f})": lambda: hg.MultiKrum(num_malicious_clients=f),
        f"Bulyan({f})": lambda: hg.Bulyan(num_malicious_clients=f),
    }
    report = new_report("robustness", "Accuracy with and without liars", options)
    report.note(f"{options.clients} clients, {options.rounds} rounds, {options.seeds} seeds, alpha {options.alpha:g}.")
    for name, make in strategies.items():
        for liars in (0, f):
            accuracies = [100 * train(make(), seed, options, liars) for seed in range(options.seeds)]
            report.add(figure(f"accuracy, {liars} liars", name, accuracies, "%"))
    report.write()


def train(strategy: FedAvg, seed: int, options: argparse.Namespace, liars: int) -> float:
    """The accuracy that the strategy comes to."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((CLASSES, DIMENSIONS))
    sites = [draw(rng, centres, rng.dirichlet(np.full(CLASSES, options.alpha)), EXAMPLES) for _ in range(options.clients)]
    everywhere = draw(rng, centres, np.full(CLASSES, 1 / CLASSES), 5000)
    manager: ClientManager = Everybody(options.clients)
    x = Parameters({"w": np.zeros((DIMENSIONS + 1, CLASSES), np.float32)})
    for server_round in range(1, options.rounds + 1):
        results = []
        for i, (client, ins) in enumerate(strategy.configure_fit(server_round, x, manager)):
            w = ins.parameters["w"]
            trained = descend(rng, w, sites[i])
            sent = w - 5 * (trained - w) if i < liars else trained
            results.append((client, hg.FitRes(hg.Status(hg.Code.OK, ""), Parameters({"w": sent}), EXAMPLES, {})))
        new, _ = strategy.aggregate_fit(server_round, results, [])
        x = x if new is None else new
    features, labels = everywhere
    return float(np.mean((features @ x["w"]).argmax(axis=1) == labels))


def draw(rng: np.random.Generator, centres: NDArray, shares: NDArray, count: int) -> Data:
    """Examples with a constant feature, and their classes."""
    labels = rng.choice(CLASSES, count, p=shares)
    features = centres[labels] + rng.standard_normal((count, DIMENSIONS))
    return np.hstack([features, np.ones((count, 1))]).astype(np.float32), labels


def descend(rng: np.random.Generator, w: NDArray, data: Data) -> NDArray:
    """Some steps of SGD on the cross entropy."""
    features, labels = data
    w = w.copy()
    for _ in range(STEPS):
        batch = rng.choice(len(labels), BATCH)
        logits = features[batch] @ w
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        chances[np.arange(BATCH), labels[batch]] -= 1
        w -= np.float32(RATE / BATCH) * (features[batch].T @ chances)
    return w


if __name__ == "__main__":
    main()
