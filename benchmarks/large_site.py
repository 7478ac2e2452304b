"""Sites that do not train on large models: one returns random weights of its own, one returns what came.

Random numbers for a model of 1 GB take longer to draw than everything else in a round, so they are drawn once, other ones at each
client, and every 65,536th is changed each time: no two results are the same bytes.
"""

from __future__ import annotations

import numpy as np

import hedgerow as hg
from hedgerow.records import Config, Metrics, NDArrays

EVERY = 65_536


class LargeSite(hg.NumPyClient):
    """Random weights, drawn once."""

    _weights: NDArrays | None = None

    def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, Metrics]:
        """Arrays of the same shapes, as one example's."""
        if self._weights is None or [w.shape for w in self._weights] != [p.shape for p in parameters]:
            rng = np.random.default_rng(list(self.context.node_name.encode()))
            self._weights = [rng.standard_normal(p.shape, np.float32) for p in parameters]
        for weights in self._weights:
            weights.reshape(-1)[::EVERY] += np.float32(0.001)
        return self._weights, 1, {}


class SameSite(hg.Client):
    """Returns the parameters as they came: views of their file, which are written block by block and never held."""

    def fit(self, ins: hg.FitIns) -> hg.FitRes:
        """No training at all."""
        return hg.FitRes(hg.Status(hg.Code.OK, ""), ins.parameters, 1, {})


site = LargeSite()
same = SameSite()
