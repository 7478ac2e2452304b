"""What an update must look like before it may be folded.

A strategy states an :class:`UpdateSpec` for each instruction; :func:`check_update` holds what a client returned against it. An
update that does not fit is a failure with a reason, never a poisoned model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hedgerow.errors import BadUpdate
from hedgerow.records import NDArray, Parameters
from hedgerow.wire import narrow

BLOCK = 65_536
"""Elements that are looked at together when values are checked."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class UpdateSpec:
    """What an update must look like.

    Attributes:
        tensors: The tensors in their order, or None where any will do. A tensor's dtype must be of the same sort (float, integer,
            bool, complex) but may have another width: a client that computes in float64 on a float32 model is no fault.
        finite: Whether NaN and infinity are refused.
        check: Called with the update when all else fits, for what is not about shapes; raises BadUpdate where it does not fit.
            It may be called from another thread, and for several updates at once.
    """

    tensors: tuple[TensorSpec, ...] | None = None
    finite: bool = True
    check: Callable[[Parameters], None] | None = None

    @classmethod
    def like(cls, parameters: Parameters, *, finite: bool = True) -> UpdateSpec:
        """An update with the names, shapes and dtypes of these parameters."""
        return cls(tuple(TensorSpec(name, *one) for name, one in parameters.layout.items()), finite)


def check_update(parameters: Parameters, num_examples: int, spec: UpdateSpec) -> None:
    """Hold an update against its specification.

    Args:
        parameters: What the client returned.
        num_examples: Its weight.
        spec: What was asked for.

    Raises:
        BadUpdate: It does not fit; the message names the tensor, what was expected and what was found.
    """
    if num_examples < 0:
        raise BadUpdate(f"num_examples is {num_examples}; it must not be negative.")
    if spec.tensors is not None:
        _check_tensors(parameters, spec.tensors)
    if spec.finite:
        for name in parameters:
            _check_finite(name, parameters.stored(name))
    if spec.check is not None:
        spec.check(parameters)


def _check_tensors(parameters: Parameters, expected: tuple[TensorSpec, ...]) -> None:
    found = parameters.layout
    names, wanted = list(found), [tensor.name for tensor in expected]
    if names != wanted:
        raise BadUpdate(_name_problem(names, wanted))
    for tensor in expected:
        shape, dtype = found[tensor.name]
        if shape != tensor.shape:
            raise BadUpdate(f"The tensor {tensor.name!r} has the shape {shape}, expected {tensor.shape}.")
        if _sort(dtype) != _sort(tensor.dtype):
            raise BadUpdate(f"The tensor {tensor.name!r} has the dtype {dtype}, expected {tensor.dtype}.")


def _name_problem(names: list[str], wanted: list[str]) -> str:
    missing = [name for name in wanted if name not in set(names)]
    foreign = [name for name in names if name not in set(wanted)]
    if len(names) != len(wanted):
        text = f"The update has {len(names)} tensors, expected {len(wanted)}."
    elif missing:
        text = "The update's tensors have other names than expected."
    else:
        text = "The update's tensors come in another order than expected."
    if missing:
        text += f" Missing: {', '.join(map(repr, missing[:4]))}{', …' if len(missing) > 4 else ''}."
    if foreign:
        text += f" Not expected: {', '.join(map(repr, foreign[:4]))}{', …' if len(foreign) > 4 else ''}."
    return text


def _sort(dtype: np.dtype[Any]) -> str:
    """Float, integer, bool, complex: what a dtype is apart from its width."""
    if dtype.kind in "iu":
        return "integer"
    if dtype.kind == "V":  # bfloat16 and float8
        return "float"
    return {"f": "float", "b": "bool", "c": "complex"}.get(dtype.kind, dtype.str)


def _check_finite(name: str, array: NDArray) -> None:
    if array.dtype.kind in "biu":
        return
    flat = array.reshape(-1)
    quick = array.dtype in narrow.DTYPES.values()
    for start in range(0, flat.size, BLOCK):
        if quick and narrow.is_finite(flat[start : start + BLOCK]):
            continue
        finite = np.isfinite(flat[start : start + BLOCK])
        if not finite.all():
            first = start + int(np.argmin(finite))
            raise BadUpdate(f"The tensor {name!r} is not finite: element {first} of {flat.size} is {flat[first]}.")
