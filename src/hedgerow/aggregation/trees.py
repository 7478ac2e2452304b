"""Gradient-boosted trees as XGBoost writes them to JSON: checked, and joined into one model. XGBoost itself is not needed.

Ensembles travel as parameters whose tensors are one-dimensional uint8 arrays, each holding the bytes of one booster
(``booster.save_raw("json")``). Owned here: what of the format is relied upon. Each iteration of boosting adds some trees;
``iteration_indptr`` says where each iteration begins, ``tree_info`` to which class a tree belongs. What comes from a client is
checked before anything is done with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hedgerow.errors import BadUpdate
from hedgerow.records import NDArray, Parameters

SAME = ("num_feature", "num_class", "num_target")
"""What two boosters must agree upon to be joined."""


class Forest:
    """Trees of several boosters, joined into one model; the first one's objective and base score hold for all of them."""

    def __init__(self) -> None:
        self._booster: dict[str, Any] | None = None

    @property
    def base_score(self) -> str | None:
        """What the trees' values are added to; None while there are no trees."""
        return None if self._booster is None else _base_score(self._booster)

    def add(self, parameters: Parameters) -> str:
        """Append all trees of some boosters, as iterations of their own, and return the first one's base score.

        Args:
            parameters: At least one tensor; each is a booster's JSON as uint8.

        Raises:
            BadUpdate: One is no booster that could be joined to the trees so far; nothing is appended then.
        """
        first, *rest = boosters = parse_boosters(parameters)
        for booster in rest if self._booster is None else boosters:
            _check_same(first if self._booster is None else self._booster, booster)
        if self._booster is None:
            self._booster, boosters = first, rest
        for booster in boosters:
            _append(_model(self._booster), _model(booster))
        return _base_score(first)

    def parameters(self) -> Parameters:
        """The model as parameters with one tensor, or with none if there are no trees."""
        if self._booster is None:
            return Parameters([])
        return Parameters([np.frombuffer(json.dumps(self._booster, separators=(",", ":")).encode(), np.uint8)])


def parse_boosters(parameters: Parameters) -> list[dict[str, Any]]:
    """The JSON of each tensor's booster.

    Raises:
        BadUpdate: One holds none, or there is no tensor.
    """
    if not len(parameters):
        raise BadUpdate("The update holds no booster.")
    boosters = []
    for name in parameters:
        try:
            boosters.append(parse_booster(parameters.stored(name)))
        except BadUpdate as error:
            raise BadUpdate(f"The tensor {name!r}: {error}") from None
    return boosters


def check_boosters(parameters: Parameters) -> None:
    """Every tensor holds a booster; what :class:`UpdateSpec` calls.

    Raises:
        BadUpdate: As for :func:`parse_boosters`.
    """
    parse_boosters(parameters)


def parse_booster(array: NDArray) -> dict[str, Any]:
    """The JSON of a booster, as far as it matters here known to be sound.

    Raises:
        BadUpdate: It is no booster of trees in XGBoost's JSON format.
    """
    if array.dtype != np.uint8 or array.ndim != 1:
        raise BadUpdate(f"A booster is a one-dimensional array of uint8, not one of {array.dtype} and shape {array.shape}.")
    try:
        booster: Any = json.loads(array.tobytes())
    except (ValueError, RecursionError) as error:
        raise BadUpdate(f'A booster is JSON (save_raw("json")), but it cannot be read: {type(error).__name__}: {error}') from None
    try:
        kind = booster["learner"]["gradient_booster"]["name"]
        _settings(booster).items()
        model = _model(booster)
        trees, info, starts = model["trees"], model["tree_info"], model["iteration_indptr"]
        count = int(model["gbtree_model_param"]["num_trees"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadUpdate(f"The JSON is no booster of XGBoost 2 or newer: {type(error).__name__}: {error}") from None
    if kind != "gbtree":
        raise BadUpdate(f"The booster is of the kind {kind!r}; only gbtree can be joined.")
    if not all(isinstance(part, list) for part in (trees, info, starts)) or not all(isinstance(tree, dict) for tree in trees):
        raise BadUpdate("The booster's trees, tree_info and iteration_indptr are not the lists that they should be.")
    if not (len(trees) == len(info) == count and _rises(starts, count) and all(type(number) is int for number in info)):
        raise BadUpdate(
            f"The booster says that it has {count} trees, and holds others: {len(trees)} trees, {len(info)} of them named."
        )
    return dict(booster)


def _check_same(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    for key in SAME:
        if _settings(mine).get(key) != _settings(theirs).get(key):
            raise BadUpdate(
                f"The booster has {key} {_settings(theirs).get(key)!r}, the trees so far have {_settings(mine).get(key)!r}."
            )


def _append(model: dict[str, Any], added: dict[str, Any]) -> None:
    count = len(model["trees"])
    model["trees"] += [tree | {"id": number} for number, tree in enumerate(added["trees"], start=count)]
    model["tree_info"] += added["tree_info"]
    model["iteration_indptr"] += [count + offset for offset in added["iteration_indptr"][1:]]
    model["gbtree_model_param"]["num_trees"] = str(len(model["trees"]))


def _base_score(booster: dict[str, Any]) -> str:
    return str(_settings(booster).get("base_score"))


def _rises(starts: Sequence[object], last: int) -> bool:
    """Whether these are offsets that begin at 0, do not fall and end at ``last``."""
    numbers = [start for start in starts if type(start) is int]
    return len(numbers) == len(starts) and numbers[:1] == [0] and numbers[-1:] == [last] and numbers == sorted(numbers)


def _model(booster: dict[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = booster["learner"]["gradient_booster"]["model"]
    return model


def _settings(booster: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = booster["learner"]["learner_model_param"]
    return settings
