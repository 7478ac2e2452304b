"""A server's step with momentum: pure, tensor by tensor.

With the mean update ``d = x - mean`` (the pseudo-gradient): ``v' = beta v + d`` and ``x' = x - lr v'``. Owned here: the
arithmetic, which is done in float64 (complex128) and rounded once, to the tensor's dtype. Nothing is changed in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters


@dataclass(frozen=True, slots=True)
class MomentumStep:
    """New parameters and the velocity that belongs to them."""

    parameters: Parameters
    velocity: Parameters


def momentum_step(x: Parameters, mean: Parameters, velocity: Parameters | None, *, lr: float, beta: float) -> MomentumStep:
    """One step from ``x`` towards, and past, ``mean``.

    Args:
        x: The parameters that were sent out. Tensors of integers and bools have no velocity: they become the mean's.
        mean: The clients' mean, of the same names and shapes.
        velocity: The last step's; None at the first one, where it is zero.
        lr: The server's learning rate.
        beta: The momentum, 0 ≤ beta < 1.

    Returns:
        Parameters of ``x``'s dtypes, and the velocity: float32 for tensors of up to 32 bits, else as wide as the tensor.

    Raises:
        InvalidArgument: Names or shapes differ.

    >>> step = momentum_step(Parameters([np.array([1.0])]), Parameters([np.array([3.0])]), None, lr=1.0, beta=0.5)
    >>> step.parameters.arrays(), step.velocity.arrays()
    ([array([3.])], [array([-2.])])
    """
    _check_like(mean, x)
    new: dict[str, NDArray] = {}
    moving: dict[str, NDArray] = {}
    if velocity is not None:
        _check_like(velocity, Parameters({name: array for name, array in x.items() if _moves(array)}))
    for name, array in x.items():
        if not _moves(array):
            new[name] = mean[name].astype(array.dtype)
            continue
        wide = np.complex128 if array.dtype.kind == "c" else np.float64
        delta: NDArray = np.asarray(array.astype(wide) - mean[name].astype(wide))
        if velocity is not None:
            delta = delta + beta * velocity[name].astype(wide)
        new[name] = np.asarray(array.astype(wide) - lr * delta).astype(array.dtype)
        moving[name] = np.asarray(delta).astype(_velocity_dtype(array))
    return MomentumStep(Parameters(new), Parameters(moving))


def _moves(array: NDArray) -> bool:
    return array.dtype.kind not in "biu"


def _velocity_dtype(array: NDArray) -> np.dtype[Any]:
    return np.dtype(np.float32) if array.dtype.kind == "V" or array.dtype.itemsize < 4 else array.dtype


def _check_like(found: Parameters, wanted: Parameters) -> None:
    shapes = {name: array.shape for name, array in wanted.items()}
    if {name: array.shape for name, array in found.items()} != shapes:
        raise InvalidArgument(f"{found!r} has other tensors than {wanted!r}, so that there is no step from one to the other.")
