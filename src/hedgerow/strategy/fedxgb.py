"""Gradient-boosted trees: bagging over the clients' trees, and one model that goes from client to client.

The parameters are XGBoost's own JSON, as uint8 (see :mod:`hedgerow.aggregation.trees`); XGBoost is needed at the clients only. A
:class:`~hedgerow.client.NumPyClient` gives ``[np.frombuffer(booster.save_raw("json"), np.uint8)]`` and gets the model as
``bytearray(parameters[0])``, or no array at all before there is one. Start from ``initial_parameters=Parameters([])``. State a
``base_score`` at all clients: XGBoost guesses one from the data otherwise, and trees are joined under one only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from hedgerow.aggregation.trees import Forest, check_boosters
from hedgerow.aggregation.updates import UpdateSpec
from hedgerow.errors import BadUpdate
from hedgerow.records import Config, FitIns, Metrics, Parameters
from hedgerow.strategy.anchored import AnchoredFedAvg
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.clients import ClientManager, ClientProxy
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.strategy import Failures, FitResults

log = logging.getLogger(__name__)

EvaluateTreesFn: TypeAlias = Callable[[int, Parameters, Config], tuple[float, Metrics] | None]


class FedXgbBagging(AnchoredFedAvg):
    """All clients boost the same model at once, and their new trees are appended to it.

    Bagging: Breiman 1996, "Bagging Predictors", with boosting (Chen and Guestrin 2016, "XGBoost: A Scalable Tree Boosting
    System") inside: with T the trees so far and ``T_k`` those that client k adds to them, ``T ← T ∪ T_1 ∪ … ∪ T_n``. A client
    returns its new trees alone, cut from its booster. As a model of trees is their sum, n clients that correct the same error
    correct it n times: let them use the learning rate divided by n, or grow forests (``num_parallel_tree``) with that rate.

    All trees of an update are appended with the class that they belong to. (Flower 1.6 appends as many as ``num_parallel_tree``
    says, all as class 0.) A loss is folded as in :class:`~hedgerow.strategy.FedAvg`. The strategy has no state: the trees so
    far are the parameters of the round.

    Args:
        evaluate_function: Called as ``evaluate_function(server_round, parameters, {})`` to evaluate the model here; gives loss
            and metrics. ``evaluate_fn`` does the same with arrays.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.
    """

    @with_arguments_of(FedAvg)
    def __init__(self, evaluate_function: EvaluateTreesFn | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.evaluate_function = evaluate_function

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, Metrics] | None:
        """Call ``evaluate_function`` or ``evaluate_fn``, if there is one."""
        if self.evaluate_function is not None:
            return self.evaluate_function(server_round, parameters, {})
        return super().evaluate(server_round, parameters)

    def update_spec(self, server_round: int, ins: FitIns) -> UpdateSpec:
        """Boosters, any number of them."""
        return UpdateSpec(check=check_boosters)

    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """Append the clients' trees in the order of the instructions. Trees that do not fit are left out with a warning."""
        forest = Forest()
        if len(self.anchor):
            forest.add(self.anchor)
        metrics = []
        for client, res in results:
            before = forest.base_score
            try:
                base_score = forest.add(res.parameters)
            except BadUpdate as error:
                log.warning("Round %s: trees of %s are left out: %s", server_round, client.cid, error)
                continue
            if before is not None and base_score != before:
                log.warning("Trees of %s were grown with the base score %s, not %s: state one", client.cid, base_score, before)
            metrics.append((res.num_examples, res.metrics))
        if not self._counts("fit", len(metrics), failures):
            return None, {}
        return forest.parameters(), self._fold_metrics(self.fit_metrics_aggregation_fn, metrics, "fit", server_round)


class FedXgbCyclic(FedAvg):
    """One model goes from client to client: each round one of them boosts it, in the order of their names.

    With client ``k = (round - 1) mod n``: ``T ← T_k``, the whole model that it returns. Who comes next depends on the round and
    on who is available alone, so there is no state. All clients evaluate, unless ``fraction_evaluate`` says otherwise; how many
    train is not asked. (Flower gained this strategy after 1.6.)

    Args:
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`.
    """

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """The instruction for the client whose turn it is."""
        self._sizes(client_manager, self.num_fit_clients)
        clients = list(client_manager.all().values())
        config = self.on_fit_config_fn(server_round) if self.on_fit_config_fn is not None else {}
        return [(clients[(server_round - 1) % len(clients)], FitIns(parameters, config))] if clients else []

    def update_spec(self, server_round: int, ins: FitIns) -> UpdateSpec:
        """A booster."""
        return UpdateSpec(check=check_boosters)

    def aggregate_fit(self, server_round: int, results: FitResults, failures: Failures) -> tuple[Parameters | None, Metrics]:
        """The model that the client returned."""
        answers = [res for _, res in results]
        if not self._counts("fit", len(answers), failures):
            return None, {}
        metrics = [(res.num_examples, res.metrics) for res in answers]
        return answers[-1].parameters, self._fold_metrics(self.fit_metrics_aggregation_fn, metrics, "fit", server_round)
