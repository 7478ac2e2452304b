from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from hedgerow.errors import InvalidArgument
from hedgerow.frameworks.sklearn import initialize, load_parameters, parameters_of
from hedgerow.records import Parameters


def data(seed: int, classes: int, features: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(60, features)), np.arange(60) % classes


def initialized(classes: int, features: int, **settings: Any) -> LogisticRegression:
    model = LogisticRegression(**settings)
    initialize(model, classes=range(classes), n_features=features)
    return model


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 6), st.booleans(), st.booleans())
def test_a_model_that_takes_over_parameters_predicts_the_same(
    seed: int, classes: int, features: int, fit_intercept: bool, as_list: bool
) -> None:
    x, y = data(seed, classes, features)
    fitted = LogisticRegression(fit_intercept=fit_intercept).fit(x, y)
    model = initialized(classes, features, fit_intercept=fit_intercept)
    parameters = parameters_of(fitted)
    load_parameters(model, parameters.arrays() if as_list else parameters)
    np.testing.assert_array_equal(model.predict_proba(x), fitted.predict_proba(x))
    np.testing.assert_array_equal(model.classes_, fitted.classes_)
    assert model.n_features_in_ == fitted.n_features_in_
    assert {name: array.shape for name, array in parameters_of(model).items()} == {
        name: array.shape for name, array in parameters.items()
    }


@pytest.mark.parametrize("kind", [LogisticRegression, SGDClassifier, LinearSVC])
@pytest.mark.parametrize("classes", [2, 3])
def test_an_initialised_model_has_the_shapes_of_a_fitted_one(kind: Any, classes: int) -> None:
    x, y = data(1, classes, 4)
    fitted, model = kind().fit(x, y), kind()
    initialize(model, classes=range(classes), n_features=4)
    assert [(name, array.shape) for name, array in parameters_of(model).items()] == [
        (name, array.shape) for name, array in parameters_of(fitted).items()
    ]
    assert set(model.predict(x)) <= set(y)


def test_labels_may_be_words_in_any_order() -> None:
    model = LogisticRegression()
    initialize(model, classes=["well", "ill", "ill"], n_features=1)
    load_parameters(model, [np.array([[1.0]]), np.array([0.0])])
    assert model.predict([[-3.0], [3.0]]).tolist() == ["ill", "well"]


def test_a_warm_start_goes_on_from_the_parameters() -> None:
    x, y = data(3, 2, 3)
    best = LogisticRegression(tol=1e-10, max_iter=1000).fit(x, y)
    model = initialized(2, 3, warm_start=True, tol=1e-4)
    load_parameters(model, parameters_of(best))
    assert model.fit(x, y).n_iter_[0] <= 1 < LogisticRegression(tol=1e-4).fit(x, y).n_iter_[0]


def test_parameters_are_the_callers_own() -> None:
    model = initialized(2, 3)
    parameters = parameters_of(model)
    parameters["coef"][:] = 5.0
    assert not model.coef_.any()
    load_parameters(model, parameters)
    parameters["coef"][:] = 6.0
    assert (model.coef_ == 5.0).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.zeros((1, 3))], "There are 1 arrays; the model has coef and intercept"),
        ([np.zeros((1, 4)), np.zeros(1)], r"coef has the shape \(1, 4\), in the model \(1, 3\)"),
        ([np.ones((1, 3)), np.zeros(2)], r"intercept has the shape \(2,\), in the model \(1,\)"),
        (Parameters([np.zeros((1, 3)), np.zeros(1)]), r"are 000000, 000001, .* as a list: parameters\.arrays\(\)"),
        (Parameters([]), "The parameters are none"),
    ],
)
def test_parameters_that_do_not_fit_change_nothing(arrays: Any, message: str) -> None:
    model = initialized(2, 3)
    with pytest.raises(InvalidArgument, match=message):
        load_parameters(model, arrays)
    assert not model.coef_.any()


def test_a_model_that_knows_nothing_yet_has_no_parameters() -> None:
    with pytest.raises(InvalidArgument, match=r"Call initialize\(\) or fit it first"):
        parameters_of(LogisticRegression())
    with pytest.raises(InvalidArgument, match=r"Call initialize\(\) or fit it first"):
        load_parameters(LogisticRegression(), [np.zeros((1, 3)), np.zeros(1)])


@pytest.mark.parametrize("model", [LinearRegression(), DecisionTreeClassifier()])
def test_what_is_no_linear_classifier_is_refused(model: Any) -> None:
    with pytest.raises(InvalidArgument, match="is no linear classifier"):
        initialize(model, classes=[0, 1], n_features=2)


@pytest.mark.parametrize(("classes", "n_features"), [([1, 1], 2), ([], 2), ([0, 1], 0)])
def test_one_class_or_no_feature_is_refused(classes: list[int], n_features: int) -> None:
    with pytest.raises(InvalidArgument, match="two classes and one feature at least"):
        initialize(LogisticRegression(), classes=classes, n_features=n_features)
