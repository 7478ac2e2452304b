"""Strategies around strategies: what is orthogonal to how updates are folded is put around the fold, not into a subclass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hedgerow.aggregation.blocks import Room
from hedgerow.aggregation.updates import UpdateSpec
from hedgerow.errors import InvalidArgument
from hedgerow.records import EvaluateIns, FitIns, Metrics, Parameters, parameters_to_ndarrays
from hedgerow.strategy.asynchronous import AsynchronousStrategy
from hedgerow.strategy.clients import ClientManager, ClientProxy
from hedgerow.strategy.fedavg import EvaluateFn
from hedgerow.strategy.strategy import EvaluateResults, Failures, FitResults, Strategy


class Composed(Strategy):
    """A strategy that leaves everything to the one inside; a subclass says what it does itself.

    Args:
        strategy: The strategy inside; not an asynchronous one, which has no rounds in which clients are chosen.

    Attributes:
        strategy: The same.

    Raises:
        InvalidArgument: The strategy is asynchronous.
    """

    def __init__(self, strategy: Strategy) -> None:
        if isinstance(strategy, AsynchronousStrategy):
            raise InvalidArgument(f"{type(strategy).__name__} is asynchronous; {type(self).__name__} cannot be put around it.")
        self.strategy = strategy

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.strategy!r})"

    @property
    def min_available_clients(self) -> int:  # type: ignore[override]  # settable where the one inside is
        """That of the strategy inside."""
        return self.strategy.min_available_clients

    @property
    def room(self) -> Room | None:
        """That of the strategy inside."""
        return self.strategy.room

    @room.setter
    def room(self, room: Room | None) -> None:
        self.strategy.room = room

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """Left to the strategy inside."""
        return self.strategy.initialize_parameters(client_manager)

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Left to the strategy inside."""
        return self.strategy.configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """Left to the strategy inside."""
        return self.strategy.aggregate_fit(server_round, results, failures)

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Left to the strategy inside."""
        return self.strategy.configure_evaluate(server_round, parameters, client_manager)

    def aggregate_evaluate(self, server_round: int, results: EvaluateResults, failures: Failures) -> tuple[float | None, Metrics]:
        """Left to the strategy inside."""
        return self.strategy.aggregate_evaluate(server_round, results, failures)

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, Metrics] | None:
        """Left to the strategy inside."""
        return self.strategy.evaluate(server_round, parameters)

    def update_spec(self, server_round: int, ins: FitIns) -> UpdateSpec:
        """Left to the strategy inside."""
        return self.strategy.update_spec(server_round, ins)

    def resume_fit(self, server_round: int, parameters: Parameters, instructions: Sequence[tuple[ClientProxy, FitIns]]) -> None:
        """Left to the strategy inside."""
        self.strategy.resume_fit(server_round, parameters, instructions)

    def resume_evaluate(
        self, server_round: int, parameters: Parameters, instructions: Sequence[tuple[ClientProxy, EvaluateIns]]
    ) -> None:
        """Left to the strategy inside."""
        self.strategy.resume_evaluate(server_round, parameters, instructions)

    def state_dict(self) -> dict[str, Any]:
        """The state of the strategy inside, under its class's name."""
        return {type(self.strategy).__name__: self.strategy.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a state.

        Raises:
            InvalidArgument: It is that of another strategy.
        """
        name = type(self.strategy).__name__
        if list(state) != [name]:
            raise InvalidArgument(f"{type(self).__name__} holds a {name}; the state is that of {sorted(state)}.")
        self.strategy.load_state_dict(state[name])


class Evaluating(Composed):
    """A strategy that is evaluated, here and by the clients, in some of the rounds only.

    Args:
        strategy: The strategy inside.
        evaluate_fn: Evaluates parameters here, called as ``evaluate_fn(server_round, arrays, {})``; None to leave it to the
            strategy.
        central_every: Here in every so many rounds, counted from 0, the round before training; 0 for never.
        federated_every: By the clients in every so many rounds, counted from 1; 0 for never.

    Raises:
        InvalidArgument: A value is out of its range.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        evaluate_fn: EvaluateFn | None = None,
        central_every: int = 1,
        federated_every: int = 1,
    ) -> None:
        super().__init__(strategy)
        if min(central_every, federated_every) < 0:
            raise InvalidArgument(f"central_every is {central_every} and federated_every {federated_every}; give 0 or more.")
        self._evaluate_fn = evaluate_fn
        self._central_every = central_every
        self._federated_every = federated_every

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, Metrics] | None:
        """Evaluate here, if it is such a round."""
        if not _is_due(server_round, self._central_every):
            return None
        if self._evaluate_fn is None:
            return super().evaluate(server_round, parameters)
        return self._evaluate_fn(server_round, parameters_to_ndarrays(parameters), {})

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Let clients evaluate, if it is such a round."""
        if not _is_due(server_round, self._federated_every):
            return []
        return super().configure_evaluate(server_round, parameters, client_manager)


def _is_due(server_round: int, every: int) -> bool:
    return bool(every) and server_round % every == 0
