"""``flwr.common.typing``: the values that are exchanged."""

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
from hedgerow.strategy.fedavg import MetricsFn as MetricsAggregationFn

__all__ = [
    "Code",
    "Config",
    "EvaluateIns",
    "EvaluateRes",
    "FitIns",
    "FitRes",
    "GetParametersIns",
    "GetParametersRes",
    "GetPropertiesIns",
    "GetPropertiesRes",
    "Metrics",
    "MetricsAggregationFn",
    "NDArray",
    "NDArrays",
    "Parameters",
    "Properties",
    "Scalar",
    "Status",
]
