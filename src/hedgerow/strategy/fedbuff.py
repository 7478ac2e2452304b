"""Buffered asynchronous aggregation.

Nguyen et al. 2022, "Federated Learning with Buffered Asynchronous Aggregation", algorithm 1: clients train on whatever version of
the model there is when they are asked; the server adds up ``Δ_i = x_base - y_i`` and, when K of them are there, steps
``x ← x - η_g (1/K) Σ s(τ_i) Δ_i``. An update that started τ versions ago counts with ``s(τ) = 1/√(1+τ)`` (their section 4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from hedgerow.aggregation.deltas import DeltaSum
from hedgerow.errors import ConfigError
from hedgerow.records import FitIns, Metrics, Parameters
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.asynchronous import AsynchronousStrategy, Update
from hedgerow.strategy.clients import ClientManager, ClientProxy, Criterion
from hedgerow.strategy.fedavg import FedAvg

StalenessFn: TypeAlias = Callable[[int], float]


def polynomial_staleness(exponent: float = 0.5) -> StalenessFn:
    """The weight ``(1 + τ)^-exponent`` of an update that is τ versions old (Xie et al. 2019, section 5.2).

    >>> polynomial_staleness(0.5)(3)
    0.5
    """
    return lambda staleness: float((1 + staleness) ** -exponent)


class FedBuff(FedAvg, AsynchronousStrategy):
    """Asynchronous averaging with a buffer: no round waits for its slowest client.

    A run's ``num_rounds`` is the number of versions that are made. As in the paper, updates are not weighted by numbers of
    examples. Memory: one accumulator, and each version of the model that some client still works on.

    Args:
        buffer_size: K, the number of updates that a new version is made of.
        concurrency: How many tasks are under way at a time. A client has one at most.
        server_learning_rate: η_g.
        staleness_fn: The weight s(τ) of an update that is τ versions old.
        max_staleness: Updates that are older are not used; None to use all.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`. ``fraction_fit`` and ``min_fit_clients`` have no meaning here.

    Raises:
        ConfigError: An argument is out of range, or ``fraction_evaluate`` is not 0: clients that train all the time cannot
            evaluate. Give ``evaluate_fn``.
    """

    @with_arguments_of(FedAvg)
    def __init__(
        self,
        *,
        buffer_size: int = 10,
        concurrency: int = 20,
        server_learning_rate: float = 1.0,
        staleness_fn: StalenessFn | None = None,
        max_staleness: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"fraction_evaluate": 0.0, "min_fit_clients": 1, "min_evaluate_clients": 1, **kwargs})
        if buffer_size < 1 or concurrency < 1:
            raise ConfigError(f"buffer_size is {buffer_size} and concurrency {concurrency}; both must be at least 1.")
        if not server_learning_rate > 0:
            raise ConfigError(f"server_learning_rate is {server_learning_rate}; it must be more than 0.")
        if max_staleness is not None and max_staleness < 0:
            raise ConfigError(f"max_staleness is {max_staleness}; it must be at least 0, or None for no limit.")
        if self.fraction_evaluate:
            raise ConfigError("FedBuff has no evaluation by clients, which train all the time. Give evaluate_fn.")
        self.buffer_size = buffer_size
        self.concurrency = concurrency
        self.server_learning_rate = server_learning_rate
        self.staleness_fn = staleness_fn or polynomial_staleness()
        self.max_staleness = max_staleness
        self.discard()

    def configure_task(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager, idle: Criterion
    ) -> tuple[ClientProxy, FitIns] | None:
        """The newest version, to one of the idle clients at random."""
        config = self.on_fit_config_fn(server_round) if self.on_fit_config_fn is not None else {}
        sampled = client_manager.sample(1, 1, idle)
        return (sampled[0], FitIns(parameters, config)) if sampled else None

    def fold(self, server_round: int, update: Update) -> bool:
        """Add ``s(τ) Δ`` to the buffer."""
        if self.max_staleness is not None and update.staleness > self.max_staleness:
            return False
        self._deltas.add(update.base, update.res.parameters, self.staleness_fn(update.staleness))
        self._metrics.append((update.res.num_examples, update.res.metrics))
        return True

    def flush(self, server_round: int, parameters: Parameters) -> tuple[Parameters, Metrics]:
        """Step by the mean of what is in the buffer."""
        new = self._deltas.step(parameters, self.server_learning_rate / max(1, len(self._deltas)))
        metrics = self._fold_metrics(self.fit_metrics_aggregation_fn, self._metrics, "fit", server_round)
        self.discard()
        return new, metrics

    def discard(self) -> None:
        """Empty the buffer."""
        self._deltas = DeltaSum()
        self._metrics: list[tuple[int, Metrics]] = []
