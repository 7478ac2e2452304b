"""FedProx: clients are held back from straying far from the model that they were sent.

Li et al. 2018, "Federated Optimization in Heterogeneous Networks", algorithm 2: client k minimises, exactly or not,
``h_k(w) = F_k(w) + μ/2 |w - w^t|²``; the new model is the clients' mean, as in federated averaging.
"""

from __future__ import annotations

from typing import Any

from hedgerow.errors import InvalidArgument
from hedgerow.records import FitIns, Parameters
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.clients import ClientManager, ClientProxy
from hedgerow.strategy.fedavg import FedAvg


class FedProx(FedAvg):
    """Federated averaging that tells clients μ, as ``"proximal_mu"`` in the config of ``fit``.

    The term itself is the client's: :func:`hedgerow.training.proximal_gradient`, or with PyTorch
    :class:`hedgerow.training.ProximalTerm`. The paper counts the clients of a round alike and samples them by their share of the
    examples; here, as in Flower 1.6, they are sampled alike and weighted by it.

    Args:
        proximal_mu: μ, at least 0; 0 is federated averaging.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.

    Raises:
        InvalidArgument: μ is negative.
    """

    @with_arguments_of(FedAvg)
    def __init__(self, *, proximal_mu: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not proximal_mu >= 0:
            raise InvalidArgument(f"proximal_mu is {proximal_mu}; it must be at least 0.")
        self.proximal_mu = proximal_mu

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """As federated averaging, with μ in the config."""
        pairs = super().configure_fit(server_round, parameters, client_manager)
        made: dict[int, FitIns] = {}
        for _, ins in pairs:
            made.setdefault(id(ins), FitIns(ins.parameters, {**ins.config, "proximal_mu": self.proximal_mu}))
        return [(client, made[id(ins)]) for client, ins in pairs]
