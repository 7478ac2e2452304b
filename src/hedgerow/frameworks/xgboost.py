"""XGBoost: boosters as parameters, for :class:`~hedgerow.strategy.FedXgbBagging` and :class:`~hedgerow.strategy.FedXgbCyclic`.

A booster is one tensor, a one-dimensional uint8 array that holds its JSON; before the first round there is no tensor. A client's
round, with bagging::

    booster = xgb.Booster(settings)
    before = load_parameters(booster, parameters)
    booster = xgb.train(settings, data, num_boost_round=1, xgb_model=booster if before else None)
    new_trees = parameters_of(booster, since=before)

With the cyclic strategy the whole model goes back, ``parameters_of(booster)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xgboost

from hedgerow.aggregation.trees import parse_booster
from hedgerow.errors import BadUpdate, InvalidArgument
from hedgerow.records import NDArray, Parameters


def parameters_of(booster: xgboost.Booster, *, since: int = 0) -> Parameters:
    """A booster, or what was added to it, as parameters with one uint8 tensor.

    Args:
        booster: A model of trees.
        since: Leave out so many rounds of boosting, those that the model had before.

    Raises:
        InvalidArgument: There are no rounds after those.
    """
    rounds = booster.num_boosted_rounds()
    if not 0 <= since < rounds:
        raise InvalidArgument(f"The booster has {rounds} rounds; there is nothing to give from round {since} on.")
    part = booster[since:rounds] if since else booster
    return Parameters([np.frombuffer(part.save_raw("json"), np.uint8)])


def load_parameters(booster: xgboost.Booster, parameters: Parameters | Sequence[NDArray]) -> int:
    """Load a model into a booster.

    Args:
        booster: Changed in place.
        parameters: One tensor that holds a booster, or none.

    Returns:
        Rounds of boosting in the model; 0 if there was no tensor, and the booster is as it was.

    Raises:
        InvalidArgument: The parameters are no booster.
    """
    arrays = parameters.arrays() if isinstance(parameters, Parameters) else list(parameters)
    if not arrays:
        return 0
    if len(arrays) > 1:
        raise InvalidArgument(f"A model of trees is one tensor; there are {len(arrays)}.")
    try:
        parse_booster(arrays[0])  # XGBoost itself ends the process over some bytes that are no booster
        booster.load_model(bytearray(arrays[0].tobytes()))
    except (BadUpdate, xgboost.core.XGBoostError) as error:
        raise InvalidArgument(f"The parameters cannot be loaded into a booster. {error}") from error
    return int(booster.num_boosted_rounds())
