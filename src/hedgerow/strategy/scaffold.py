"""SCAFFOLD: clients correct their gradients by how they differ from everybody's.

Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", algorithm 1, with option II for the
clients' control variates. Client i of the sample S, from the model x and the server's control variate c::

    y_i ← y_i - η_l (g_i(y_i) - c_i + c)          K times, from y_i = x
    c_i⁺ = c_i - c + (x - y_i) / (K η_l)

and at the server, of N clients altogether::

    x ← x + η_g / |S| Σ (y_i - x)
    c ← c + 1 / N Σ (c_i⁺ - c_i)

The server keeps ``Σ c_i`` over all clients and divides by N when it sends c, which is the same as long as N does not change, and
stays the mean of all ``c_i`` when clients join. The client's half is :class:`hedgerow.training.ControlVariates`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hedgerow.aggregation import control
from hedgerow.aggregation.mean import WeightedMean
from hedgerow.aggregation.server_step import Part, server_step
from hedgerow.errors import InvalidArgument
from hedgerow.records import FitIns, Metrics, Parameters
from hedgerow.strategy.anchored import AnchoredFedAvg
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.clients import ClientManager, ClientProxy
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.strategy import Failures, FitResults


class Scaffold(AnchoredFedAvg):
    """SCAFFOLD; its clients train with :class:`hedgerow.training.ControlVariates`.

    Behind the model's tensors a client is sent c, and behind those of its own model it returns ``c_i⁺ - c_i``; the run's own
    parameters hold the model alone. All clients of a round count alike, as in the paper, however many examples they have.

    The config tells a client the round, how many of the tensors are the model's, and the round of its last update that was
    folded: a client whose update was late, or whose round did not count, takes up from the ``c_i`` that is part of c. So c stays
    the mean of what the clients hold, whatever is lost on the way.

    Args:
        server_learning_rate: The step's length η_g, more than 0; 1 makes the new model the clients' mean.
        num_clients: N, how many clients there are altogether. None: those that are available when a round begins, and those
            whose updates were folded before.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.

    Raises:
        InvalidArgument: A value is out of its range.
    """

    @with_arguments_of(FedAvg)
    def __init__(self, *, server_learning_rate: float = 1.0, num_clients: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not server_learning_rate > 0 or (num_clients is not None and num_clients < 1):
            raise InvalidArgument(
                f"server_learning_rate is {server_learning_rate} and num_clients {num_clients}; "
                "the first must be more than 0, the second at least 1."
            )
        self.server_learning_rate = server_learning_rate
        self.num_clients = num_clients
        self._total: Parameters | None = None
        self._folded: dict[str, int] = {}

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """The model and c to a sample of the clients; to each its own config."""
        pairs = super().configure_fit(server_round, parameters, client_manager)
        known = self.num_clients or len({*client_manager.all(), *self._folded}) or 1
        sent = control.attach(parameters, self._mean(parameters, known))
        return [(client, FitIns(sent, self._config(server_round, len(parameters), client, ins))) for client, ins in pairs]

    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """Both sums, folded while results arrive, and the step from the model that was sent."""
        mean, metrics, folded = WeightedMean(), [], dict(self._folded)
        for client, res in results:
            mean.add(res.parameters, 1)
            metrics.append((res.num_examples, res.metrics))
            folded[client.cid] = server_round
        if not self._counts("fit", len(metrics), failures):
            return None, {}
        model, change = control.split(mean.take(), self.anchor)
        step = server_step(Part(self.server_learning_rate), self.anchor, model, None)
        self._total, self._folded = _plus(self._old_total(self.anchor), change, len(metrics)), folded
        return step.parameters, self._fold_metrics(self.fit_metrics_aggregation_fn, metrics, "fit", server_round)

    def state_dict(self) -> dict[str, Any]:
        """``control``: the sum of all clients' control variates, None before the first round; ``folded``: rounds by client."""
        return {"control": self._total, "folded": dict(self._folded)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back a state.

        Raises:
            InvalidArgument: It is not a state of this strategy.
        """
        total, folded = state.get("control"), state.get("folded")
        fits = isinstance(folded, Mapping) and (total is None or isinstance(total, Parameters))
        if set(state) != {"control", "folded"} or not fits:
            raise InvalidArgument(f"A state of Scaffold holds control (parameters or None) and folded, not {sorted(state)}.")
        self._total, self._folded = total, {str(name): int(number) for name, number in dict(folded or {}).items()}

    def _config(self, server_round: int, tensors: int, client: ClientProxy, ins: FitIns) -> dict[str, Any]:
        """What a client must know beside the parameters."""
        own = {
            "scaffold_round": server_round,
            "scaffold_tensors": tensors,
            "scaffold_folded": self._folded.get(client.cid, 0),
        }
        return {**ins.config, **own}

    def _old_total(self, model: Parameters) -> Parameters:
        return control.zeros(model) if self._total is None else self._total

    def _mean(self, model: Parameters, known: int) -> Parameters:
        """c, the mean of all clients' control variates."""
        return Parameters({name: np.asarray(array / known).astype(array.dtype) for name, array in self._old_total(model).items()})


def _plus(total: Parameters, mean: Parameters, count: int) -> Parameters:
    """``total + count mean``, in the dtypes of ``total``."""
    return Parameters({name: np.asarray(array + count * mean[name]).astype(array.dtype) for name, array in total.items()})
