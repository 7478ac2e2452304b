"""How far updates lie from one another and from a reference, and updates clipped to a length.

Owned here: squared distances of all pairs in Gram form, and Euclidean norms, block by block and in float64, over all tensors of a
model taken together. Tensors of integers and bools (counters, masks) do not count unless a model has no others: the number of
batches that a client trained on says nothing about where it went.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hedgerow.aggregation import blocks
from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters


def squared_distances(updates: Sequence[Parameters], reference: Parameters) -> npt.NDArray[np.float64]:
    """The squared Euclidean distance of each pair of updates.

    With ``d_i = x_i - r``: ``|x_i - x_j|² = d_i·d_i + d_j·d_j - 2 d_i·d_j``. Each update is read once, and all products of a
    block are one matrix product. The reference matters for the digits: updates differ little from the parameters that were
    sent, and much from zero. It must not come from a client, who could send one so far away that no digits are left.

    Args:
        updates: N of them, at least one, of the same names and shapes.
        reference: What was sent to the clients.

    Returns:
        float64 of shape (N, N), symmetric, not negative, zero on the diagonal; infinite where a distance overflows.

    Raises:
        InvalidArgument: Names or shapes differ.

    >>> squared_distances([Parameters([np.array([x])]) for x in (1.0, 4.0)], Parameters([np.array([2.0])])).tolist()
    [[0.0, 9.0], [9.0, 0.0]]
    """
    blocks.check_alike([reference, *updates])
    gram = np.zeros((len(updates), len(updates)))
    size = blocks.block_size(len(updates) + 1, 8)
    with np.errstate(over="ignore", invalid="ignore"):
        for table in _differences(updates, reference, size):
            gram += table @ table.T
        squares = np.diagonal(gram)
        distances: npt.NDArray[np.float64] = squares[:, None] + squares[None, :] - 2 * gram
    distances[np.isnan(distances)] = math.inf  # inf - inf
    np.fill_diagonal(distances, 0.0)
    return np.maximum(distances, 0.0, out=distances)


def squared_norm(update: Parameters, reference: Parameters) -> float:
    """``|update - reference|²``; infinite where it overflows.

    Raises:
        InvalidArgument: Names or shapes differ.
    """
    blocks.check_alike([reference, update])
    with np.errstate(over="ignore", invalid="ignore"):
        return sum((float(np.dot(row, row)) for (row,) in _differences([update], reference, blocks.BLOCK)), 0.0)


def clip_update(update: Parameters, reference: Parameters, max_norm: float) -> Parameters:
    """The update, moved towards the reference until it is no farther from it than ``max_norm``.

    ``r + min(1, C / |x - r|) (x - r)``: McMahan, Ramage, Talwar and Zhang 2018, "Learning Differentially Private Recurrent
    Language Models", section 2 (flat clipping).

    Args:
        update: Tensors of integers and bools stay as they are.
        reference: What was sent to the client.
        max_norm: C, more than 0.

    Returns:
        The update itself where it is near enough, else new arrays of its dtypes.

    Raises:
        InvalidArgument: Names or shapes differ, ``max_norm`` is not more than 0, or the update's distance is not finite.

    >>> clip_update(Parameters([np.array([3.0, 5.0])]), Parameters([np.array([0.0, 1.0])]), 1.0).arrays()
    [array([0.6, 1.8])]
    """
    if not 0 < max_norm < math.inf:
        raise InvalidArgument(f"max_norm is {max_norm}; it must be more than 0 and finite.")
    norm = math.sqrt(squared_norm(update, reference))
    if not math.isfinite(norm):
        raise InvalidArgument(f"The update's distance from the reference is {norm}; it cannot be clipped.")
    if norm <= max_norm:
        return update
    names = blocks.moving(reference)
    scale = max_norm / norm
    shrunk = update.select(names)
    moved = {n: _shrink(shrunk.stored(n), reference.stored(n), scale, dtype) for n, (_, dtype) in shrunk.layout.items()}
    return Parameters({n: moved[n] if n in moved else update[n] for n in update})


def _shrink(array: NDArray, reference: NDArray, scale: float, dtype: np.dtype[Any]) -> NDArray:
    """``reference + scale (array - reference)``, of this dtype."""
    out = np.empty(array.shape, dtype)
    flat, source, origin = blocks.reals(out), blocks.reals(array), blocks.reals(reference)
    x, r = (np.empty(min(blocks.BLOCK, flat.size)) for _ in range(2))
    for start in range(0, flat.size, blocks.BLOCK):
        part = slice(start, start + blocks.BLOCK)
        moved, base = blocks.load(source[part], x), blocks.load(origin[part], r)
        np.subtract(moved, base, out=moved)
        np.multiply(moved, scale, out=moved)
        blocks.store(np.add(moved, base, out=moved), flat[part])
    return out


def _differences(updates: Sequence[Parameters], reference: Parameters, size: int) -> Iterator[npt.NDArray[np.float64]]:
    """Block by block a table with a row for each update: ``x_i - r`` in float64. The next one overwrites it."""
    table, origin = np.empty((len(updates), size)), np.empty(size)
    for name in blocks.moving(reference):
        base = blocks.reals(reference.stored(name))
        sources = [blocks.reals(update.stored(name)) for update in updates]
        for start in range(0, base.size, size):
            part = slice(start, start + size)
            zero = blocks.load(base[part], origin)
            rows = table[:, : zero.size]
            for row, source in zip(rows, sources, strict=True):
                np.subtract(blocks.load(source[part], row), zero, out=row)
            yield rows
