"""Strategies that trust the updates that lie close together: Krum, Multi-Krum, Bulyan.

With n updates ``w_i``, of which f may be anything at all, Krum's score is ``s(i) = Σ |w_i - w_j|²`` over the ``n - f - 2``
updates nearest to ``w_i``. Krum takes the update with the lowest score, Multi-Krum the mean of the m lowest: Blanchard, El
Mhamdi, Guerraoui and Stainer 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", section 4. Bulyan
chooses ``θ = n - 2 f`` updates by Krum, one after another, and takes, coordinate by coordinate, the mean of the ``θ - 2 f``
values nearest to their median: El Mhamdi, Guerraoui and Rouault 2018, "The Hidden Vulnerability of Distributed Learning in
Byzantium", section 4.

The distances are those of the updates from the parameters that were sent; tensors of integers and bools do not count in them. All
clients count alike, as in the papers. The papers prove nothing for too few updates (Krum: 2 f + 3, Bulyan: 4 f + 3), so the
parameters stay as they are in a round with fewer, unless f is 0.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from hedgerow.aggregation import blocks, selection
from hedgerow.aggregation.distances import squared_distances
from hedgerow.aggregation.mean import weighted_mean
from hedgerow.aggregation.order import mean_near_median
from hedgerow.errors import InvalidArgument
from hedgerow.records import Parameters
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.robust import WholeRound

log = logging.getLogger(__name__)


class Krum(WholeRound):
    """The update that lies closest to its neighbours becomes the new parameters.

    Args:
        num_malicious_clients: f, how many clients of a round may send anything.
        num_clients_to_keep: m; more than 0 takes the mean of so many (Multi-Krum). Flower 1.6 weights it by examples, the paper
            and this class do not.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.

    Raises:
        InvalidArgument: A number is negative.
    """

    @with_arguments_of(FedAvg)
    def __init__(self, *, num_malicious_clients: int = 0, num_clients_to_keep: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_malicious_clients < 0 or num_clients_to_keep < 0:
            raise InvalidArgument(
                f"num_malicious_clients is {num_malicious_clients} and num_clients_to_keep {num_clients_to_keep}; "
                "neither must be negative."
            )
        self.num_malicious_clients = num_malicious_clients
        self.num_clients_to_keep = num_clients_to_keep

    def fold(self, server_round: int, updates: Sequence[Parameters]) -> Parameters | None:
        """The most trusted update itself, or the mean of the most trusted ones."""
        if not _enough(server_round, len(updates), self.num_malicious_clients, 2):
            return None
        keep = min(self._num_to_keep(len(updates)), len(updates))
        chosen = selection.krum(squared_distances(updates, self.anchor), self.num_malicious_clients, keep)
        if keep == 1:
            return blocks.cast(updates[chosen[0]], self._dtypes)
        return weighted_mean(((updates[i], 1) for i in chosen), self._dtypes)

    def _num_to_keep(self, num_updates: int) -> int:
        return self.num_clients_to_keep or 1


class MultiKrum(Krum):
    """The mean of the updates that lie closest to their neighbours.

    Args:
        num_malicious_clients: f, as for :class:`Krum`.
        num_clients_to_keep: m, how many updates the mean is of; 0 for n - f - 2, at least 1.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.
    """

    def _num_to_keep(self, num_updates: int) -> int:
        return self.num_clients_to_keep or max(1, num_updates - self.num_malicious_clients - 2)


class Bulyan(WholeRound):
    """The mean of the values that lie closest to the median of the updates that Krum trusts.

    Args:
        num_malicious_clients: f, how many clients of a round may send anything.
        to_keep: Accepted for code that was written for Flower, where it must be given and be 0: Krum chooses one at a time.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.

    Raises:
        InvalidArgument: ``num_malicious_clients`` is negative, or ``to_keep`` is not 0.
    """

    @with_arguments_of(FedAvg)
    def __init__(self, *, num_malicious_clients: int = 0, to_keep: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_malicious_clients < 0 or to_keep != 0:
            raise InvalidArgument(
                f"num_malicious_clients is {num_malicious_clients} and to_keep {to_keep}; "
                "the first must not be negative, the second must be 0."
            )
        self.num_malicious_clients = num_malicious_clients

    def fold(self, server_round: int, updates: Sequence[Parameters]) -> Parameters | None:
        """Choose by Krum, then fold the chosen coordinate by coordinate."""
        if not _enough(server_round, len(updates), self.num_malicious_clients, 4):
            return None
        chosen = selection.bulyan(squared_distances(updates, self.anchor), self.num_malicious_clients)
        keep = len(chosen) - 2 * self.num_malicious_clients
        return mean_near_median([updates[i] for i in sorted(chosen)], keep, self._dtypes)


def _enough(server_round: int, num_updates: int, num_malicious: int, factor: int) -> bool:
    """Whether the paper says anything about so many updates."""
    needed = factor * num_malicious + 3 if num_malicious else 1
    if num_updates < needed:
        log.warning(
            "Round %s: %s updates are too few to withstand num_malicious_clients=%s, which takes %s; "
            "the parameters stay as they are",
            server_round,
            num_updates,
            num_malicious,
            needed,
        )
    return num_updates >= needed
