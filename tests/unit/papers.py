"""The papers' rules, written out slowly and literally: vectors of float64, one client and one coordinate at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


def weighted_mean(vectors: Sequence[Vector], weights: Sequence[float]) -> Vector:
    """McMahan et al. 2017, algorithm 1: sum of n_k / n w_k."""
    total = np.zeros_like(vectors[0])
    for vector, weight in zip(vectors, weights, strict=True):
        total = total + weight * vector
    return total / math.fsum(weights)


class Server:
    """Reddi et al. 2020, algorithm 2, and Hsu et al. 2019: what one step does to w."""

    def __init__(self, w: Vector, **settings: float) -> None:
        self.w = w
        self.settings = settings
        self.m = np.zeros_like(w)
        self.v = np.full_like(w, settings.get("tau", 0.0) ** 2)
        self.velocity = np.zeros_like(w)

    def momentum(self, mean: Vector) -> Vector:
        lr, beta = self.settings["lr"], self.settings["beta"]
        self.velocity = beta * self.velocity + (self.w - mean)
        self.w = self.w - lr * self.velocity
        return self.w

    def descent(self, mean: Vector) -> Vector:
        beta_1 = self.settings["beta_1"]
        self.m = beta_1 * self.m + (1 - beta_1) * (mean - self.w)
        self.w = self.w + self.settings["eta"] * self.m
        return self.w

    def adagrad(self, mean: Vector) -> Vector:
        return self._adaptive(mean, lambda v, d: v + d**2)

    def adam(self, mean: Vector) -> Vector:
        beta_2 = self.settings["beta_2"]
        return self._adaptive(mean, lambda v, d: beta_2 * v + (1 - beta_2) * d**2)

    def yogi(self, mean: Vector) -> Vector:
        beta_2 = self.settings["beta_2"]
        return self._adaptive(mean, lambda v, d: v - (1 - beta_2) * d**2 * np.sign(v - d**2))

    def _adaptive(self, mean: Vector, second: Any) -> Vector:
        delta = mean - self.w
        beta_1 = self.settings["beta_1"]
        self.m = beta_1 * self.m + (1 - beta_1) * delta
        self.v = second(self.v, delta)
        self.w = self.w + self.settings["eta"] * self.m / (np.sqrt(self.v) + self.settings["tau"])
        return self.w


def median(vectors: Sequence[Vector]) -> Vector:
    """Yin et al. 2018, definition 1."""
    return np.array([_median([vector[i] for vector in vectors]) for i in range(vectors[0].size)])


def trimmed_mean(vectors: Sequence[Vector], beta: float) -> Vector:
    """Yin et al. 2018, definition 2: without the largest and smallest fraction beta of each coordinate's values."""
    cut = math.floor(beta * len(vectors))
    means = []
    for i in range(vectors[0].size):
        values = sorted(float(vector[i]) for vector in vectors)[cut : len(vectors) - cut]
        means.append(_sum(values) / len(values))
    return np.array(means)


def krum_scores(vectors: Sequence[Vector], f: int) -> list[float]:
    """Blanchard et al. 2017: sum of squared distances to the n - f - 2 closest vectors."""
    scores = []
    for i, vector in enumerate(vectors):
        distances = sorted(float(np.sum((vector - other) ** 2)) for j, other in enumerate(vectors) if j != i)
        scores.append(math.fsum(distances[: max(1, len(vectors) - f - 2)]))
    return scores


def krum(vectors: Sequence[Vector], f: int) -> int:
    """The index of the vector with the smallest score; of equal ones the first."""
    scores = krum_scores(vectors, f)
    return scores.index(min(scores))


def multi_krum(vectors: Sequence[Vector], f: int, m: int) -> Vector:
    """The mean of the m vectors with the smallest scores."""
    scores = krum_scores(vectors, f)
    best = sorted(range(len(vectors)), key=lambda i: scores[i])[:m]
    return weighted_mean([vectors[i] for i in best], [1] * m)


def bulyan(vectors: Sequence[Vector], f: int) -> Vector:
    """El Mhamdi et al. 2018: theta = n - 2 f vectors by Krum, then the beta = theta - 2 f values closest to the median."""
    received = list(vectors)
    selected: list[Vector] = []
    theta = len(vectors) - 2 * f
    while len(selected) < theta:
        selected.append(received.pop(krum(received, f)))
    return near_median(selected, theta - 2 * f)


def near_median(vectors: Sequence[Vector], keep: int) -> Vector:
    """Coordinate by coordinate the mean of the values closest to the median; of equally close ones the smaller."""
    means = []
    for i in range(vectors[0].size):
        values = [float(vector[i]) for vector in vectors]
        middle = _median(values)
        closest = sorted(sorted(values, key=lambda x: (abs(x - middle), x))[:keep])
        means.append(_sum(closest) / keep)
    return np.array(means)


def q_fedavg(w: Vector, vectors: Sequence[Vector], losses: Sequence[float], q: float, lr: float) -> Vector:
    """Li et al. 2019, algorithm 2, with 1e-10 added to the losses as in the authors' code."""
    lipschitz = 1 / lr
    deltas, hs = [], []
    for vector, loss in zip(vectors, losses, strict=True):
        loss = loss + 1e-10
        gradient = lipschitz * (w - vector)
        deltas.append(loss**q * gradient)
        hs.append(q * loss ** (q - 1) * float(np.sum(gradient**2)) + lipschitz * loss**q)
    return np.asarray(w - np.sum(deltas, axis=0) / math.fsum(hs))


class Scaffold:
    """Karimireddy et al. 2020, algorithm 1 with option II: N clients with the gradients ``gradients[i](y)``."""

    def __init__(self, x: Vector, gradients: Sequence[Any], global_lr: float) -> None:
        self.x = x
        self.c = np.zeros_like(x)
        self.c_i = [np.zeros_like(x) for _ in gradients]
        self.gradients = gradients
        self.global_lr = global_lr

    def round(self, sample: Sequence[int], steps: Sequence[int], lr: float) -> None:
        deltas_y, deltas_c = [], []
        for i in sample:
            y = self.x
            for _ in range(steps[i]):
                y = y - lr * (self.gradients[i](y) - self.c_i[i] + self.c)
            c_plus = self.c_i[i] - self.c + (self.x - y) / (steps[i] * lr)
            deltas_y.append(y - self.x)
            deltas_c.append(c_plus - self.c_i[i])
            self.c_i[i] = c_plus
        self.x = self.x + self.global_lr / len(sample) * np.sum(deltas_y, axis=0)
        self.c = self.c + len(sample) / len(self.gradients) * (np.sum(deltas_c, axis=0) / len(sample))


def fednova(x: Vector, gradients: Sequence[Sequence[Vector]], a: Sequence[Vector], p: Sequence[float], lr: float) -> Vector:
    """Wang et al. 2020: the gradients of each client's steps, the coefficients of its optimiser, its share of the examples."""
    tau_eff = math.fsum(share * float(np.sum(np.abs(one))) for share, one in zip(p, a, strict=True))
    direction = np.zeros_like(x)
    for share, steps, one in zip(p, gradients, a, strict=True):
        d = np.zeros_like(x)
        for coefficient, gradient in zip(one, steps, strict=True):
            d = d + coefficient * gradient / np.sum(np.abs(one))
        direction = direction + share * lr * d
    return np.asarray(x - tau_eff * direction)


def momentum_coefficients(steps: int, rho: float) -> Vector:
    """Wang et al. 2020, section 4: a of SGD with momentum."""
    return np.array([(1 - rho ** (steps - k)) / (1 - rho) for k in range(steps)])


def proximal_coefficients(steps: int, alpha: float) -> Vector:
    """Wang et al. 2020, section 4: a of SGD with a proximal term, alpha = lr mu."""
    return np.array([(1 - alpha) ** (steps - 1 - k) for k in range(steps)])


def clip(vector: Vector, reference: Vector, max_norm: float) -> Vector:
    """McMahan et al. 2018: the update scaled by min(1, C / its norm)."""
    norm = math.sqrt(float(np.sum((vector - reference) ** 2)))
    return reference + min(1.0, max_norm / norm if norm else 1.0) * (vector - reference)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(float(value) for value in values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else (low + high) / 2


def _sum(values: Sequence[float]) -> float:
    """In float64 and in order, as the folds add."""
    total = np.float64(0.0)
    for value in values:
        total = total + np.float64(value)
    return float(total)
