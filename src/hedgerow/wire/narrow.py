"""16-bit floats in which parameters may travel, and how tensors get into them and back.

A driver may have the parameters of a run travel in bfloat16 or float16, both ways: half the bytes of float32. Owned here: which
tensors that concerns (float32 and float64; integers, bools, complex numbers and what is narrower travel as they are), the
conversion, block by block, and :class:`NarrowParameters`, which are as they lie in their file and look as they were.

Rounding is to the nearest value, halves to even; float64 goes to bfloat16 through float32. NaN stays NaN. A finite number that is
too large for the 16-bit float is an error that names its tensor, never an infinity. What is nearer to zero than half of the
smallest number becomes zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from hedgerow.errors import ConfigError, InvalidArgument
from hedgerow.records import Layout, NDArray, Parameters

DTYPES: dict[str, np.dtype[Any]] = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
"""The 16-bit floats by the names that ``transport_dtype`` has for them."""
BLOCK = 131_072
"""Elements that are converted together."""

_CAST = frozenset({np.dtype(np.float32), np.dtype(np.float64)})
_EXPONENTS = {"bfloat16": 0x7F80, "float16": 0x7C00}
"""The bits that are all set in infinities and NaN, and in nothing else."""
_LARGEST = {"bfloat16": 3.3895314e38, "float16": 65504.0}


def check_transport_dtype(value: object) -> str:
    """The name of a 16-bit float, or "" for None: parameters travel in their own dtypes.

    Raises:
        ConfigError: It is something else.
    """
    if value is None or (isinstance(value, str) and value in DTYPES):
        return value or ""
    raise ConfigError(
        f"transport_dtype is {value!r:.80}; give {', '.join(map(repr, DTYPES))}, or None for the model's own dtypes."
    )


def narrowed(layout: Layout, transport_dtype: str) -> Layout:
    """The names, shapes and dtypes with which tensors of this layout travel; "" changes nothing.

    Raises:
        InvalidArgument: There is no such 16-bit float.
    """
    if not transport_dtype:
        return layout
    if transport_dtype not in DTYPES:
        raise InvalidArgument(f"Parameters cannot travel as {transport_dtype!r:.80}, only as {' or '.join(DTYPES)}.")
    narrow = DTYPES[transport_dtype]
    return {name: (shape, narrow if is_cast(dtype) else dtype) for name, (shape, dtype) in layout.items()}


def is_cast(dtype: np.dtype[Any]) -> bool:
    """Whether tensors of this dtype travel in the 16-bit float."""
    return dtype.newbyteorder("=") in _CAST


def converted(name: str, array: NDArray, dtype: np.dtype[Any]) -> Iterator[NDArray]:
    """A tensor's elements in C order in another float dtype, in blocks; each block lies where the one before it was.

    Args:
        name: The tensor's name, for the message.
        array: Any float dtype.
        dtype: The dtype wanted.

    Raises:
        InvalidArgument: A finite value becomes infinite.
    """
    flat = np.asarray(array).reshape(-1)  # a np.matrix has no flat form
    out = np.empty(min(BLOCK, flat.size), dtype)
    for start in range(0, flat.size, BLOCK):
        source = flat[start : start + BLOCK]
        block = out[: source.size]
        with np.errstate(all="ignore"):
            np.copyto(block, source, casting="unsafe")
        if dtype in DTYPES.values() and not is_finite(block):
            _check_overflow(name, source, block, start)
        yield block


def is_finite(block: NDArray) -> bool:
    """Whether a block of a 16-bit float, of this machine's byte order, holds no NaN and no infinity. Faster than numpy's."""
    exponent = _EXPONENTS[block.dtype.name]
    return not block.size or int((block.view(np.uint16) & exponent).max()) < exponent


def _check_overflow(name: str, source: NDArray, block: NDArray, start: int) -> None:
    """A value that was not finite before is not this module's business."""
    overflowed = np.isfinite(source) & ~np.isfinite(block)
    if overflowed.any():
        first = int(np.argmax(overflowed))
        advice = "bfloat16 has the range of float32" if block.dtype == np.float16 else "Let such a model travel as it is"
        raise InvalidArgument(
            f"The tensor {name!r:.80} does not fit into {block.dtype}, whose largest number is {_LARGEST[block.dtype.name]:g}: "
            f"element {start + first} is {source[first]}. {advice}."
        )


class NarrowParameters(Parameters):
    """Parameters that lie in a 16-bit float and look as they were: ``[name]`` converts a tensor back, each time anew.

    What they look like cannot be written to. :meth:`stored` gives the 16-bit tensors, for whoever reads block by block.

    Args:
        tensors: All tensors as they lie, by name.
        own: The own dtypes of those that travelled in the 16-bit float: at least one.
    """

    __slots__ = ("_own",)

    def __init__(self, tensors: Mapping[str, NDArray], own: Mapping[str, np.dtype[Any]]) -> None:
        super().__init__(tensors)
        self._own = dict(own)

    def __getitem__(self, name: str) -> NDArray:
        array = self._tensors[name]
        if name not in self._own:
            return array
        wide: NDArray = array.astype(self._own[name])
        wide.flags.writeable = False
        return wide

    @property
    def transport_dtype(self) -> str:
        """The 16-bit float in which they lie."""
        return next(self._tensors[name].dtype.name for name in self._own)

    @property
    def layout(self) -> Layout:
        """Names, shapes and own dtypes. Nothing is converted."""
        return {name: (array.shape, self._own.get(name, array.dtype)) for name, array in self._tensors.items()}

    def select(self, names: Iterable[str]) -> Parameters:
        """The tensors of these names, in the order of the names; nothing is converted."""
        tensors = {name: self._tensors[name] for name in names}
        own = {name: dtype for name, dtype in self._own.items() if name in tensors}
        return NarrowParameters(tensors, own) if own else Parameters(tensors)
