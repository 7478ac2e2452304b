"""Federated averaging whose mean is not the new model, but where the server's optimiser steps to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hedgerow.aggregation.server_step import Rule, server_step
from hedgerow.errors import InvalidArgument
from hedgerow.records import Metrics, Parameters
from hedgerow.strategy.anchored import AnchoredFedAvg
from hedgerow.strategy.strategy import Failures, FitResults


class ServerStepping(AnchoredFedAvg):
    """What strategies with an optimiser at the server share; a subclass says which optimiser.

    The mean is folded while results arrive, and handed to the optimiser in float64, before any rounding. The state is the
    optimiser's tensors by name, each None before the first step.
    """

    _state: dict[str, Parameters] | None = None

    def rule(self) -> Rule:
        """The optimiser's arithmetic."""
        raise NotImplementedError

    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """A step of the optimiser from the parameters that were sent, by way of the clients' mean."""
        mean, metrics = self._fold_fit(server_round, results, failures)
        if mean is None:
            return None, metrics
        step = server_step(self.rule(), self.anchor, mean.take(), self._state)
        self._state = step.state
        return step.parameters, metrics

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's tensors; None before the first step."""
        return dict(self._state) if self._state is not None else dict.fromkeys(self.rule().start())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a state.

        Raises:
            InvalidArgument: It is not a state of this strategy.
        """
        wanted = list(self.rule().start())
        tensors = {name: value for name, value in state.items() if isinstance(value, Parameters)}
        empty = all(value is None for value in state.values())
        if set(state) != set(wanted) or not (empty or len(tensors) == len(wanted)):
            raise InvalidArgument(
                f"A state of {type(self).__name__} holds {' and '.join(wanted)}, all of them parameters or all None, "
                f"not { {name: type(value).__name__ for name, value in state.items()} }."
            )
        self._state = None if empty else {name: tensors[name] for name in wanted}
