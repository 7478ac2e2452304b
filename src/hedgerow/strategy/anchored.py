"""Federated averaging that knows, when results come, from which parameters the clients started."""

from __future__ import annotations

from hedgerow.errors import InvalidArgument
from hedgerow.records import Parameters
from hedgerow.strategy.fedavg import FedAvg


class AnchoredFedAvg(FedAvg):
    """Federated averaging that keeps the parameters of the round; for strategies whose fold is relative to them."""

    _anchor: Parameters | None = None

    @property
    def anchor(self) -> Parameters:
        """The parameters that were sent in this round.

        Raises:
            InvalidArgument: None were sent yet.
        """
        if self._anchor is None:
            raise InvalidArgument("aggregate_fit needs the parameters that configure_fit sent. Call that first.")
        return self._anchor

    def _note_sent(self, parameters: Parameters) -> None:
        super()._note_sent(parameters)
        self._anchor = parameters
