"""Folds by order: the coordinate-wise median, the trimmed mean, and the mean of the values nearest to the median.

Each coordinate is folded by itself, and clients count alike, whatever their numbers of examples: that is what makes the results
robust against some clients that send anything at all. Yin, Chen, Ramchandran and Bartlett 2018, "Byzantine-Robust Distributed
Learning: Towards Optimal Statistical Rates", definitions 1 (median) and 2 (trimmed mean).

Owned here: the walk over N updates block by block. What is held is N blocks, not N models; the updates may be memory maps. Up to
``NETWORK_MAX`` updates are ordered by a network of ``np.minimum`` and ``np.maximum`` over whole blocks (:mod:`.network`), more by
sorting. Values are compared as they are, and added up in float64, in ascending order, so that the order of the updates changes
nothing, and rounded once. Complex numbers are two coordinates each. NaN is not looked for here; where one is, the result is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from hedgerow.aggregation import blocks
from hedgerow.aggregation.network import Comparator, network
from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters

NETWORK_MAX = 64
"""Updates that a network orders faster than a sort does (benchmarks/folds.py)."""

Dtypes: TypeAlias = Mapping[str, np.dtype[Any]]
Combine: TypeAlias = Callable[[list[NDArray]], NDArray]
"""From blocks in ascending order to a new block, or one of them."""


def coordinate_median(updates: Sequence[Parameters], dtypes: Dtypes | None = None) -> Parameters:
    """The median of each coordinate; of an even number the mean of the middle two.

    Args:
        updates: At least one; tensors of the same names and shapes, of any dtype that can travel.
        dtypes: The result's dtypes by name; the first update's where nothing is said.

    Returns:
        New arrays. Integers and bools are rounded to the nearest value, halves to even.

    Raises:
        InvalidArgument: There are none, or their names or shapes differ.

    >>> coordinate_median([Parameters([np.array([x, 1.0])]) for x in (1.0, 2.0, 900.0)]).arrays()
    [array([2., 1.])]
    """
    return trimmed_mean(updates, max(0, (len(updates) - 1) // 2), dtypes)


def trimmed_mean(updates: Sequence[Parameters], cut: int, dtypes: Dtypes | None = None) -> Parameters:
    """The mean of each coordinate without its ``cut`` smallest and ``cut`` largest values.

    Args:
        updates: As for :func:`coordinate_median`.
        cut: How many values are left out on either side; less than half of them.
        dtypes: As there.

    Returns:
        As for :func:`coordinate_median`.

    Raises:
        InvalidArgument: As there, or nothing would be left.
    """
    if cut < 0 or 2 * cut >= max(1, len(updates)):
        raise InvalidArgument(f"Nothing is left of {len(updates)} updates without {cut} on either side.")
    return _fold(updates, cut, len(updates) - 1 - cut, mean_of_rows, dtypes)


def mean_near_median(updates: Sequence[Parameters], keep: int, dtypes: Dtypes | None = None) -> Parameters:
    """The mean of those ``keep`` values of each coordinate that are nearest to its median; of two equally near ones the smaller.

    The second half of Bulyan (El Mhamdi, Guerraoui and Rouault 2018, "The Hidden Vulnerability of Distributed Learning in
    Byzantium", section 4). In ascending order the nearest values are neighbours: a window that slides up from the smallest values
    while the next value is nearer than the window's first.

    Args:
        updates: As for :func:`coordinate_median`.
        keep: How many values count, at least one.
        dtypes: As there.

    Returns:
        As for :func:`coordinate_median`.

    Raises:
        InvalidArgument: As there, or ``keep`` is not between 1 and the number of updates.
    """
    if not 1 <= keep <= max(1, len(updates)):
        raise InvalidArgument(f"{keep} of {len(updates)} updates cannot be kept.")
    return _fold(updates, 0, len(updates) - 1, lambda rows: _nearest_mean(rows, keep), dtypes)


def mean_of_rows(rows: list[NDArray]) -> NDArray:
    """The mean of some blocks in float64; one block as it is."""
    if len(rows) == 1:
        return rows[0]
    total = rows[0].astype(np.float64)
    for row in rows[1:]:
        np.add(total, row, out=total)
    return np.divide(total, len(rows), out=total)


def _nearest_mean(rows: list[NDArray], keep: int) -> NDArray:
    wide = [row.astype(np.float64, copy=False) for row in rows]
    median = mean_of_rows(wide[(len(wide) - 1) // 2 : len(wide) // 2 + 1])
    # slides[k]: the window of this coordinate moves from k to k + 1. Once it stops it never moves again.
    slides = [wide[k + keep] - median < median - wide[k] for k in range(len(wide) - keep)]
    total = np.zeros(median.shape)
    for k, row in enumerate(wide):
        kept = np.ones(median.shape, np.bool_)
        if k < len(slides):
            kept &= ~slides[k]
        if k >= keep:
            kept &= slides[k - keep]
        np.add(total, row, out=total, where=kept)
    return np.divide(total, keep, out=total)


def _fold(updates: Sequence[Parameters], first: int, last: int, combine: Combine, dtypes: Dtypes | None) -> Parameters:
    """Order each coordinate's values and combine those of the ranks ``first`` to ``last``."""
    blocks.check_alike(updates)
    folded = {}
    for name, (shape, dtype) in updates[0].layout.items():
        out = np.empty(shape, blocks.dtype_for(name, dtype, dtypes))
        _fold_tensor([update.stored(name) for update in updates], first, last, combine, out)
        folded[name] = out
    return Parameters(folded)


def _fold_tensor(arrays: list[NDArray], first: int, last: int, combine: Combine, out: NDArray) -> None:
    flat = blocks.reals(out)
    sources = [blocks.reals(array) for array in arrays]
    dtype = np.result_type(*(blocks.compared_dtype(source.dtype) for source in sources))
    size = min(flat.size, blocks.block_size(len(arrays), dtype.itemsize))
    order = (
        _Network(len(arrays), first, last, size, dtype)
        if len(arrays) <= NETWORK_MAX
        else _Sort(len(arrays), first, last, size, dtype)
    )
    for start in range(0, flat.size, size or 1):
        rows = order([source[start : start + size] for source in sources])
        blocks.store(combine(rows), flat[start : start + size])


class _Network:
    """Orders blocks by a sorting network, in buffers of its own: one for each block, and one to swap with."""

    def __init__(self, count: int, first: int, last: int, size: int, dtype: np.dtype[Any]) -> None:
        self._buffers = [np.empty(size, dtype) for _ in range(count + 1)]
        self._first, self._last = first, last
        self._comparators: tuple[Comparator, ...] = network(count, first, last)

    def __call__(self, sources: list[NDArray]) -> list[NDArray]:
        """The values of the ranks that are wanted, as blocks in ascending order."""
        rows = [blocks.load(source, buffer) for source, buffer in zip(sources, self._buffers, strict=False)]
        spare = self._buffers[-1][: rows[0].size]
        for i, j, low, high in self._comparators:
            a, b = rows[i], rows[j]
            if low and high:
                np.minimum(a, b, out=spare)
                np.maximum(a, b, out=b)
                rows[i], spare = spare, a
            elif low:
                np.minimum(a, b, out=a)
            else:
                np.maximum(a, b, out=b)
        return rows[self._first : self._last + 1]


class _Sort:
    """Orders blocks by sorting their transpose: the values of a coordinate lie side by side."""

    def __init__(self, count: int, first: int, last: int, size: int, dtype: np.dtype[Any]) -> None:
        self._buffer = np.empty((size, count), dtype)
        self._ranks = range(first, last + 1)

    def __call__(self, sources: list[NDArray]) -> list[NDArray]:
        """The values of the ranks that are wanted, as blocks in ascending order."""
        table = self._buffer[: sources[0].size]
        for column, source in enumerate(sources):
            np.copyto(table[:, column], source, casting="unsafe")
        table.sort(axis=1)
        return [table[:, rank] for rank in self._ranks]
