"""FedNova: clients that take more steps do not pull harder.

Wang, Liu, Liang, Joshi and Poor 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization".
Client i with the share ``p_i = n_i / n`` of the examples takes τ_i local steps, whose gradients add up with the coefficients
``a_i`` of its optimiser: ``x - y_i = η G_i a_i``. Its direction is normalised, and the mean one is followed for τ_eff steps::

    η d_i = (x - y_i) / |a_i|₁          |a_i|₁ = τ_i for plain SGD
    x ← x - τ_eff Σ p_i η d_i           τ_eff = Σ p_i |a_i|₁

With ``w_i = n_i / |a_i|₁`` this is a part ``τ_eff Σ w_i / n`` of the way from x to the mean of the ``y_i`` with the weights
``w_i``, so that updates are folded while they arrive. When all ``|a_i|₁`` are equal it is federated averaging.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from typing import Any

from hedgerow.aggregation import blocks
from hedgerow.aggregation.mean import WeightedMean
from hedgerow.aggregation.server_step import Part, server_step
from hedgerow.errors import InvalidArgument
from hedgerow.records import FitRes, Metrics, Parameters
from hedgerow.strategy.anchored import AnchoredFedAvg
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.clients import ClientProxy
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.strategy import Failures, FitResults

log = logging.getLogger(__name__)

NORM = "fednova_norm"
"""The metric in which a client tells ``|a_i|₁``."""


class FedNova(AnchoredFedAvg):
    """FedNova; a client tells its ``|a_i|₁`` in the metrics of its ``fit`` as ``"fednova_norm"``.

    :class:`hedgerow.training.NormalisedSteps` counts it. An ``|a_i|₁`` that is negative or not finite leaves its client out of
    the round, with a warning. A client that took no step, and whose ``|a_i|₁`` is 0, counts with its examples and without any
    direction.

    Args:
        averaged: Names of tensors that are no sums of gradients, such as the running statistics of batch normalisation: they
            become the mean weighted by examples, as do all tensors of integers and bools.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.
    """

    @with_arguments_of(FedAvg)
    def __init__(self, *, averaged: Collection[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.averaged = frozenset(averaged)

    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """One step of normalised averaging, folded while results arrive."""
        directed, plain = WeightedMean(), WeightedMean()
        examples, norms, metrics = 0, [], []
        for client, res in results:
            norm = self._norm(server_round, client, res)
            if norm is None:
                continue
            if norm and res.num_examples:
                directed.add(self._part(res.parameters, directed=True), res.num_examples / norm)
                norms.append(res.num_examples * norm)
            plain.add(self._part(res.parameters, directed=False), res.num_examples)
            examples += res.num_examples
            metrics.append((res.num_examples, res.metrics))
        if not self._counts("fit", len(metrics), failures):
            return None, {}
        if not norms:
            log.warning("Round %s: none of %s clients took a step; the parameters stay as they are", server_round, len(metrics))
            return None, {}
        part = math.fsum(norms) / examples * directed.weight / examples
        stepped = server_step(Part(part), self._part(self.anchor, directed=True), directed.take(), None).parameters
        others = plain.result(self._dtypes)
        new = Parameters({name: stepped[name] if name in stepped else others[name] for name in self.anchor})
        return new, self._fold_metrics(self.fit_metrics_aggregation_fn, metrics, "fit", server_round)

    def _part(self, parameters: Parameters, *, directed: bool) -> Parameters:
        """The tensors that are sums of gradients, or the others; which ones, the parameters that were sent say."""
        model = self.anchor
        return parameters.select(
            [n for n in parameters if (blocks.moves(model.stored(n)) and n not in self.averaged) is directed]
        )

    def _norm(self, server_round: int, client: ClientProxy, res: FitRes) -> float | None:
        """``|a_i|₁``; None where that is no number that can be used."""
        norm = res.metrics.get(NORM)
        if norm is None:
            raise InvalidArgument(
                f"FedNova needs to know the steps that {client.cid} took. Let its fit give the metric {NORM!r}: the number of "
                "its steps for plain SGD, or what hedgerow.training.NormalisedSteps counts."
            )
        if isinstance(norm, int | float) and 0 <= norm < math.inf:
            return float(norm)
        log.warning("Round %s: %s is left out, its %s is %r", server_round, client.cid, NORM, norm)
        return None
