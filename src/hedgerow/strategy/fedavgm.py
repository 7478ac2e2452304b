"""Federated averaging with momentum at the server.

Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification":
``v ← β v + Δw`` and ``w ← w - η v``, where ``Δw = w - Σ n_k w_k / Σ n_k`` is the mean update of the clients.
"""

from __future__ import annotations

from typing import Any

from hedgerow.aggregation.server_step import Momentum
from hedgerow.errors import InvalidArgument
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.server_stepping import ServerStepping


class FedAvgM(ServerStepping):
    """Federated averaging whose steps gather momentum.

    ``server_learning_rate=1.0`` and ``server_momentum=0.0`` are federated averaging itself. Flower 1.6 does the same, but only
    with ``initial_parameters``.

    Args:
        server_learning_rate: The step's length η, more than 0.
        server_momentum: The part β of the last step that is added to this one, 0 ≤ β < 1.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.

    Raises:
        InvalidArgument: A value is out of its range.
    """

    @with_arguments_of(FedAvg)
    def __init__(self, *, server_learning_rate: float = 1.0, server_momentum: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not server_learning_rate > 0 or not 0 <= server_momentum < 1:
            raise InvalidArgument(
                f"server_learning_rate is {server_learning_rate} and server_momentum {server_momentum}; "
                "the first must be more than 0, the second at least 0 and less than 1."
            )
        self.server_learning_rate = server_learning_rate
        self.server_momentum = server_momentum

    def rule(self) -> Momentum:
        """The velocity v, and the step by it."""
        return Momentum(self.server_learning_rate, self.server_momentum)
