"""SCAFFOLD at the client: its control variate (Karimireddy et al. 2020, algorithm 1, option II).

The client's ``c_i`` lives in ``context.state``, which changes together with the result of the task and not before: a task that
is done again, because its worker died, starts from the same ``c_i``. The ``c_i`` before the last one is kept as well, because a
result can still be lost on its way into the model: it was late, or the round did not count. The server says which result was the
last that it folded, and the client takes up from there.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from hedgerow.aggregation.control import control_dtype, controlled
from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters, Scalar

log = logging.getLogger(__name__)

NOW, BEFORE = "scaffold.now", "scaffold.before"


class ControlVariates:
    """One ``fit`` under :class:`~hedgerow.strategy.Scaffold`.

    ::

        def fit(self, parameters, config):
            variates = ControlVariates(parameters, config, self.context.state)
            weights = [array.copy() for array in variates.model]
            for x, y in batches:
                for w, g, correction in zip(weights, gradients(weights, x, y), variates.corrections):
                    w -= lr * (g + correction)
            return variates.finish(weights, steps=len(batches), learning_rate=lr), len(data), {}

    Args:
        parameters: What the client was sent: the model's tensors, and c behind them.
        config: The config of ``fit``.
        state: ``context.state``; it is changed by :meth:`finish` alone.

    Attributes:
        model: The model's arrays x, in their order.
        corrections: For each of them ``c - c_i``, to be added to the gradient in every step; 0.0 for those that have none
            (integers and bools).

    Raises:
        InvalidArgument: This is not what :class:`~hedgerow.strategy.Scaffold` sends.
    """

    def __init__(
        self,
        parameters: Parameters | Sequence[NDArray],
        config: Mapping[str, Scalar],
        state: MutableMapping[str, Any],
    ) -> None:
        arrays = parameters.arrays() if isinstance(parameters, Parameters) else list(parameters)
        try:
            count, self._round, folded = (int(config[f"scaffold_{name}"]) for name in ("tensors", "round", "folded"))
        except KeyError as error:
            raise InvalidArgument(f"The config has no {error}. The driver's strategy must be Scaffold.") from None
        self.model = arrays[:count]
        self._positions = controlled(self.model)
        self._control = arrays[count:]
        if [a.shape for a in self._control] != [self.model[p].shape for p in self._positions]:
            raise InvalidArgument(
                f"There are {len(self._control)} arrays behind the {count} of the model, which are not its control variates."
            )
        self._state = state
        self._folded = folded
        self._own = self._recall(folded)
        self.corrections: list[NDArray | float] = [0.0] * count
        for position, c, own in zip(self._positions, self._control, self._own, strict=True):
            self.corrections[position] = c - own

    def finish(
        self, trained: Sequence[NDArray], *, steps: int, learning_rate: float, trainable: Collection[int] | None = None
    ) -> list[NDArray]:
        """The arrays that ``fit`` returns; the new ``c_i`` goes into the state.

        Args:
            trained: The model's arrays y_i after training, in their order.
            steps: The number K of local steps; without any, ``c_i`` stays.
            learning_rate: η_l. Where it changed from step to step, its mean. Option II takes it that steps are plain SGD.
            trainable: Positions of the arrays that gradients move; the others, such as running statistics, keep a ``c_i`` of
                zeros. None: all.

        Returns:
            The trained arrays, and behind them ``c_i⁺ - c_i``.

        Raises:
            InvalidArgument: The arrays are not those of the model.
        """
        if [np.shape(array) for array in trained] != [array.shape for array in self.model]:
            raise InvalidArgument(f"The {len(trained)} trained arrays have other shapes than the {len(self.model)} of the model.")
        way = steps * learning_rate
        new, changes = [], []
        for position, c, own in zip(self._positions, self._control, self._own, strict=True):
            x, y = self.model[position], trained[position]
            fresh = own
            if way and (trainable is None or position in trainable):
                moved = (x.astype(_wide(x)) - np.asarray(y).astype(_wide(x))) / way
                fresh = np.asarray(own.astype(_wide(x)) - c + moved).astype(own.dtype)
            new.append(fresh)
            changes.append(np.asarray(fresh - own))
        self._keep(BEFORE, self._folded, self._own)
        self._keep(NOW, self._round, new)
        return [*trained, *changes]

    def _recall(self, folded: int) -> list[NDArray]:
        """The ``c_i`` that is part of the server's c: the one of the round whose result was folded last."""
        for which in (NOW, BEFORE):
            if folded and self._state.get(which) == folded:
                return [self._state[f"{which}/{position:06d}"] for position in self._positions]
        if folded:
            log.warning(
                "The control variate of round %s is not in this client's state any longer; it begins anew, with zeros. "
                "The server's own still holds the old one.",
                folded,
            )
        return [np.zeros(self.model[p].shape, control_dtype(self.model[p])) for p in self._positions]

    def _keep(self, which: str, number: int, arrays: Sequence[NDArray]) -> None:
        self._state[which] = number
        for position, array in zip(self._positions, arrays, strict=True):
            self._state[f"{which}/{position:06d}"] = array


def _wide(array: NDArray) -> type[np.generic]:
    return np.complex128 if array.dtype.kind == "c" else np.float64
