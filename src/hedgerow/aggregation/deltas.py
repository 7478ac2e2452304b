"""A weighted sum of clients' changes, each against the model that it started from: what an asynchronous server folds.

Owned here: the arithmetic, which is done in float64 (complex128) block by block and rounded once, to the tensor's dtype. Memory
is one accumulator, however many updates are added.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hedgerow.aggregation import blocks
from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters


class DeltaSum:
    """Accumulates ``sum w (base - update)``; a step subtracts it from a model.

    >>> base, update = Parameters([np.array([1.0, 2.0])]), Parameters([np.array([3.0, 2.0])])
    >>> deltas = DeltaSum()
    >>> deltas.add(base, update, 0.5)
    >>> deltas.step(base, 1.0).arrays()
    [array([2., 2.])]
    """

    def __init__(self) -> None:
        self._sums: dict[str, npt.NDArray[Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many updates were added."""
        return self._count

    def add(self, base: Parameters, update: Parameters, weight: float) -> None:
        """Fold one change in. Nothing is kept of the arrays.

        Args:
            base: The model that the client started from.
            update: What it returned, of the same names and shapes.
            weight: Finite and not negative.

        Raises:
            InvalidArgument: Names or shapes differ, a dtype has no arithmetic, or the weight is wrong. Nothing is changed then.
        """
        if not math.isfinite(weight) or weight < 0:
            raise InvalidArgument(f"A weight is {weight}; weights are finite and not negative.")
        shapes = blocks.shapes_of(base)
        blocks.check_like(update, shapes, "the model that it started from has")
        if self._count:
            blocks.check_like(base, self._shapes, "the first one has")
        wide = {name: blocks.wide_dtype(name, dtype) for name, (_, dtype) in base.layout.items()}
        sums = self._sums or {name: np.zeros(math.prod(shapes[name]), dtype) for name, dtype in wide.items()}
        for name, total in sums.items():
            _add_change(total, base.stored(name), update.stored(name), weight)
        self._sums, self._shapes = sums, shapes
        self._count += 1

    def step(self, x: Parameters, factor: float) -> Parameters:
        """``x - factor * sum`` as new arrays of ``x``'s names, shapes and dtypes; integers are rounded, halves to even.

        Raises:
            InvalidArgument: Nothing was added, or ``x`` has other tensors.
        """
        if not self._count:
            raise InvalidArgument("There is no step: no update was added.")
        blocks.check_like(x, self._shapes, "the updates have")
        return Parameters({name: _step(array, self._sums[name], factor) for name, array in x.items()})


def _add_change(total: NDArray, base: NDArray, update: NDArray, weight: float) -> None:
    """``total += weight * (base - update)``, block by block; ``total`` is flat."""
    old, new = base.reshape(-1), update.reshape(-1)
    change, scratch = (np.empty(min(blocks.BLOCK, total.size), total.dtype) for _ in range(2))
    for start in range(0, total.size, blocks.BLOCK):
        part = slice(start, start + blocks.BLOCK)
        a, b = blocks.load(old[part], change), blocks.load(new[part], scratch)
        np.subtract(a, b, out=a)
        np.multiply(a, weight, out=a)
        np.add(total[part], a, out=total[part])


def _step(x: NDArray, total: NDArray, factor: float) -> NDArray:
    out = np.empty(x.size, x.dtype)
    flat = x.reshape(-1)
    value, scratch = (np.empty(min(blocks.BLOCK, x.size), total.dtype) for _ in range(2))
    for start in range(0, x.size, blocks.BLOCK):
        part = slice(start, start + blocks.BLOCK)
        a, b = blocks.load(flat[part], value), scratch[: out[part].size]
        np.multiply(total[part], factor, out=b)
        np.subtract(a, b, out=a)
        blocks.store(a, out[part])
    return out.reshape(x.shape)
