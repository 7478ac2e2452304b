"""What may happen when a round is over: best-model keeping, early stopping, and what users write themselves.

A callback is called when a round is over and kept: with a checkpoint folder, after the round's checkpoint is on the disk. When
a run is taken up again, it is called once more for the round of the checkpoint, since the earlier process may have died before
it could be. So a callback must bear to be called twice for a round. Those that are here have no memory of their own: what they
do follows from the history, which the checkpoint keeps.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hedgerow.driver.durable import hidden_name, rename, write_new
from hedgerow.driver.history import History
from hedgerow.errors import InvalidArgument
from hedgerow.records import Parameters
from hedgerow.wire import tensors

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoundEnd:
    """A round that is over.

    Attributes:
        server_round: The round; 0 is before training.
        parameters: The model.
        history: Everything so far, this round included.
        manifest: The round's line in the manifest: who was asked, contributed, was late or failed. Empty for round 0.
    """

    server_round: int
    parameters: Parameters
    history: History
    manifest: Mapping[str, Any] = field(default_factory=dict)


class Callback:
    """Base of the callbacks; define what you need.

    An exception that a callback raises is one of the run, as one of the strategy would be.
    """

    def on_round_end(self, end: RoundEnd) -> str | None:
        """A round is over.

        Returns:
            Why the run should end here, for people; None to go on. A run that is ended so is FINISHED.
        """
        return None

    def on_run_end(self, history: History) -> None:
        """The driver leaves the run, for whatever reason; a run that is taken up again will be left again."""


class Callbacks:
    """The callbacks of a run, in their order."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        self._callbacks = list(callbacks)

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def round_ended(self, server_round: int, parameters: Parameters, history: History, manifest: str) -> str:
        """Tell all of them that a round is over; returns why the run should end, or "" to go on."""
        if not self._callbacks:
            return ""
        end = RoundEnd(server_round, parameters, history, json.loads(manifest) if manifest else {})
        reasons = [callback.on_round_end(end) for callback in self._callbacks]
        return "; ".join(reason for reason in reasons if reason)

    def run_ended(self, history: History) -> None:
        """Tell all of them that the driver leaves the run."""
        for callback in self._callbacks:
            callback.on_run_end(history)


class Monitor:
    """One series of the history, and which of its values are better.

    Args:
        name: The series, as :meth:`~hedgerow.History.series` names it: "losses_centralized", "losses_distributed",
            "metrics_centralized/accuracy", ….
        mode: "min" or "max".
        min_delta: A value must be better by more than this to count as better.

    Raises:
        InvalidArgument: The mode is another, or min_delta is negative.
    """

    def __init__(self, name: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in {"min", "max"} or not min_delta >= 0:
            raise InvalidArgument(f"mode is {mode!r} and min_delta {min_delta}; give 'min' or 'max', and at least 0.")
        self.name = name
        self._sign = 1.0 if mode == "min" else -1.0
        self._min_delta = min_delta

    def bests(self, history: History) -> list[tuple[int, float]]:
        """The rounds whose value was better than all before, and the values; NaN is never better."""
        found: list[tuple[int, float]] = []
        for server_round, value in self.values(history):
            if math.isnan(value):
                continue
            if not found or self._sign * value < self._sign * found[-1][1] - self._min_delta:
                found.append((server_round, value))
        return found

    def values(self, history: History) -> list[tuple[int, float]]:
        """Rounds and values."""
        return [(server_round, float(value)) for server_round, value in history.series().get(self.name, [])]

    def warn_if_never_seen(self, history: History) -> None:
        """Tell when the series was not there: its name may be wrong."""
        if history.series() and not self.values(history):
            log.warning("The history has no %s, only %s", self.name, ", ".join(sorted(history.series())))


class EarlyStopping(Callback):
    """Ends a run whose model does not get better any more.

    Args:
        monitor: What is looked at, as :meth:`~hedgerow.History.series` names it: "losses_centralized", "losses_distributed",
            "metrics_centralized/accuracy", ….
        patience: The run ends when so many values in a row were not better than the best one.
        min_delta: A value must be better by more than this to count as better.
        mode: "min" where less is better, "max" where more is.

    Raises:
        InvalidArgument: A value is out of its range.
    """

    def __init__(self, monitor: str, *, patience: int, min_delta: float = 0.0, mode: str = "min") -> None:
        if patience < 1:
            raise InvalidArgument(f"patience is {patience}; it must be at least 1.")
        self._monitor = Monitor(monitor, mode, min_delta)
        self._patience = patience

    def on_round_end(self, end: RoundEnd) -> str | None:
        """See whether it is time to stop."""
        bests = self._monitor.bests(end.history)
        best_round, best = bests[-1] if bests else (-1, math.nan)
        since = sum(server_round > best_round for server_round, _ in self._monitor.values(end.history))
        if since < self._patience:
            return None
        return f"{self._monitor.name} has not got better than {best:g} (round {best_round}) in {since} evaluations"

    def on_run_end(self, history: History) -> None:
        """Tell when there was nothing to look at."""
        self._monitor.warn_if_never_seen(history)


class BestModel(Callback):
    """Keeps the best model so far in a file, which any safetensors tool reads.

    Args:
        path: The file. It is replaced, whole, when a round's model is better than those of all rounds before.
        monitor: What is looked at, as for :class:`EarlyStopping`.
        min_delta: A value must be better by more than this to count as better.
        mode: "min" where less is better, "max" where more is.

    Attributes:
        server_round: The round of the best model; -1 before there is one.
        value: Its value; NaN before there is one.

    Raises:
        InvalidArgument: A value is out of its range.
    """

    def __init__(self, path: str | Path, *, monitor: str, min_delta: float = 0.0, mode: str = "min") -> None:
        self._path = Path(path)
        self._monitor = Monitor(monitor, mode, min_delta)
        self.server_round = -1
        self.value = math.nan

    @property
    def parameters(self) -> Parameters:
        """The best model, as read-only views of its file.

        Raises:
            FileNotFoundError: There is none yet.
        """
        return tensors.map_file(self._path)

    def on_round_end(self, end: RoundEnd) -> str | None:
        """Keep the model if it is the best one."""
        bests = self._monitor.bests(end.history)
        if not bests:
            return None
        self.server_round, self.value = bests[-1]
        if self.server_round == end.server_round:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            hidden = hidden_name(self._path)
            try:
                write_new(hidden, tensors.chunks(end.parameters))
                rename(hidden, self._path)
            finally:
                hidden.unlink(missing_ok=True)
            log.info("Round %s is the best so far (%s: %g)", self.server_round, self._monitor.name, self.value)
        return None

    def on_run_end(self, history: History) -> None:
        """Tell when there was nothing to look at."""
        self._monitor.warn_if_never_seen(history)
