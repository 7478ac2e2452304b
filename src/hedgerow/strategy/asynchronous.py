"""The interface of strategies without rounds that wait: an update is folded when it comes, into the model that there is then.

The *version* of the model counts its changes. A task starts from one version; when its update comes, the model may be some
versions further: that difference is the update's staleness. A run's round is the making of one version.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from hedgerow.records import FitIns, FitRes, Metrics, Parameters
from hedgerow.strategy.clients import ClientManager, ClientProxy, Criterion
from hedgerow.strategy.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Update:
    """What a client returned.

    Attributes:
        client: The client.
        base: The model that it started from.
        res: Its result.
        staleness: How many versions the model has got further since; 0 for none.
    """

    client: ClientProxy
    base: Parameters
    res: FitRes
    staleness: int


class Idle(Criterion):
    """Restricts a choice to clients that may be given a task now."""

    def __init__(self, busy: AbstractSet[str]) -> None:
        self._busy = busy

    def select(self, client: ClientProxy) -> bool:
        """Whether the client is not at work."""
        return client.cid not in self._busy


class AsynchronousStrategy(Strategy):
    """Folds updates as they come, in the order in which the server stored them.

    Between two flushes nothing but the buffer changes, and a checkpoint is made right after a flush, when the buffer is empty: so
    the buffer is no part of :meth:`~hedgerow.strategy.Strategy.state_dict`.

    Attributes:
        buffer_size: A new version is made of so many updates.
        concurrency: So many tasks are under way at a time, if there are clients for them.
    """

    buffer_size: int
    concurrency: int

    @abstractmethod
    def configure_task(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager, idle: Criterion
    ) -> tuple[ClientProxy, FitIns] | None:
        """Who trains next, of those that are idle, and with what; None for nobody."""

    @abstractmethod
    def fold(self, server_round: int, update: Update) -> bool:
        """Put an update into the buffer; False if it is too stale to be used."""

    @abstractmethod
    def flush(self, server_round: int, parameters: Parameters) -> tuple[Parameters, Metrics]:
        """Make the next version of the model from the buffer, which is empty then; also metrics of the training."""

    @abstractmethod
    def discard(self) -> None:
        """Empty the buffer without using it."""
