"""Boosters are joined tree by tree, and what is none is refused with a reason."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from hedgerow.aggregation.trees import Forest, check_boosters, parse_booster
from hedgerow.errors import BadUpdate
from hedgerow.records import Parameters
from tests.unit.strategy.boosters import booster, raw


def joined(*boosters: dict[str, Any]) -> dict[str, Any]:
    forest = Forest()
    for one in boosters:
        forest.add(Parameters([raw(one)]))
    parsed: dict[str, Any] = parse_booster(forest.parameters()["000000"])
    return parsed


def test_trees_are_appended_with_their_classes_and_iterations() -> None:
    first = booster(0.1, 0.2, 0.3, classes=(0, 1, 2), starts=(0, 3), settings={"num_class": "3"})
    second = booster(0.4, 0.5, 0.6, 0.7, 0.8, 0.9, classes=(0, 1, 2, 0, 1, 2), starts=(0, 3, 6), settings={"num_class": "3"})
    found = joined(first, second)
    model = found["learner"]["gradient_booster"]["model"]
    assert [tree["id"] for tree in model["trees"]] == list(range(9))
    assert [tree["base_weights"] for tree in model["trees"]] == [[x / 10] for x in range(1, 10)]
    assert model["tree_info"] == [0, 1, 2] * 3
    assert model["iteration_indptr"] == [0, 3, 6, 9]
    assert model["gbtree_model_param"] == {"num_parallel_tree": "1", "num_trees": "9"}
    assert found["learner"]["objective"] == {"name": "binary:logistic"}


def test_one_booster_alone_stays_as_it_is() -> None:
    assert joined(booster(0.1, 0.2)) == booster(0.1, 0.2)


def test_base_score_is_told() -> None:
    forest = Forest()
    assert (forest.base_score, dict(forest.parameters())) == (None, {})
    assert forest.add(Parameters([raw(booster(0.1, settings={"base_score": "7E-1"})), raw(booster(0.2))])) == "7E-1"
    assert forest.base_score == "7E-1"


@pytest.mark.parametrize("key", ["num_feature", "num_class", "num_target"])
def test_boosters_of_another_problem_are_refused_and_nothing_is_appended(key: str) -> None:
    forest = Forest()
    forest.add(Parameters([raw(booster(0.1))]))
    with pytest.raises(BadUpdate, match=f"{key} '9', the trees so far"):
        forest.add(Parameters([raw(booster(0.2)), raw(booster(0.3, settings={key: "9"}))]))
    with pytest.raises(BadUpdate, match=key):
        Forest().add(Parameters([raw(booster(0.2)), raw(booster(0.3, settings={key: "9"}))]))
    assert json.loads(forest.parameters()["000000"].tobytes()) == booster(0.1)


def broken(path: str, value: Any) -> Any:
    made = booster(0.1, 0.2)
    *parents, last = path.split(".")
    place: Any = made
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return made


MODEL = "learner.gradient_booster.model."


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(3, np.float32), "uint8, not one of float32"),
        (np.zeros((2, 2), np.uint8), r"shape \(2, 2\)"),
        (np.zeros(0, np.uint8), "cannot be read"),
        (np.frombuffer(b"\xff\x00binary", np.uint8), "cannot be read"),
        (np.frombuffer(b"[" * 100_000, np.uint8), "cannot be read"),
        (raw([1, 2]), "no booster of XGBoost"),
        (raw(None), "no booster of XGBoost"),
        (raw({"learner": 3}), "no booster of XGBoost"),
        (raw(broken(MODEL + "iteration_indptr", None)), "XGBoost 2 or newer: KeyError: 'iteration_indptr'"),
        (raw(broken("learner.learner_model_param", 7)), "no booster of XGBoost"),
        (raw(broken("learner.gradient_booster.name", "gblinear")), "'gblinear'; only gbtree"),
        (raw(broken(MODEL + "trees", {"0": 1, "1": 2})), "not the lists"),
        (raw(broken(MODEL + "trees", [1, 2])), "not the lists"),
        (raw(broken(MODEL + "trees", [{}])), "says that it has 2 trees"),
        (raw(broken(MODEL + "tree_info", [0])), "says that it has 2 trees"),
        (raw(broken(MODEL + "tree_info", ["a", "b"])), "says that it has 2 trees"),
        (raw(broken(MODEL + "iteration_indptr", [0, 3, 2])), "says that it has 2 trees"),
        (raw(broken(MODEL + "iteration_indptr", [0, 1])), "says that it has 2 trees"),
        (raw(broken(MODEL + "iteration_indptr", [0, True, 2])), "says that it has 2 trees"),
    ],
)
def test_what_is_no_booster_is_refused_with_a_reason(array: Any, reason: str) -> None:
    with pytest.raises(BadUpdate, match=f"'000000': .*{reason}"):
        check_boosters(Parameters([array]))


def test_update_without_boosters_is_refused() -> None:
    with pytest.raises(BadUpdate, match="no booster"):
        check_boosters(Parameters([]))
