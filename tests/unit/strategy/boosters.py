"""Boosters as XGBoost writes them, as far as the folds look at them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from hedgerow.records import NDArray


def booster(
    *leaves: float,
    classes: tuple[int, ...] = (),
    starts: tuple[int, ...] = (),
    settings: dict[str, str] | None = None,
) -> dict[str, Any]:
    """One tree of one leaf for each value; one iteration for each tree unless said otherwise."""
    trees = [
        {
            "id": number,
            "base_weights": [leaf],
            "left_children": [-1],
            "right_children": [-1],
            "split_conditions": [leaf],
            "tree_param": {"num_nodes": "1", "num_feature": "5"},
        }
        for number, leaf in enumerate(leaves)
    ]
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
        "iteration_indptr": list(starts or range(len(trees) + 1)),
        "tree_info": list(classes or [0] * len(trees)),
        "trees": trees,
    }
    return {
        "learner": {
            "gradient_booster": {"name": "gbtree", "model": model},
            "learner_model_param": {"base_score": "5E-1", "num_class": "0", "num_feature": "5", "num_target": "1"}
            | (settings or {}),
            "objective": {"name": "binary:logistic"},
        },
        "version": [3, 2, 0],
    }


def raw(value: Any) -> NDArray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def leaves(array: NDArray) -> list[float]:
    return [tree["base_weights"][0] for tree in json.loads(array.tobytes())["learner"]["gradient_booster"]["model"]["trees"]]
