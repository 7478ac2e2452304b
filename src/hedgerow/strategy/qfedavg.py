"""Fair federated averaging: clients with a high loss pull harder.

Li, Sanjabi, Beirami and Smith 2019, "Fair Resource Allocation in Federated Learning", algorithm 2 (q-FedAvg). With ``F_k`` the
loss of client k at the parameters w that were sent, ``w_k`` its parameters after training and ``L = 1 / qffl_learning_rate``::

    g_k = L (w - w_k)
    Δ_k = F_k^q g_k
    h_k = q F_k^(q-1) |g_k|² + L F_k^q
    w ← w - Σ Δ_k / Σ h_k

This is a part ``L Σ F_k^q / Σ h_k`` of the way from w to the mean of the ``w_k`` with the weights ``F_k^q``, so that updates
are folded while they arrive. As in the authors' code, 1e-10 is added to the losses. With q = 0 it is the mean of the clients,
all alike.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from hedgerow.aggregation.distances import squared_norm
from hedgerow.aggregation.mean import WeightedMean
from hedgerow.aggregation.server_step import Part, server_step
from hedgerow.errors import InvalidArgument
from hedgerow.records import FitRes, Metrics, Parameters, Scalar
from hedgerow.strategy.anchored import AnchoredFedAvg
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.clients import ClientProxy
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.strategy import Failures, FitResults

log = logging.getLogger(__name__)

EPSILON = 1e-10


class QFedAvg(AnchoredFedAvg):
    """q-FedAvg: the larger q is, the more alike the clients' losses become.

    The paper's ``F_k`` is each client's own loss before it trains. A client states it in the metrics of its ``fit`` as
    ``"initial_loss"``. For a client that does not, the loss that ``evaluate_fn`` gives for the parameters that were sent is
    taken: that is all that Flower 1.6 does, and with the same loss for all clients nothing is left of the fairness. A loss that
    is negative or not finite leaves its client out of the round, with a warning.

    Args:
        q_param: q, at least 0.
        qffl_learning_rate: 1 / L, more than 0: the clients' learning rate, says the paper.
        min_fit_clients: At least so many train.
        min_evaluate_clients: At least so many evaluate.
        min_available_clients: A round begins when so many clients are available.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.

    Raises:
        InvalidArgument: A value is out of its range.
    """

    @with_arguments_of(FedAvg)
    def __init__(
        self,
        *,
        q_param: float = 0.2,
        qffl_learning_rate: float = 0.1,
        min_fit_clients: int = 1,
        min_evaluate_clients: int = 1,
        min_available_clients: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            min_fit_clients=min_fit_clients,
            min_evaluate_clients=min_evaluate_clients,
            min_available_clients=min_available_clients,
            **kwargs,
        )
        if not q_param >= 0 or not qffl_learning_rate > 0:
            raise InvalidArgument(
                f"q_param is {q_param} and qffl_learning_rate {qffl_learning_rate}; "
                "the first must be at least 0, the second more than 0."
            )
        self.q_param = q_param
        self.learning_rate = qffl_learning_rate

    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """One step of algorithm 2, folded while results arrive."""
        lipschitz = 1.0 / self.learning_rate
        mean, bound, metrics = WeightedMean(), 0.0, []
        central: float | None = None
        loss: Scalar | None
        for client, res in results:
            loss = res.metrics.get("initial_loss")
            if loss is None:
                loss = central = self._central_loss(server_round, client) if central is None else central
            pull = self._pull(loss)
            if pull is None:
                log.warning("Round %s: %s is left out, its loss before training is %r", server_round, client.cid, loss)
                continue
            mean.add(res.parameters, pull)
            bound += self._curvature(float(loss) + EPSILON, res) * lipschitz**2 + lipschitz * pull
            metrics.append((res.num_examples, res.metrics))
        if not self._counts("fit", len(metrics), failures):
            return None, {}
        part = lipschitz * mean.weight / bound
        step = server_step(Part(part), self.anchor, mean.take(), None)
        return step.parameters, self._fold_metrics(self.fit_metrics_aggregation_fn, metrics, "fit", server_round)

    def _pull(self, loss: Scalar) -> float | None:
        """``F^q``; None where that is no finite number."""
        if not isinstance(loss, int | float) or not 0 <= loss < math.inf:
            return None
        with np.errstate(over="ignore"):
            pull = float(np.float_power(loss + EPSILON, self.q_param))
        return pull if math.isfinite(pull) else None

    def _curvature(self, loss: float, res: FitRes) -> float:
        """``q F^(q-1) |w - w_k|²``."""
        if self.q_param == 0:
            return 0.0
        return self.q_param * float(np.float_power(loss, self.q_param - 1)) * squared_norm(res.parameters, self.anchor)

    def _central_loss(self, server_round: int, client: ClientProxy) -> float:
        evaluated = self.evaluate(server_round, self.anchor)
        if evaluated is None:
            raise InvalidArgument(
                f"QFedAvg needs the loss of {client.cid} before it trained. Let its fit give the metric 'initial_loss', "
                "or give the strategy an evaluate_fn."
            )
        return float(evaluated[0])
