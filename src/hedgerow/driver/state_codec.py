"""A strategy's state as JSON and tensors, and back, without pickle.

Values may be None, bool, int, float, str, bytes, numpy scalars and arrays, :class:`~hedgerow.records.Parameters`, and lists,
tuples and dicts of them. Arrays come back as copies, parameters as views of the file that they are in.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from hedgerow.driver.durable import Json, of_type
from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.records import NDArray, Parameters


class Encoder:
    """Turns values into JSON and collects their arrays."""

    def __init__(self) -> None:
        self._arrays: list[NDArray] = []

    @property
    def tensors(self) -> Parameters:
        """The arrays so far; goes with what :meth:`encode` gave."""
        return Parameters(self._arrays)

    def encode(self, value: Any, where: str) -> Json:
        """One value.

        Raises:
            InvalidArgument: It holds something that cannot be kept; the message says where.
        """
        if isinstance(value, np.generic):
            return {"scalar": self._add(np.asarray(value))}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes):
            return {"bytes": base64.b64encode(value).decode()}
        if isinstance(value, Parameters):
            return {"parameters": [[name, self._add(array)] for name, array in value.items()]}
        if isinstance(value, np.ndarray):
            return {"array": self._add(value)}
        if isinstance(value, list | tuple):
            items = [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, Mapping):
            pairs = [[self.encode(k, f"a key of {where}"), self.encode(v, f"{where}[{k!r}]")] for k, v in value.items()]
            return {"dict": pairs}
        raise InvalidArgument(
            f"{where} has the type {type(value).__name__}, which a checkpoint cannot keep. Let state_dict() give numbers, "
            "strings, arrays, Parameters, and lists, tuples and dicts of them."
        )

    def _add(self, array: NDArray) -> int:
        self._arrays.append(array)
        return len(self._arrays) - 1


def decode(value: Json, tensors: Parameters) -> Any:
    """One value from its JSON and the tensors that go with it.

    Raises:
        CorruptData: The two do not belong together.
    """
    try:
        return _decode(value, tensors.arrays())
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise CorruptData(f"A state cannot be read: {type(error).__name__}: {str(error)[:200]}") from error


def _decode(value: Json, arrays: list[NDArray]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "scalar":
            return arrays[inner][()]
        case "array":
            return np.array(arrays[inner])
        case "bytes":
            return base64.b64decode(inner, validate=True)
        case "parameters":
            return Parameters({of_type(name, str): arrays[index] for name, index in inner})
        case "tuple":
            return tuple(_decode(item, arrays) for item in inner)
        case "dict":
            return {_decode(k, arrays): _decode(v, arrays) for k, v in inner}
        case _:
            raise KeyError(kind)
