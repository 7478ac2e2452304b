from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.aggregation.trees import Forest
from hedgerow.errors import InvalidArgument
from hedgerow.frameworks.xgboost import load_parameters, parameters_of
from hedgerow.records import Parameters

BINARY: dict[str, Any] = {"objective": "binary:logistic", "base_score": 0.5, "max_depth": 2, "nthread": 1}
THREE: dict[str, Any] = {"objective": "multi:softprob", "num_class": 3, "base_score": 0.5, "max_depth": 2, "nthread": 1}


def data(seed: int, classes: int = 2) -> xgb.DMatrix:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, 3))
    return xgb.DMatrix(x, np.digitize(x[:, 0] + 0.3 * rng.normal(size=80), [0.0, 0.7][: classes - 1]), nthread=1)


def loaded(parameters: Parameters) -> tuple[xgb.Booster, int]:
    booster = xgb.Booster({"nthread": 1})
    return booster, load_parameters(booster, parameters)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.sampled_from([BINARY, THREE]))
def test_a_booster_comes_back_as_it_was(seed: int, rounds: int, parallel: int, chosen: dict[str, Any]) -> None:
    matrix = data(seed, 3)
    if chosen is BINARY:
        matrix = data(seed)
    booster = xgb.train(chosen | {"num_parallel_tree": parallel}, matrix, rounds)
    back, found = loaded(parameters_of(booster))
    assert found == rounds
    np.testing.assert_array_equal(back.predict(matrix), booster.predict(matrix))


@pytest.mark.parametrize(("chosen", "classes"), [(BINARY, 2), (THREE, 3)])
def test_the_first_rounds_and_those_since_are_the_whole(chosen: dict[str, Any], classes: int) -> None:
    matrix = data(1, classes)
    first = xgb.train(chosen, matrix, 2)
    whole = xgb.train(chosen, matrix, 3, xgb_model=first)
    forest = Forest()
    forest.add(parameters_of(first))
    forest.add(parameters_of(whole, since=2))
    joined, rounds = loaded(forest.parameters())
    assert rounds == 5
    np.testing.assert_allclose(joined.predict(matrix), whole.predict(matrix), rtol=1e-6)


def test_trees_of_two_sites_add_up() -> None:
    matrix = data(1)
    sites = [xgb.train(BINARY, data(seed), 1) for seed in (2, 3)]
    forest = Forest()
    for site in sites:
        forest.add(parameters_of(site))
    joined, _ = loaded(forest.parameters())
    margins = [site.predict(matrix, output_margin=True) for site in sites]  # with the base score 0.5, whose margin is 0
    np.testing.assert_allclose(joined.predict(matrix, output_margin=True), margins[0] + margins[1], rtol=1e-6)


def test_no_tensor_is_no_tree() -> None:
    booster = xgb.Booster(BINARY)
    assert load_parameters(booster, []) == load_parameters(booster, Parameters([])) == 0
    assert xgb.train(BINARY, data(1), 1, xgb_model=None).num_boosted_rounds() == 1


@pytest.mark.parametrize("since", [-1, 2, 3])
def test_rounds_that_are_not_there_are_not_given(since: int) -> None:
    booster = xgb.train(BINARY, data(1), 2)
    with pytest.raises(InvalidArgument, match=f"has 2 rounds; there is nothing to give from round {since} on"):
        parameters_of(booster, since=since)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.zeros(3, np.uint8)] * 2, "is one tensor; there are 2"),
        ([np.zeros(3)], "one-dimensional array of uint8, not one of float64"),
        ([np.zeros((2, 2), np.uint8)], r"not one of uint8 and shape \(2, 2\)"),
        ([np.zeros(0, np.uint8)], "cannot be read"),  # over which XGBoost ends the process
        ([np.frombuffer(b'{"learner": 1}', np.uint8)], "no booster of XGBoost"),
    ],
)
def test_what_is_no_booster_is_refused(arrays: Any, message: str) -> None:
    booster = xgb.train(BINARY, data(1), 2)
    with pytest.raises(InvalidArgument, match=message):
        load_parameters(booster, arrays)
    assert booster.num_boosted_rounds() == 2


def test_a_damaged_booster_is_refused() -> None:
    (array,) = parameters_of(xgb.train(BINARY, data(1), 2)).arrays()
    damaged = array.tobytes().replace(b'"split_conditions"', b'"spilt_conditions"')
    with pytest.raises(InvalidArgument, match="cannot be loaded into a booster"):
        loaded(Parameters([np.frombuffer(damaged, np.uint8)]))
