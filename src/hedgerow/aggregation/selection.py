"""Which updates a robust rule trusts, told from the distances between them. Numbers only.

Blanchard, El Mhamdi, Guerraoui and Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent"
(Krum, Multi-Krum, section 4); El Mhamdi, Guerraoui and Rouault 2018, "The Hidden Vulnerability of Distributed Learning in
Byzantium" (Bulyan's selection, section 4).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def krum_scores(distances: npt.NDArray[np.float64], num_malicious: int) -> npt.NDArray[np.float64]:
    """Krum's score of each update: the sum of its squared distances to the nearest others.

    They are the ``n - f - 2`` nearest; at least one, if there is one.

    Args:
        distances: Squared distances of n updates, shape (n, n).
        num_malicious: f, how many of them may be anything at all.

    Returns:
        float64 of shape (n,); the lowest is the most trusted.

    >>> krum_scores(np.array([[0.0, 1.0, 9.0], [1.0, 0.0, 4.0], [9.0, 4.0, 0.0]]), 0).tolist()
    [1.0, 1.0, 4.0]
    """
    count = len(distances)
    others = distances[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    nearest: npt.NDArray[np.float64] = np.sort(others, axis=1)[:, : max(1, count - num_malicious - 2)]
    scores: npt.NDArray[np.float64] = nearest.sum(axis=1)
    return scores


def krum(distances: npt.NDArray[np.float64], num_malicious: int, keep: int = 1) -> list[int]:
    """The indices of the ``keep`` updates with the lowest scores, best first; of equal ones the first."""
    return [int(i) for i in np.argsort(krum_scores(distances, num_malicious), kind="stable")[:keep]]


def bulyan(distances: npt.NDArray[np.float64], num_malicious: int) -> list[int]:
    """The indices of the ``n - 2 f`` updates that Krum chooses one after another, each from those that are left."""
    left = list(range(len(distances)))
    chosen = []
    for _ in range(len(distances) - 2 * num_malicious):
        (best,) = krum(distances[np.ix_(left, left)], num_malicious)
        chosen.append(left.pop(best))
    return chosen
