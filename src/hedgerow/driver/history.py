"""What a run gave, round by round."""

from __future__ import annotations

import pprint
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

from hedgerow.errors import CorruptData
from hedgerow.records import Metrics, Scalar


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """A client that was asked in a round and gave nothing that could be used.

    Attributes:
        kind: What it was asked: "fit" or "evaluate".
        node: The client's name.
        reason: Why, in one word: the word of an :class:`~hedgerow.records.Outcome`, "bad_update", "late", or
            "lost_bytes" (the server had the answer and has lost its parameters).
        message: Why, for people.
    """

    kind: str
    node: str
    reason: str
    message: str


class History:
    """Losses, metrics and failures of a run.

    Attributes:
        losses_distributed: ``(round, loss)`` of the clients' evaluations.
        losses_centralized: ``(round, loss)`` of the strategy's own evaluations; round 0 is before training.
        metrics_distributed_fit: For each metric of the clients' training, ``(round, value)``.
        metrics_distributed: The same for the clients' evaluations.
        metrics_centralized: The same for the strategy's own evaluations.
        failures: For each round with failures, the clients that failed, and why.
        invalid_rounds: For each round that did not reach its quorum, why.
    """

    def __init__(self) -> None:
        self.losses_distributed: list[tuple[int, float]] = []
        self.losses_centralized: list[tuple[int, float]] = []
        self.metrics_distributed_fit: dict[str, list[tuple[int, Scalar]]] = {}
        self.metrics_distributed: dict[str, list[tuple[int, Scalar]]] = {}
        self.metrics_centralized: dict[str, list[tuple[int, Scalar]]] = {}
        self.failures: dict[int, list[NodeFailure]] = {}
        self.invalid_rounds: dict[int, str] = {}

    def add_loss_distributed(self, server_round: int, loss: float) -> None:
        """Note the loss of the clients' evaluations."""
        self.losses_distributed.append((server_round, loss))

    def add_loss_centralized(self, server_round: int, loss: float) -> None:
        """Note the loss of the strategy's own evaluation."""
        self.losses_centralized.append((server_round, loss))

    def add_metrics_distributed_fit(self, server_round: int, metrics: Metrics) -> None:
        """Note metrics of the clients' training."""
        _add(self.metrics_distributed_fit, server_round, metrics)

    def add_metrics_distributed(self, server_round: int, metrics: Metrics) -> None:
        """Note metrics of the clients' evaluations."""
        _add(self.metrics_distributed, server_round, metrics)

    def add_metrics_centralized(self, server_round: int, metrics: Metrics) -> None:
        """Note metrics of the strategy's own evaluation."""
        _add(self.metrics_centralized, server_round, metrics)

    def add_failures(self, server_round: int, failures: Iterable[NodeFailure]) -> None:
        """Note clients that failed."""
        for failure in failures:
            self.failures.setdefault(server_round, []).append(failure)

    def add_invalid_round(self, server_round: int, reason: str) -> None:
        """Note that a round did not count."""
        self.invalid_rounds[server_round] = reason

    def series(self) -> dict[str, list[tuple[int, Scalar]]]:
        """Every loss and metric as ``(round, value)``, under names such as "losses_centralized", "metrics_centralized/loss"."""
        found: dict[str, list[tuple[int, Scalar]]] = {}
        for name in ("losses_distributed", "losses_centralized"):
            if losses := getattr(self, name):
                found[name] = list(losses)
        for name in ("metrics_distributed_fit", "metrics_distributed", "metrics_centralized"):
            found |= {f"{name}/{metric}": list(values) for metric, values in getattr(self, name).items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything that was noted, as plain values that :meth:`load_state_dict` takes back."""
        state = {name: _copy(value) for name, value in vars(self).items()}
        state["failures"] = {number: [list(astuple(one)) for one in some] for number, some in self.failures.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave.

        Raises:
            CorruptData: It is not that.
        """
        if set(state) != set(vars(self)):
            raise CorruptData(f"A history has {sorted(vars(self))}, not {', '.join(sorted(map(str, state)))[:200]}.")
        try:
            for name in ("losses_distributed", "losses_centralized"):
                setattr(self, name, _pairs(state[name]))
            for name in ("metrics_distributed_fit", "metrics_distributed", "metrics_centralized"):
                setattr(self, name, {metric: _pairs(series) for metric, series in state[name].items()})
            self.failures = {number: [NodeFailure(*one) for one in some] for number, some in state["failures"].items()}
            self.invalid_rounds = dict(state["invalid_rounds"].items())
        except (TypeError, ValueError, AttributeError) as error:
            raise CorruptData(f"A history cannot be read: {type(error).__name__}: {str(error)[:200]}.") from error

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if isinstance(other, History) else NotImplemented

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        parts = []
        for title, losses in (("distributed", self.losses_distributed), ("centralized", self.losses_centralized)):
            if losses:
                parts.append(f"History (loss, {title}):\n" + "".join(f"\tround {r}: {loss}\n" for r, loss in losses))
        for title, metrics in (
            ("distributed, fit", self.metrics_distributed_fit),
            ("distributed, evaluate", self.metrics_distributed),
            ("centralized", self.metrics_centralized),
        ):
            if metrics:
                parts.append(f"History (metrics, {title}):\n{pprint.pformat(metrics)}\n")
        for server_round, failures in self.failures.items():
            lines = (f"\tround {server_round}: {f.kind} of {f.node} ({f.reason}): {f.message}\n" for f in failures)
            parts.append("History (failures):\n" + "".join(lines))
        if self.invalid_rounds:
            lines = (f"\tround {server_round}: {reason}\n" for server_round, reason in self.invalid_rounds.items())
            parts.append("History (rounds that are not valid):\n" + "".join(lines))
        return "".join(parts)


def _copy(value: Any) -> Any:
    """A series, or a dictionary of series, that does not change when more is noted."""
    return (
        {key: list(one) if isinstance(one, list) else one for key, one in value.items()}
        if isinstance(value, dict)
        else list(value)
    )


def _pairs(series: Iterable[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """A series from outside: pairs of round and value."""
    return [(server_round, value) for server_round, value in series]


def _add(series: dict[str, list[tuple[int, Scalar]]], server_round: int, metrics: Metrics) -> None:
    for name, value in metrics.items():
        series.setdefault(name, []).append((server_round, value))
