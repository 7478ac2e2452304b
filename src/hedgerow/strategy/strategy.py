"""The strategy's interface: six methods that decide what is asked of whom and what becomes of the answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from hedgerow.aggregation.blocks import Room
from hedgerow.aggregation.updates import UpdateSpec
from hedgerow.errors import InvalidArgument
from hedgerow.records import EvaluateIns, EvaluateRes, FitIns, FitRes, Metrics, Parameters
from hedgerow.strategy.clients import ClientManager, ClientProxy

FitResults: TypeAlias = Sequence[tuple[ClientProxy, FitRes]]
EvaluateResults: TypeAlias = Sequence[tuple[ClientProxy, EvaluateRes]]
Failures: TypeAlias = Sequence[tuple[ClientProxy, FitRes | EvaluateRes] | BaseException]


class Strategy(ABC):
    """Decides what is asked of which clients, and folds their answers into new parameters.

    ``results`` in the two aggregating methods is a sequence that fills while clients answer. Iterating yields
    ``(client, result)`` in the order of the instructions and waits where it must, so that a strategy that folds while it iterates
    works while others still train, and need not hold all updates. ``len``, indexing and truth wait for the last answer, and so
    does everything about ``failures``.

    Attributes:
        min_available_clients: How many clients must be there before one of them is asked for initial parameters. Which one is
            asked depends on the run's seed and on who is there.
        room: Where ``aggregate_fit`` may put new parameters block by block, so that they are not held; set by the driver. A
            strategy that gives arrays need not know of it.
    """

    min_available_clients: int = 1
    room: Room | None = None

    @abstractmethod
    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """The parameters to start from, or None to take those of a client."""

    @abstractmethod
    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Who trains in this round, and with what. An empty list: nobody."""

    @abstractmethod
    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """Fold the updates into new parameters (None: keep the old ones), and metrics of the training.

        A run that is taken up folds the same results again, and must get the same parameters: random numbers that are needed here
        follow from the round, not from the time.
        """

    @abstractmethod
    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Who evaluates in this round, and with what. An empty list: nobody."""

    @abstractmethod
    def aggregate_evaluate(self, server_round: int, results: EvaluateResults, failures: Failures) -> tuple[float | None, Metrics]:
        """Fold the clients' losses into one (None: no loss), and metrics of the evaluation."""

    @abstractmethod
    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, Metrics] | None:
        """Evaluate the parameters here, not at the clients; None if that is not done."""

    def update_spec(self, server_round: int, ins: FitIns) -> UpdateSpec:
        """What the answer to this instruction must look like; an answer that does not is a failure.

        Unless a strategy says more, everything that is finite may come back.
        """
        return UpdateSpec()

    def resume_fit(  # noqa: B027 (optional, so not abstract)
        self, server_round: int, parameters: Parameters, instructions: Sequence[tuple[ClientProxy, FitIns]]
    ) -> None:
        """Called in place of :meth:`configure_fit` when a run is taken up in a round in which the instructions were sent.

        A strategy whose ``configure_fit`` notes something for ``aggregate_fit`` notes it here, too.
        """

    def resume_evaluate(  # noqa: B027
        self, server_round: int, parameters: Parameters, instructions: Sequence[tuple[ClientProxy, EvaluateIns]]
    ) -> None:
        """The same for :meth:`configure_evaluate`."""

    def state_dict(self) -> dict[str, Any]:
        """The strategy's own state, if it has any, as a dictionary that :meth:`load_state_dict` takes back.

        A checkpoint keeps it after each round, and a round that is not valid is undone with it. So its values must not be changed
        in place later: ``aggregate_fit`` makes new ones and puts them in the place of the old ones at its end. They may be
        numbers, strings, arrays, :class:`~hedgerow.records.Parameters`, and lists, tuples and dicts of them.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a state.

        Raises:
            InvalidArgument: It is not a state of this strategy.
        """
        if state:
            raise InvalidArgument(f"{type(self).__name__} has no state, but was handed {sorted(state)}.")
