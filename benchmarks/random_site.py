"""A site that does not train: ``fit`` returns random weights, other ones at each client and in each round.

Constant weights would be kinder to systems that store the same bytes once.
"""

from __future__ import annotations

import numpy as np

import hedgerow as hg
from hedgerow.records import Config, Metrics, NDArrays


class RandomSite(hg.NumPyClient):
    """Draws what it returns; the draw is seeded by run, round and node, like everything at a client."""

    def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, Metrics]:
        """Random arrays of the same shapes, as one example's."""
        rng = np.random.default_rng(np.random.randint(1 << 31))
        return [rng.standard_normal(array.shape, np.float32) for array in parameters], 1, {}


site = RandomSite()
