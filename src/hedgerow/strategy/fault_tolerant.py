"""Federated averaging that asks for a part of the results rather than for no failures at all.

McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1, in rounds that
are complete enough.
"""

from __future__ import annotations

from typing import Any

from hedgerow.errors import InvalidArgument
from hedgerow.strategy.arguments import with_arguments_of
from hedgerow.strategy.fedavg import FedAvg
from hedgerow.strategy.strategy import Failures


class FaultTolerantFedAvg(FedAvg):
    """Federated averaging over rounds in which enough clients gave a result.

    Args:
        min_completion_rate_fit: A round's training counts if at least this part of those who were asked gave a result, 0 to 1.
        min_completion_rate_evaluate: The same for its evaluation.
        min_fit_clients: At least so many train.
        min_evaluate_clients: At least so many evaluate.
        min_available_clients: A round begins when so many clients are available.
        kwargs: As for :class:`~hedgerow.strategy.FedAvg`, but for ``accept_failures``, whose place the rates take.

    Raises:
        InvalidArgument: A rate is out of its range.
    """

    @with_arguments_of(FedAvg, without=("accept_failures",))
    def __init__(
        self,
        *,
        min_completion_rate_fit: float = 0.5,
        min_completion_rate_evaluate: float = 0.5,
        min_fit_clients: int = 1,
        min_evaluate_clients: int = 1,
        min_available_clients: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            min_fit_clients=min_fit_clients,
            min_evaluate_clients=min_evaluate_clients,
            min_available_clients=min_available_clients,
            accept_failures=True,
            **kwargs,
        )
        if not 0 <= min_completion_rate_fit <= 1 or not 0 <= min_completion_rate_evaluate <= 1:
            raise InvalidArgument(
                f"min_completion_rate_fit is {min_completion_rate_fit} and min_completion_rate_evaluate "
                f"{min_completion_rate_evaluate}; both must lie between 0 and 1."
            )
        self.completion_rate_fit = min_completion_rate_fit
        self.completion_rate_evaluate = min_completion_rate_evaluate

    def _counts(self, phase: str, num_results: int, failures: Failures) -> bool:
        rate = self.completion_rate_fit if phase == "fit" else self.completion_rate_evaluate
        return num_results > 0 and num_results >= rate * (num_results + len(failures))
