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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hedgerow.aggregation import blocks
from hedgerow.errors import InvalidArgument
from hedgerow.records import Layout, NDArray, NDArrays, Parameters

HELD = 4
"""So many read-only updates are held before they are folded: the sums are then read and written once for all of them. With no
more than these there are no sums at all, and the mean is made block by block from the updates."""


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
        self._held: list[tuple[Parameters, np.float64]] = []
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
                views of a file. Of read-only ones a few are held and folded together, so they must not change behind the view;
                of others nothing is kept.
            weight: Non-negative; an int (a count of examples) is exact below 2**53.

        Raises:
            InvalidArgument: Names or shapes differ from the first update's, a dtype cannot be averaged, or the weight is
                negative or not finite. The accumulator is unchanged then.
        """
        weight = _checked_weight(weight)
        if self._count == 0:
            blocks.check_numbers(parameters)
            self._like = dict(parameters.layout)
        else:
            blocks.check_like(parameters, {name: shape for name, (shape, _) in self._like.items()}, "the first one has")
        if weight:
            changing = any(parameters.stored(name).flags.writeable for name in parameters)
            if changing or len(self._held) == HELD:
                self._fold()
            self._held.append((parameters, np.float64(weight)))
            if changing:
                self._fold()
        self._weight += weight
        self._count += 1

    def result(self, dtypes: Mapping[str, np.dtype[Any]] | None = None, room: blocks.Room | None = None) -> Parameters:
        """The mean so far, with the first update's names, shapes and, unless others are wanted, dtypes.

        Integer and bool tensors are rounded to the nearest value, halves to even. Integers beyond 2**53 lose their last digits.

        Args:
            dtypes: Dtypes by name where others are wanted.
            room: Where the mean is put, block by block; None for new arrays.

        Raises:
            InvalidArgument: Nothing was added, or all weights are zero.
        """
        divisor = self._divisor()
        layout = {
            name: (shape, dtype if dtypes is None else dtypes.get(name, dtype)) for name, (shape, dtype) in self._like.items()
        }
        return (room or blocks.MEMORY).put(layout, self._quotients(divisor, layout))

    def _quotients(self, divisor: np.float64, layout: Layout) -> Iterator[NDArray]:
        """The mean's elements, tensor by tensor; each block lies where the one before it was."""
        for name, (shape, dtype) in layout.items():
            size, wide = math.prod(shape), self._wide(name)
            total, updates = self._sums.get(name), self._held_tensors(name)
            sums, product = np.empty(min(blocks.BLOCK, size), wide), np.empty(min(blocks.BLOCK, size), wide)
            rounded = np.empty(sums.size, dtype)
            for start in range(0, size, blocks.BLOCK):
                part = sums[: min(blocks.BLOCK, size - start)]
                np.copyto(part, 0.0 if total is None else total[start : start + part.size])
                _add(part, updates, start, product)
                np.divide(part, divisor, out=part)
                blocks.store(part, rounded[: part.size])
                yield rounded[: part.size]

    def _fold(self) -> None:
        """Add the updates that are held to the sums, in their order."""
        for name, (shape, _) in self._like.items() if self._held else ():
            if name not in self._sums:
                self._sums[name] = np.zeros(math.prod(shape), self._wide(name))
            total, updates = self._sums[name], self._held_tensors(name)
            product = np.empty(min(blocks.BLOCK, total.size), total.dtype)
            for start in range(0, total.size, blocks.BLOCK):
                _add(total[start : start + blocks.BLOCK], updates, start, product)
        self._held = []

    def _held_tensors(self, name: str) -> list[tuple[NDArray, np.float64]]:
        return [(parameters.stored(name).reshape(-1), weight) for parameters, weight in self._held]

    def _wide(self, name: str) -> np.dtype[Any]:
        return blocks.wide_dtype(name, self._like[name][1])

    def take(self) -> Parameters:
        """The mean as float64 (complex128) arrays that were not rounded; the accumulator is empty afterwards.

        For what goes on computing with the mean: no other array of the model's size is made, and a float16 or bfloat16 mean keeps
        the digits by which it differs from the parameters that were sent.

        Raises:
            InvalidArgument: As for :meth:`result`.
        """
        divisor = self._divisor()
        self._fold()
        sums, like = self._sums, self._like
        self._sums, self._like, self._weight, self._count = {}, {}, 0, 0
        for total in sums.values():
            np.divide(total, divisor, out=total)
        return Parameters({name: total.reshape(like[name][0]) for name, total in sums.items()})

    def _divisor(self) -> np.float64:
        if not self._weight:
            raise InvalidArgument(f"There is no mean of {self._count} updates whose weights add up to 0.")
        return np.float64(self._weight)


def weighted_mean(updates: Iterable[tuple[Parameters, float]], dtypes: Mapping[str, np.dtype[Any]] | None = None) -> Parameters:
    """The weighted mean of ``(parameters, weight)`` pairs, folded in their order. See :class:`WeightedMean`."""
    mean = WeightedMean()
    for parameters, weight in updates:
        mean.add(parameters, weight)
    return mean.result(dtypes)


def aggregate(results: Iterable[tuple[NDArrays, int]]) -> NDArrays:
    """The weighted mean of ``(arrays, number of examples)`` pairs, for strategies that work on lists of arrays.

    >>> aggregate([([np.array([0.0, 4.0])], 1), ([np.array([4.0, 4.0])], 3)])
    [array([3., 4.])]

    Raises:
        InvalidArgument: There are none, or no examples; or their shapes differ.
    """
    return weighted_mean((Parameters(arrays), examples) for arrays, examples in results).arrays()


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


def _add(total: NDArray, updates: Sequence[tuple[NDArray, np.float64]], start: int, scratch: NDArray) -> None:
    """Add ``weight * array`` to a block of the sums for each update; the arrays are flat, and the block begins at ``start``."""
    product = scratch[: total.size]
    for flat, weight in updates:
        block = flat[start : start + total.size]
        if block.dtype != product.dtype:
            # Convert first: multiplying mixed dtypes goes through numpy's own small buffers and takes longer.
            block = blocks.load(block, product)
        np.multiply(block, weight, out=product)
        np.add(total, product, out=total)
