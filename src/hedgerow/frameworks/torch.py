"""PyTorch: a module's state dict as parameters, by name.

Everything in the state dict travels: weights, and buffers such as running means or ``num_batches_tracked``, with the dtype that
they have. Tensors may be on any device, strided in any way, or one dimension short of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch

from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters

# What torch.from_numpy and Tensor.numpy do not know: the integers that the bits pass through, and the dtype of arrays.
_FOREIGN: dict[torch.dtype, tuple[torch.dtype, np.dtype[Any]]] = {
    torch.bfloat16: (torch.int16, np.dtype(ml_dtypes.bfloat16)),
    torch.float8_e4m3fn: (torch.int8, np.dtype(ml_dtypes.float8_e4m3fn)),
    torch.float8_e5m2: (torch.int8, np.dtype(ml_dtypes.float8_e5m2)),
}
_TORCH_NAMES = {dtype: torch_dtype for torch_dtype, (_, dtype) in _FOREIGN.items()}


def parameters_of(model: torch.nn.Module | Mapping[str, Any]) -> Parameters:
    """The model's state dict as parameters: same names, order, shapes and dtypes.

    Args:
        model: A module, or a state dict.

    Returns:
        Copies on the CPU.

    Raises:
        InvalidArgument: An entry is no dense tensor of numbers; the message names it.

    >>> parameters_of(torch.nn.BatchNorm1d(3))["num_batches_tracked"].dtype
    dtype('int64')
    """
    state = model.state_dict() if isinstance(model, torch.nn.Module) else model
    return Parameters({name: _array(name, value) for name, value in state.items()})


def load_parameters(model: torch.nn.Module, parameters: Parameters | Sequence[NDArray]) -> None:
    """Copy parameters into a model, wherever its tensors are, in their own dtypes.

    Args:
        model: Changed in place.
        parameters: By name; or arrays without names, in the order of the model's state dict.

    Raises:
        InvalidArgument: Names or shapes are not the model's; the message says which. The model is as it was.
    """
    state = model.state_dict()
    if not isinstance(parameters, Parameters):
        if len(parameters) != len(state):
            raise InvalidArgument(f"There are {len(parameters)} arrays for the {len(state)} tensors of the model.")
        parameters = Parameters(dict(zip(state, parameters, strict=True)))
    missing = [name for name in state if name not in parameters]
    foreign = [name for name in parameters if name not in state]
    if missing or foreign:
        raise InvalidArgument(
            "The parameters are those of another model. "
            f"Missing: {_some(missing)}; not known to the model: {_some(foreign)}. "
            "Parameters without names are loaded in their order as a list: parameters.arrays()."
        )
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and parameters[name].shape != tuple(tensor.shape):
            raise InvalidArgument(
                f"The tensor {name!r} has the shape {parameters[name].shape}, in the model {tuple(tensor.shape)}."
            )
    model.load_state_dict(state_dict_of(parameters))


def state_dict_of(parameters: Parameters) -> dict[str, torch.Tensor]:
    """The parameters as tensors on the CPU, for ``load_state_dict``: same names, order, shapes and dtypes.

    Returns:
        Copies.

    Raises:
        InvalidArgument: PyTorch has no such dtype; the message names the tensor.
    """
    return {name: _tensor(name, array) for name, array in parameters.items()}


def _array(name: str, value: Any) -> NDArray:
    if not isinstance(value, torch.Tensor):
        raise InvalidArgument(f"The entry {name!r} of the state dict is a {type(value).__name__}, not a tensor.")
    tensor = value.detach()
    try:
        # A copy always, also of what is on the CPU already; and dense, or its bits could not be viewed as another dtype.
        tensor = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
        if tensor.dtype not in _FOREIGN:
            return tensor.numpy()
        bits, dtype = _FOREIGN[tensor.dtype]
        return tensor.view(bits).numpy().view(dtype)
    except (TypeError, RuntimeError) as error:
        raise InvalidArgument(
            f"The tensor {name!r} ({tensor.dtype}, {tensor.layout}) cannot be read as an array: {error}"
        ) from error


def _tensor(name: str, array: NDArray) -> torch.Tensor:
    # A copy, because arrays are often read-only views of a file, and tensors are always writable.
    own = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    try:
        if own.dtype not in _TORCH_NAMES:
            return torch.from_numpy(own)
        return torch.from_numpy(own.view(f"i{own.itemsize}")).view(_TORCH_NAMES[own.dtype])
    except TypeError as error:
        raise InvalidArgument(f"PyTorch has no tensors of the dtype {array.dtype}, which {name!r} has.") from error


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (", …" if len(names) > 4 else "") if names else "none"
