"""Tensors in blocks that fit the cache: what dtypes folds compute in, and how results get back into a tensor's own dtype.

Every fold walks flat views of its tensors block by block, converts a block, computes, and stores the block; nothing of a
model's size is made but the result. What travelled in a 16-bit float is read as it lies (``Parameters.stored``), and never
converted as a whole. Owned here: the dtypes (float16, bfloat16, float8, float32, float64, integers, bool,
complex), the one rounding at the end, and the check that tensors have the same names and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hedgerow.errors import InvalidArgument
from hedgerow.records import Layout, NDArray, Parameters

BLOCK = 131_072
"""Elements a block for folds that hold few blocks: 1 MiB of float64. Chosen by measuring (benchmarks/folds.py, 2 cores of an
EPYC, 32 MiB of cache): blocks of 16,384 took 1.4 to 2.3 times as long, larger ones up to 1,048,576 between 0.86 and 1.13
times."""

CACHE_BYTES = 4 * 1024 * 1024
"""What the blocks of all updates take together in folds that look at all of them at once. Chosen by measuring: 640 KiB, which a
second-level cache holds, took a median 1.3 (10 updates) to 2 times (64) as long, because each call into numpy then does too
little."""


class Room(Protocol):
    """Where a fold puts what it gives, so that it need not hold it."""

    def put(self, layout: Layout, values: Iterable[NDArray]) -> Parameters:
        """Take tensors block by block, and give them back as parameters.

        Args:
            layout: Names, shapes and dtypes.
            values: The tensors' elements in C order, one tensor after the other, as one-dimensional arrays of the tensor's dtype.
                A block is not valid any longer when the next one is asked for.
        """


class Memory:
    """Puts parameters into new arrays."""

    def put(self, layout: Layout, values: Iterable[NDArray]) -> Parameters:
        """Copy the blocks into arrays."""
        arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in layout.items()}
        following = iter(values)
        for array in arrays.values():
            flat, start = array.reshape(-1), 0
            while start < flat.size:
                block = next(following)
                flat[start : start + block.size] = block
                start += block.size
        return Parameters(arrays)


MEMORY = Memory()


def block_size(count: int, itemsize: int) -> int:
    """Elements a block where the blocks of ``count`` updates are held at once."""
    return max(1024, CACHE_BYTES // (count * itemsize))


def moves(array: NDArray) -> bool:
    """Whether a tensor has a direction to move in. Integers and bools (counters, masks) have none."""
    return array.dtype.kind not in "biu"


def moving(parameters: Parameters) -> list[str]:
    """The names of the tensors that distances and norms are about: those that move, or all if none does."""
    return [name for name in parameters if moves(parameters.stored(name))] or list(parameters)


def wide_dtype(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which a tensor is added up: float64, or complex128.

    Raises:
        InvalidArgument: It holds no numbers.
    """
    if dtype.kind == "c":
        return np.dtype(np.complex128)
    # Kind V holds bfloat16 and float8, which numpy converts to float64, but also structures, which it does not.
    if dtype.kind in "biuf" or (dtype.kind == "V" and np.can_cast(dtype, np.float64)):
        return np.dtype(np.float64)
    raise InvalidArgument(f"The tensor {name!r} has the dtype {dtype}, which has no mean.")


def compared_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of real numbers in which values are compared: exact, and one that numpy compares fast."""
    if dtype.kind == "V" or dtype == np.float16:
        return np.dtype(np.float32)
    return dtype.newbyteorder("=")


def reals(array: NDArray) -> NDArray:
    """The tensor as a flat view, complex numbers as pairs of real ones; a copy where it is not C-contiguous."""
    flat = array.reshape(-1)
    return flat.view(array.real.dtype) if array.dtype.kind == "c" else flat


def load(block: NDArray, out: NDArray) -> NDArray:
    """Convert a block into the beginning of a buffer, and return that beginning."""
    target = out[: block.size]
    np.copyto(target, block, casting="unsafe")
    return target


def store(values: NDArray, out: NDArray) -> None:
    """Convert computed values into a block of the result's dtype, rounding once. ``values`` may be changed."""
    if out.dtype.kind in "biu" and values.dtype.kind == "f":
        _round(values, out.dtype)
    np.copyto(out, values, casting="unsafe")


def check_numbers(parameters: Parameters) -> None:
    """Every tensor holds numbers.

    Raises:
        InvalidArgument: One does not.
    """
    for name, (_, dtype) in parameters.layout.items():
        wide_dtype(name, dtype)


def check_like(found: Parameters, wanted: Mapping[str, tuple[int, ...]], whose: str) -> None:
    """Tensors have the names, order and shapes that are wanted, and hold numbers.

    Args:
        found: What is checked.
        wanted: Shapes by name.
        whose: Who has what is wanted, for the message: "the first one has".

    Raises:
        InvalidArgument: They have others.
    """
    if list(found) != list(wanted):
        raise InvalidArgument(f"The update has the tensors {_few(found)}, {whose} {_few(wanted)}.")
    for name, (shape, _) in found.layout.items():
        if shape != wanted[name]:
            raise InvalidArgument(f"The tensor {name!r} of the update has the shape {shape}, {whose} {wanted[name]}.")
    check_numbers(found)


def check_alike(updates: Sequence[Parameters]) -> None:
    """There is an update, and all have the same names and shapes.

    Raises:
        InvalidArgument: It is not so.
    """
    if not updates:
        raise InvalidArgument("There is nothing to fold: 0 updates.")
    shapes = shapes_of(updates[0])
    for update in updates:
        check_like(update, shapes, "the first one has")


def dtype_for(name: str, own: np.dtype[Any], dtypes: Mapping[str, np.dtype[Any]] | None) -> np.dtype[Any]:
    """The result's dtype for a tensor: what is wanted for it, or its own."""
    return own if dtypes is None else dtypes.get(name, own)


def dtypes_of(parameters: Parameters) -> dict[str, np.dtype[Any]]:
    """Dtypes by name."""
    return {name: dtype for name, (_, dtype) in parameters.layout.items()}


def cast(parameters: Parameters, dtypes: Mapping[str, np.dtype[Any]] | None) -> Parameters:
    """The parameters themselves where they have these dtypes, else new arrays, rounded to them."""
    wanted = {name: dtype_for(name, dtype, dtypes) for name, (_, dtype) in parameters.layout.items()}
    if wanted == dtypes_of(parameters):
        return parameters
    return Parameters({name: _cast(parameters.stored(name), dtype) for name, dtype in wanted.items()})


def shapes_of(parameters: Parameters) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: shape for name, (shape, _) in parameters.layout.items()}


def _cast(array: NDArray, dtype: np.dtype[Any]) -> NDArray:
    out = np.empty(array.shape, dtype)
    source, target = reals(array), reals(out)
    for start in range(0, target.size, BLOCK):
        block = source[start : start + BLOCK]
        store(block if block.dtype.kind in "biu" else block.astype(np.float64), target[start : start + BLOCK])
    return out


def _round(values: NDArray, dtype: np.dtype[Any]) -> None:
    """Round in place to values that the integer (or bool) dtype can hold, halves to even."""
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
