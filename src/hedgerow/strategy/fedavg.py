"""Federated averaging: new parameters are the mean of the clients', weighted by their numbers of examples.

McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from hedgerow.aggregation.blocks import dtypes_of
from hedgerow.aggregation.mean import WeightedMean, weighted_loss_mean
from hedgerow.aggregation.updates import UpdateSpec
from hedgerow.records import (
    Config,
    EvaluateIns,
    FitIns,
    Metrics,
    NDArrays,
    Parameters,
    Scalar,
    parameters_to_ndarrays,
)
from hedgerow.strategy.clients import ClientManager, ClientProxy, wait_for_clients
from hedgerow.strategy.strategy import EvaluateResults, Failures, FitResults, Strategy

log = logging.getLogger(__name__)

EvaluateFn: TypeAlias = Callable[[int, NDArrays, Config], tuple[float, dict[str, Scalar]] | None]
ConfigFn: TypeAlias = Callable[[int], Config]
MetricsFn: TypeAlias = Callable[[list[tuple[int, Metrics]]], Metrics]


def _noting(configure_fit: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(configure_fit)
    def noting(self: FedAvg, server_round: int, parameters: Parameters, client_manager: ClientManager) -> Any:
        self._note_sent(parameters)
        return configure_fit(self, server_round, parameters, client_manager)

    return noting


class FedAvg(Strategy):
    """Federated averaging.

    Args:
        fraction_fit: Part of the available clients that trains in each round.
        fraction_evaluate: Part of the available clients that evaluates in each round; 0 for none.
        min_fit_clients: At least so many train.
        min_evaluate_clients: At least so many evaluate.
        min_available_clients: A round begins when so many clients are available.
        evaluate_fn: Called as ``evaluate_fn(server_round, arrays, {})`` to evaluate the parameters here; gives loss and metrics.
        on_fit_config_fn: Called with the round; gives the config for training.
        on_evaluate_config_fn: Called with the round; gives the config for evaluation.
        accept_failures: Whether a round counts in which a client failed.
        initial_parameters: What to start from; else a client is asked.
        fit_metrics_aggregation_fn: Called with ``[(num_examples, metrics), …]`` of the training.
        evaluate_metrics_aggregation_fn: Called with ``[(num_examples, metrics), …]`` of the evaluation.
    """

    _dtypes: Mapping[str, np.dtype[Any]] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a subclass's own ``configure_fit`` note what is sent: code that was written for Flower does not call this one's."""
        super().__init_subclass__(**kwargs)
        if "configure_fit" in vars(cls):
            cls.configure_fit = _noting(cls.configure_fit)  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        fraction_fit: float = 1.0,
        fraction_evaluate: float = 1.0,
        min_fit_clients: int = 2,
        min_evaluate_clients: int = 2,
        min_available_clients: int = 2,
        evaluate_fn: EvaluateFn | None = None,
        on_fit_config_fn: ConfigFn | None = None,
        on_evaluate_config_fn: ConfigFn | None = None,
        accept_failures: bool = True,
        initial_parameters: Parameters | None = None,
        fit_metrics_aggregation_fn: MetricsFn | None = None,
        evaluate_metrics_aggregation_fn: MetricsFn | None = None,
    ) -> None:
        if max(min_fit_clients, min_evaluate_clients) > min_available_clients:
            log.warning(
                "min_available_clients (%s) is less than min_fit_clients (%s) or min_evaluate_clients (%s): "
                "a round may find too few clients to sample from",
                min_available_clients,
                min_fit_clients,
                min_evaluate_clients,
            )
        self.fraction_fit = fraction_fit
        self.fraction_evaluate = fraction_evaluate
        self.min_fit_clients = min_fit_clients
        self.min_evaluate_clients = min_evaluate_clients
        self.min_available_clients = min_available_clients
        self.evaluate_fn = evaluate_fn
        self.on_fit_config_fn = on_fit_config_fn
        self.on_evaluate_config_fn = on_evaluate_config_fn
        self.accept_failures = accept_failures
        self.initial_parameters = initial_parameters
        self.fit_metrics_aggregation_fn = fit_metrics_aggregation_fn
        self.evaluate_metrics_aggregation_fn = evaluate_metrics_aggregation_fn

    def __repr__(self) -> str:
        return f"{type(self).__name__}(accept_failures={self.accept_failures})"

    def num_fit_clients(self, num_available_clients: int) -> tuple[int, int]:
        """How many clients train, and how many must be available."""
        return max(int(num_available_clients * self.fraction_fit), self.min_fit_clients), self.min_available_clients

    def num_evaluation_clients(self, num_available_clients: int) -> tuple[int, int]:
        """How many clients evaluate, and how many must be available."""
        return max(int(num_available_clients * self.fraction_evaluate), self.min_evaluate_clients), self.min_available_clients

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """The initial parameters that the constructor got; they are not kept."""
        parameters, self.initial_parameters = self.initial_parameters, None
        return parameters

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, Metrics] | None:
        """Call ``evaluate_fn``, if there is one."""
        if self.evaluate_fn is None:
            return None
        return self.evaluate_fn(server_round, parameters_to_ndarrays(parameters), {})

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """The same instruction to a sample of the available clients."""
        self._note_sent(parameters)
        ins = FitIns(parameters, self.on_fit_config_fn(server_round) if self.on_fit_config_fn is not None else {})
        sample_size, min_num_clients = self._sizes(client_manager, self.num_fit_clients)
        return [(client, ins) for client in client_manager.sample(sample_size, min_num_clients)]

    def resume_fit(self, server_round: int, parameters: Parameters, instructions: Sequence[tuple[ClientProxy, FitIns]]) -> None:
        """Note what was sent."""
        self._note_sent(parameters)

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """The same instruction to a sample of the available clients, unless ``fraction_evaluate`` is 0."""
        if self.fraction_evaluate == 0.0:
            return []
        ins = EvaluateIns(parameters, self.on_evaluate_config_fn(server_round) if self.on_evaluate_config_fn is not None else {})
        sample_size, min_num_clients = self._sizes(client_manager, self.num_evaluation_clients)
        return [(client, ins) for client in client_manager.sample(sample_size, min_num_clients)]

    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """The weighted mean, folded while results arrive."""
        mean, metrics = self._fold_fit(server_round, results, failures)
        return (None, metrics) if mean is None else (mean.result(self._dtypes, self.room), metrics)

    def aggregate_evaluate(self, server_round: int, results: EvaluateResults, failures: Failures) -> tuple[float | None, Metrics]:
        """The mean loss, weighted by the numbers of examples."""
        losses, metrics = [], []
        for _, res in results:
            losses.append((res.num_examples, res.loss))
            metrics.append((res.num_examples, res.metrics))
        if not self._counts("evaluate", len(losses), failures):
            return None, {}
        if not any(examples for examples, _ in losses):
            log.warning("Round %s: all %s clients evaluated 0 examples; there is no loss", server_round, len(losses))
            return None, {}
        folded = self._fold_metrics(self.evaluate_metrics_aggregation_fn, metrics, "evaluate", server_round)
        return weighted_loss_mean(losses), folded

    def update_spec(self, server_round: int, ins: FitIns) -> UpdateSpec:
        """Names, shapes and dtypes of the parameters that were sent, and finite values."""
        return UpdateSpec.like(ins.parameters)

    def _note_sent(self, parameters: Parameters) -> None:
        """Parameters were sent for training. A client that computes in a wider dtype must not widen the model."""
        self._dtypes = dtypes_of(parameters)

    def _fold_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[WeightedMean | None, Metrics]:
        """The weighted mean before it is rounded (None: the round gives nothing), and the folded metrics."""
        mean = WeightedMean()
        metrics = []
        for _, res in results:
            mean.add(res.parameters, res.num_examples)
            metrics.append((res.num_examples, res.metrics))
        if not self._counts("fit", len(metrics), failures):
            return None, {}
        if not mean.weight:
            log.warning(
                "Round %s: all %s clients trained on 0 examples; the parameters stay as they are", server_round, len(mean)
            )
            return None, {}
        return mean, self._fold_metrics(self.fit_metrics_aggregation_fn, metrics, "fit", server_round)

    def _counts(self, phase: str, num_results: int, failures: Failures) -> bool:
        """Whether a fit or evaluate with so many results, and these failures, is folded."""
        return num_results > 0 and (self.accept_failures or not failures)

    def _sizes(self, client_manager: ClientManager, sizes: Callable[[int], tuple[int, int]]) -> tuple[int, int]:
        """Sample size and number of clients to wait for, counted when those are there."""
        wait_for_clients(client_manager, self.min_available_clients)
        return sizes(client_manager.num_available())

    @staticmethod
    def _fold_metrics(fold: MetricsFn | None, metrics: list[tuple[int, Metrics]], phase: str, server_round: int) -> Metrics:
        if fold is not None:
            return fold(metrics)
        if server_round == 1 and any(values for _, values in metrics):
            log.warning("The clients' %s metrics are dropped: no %s_metrics_aggregation_fn was given", phase, phase)
        return {}
