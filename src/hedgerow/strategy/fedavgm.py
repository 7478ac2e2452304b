"""Federated averaging with momentum at the server.

Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification":
``v ← β v + Δw`` and ``w ← w - η v``, where ``Δw = w - Σ n_k w_k / Σ n_k`` is the mean update of the clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hedgerow.aggregation.momentum import momentum_step
from hedgerow.errors import InvalidArgument
from hedgerow.records import FitIns, Metrics, Parameters
from hedgerow.strategy.clients import ClientManager, ClientProxy
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.strategy import Failures, FitResults


class FedAvgM(FedAvg):
    """Federated averaging whose steps gather momentum.

    ``server_learning_rate=1.0`` and ``server_momentum=0.0`` are federated averaging itself.

    Args:
        server_learning_rate: The step's length η, more than 0.
        server_momentum: The part β of the last step that is added to this one, 0 ≤ β < 1.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.

    Raises:
        InvalidArgument: A value is out of its range.
    """

    def __init__(self, *, server_learning_rate: float = 1.0, server_momentum: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not server_learning_rate > 0 or not 0 <= server_momentum < 1:
            raise InvalidArgument(
                f"server_learning_rate is {server_learning_rate} and server_momentum {server_momentum}; "
                "the first must be more than 0, the second at least 0 and less than 1."
            )
        self.server_learning_rate = server_learning_rate
        self.server_momentum = server_momentum
        self._velocity: Parameters | None = None
        self._sent: Parameters | None = None

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """As federated averaging does; notes where the step will start from."""
        self._sent = parameters
        return super().configure_fit(server_round, parameters, client_manager)

    def resume_fit(self, server_round: int, parameters: Parameters, instructions: Sequence[tuple[ClientProxy, FitIns]]) -> None:
        """Note where the step will start from."""
        self._sent = parameters

    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """A step from the parameters that were sent, by the clients' mean update and the steps before."""
        mean, metrics = super().aggregate_fit(server_round, results, failures)
        if mean is None:
            return None, metrics
        if self._sent is None:
            raise InvalidArgument("aggregate_fit needs the parameters that configure_fit sent. Call that first.")
        step = momentum_step(self._sent, mean, self._velocity, lr=self.server_learning_rate, beta=self.server_momentum)
        self._velocity = step.velocity
        return step.parameters, metrics

    def state_dict(self) -> dict[str, Any]:
        """The velocity v; None before the first step."""
        return {"velocity": self._velocity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a velocity.

        Raises:
            InvalidArgument: It is not a state of this strategy.
        """
        velocity = state.get("velocity")
        if set(state) != {"velocity"} or not (velocity is None or isinstance(velocity, Parameters)):
            raise InvalidArgument(f"A state of FedAvgM holds a velocity, not {sorted(state)}.")
        self._velocity = velocity
