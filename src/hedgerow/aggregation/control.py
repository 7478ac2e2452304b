"""Control variates: which tensors have one, and how they travel with a model.

A control variate is a direction, one for each tensor that moves (integers and bools have none). In a message they stand behind
the model's tensors, in the model's order, each under its tensor's name with a prefix, so that a client that knows positions only
finds them as well. Owned here: that layout, and the dtypes. Who computes what with them is told in
:mod:`hedgerow.strategy.scaffold` and :mod:`hedgerow.training.scaffold`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hedgerow.aggregation import blocks
from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters

PREFIX = "scaffold.control/"
"""What stands before a tensor's name in the name of its control variate."""


def controlled(arrays: Sequence[NDArray]) -> list[int]:
    """The positions of the tensors that have a control variate."""
    return [position for position, array in enumerate(arrays) if blocks.moves(array)]


def control_dtype(array: NDArray) -> np.dtype[Any]:
    """A control variate's dtype: float32 for tensors of up to 32 bits, else as wide as the tensor."""
    return np.dtype(np.float32) if array.dtype.kind == "V" or array.dtype.itemsize < 4 else array.dtype.newbyteorder("=")


def zeros(model: Parameters) -> Parameters:
    """The control variates before the first round, by the names of the model's tensors."""
    return Parameters({n: np.zeros(a.shape, control_dtype(a)) for n, a in model.items() if blocks.moves(a)})


def attach(model: Parameters, control: Parameters) -> Parameters:
    """The model's tensors, and behind them their control variates.

    Args:
        model: The model.
        control: For each tensor of it that moves, in the model's order, a tensor of the same name and shape.

    Raises:
        InvalidArgument: A name of the model begins as those of control variates do, or the two do not belong together.

    >>> model = Parameters({"w": np.ones(2), "n": np.ones(1, np.int64)})
    >>> list(attach(model, zeros(model)))
    ['w', 'n', 'scaffold.control/w']
    """
    taken = [name for name in model if name.startswith(PREFIX)]
    if taken:
        raise InvalidArgument(
            f"The model has a tensor {taken[0]!r}; names that begin with {PREFIX!r} are those of control variates."
        )
    wanted = {name: array.shape for name, array in model.items() if blocks.moves(array)}
    blocks.check_like(control, wanted, "the tensors of the model that move are")
    return Parameters({**model, **{PREFIX + name: array for name, array in control.items()}})


def split(parameters: Parameters, like: Parameters) -> tuple[Parameters, Parameters]:
    """The model's tensors, and their control variates under the names of the model's tensors.

    Args:
        parameters: Both, as :func:`attach` puts them together; of any dtypes.
        like: The model: it says which tensors move.

    Raises:
        InvalidArgument: There are not exactly the control variates that the model has.
    """
    model = Parameters({name: array for name, array in parameters.items() if not name.startswith(PREFIX)})
    control = {name.removeprefix(PREFIX): array for name, array in parameters.items() if name.startswith(PREFIX)}
    _check(Parameters(control), like)
    return model, Parameters(control)


def _check(control: Parameters, model: Parameters) -> None:
    wanted = {name: array.shape for name, array in model.items() if blocks.moves(array)}
    blocks.check_like(control, wanted, "the tensors of the model that move are")
