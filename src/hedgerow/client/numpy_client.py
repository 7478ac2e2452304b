"""The client for people who think in arrays: :class:`NumPyClient`, and the adapter that makes it a :class:`Client`."""

from __future__ import annotations

from typing import Any

import numpy as np

from hedgerow.client.client import Client, InvalidResult
from hedgerow.client.context import Context
from hedgerow.records import (
    Code,
    Config,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Metrics,
    NDArray,
    NDArrays,
    Parameters,
    Properties,
    Scalar,
    Status,
)


class NumPyClient:
    """Base of the clients that exchange lists of arrays. Define the methods that your federation uses.

    Attributes:
        context: Set before each task: the node's name, the run's id, and the state that this run keeps at this site.
    """

    context: Context

    def get_properties(self, config: Config) -> Properties:
        """Tell what the driver may know of this site, as a dict of bool, bytes, float, int and str."""
        raise NotImplementedError

    def get_parameters(self, config: Config) -> NDArrays:
        """Give the current parameters of the local model, as a list of arrays."""
        raise NotImplementedError

    def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, Metrics]:
        """Train on the local data, starting from ``parameters``.

        Returns:
            The new arrays, in the order of ``parameters``; the number of examples used; metrics.
        """
        raise NotImplementedError

    def evaluate(self, parameters: NDArrays, config: Config) -> tuple[float, int, Metrics]:
        """Evaluate ``parameters`` on the local data.

        Returns:
            The mean loss, the number of examples used, metrics.
        """
        raise NotImplementedError

    def to_client(self) -> Client:
        """The same client with the classic Ins and Res types."""
        return NumPyAdapter(self)


class NumPyAdapter(Client):
    """A :class:`NumPyClient` as a :class:`Client`."""

    def __init__(self, numpy_client: NumPyClient) -> None:
        self.numpy_client = numpy_client

    def get_properties(self, ins: GetPropertiesIns) -> GetPropertiesRes:
        """Call the array method."""
        return GetPropertiesRes(_ok(), self.numpy_client.get_properties(ins.config))

    def get_parameters(self, ins: GetParametersIns) -> GetParametersRes:
        """Call the array method."""
        arrays = self.numpy_client.get_parameters(ins.config)
        return GetParametersRes(_ok(), _named(arrays, None, "get_parameters"))

    def fit(self, ins: FitIns) -> FitRes:
        """Call the array method; where the number of arrays is the same, they keep the names that they came with."""
        returned = self.numpy_client.fit(ins.parameters.arrays(), ins.config)
        arrays, num_examples, metrics = _three(returned, "fit", "(arrays, num_examples, metrics)")
        return FitRes(_ok(), _named(arrays, ins.parameters, "fit"), num_examples, metrics)

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        """Call the array method."""
        returned = self.numpy_client.evaluate(ins.parameters.arrays(), ins.config)
        loss, num_examples, metrics = _three(returned, "evaluate", "(loss, num_examples, metrics)")
        return EvaluateRes(_ok(), loss, num_examples, metrics)


def _ok() -> Status:
    return Status(Code.OK, "")


def _three(returned: Any, method: str, expected: str) -> tuple[Any, Any, dict[str, Scalar]]:
    if not isinstance(returned, tuple):
        raise InvalidResult(f"{method}() must return {expected}; it returned {describe(returned)}.")
    if len(returned) != 3:
        raise InvalidResult(f"{method}() must return {expected}; it returned a tuple of {len(returned)}.")
    return returned


def _named(arrays: Any, received: Parameters | None, method: str) -> Parameters:
    """The arrays as parameters, under the names that came where their number is the same, else under their positions."""
    if not isinstance(arrays, list | tuple):
        raise InvalidResult(f"{method}() must return a list of arrays as the parameters; it returned {describe(arrays)}.")
    converted = [_array(array, index, method) for index, array in enumerate(arrays)]
    if received is not None and len(received) == len(converted):
        return Parameters(dict(zip(received, converted, strict=True)))
    return Parameters(converted)


def _array(value: Any, index: int, method: str) -> NDArray:
    try:
        array: NDArray = np.asanyarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidResult(f"Array {index} that {method}() returned cannot be read as an array: {error}") from None
    if array.dtype == object:
        raise InvalidResult(f"Array {index} that {method}() returned is {describe(value)}, not an array of numbers.")
    return array


def describe(value: Any) -> str:
    """A value's type and a little of the value, for messages about what was found."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str | int | float | bytes):
        return f"the {type(value).__name__} {value!r:.60}"
    return f"an object of type {type(value).__module__}.{type(value).__qualname__}"
