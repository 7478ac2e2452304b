"""Adaptive optimisers at the server.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan 2020, "Adaptive Federated Optimization", algorithms 1 and 2.
With ``Δ = Σ n_k w_k / Σ n_k - w``, the mean update of the clients::

    m ← β₁ m + (1 - β₁) Δ
    v ← v + Δ²                              FedAdagrad
    v ← β₂ v + (1 - β₂) Δ²                  FedAdam
    v ← v - (1 - β₂) Δ² sign(v - Δ²)        FedYogi
    w ← w + η m / (√v + τ)

As in the paper m is 0 and v is τ² before the first step, and there is no bias correction. Flower 1.6 starts with v = 0.
"""

from __future__ import annotations

from typing import Any

from hedgerow.aggregation.server_step import Adagrad, Adam, Descent, Rule, Yogi
from hedgerow.errors import InvalidArgument
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.server_stepping import ServerStepping


class FedOpt(ServerStepping):
    """Federated averaging whose server steps by ``w ← w + η m``: algorithm 1 with plain descent as the server's optimiser.

    The adaptive ones are its subclasses. (In Flower 1.6 this class notes its arguments and averages.)

    Args:
        eta: The server's learning rate η, more than 0.
        eta_l: The clients' learning rate. Only noted; a client trains with what its config says.
        beta_1: The decay β₁ of the first moment, 0 ≤ β₁ < 1.
        beta_2: The decay β₂ of the second moment, 0 ≤ β₂ < 1; for the subclasses.
        tau: How adaptive the steps are: τ, more than 0; smaller is more so. For the subclasses.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.

    Raises:
        InvalidArgument: A value is out of its range.
    """

    @with_arguments_of(FedAvg)
    def __init__(
        self,
        *,
        eta: float = 1e-1,
        eta_l: float = 1e-1,
        beta_1: float = 0.0,
        beta_2: float = 0.0,
        tau: float = 1e-9,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not eta > 0 or not tau > 0 or not 0 <= beta_1 < 1 or not 0 <= beta_2 < 1:
            raise InvalidArgument(
                f"eta is {eta}, tau {tau}, beta_1 {beta_1} and beta_2 {beta_2}; "
                "the first two must be more than 0, the others at least 0 and less than 1."
            )
        self.eta = eta
        self.eta_l = eta_l
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.tau = tau

    def rule(self) -> Rule:
        """Plain descent."""
        return Descent(self.eta, self.beta_1)


class FedAdagrad(FedOpt):
    """Federated averaging with Adagrad at the server: algorithm 2 with β₁ = 0, as in the paper's experiments.

    Args:
        eta: As for :class:`FedOpt`, and so are the others.
    """

    @with_arguments_of(FedAvg)
    def __init__(self, *, eta: float = 1e-1, eta_l: float = 1e-1, tau: float = 1e-9, **kwargs: Any) -> None:
        super().__init__(eta=eta, eta_l=eta_l, tau=tau, beta_1=0.0, beta_2=0.0, **kwargs)

    def rule(self) -> Rule:
        """``v ← v + Δ²``."""
        return Adagrad(self.eta, self.beta_1, self.beta_2, self.tau)


class FedAdam(FedOpt):
    """Federated averaging with Adam at the server: algorithm 2.

    Args:
        eta: As for :class:`FedOpt`, and so are the others.
    """

    @with_arguments_of(FedAvg)
    def __init__(
        self,
        *,
        eta: float = 1e-1,
        eta_l: float = 1e-1,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        tau: float = 1e-9,
        **kwargs: Any,
    ) -> None:
        super().__init__(eta=eta, eta_l=eta_l, beta_1=beta_1, beta_2=beta_2, tau=tau, **kwargs)

    def rule(self) -> Rule:
        """``v ← β₂ v + (1 - β₂) Δ²``."""
        return Adam(self.eta, self.beta_1, self.beta_2, self.tau)


class FedYogi(FedOpt):
    """Federated averaging with Yogi at the server: algorithm 2.

    Args:
        eta: As for :class:`FedOpt`, and so are the others.
    """

    @with_arguments_of(FedAvg)
    def __init__(
        self,
        *,
        eta: float = 1e-2,
        eta_l: float = 0.0316,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        tau: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(eta=eta, eta_l=eta_l, beta_1=beta_1, beta_2=beta_2, tau=tau, **kwargs)

    def rule(self) -> Rule:
        """``v ← v - (1 - β₂) Δ² sign(v - Δ²)``."""
        return Yogi(self.eta, self.beta_1, self.beta_2, self.tau)
