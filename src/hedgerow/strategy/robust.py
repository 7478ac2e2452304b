"""Strategies that need all updates of a round at once; the coordinate-wise ones.

What is held are N lazy handles on memory-mapped files, not N models. All clients count alike: were they weighted by the numbers
of examples that they state, one could outvote the others by stating a large number.

Yin, Chen, Ramchandran and Bartlett 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates": the
parameters become the median, or the trimmed mean, of the clients', coordinate by coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hedgerow.aggregation.order import coordinate_median, trimmed_mean
from hedgerow.errors import InvalidArgument
from hedgerow.records import Metrics, Parameters
from hedgerow.strategy.anchored import AnchoredFedAvg
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.strategy import Failures, FitResults


class WholeRound(AnchoredFedAvg):
    """What strategies share that look at all updates of a round together; a subclass says how they are folded."""

    def fold(self, server_round: int, updates: Sequence[Parameters]) -> Parameters | None:
        """New parameters from at least one update, in the order of the instructions; None if they stay as they are."""
        raise NotImplementedError

    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """Fold all updates when the last one is here."""
        answers = [res for _, res in results]
        if not self._counts("fit", len(answers), failures):
            return None, {}
        parameters = self.fold(server_round, [res.parameters for res in answers])
        if parameters is None:
            return None, {}
        metrics = [(res.num_examples, res.metrics) for res in answers]
        return parameters, self._fold_metrics(self.fit_metrics_aggregation_fn, metrics, "fit", server_round)


class FedMedian(WholeRound):
    """The coordinate-wise median of the clients' parameters (Yin et al. 2018, definition 1, algorithm 1 option I).

    Its arguments are those of :class:`~hedgerow.strategy.FedAvg`. It withstands clients that send anything, as long as they are
    fewer than half.
    """

    def fold(self, server_round: int, updates: Sequence[Parameters]) -> Parameters:
        """The median."""
        return coordinate_median(updates, self._dtypes)


class FedTrimmedAvg(WholeRound):
    """The coordinate-wise trimmed mean of the clients' parameters (Yin et al. 2018, definition 2, algorithm 1 option II).

    Args:
        beta: The part β of the values of each coordinate that is left out on either side, 0 ≤ β < 0.5; ⌊β n⌋ of n values. It
            withstands as many clients that send anything.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.

    Raises:
        InvalidArgument: ``beta`` is out of its range.
    """

    @with_arguments_of(FedAvg)
    def __init__(self, *, beta: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= beta < 0.5:
            raise InvalidArgument(f"beta is {beta}; it must be at least 0 and less than 0.5.")
        self.beta = beta

    def fold(self, server_round: int, updates: Sequence[Parameters]) -> Parameters:
        """The trimmed mean."""
        return trimmed_mean(updates, int(self.beta * len(updates)), self._dtypes)
