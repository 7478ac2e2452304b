"""FedProx at the client: the term that holds a model back from straying (Li et al. 2018, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hedgerow.records import NDArray


def proximal_gradient(weights: Sequence[NDArray], start: Sequence[NDArray], mu: float) -> list[NDArray]:
    """What the proximal term adds to the gradient: ``μ (w - w^t)``.

    Args:
        weights: The arrays w now.
        start: The arrays w^t that the client was sent.
        mu: μ, ``config["proximal_mu"]``.

    >>> proximal_gradient([np.array([3.0, 1.0])], [np.array([1.0, 1.0])], 0.5)
    [array([1., 0.])]
    """
    return [mu * (now - before) for now, before in zip(weights, start, strict=True)]


def proximal_loss(weights: Sequence[NDArray], start: Sequence[NDArray], mu: float) -> float:
    """The proximal term itself: ``μ/2 |w - w^t|²``, over all arrays together.

    >>> proximal_loss([np.array([3.0, 1.0])], [np.array([1.0, 1.0])], 0.5)
    1.0
    """
    squares = (float(np.sum(np.abs(now - before) ** 2, dtype=np.float64)) for now, before in zip(weights, start, strict=True))
    return mu / 2 * math.fsum(squares)
