"""What a site implements: :class:`Client`, whose methods take the classic Ins types and return the classic Res types."""

from __future__ import annotations

from hedgerow.client.context import Context
from hedgerow.errors import InvalidArgument
from hedgerow.records import (
    Code,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    Parameters,
    Status,
)


class InvalidResult(InvalidArgument):
    """A client's method returned something that cannot be sent."""


class Client:
    """Base of the clients. Define the methods that your federation uses; the driver is told of those that are missing.

    Attributes:
        context: Set before each task: the node's name, the run's id, and the state that this run keeps at this site.
    """

    context: Context

    def get_properties(self, ins: GetPropertiesIns) -> GetPropertiesRes:
        """Tell what the driver may know of this site."""
        return GetPropertiesRes(_missing(self, "get_properties", Code.GET_PROPERTIES_NOT_IMPLEMENTED), {})

    def get_parameters(self, ins: GetParametersIns) -> GetParametersRes:
        """Give the current parameters of the local model."""
        return GetParametersRes(_missing(self, "get_parameters", Code.GET_PARAMETERS_NOT_IMPLEMENTED), Parameters({}))

    def fit(self, ins: FitIns) -> FitRes:
        """Train on the local data, starting from the parameters that came."""
        return FitRes(_missing(self, "fit", Code.FIT_NOT_IMPLEMENTED), Parameters({}), 0, {})

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        """Evaluate the parameters that came on the local data."""
        return EvaluateRes(_missing(self, "evaluate", Code.EVALUATE_NOT_IMPLEMENTED), 0.0, 0, {})

    def to_client(self) -> Client:
        """The client itself; a :class:`~hedgerow.client.numpy_client.NumPyClient` gives an adapter here."""
        return self


def _missing(client: object, method: str, code: Code) -> Status:
    return Status(code, f"The client {type(client).__name__} does not define {method}().")
