"""``flwr.common.parameter``: between arrays, bytes and parameters."""

from hedgerow.records import bytes_to_ndarray, ndarray_to_bytes, ndarrays_to_parameters, parameters_to_ndarrays

__all__ = ["bytes_to_ndarray", "ndarray_to_bytes", "ndarrays_to_parameters", "parameters_to_ndarrays"]
