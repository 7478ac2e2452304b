"""The weighted mean of parameters, folded one update at a time.

``mean = sum_k w_k x_k / sum_k w_k``, coordinate by coordinate: the server's step of federated averaging (McMahan et al. 2017,
"Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1).

Owned here: the arithmetic. The sum is kept in float64 (complex128 for complex tensors), in blocks that fit the cache, so that
an update is read from memory once, and only one accumulator is held however many updates there are. Weights that are integers
are multiplied and added up as they are and divided by at the end, not normalised first: with float32 tensors and example counts
the products are then exact, and the result hardly depends on the order. It is a function of the updates and their order alone;
whoever wants the same bits again folds in the same order. What is refused: updates of other names or shapes than the first, and
weights that are negative or not finite. Whether values are finite is checked elsewhere (:mod:`hedgerow.aggregation.updates`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters

BLOCK = 131_072
"""Elements a block: 1 MiB of float64. Chosen by measuring (benchmarks/fold_mean.py, 2 cores of an EPYC, 32 MiB of cache): blocks
of 16,384 took 1.4 to 2.3 times as long, larger ones up to 1,048,576 between 0.86 and 1.13 times."""


class WeightedMean:
    """Accumulates ``sum w x`` and ``sum w``.

    >>> mean = WeightedMean()
    >>> mean.add(Parameters({"w": np.array([0.0, 4.0], np.float32)}), 1)
    >>> mean.add(Parameters({"w": np.array([4.0, 4.0], np.float32)}), 3)
    >>> mean.result()["w"]
    array([3., 4.], dtype=float32)
    """

    def __init__(self) -> None:
        self._like: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._sums: dict[str, npt.NDArray[Any]] = {}
        self._weight: int | float = 0
        self._count = 0

    def __len__(self) -> int:
        """How many updates were added."""
        return self._count

    @property
    def weight(self) -> int | float:
        """The sum of the weights; an int while all of them were."""
        return self._weight

    def add(self, parameters: Parameters, weight: float) -> None:
        """Fold one update in. The first one fixes names, shapes and the result's dtypes.

        Args:
            parameters: Tensors of bool, integer, float (also bfloat16 and float8) or complex dtype; they may be read-only
                views of a file. Nothing is kept of them.
            weight: Non-negative; an int (a count of examples) is exact below 2**53.

        Raises:
            InvalidArgument: Names or shapes differ from the first update's, a dtype cannot be averaged, or the weight is
                negative or not finite. The accumulator is unchanged then.
        """
        weight = _checked_weight(weight)
        if self._count == 0:
            like = {name: (array.shape, array.dtype) for name, array in parameters.items()}
            self._sums = {name: np.zeros(array.size, sum_dtype(name, array)) for name, array in parameters.items()}
            self._like = like
        else:
            self._check_like(parameters)
        if weight:
            factor = np.float64(weight)
            for name, array in parameters.items():
                _add(self._sums[name], array, factor)
        self._weight += weight
        self._count += 1

    def result(self) -> Parameters:
        """The mean so far, as new arrays with the first update's names, shapes and dtypes.

        Integer and bool tensors are rounded to the nearest value, halves to even. Integers beyond 2**53 lose their last digits.

        Raises:
            InvalidArgument: Nothing was added, or all weights are zero.
        """
        if not self._weight:
            raise InvalidArgument(f"There is no mean of {self._count} updates whose weights add up to 0.")
        divisor = np.float64(self._weight)
        return Parameters({name: _divide(self._sums[name], divisor, *self._like[name]) for name in self._like})

    def _check_like(self, parameters: Parameters) -> None:
        if list(parameters) != list(self._like):
            raise InvalidArgument(f"The update has the tensors {_few(parameters)}, the first one had {_few(self._like)}.")
        for name, array in parameters.items():
            if array.shape != self._like[name][0]:
                raise InvalidArgument(
                    f"The tensor {name!r} has the shape {array.shape}, in the first update {self._like[name][0]}."
                )
            sum_dtype(name, array)


def weighted_mean(updates: Iterable[tuple[Parameters, float]]) -> Parameters:
    """The weighted mean of ``(parameters, weight)`` pairs, folded in their order. See :class:`WeightedMean`."""
    mean = WeightedMean()
    for parameters, weight in updates:
        mean.add(parameters, weight)
    return mean.result()


def weighted_loss_mean(losses: Iterable[tuple[int, float]]) -> float:
    """The mean of ``(number of examples, loss)`` pairs, weighted by the number of examples.

    Raises:
        InvalidArgument: There are none, or no examples.

    >>> weighted_loss_mean([(1, 0.5), (3, 1.5)])
    1.25
    """
    pairs = list(losses)
    total = sum(examples for examples, _ in pairs)
    if not total:
        raise InvalidArgument(f"There is no mean of {len(pairs)} losses over 0 examples.")
    return math.fsum(examples * loss for examples, loss in pairs) / total


def _checked_weight(weight: float) -> int | float:
    try:
        value: int | float = operator.index(weight)  # type: ignore[arg-type]  # ints of any kind, numpy's too
    except TypeError:
        value = float(weight)
    if not math.isfinite(value) or value < 0:
        raise InvalidArgument(f"A weight is {value}; weights are finite and not negative.")
    return value


def sum_dtype(name: str, array: NDArray) -> np.dtype[Any]:
    """The dtype in which an array is added up."""
    if array.dtype.kind == "c":
        return np.dtype(np.complex128)
    # Kind V holds bfloat16 and float8, which numpy converts to float64, but also structures, which it does not.
    if array.dtype.kind in "biuf" or (array.dtype.kind == "V" and np.can_cast(array.dtype, np.float64)):
        return np.dtype(np.float64)
    raise InvalidArgument(f"The tensor {name!r} has the dtype {array.dtype}, which has no mean.")


def _add(total: NDArray, array: NDArray, weight: np.float64) -> None:
    """``total += weight * array``, block by block; ``total`` is flat."""
    flat = array.reshape(-1)
    scratch = np.empty(min(BLOCK, total.size), total.dtype)
    for start in range(0, total.size, BLOCK):
        part = total[start : start + BLOCK]
        product = scratch[: part.size]
        block = flat[start : start + BLOCK]
        if block.dtype != product.dtype:
            # Convert first: multiplying mixed dtypes goes through numpy's own small buffers and takes longer.
            np.copyto(product, block, casting="unsafe")
            block = product
        np.multiply(block, weight, out=product)
        np.add(part, product, out=part)


def _divide(total: NDArray, divisor: np.float64, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray:
    """``total / divisor`` as a new array of this shape and dtype."""
    out = np.empty(total.size, dtype)
    scratch = np.empty(min(BLOCK, total.size), total.dtype)
    for start in range(0, total.size, BLOCK):
        part = total[start : start + BLOCK]
        quotient = scratch[: part.size]
        np.divide(part, divisor, out=quotient)
        if dtype.kind in "biu":
            round_to(quotient, dtype)
        np.copyto(out[start : start + BLOCK], quotient, casting="unsafe")
    return out.reshape(shape)


def round_to(values: NDArray, dtype: np.dtype[Any]) -> None:
    """Round in place to values that the integer (or bool) dtype can hold."""
    np.rint(values, out=values)
    if dtype.kind != "b":
        info = np.iinfo(dtype)
        # float64(2**63 - 1) is 2**63, which int64 cannot hold: the bounds are the float64 values inside the range.
        high = float(info.max) if int(float(info.max)) <= info.max else math.nextafter(float(info.max), 0.0)
        np.clip(values, float(info.min), high, out=values)


def _few(names: Iterable[str]) -> str:
    """The first names, for a message."""
    names = list(names)
    return f"{len(names)} ({', '.join(map(repr, names[:4]))}{', …' if len(names) > 4 else ''})"
