"""scikit-learn: linear classifiers as parameters ``coef`` and ``intercept``.

For those whose model is ``coef_``, ``intercept_`` and ``classes_``: ``LogisticRegression``, ``SGDClassifier``, ``LinearSVC``, ….
What ``fit`` finds out from the data, which classes there are and how many features, sites must agree upon beforehand: a hospital
where nobody is ill still has a model for both classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from sklearn.base import is_classifier

from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters


class LinearClassifier(Protocol):
    """What a linear classifier of scikit-learn has once it is fitted."""

    classes_: Any
    coef_: Any
    intercept_: Any
    n_features_in_: int
    fit_intercept: Any


def initialize(model: LinearClassifier, *, classes: Sequence[Any], n_features: int) -> None:
    """Make a model that was never fitted one that predicts: with zero coefficients, for these classes and so many features.

    Args:
        model: Changed in place.
        classes: At least two labels. They are kept in ascending order, as by ``fit``.
        n_features: Number of columns.

    Raises:
        InvalidArgument: The model is no linear classifier, or there are too few classes or features.

    >>> from sklearn.linear_model import LogisticRegression
    >>> model = LogisticRegression()
    >>> initialize(model, classes=["ill", "well"], n_features=2)
    >>> model.predict_proba([[1.0, 2.0]])
    array([[0.5, 0.5]])
    """
    labels = np.unique(np.asarray(classes))
    if not is_classifier(model) or not hasattr(model, "fit_intercept"):
        raise InvalidArgument(f"{type(model).__name__} is no linear classifier of scikit-learn.")
    if len(labels) < 2 or n_features < 1:
        raise InvalidArgument(f"A model needs two classes and one feature at least, not {len(labels)} and {n_features}.")
    rows = 1 if len(labels) == 2 else len(labels)
    model.classes_ = labels
    model.n_features_in_ = n_features
    model.coef_ = np.zeros((rows, n_features))
    model.intercept_ = np.zeros(rows)


def parameters_of(model: LinearClassifier) -> Parameters:
    """The parameters of a model that is fitted or was initialised.

    Returns:
        Copies: ``coef`` of shape (1, features) for two classes, (classes, features) for more; ``intercept`` of shape (1,) or
        (classes,) unless the model has none.

    Raises:
        InvalidArgument: The model was neither fitted nor initialised.
    """
    if not hasattr(model, "coef_"):
        raise InvalidArgument(f"The {type(model).__name__} has no coefficients yet. Call initialize() or fit it first.")
    arrays = {"coef": np.array(model.coef_)}
    if model.fit_intercept:
        arrays["intercept"] = np.array(model.intercept_)
    return Parameters(arrays)


def load_parameters(model: LinearClassifier, parameters: Parameters | Sequence[NDArray]) -> None:
    """Copy parameters into a model that is fitted or was initialised.

    A model with ``warm_start=True`` fits on from them; beware that ``fit`` takes the classes from the data that it is given.

    Args:
        model: Changed in place.
        parameters: By name; or the arrays in the order of :func:`parameters_of`.

    Raises:
        InvalidArgument: The parameters do not fit the model, which is as it was; or it was neither fitted nor initialised.
    """
    present = parameters_of(model)
    if not isinstance(parameters, Parameters):
        if len(parameters) != len(present):
            raise InvalidArgument(f"There are {len(parameters)} arrays; the model has {' and '.join(present)}.")
        parameters = Parameters(dict(zip(present, parameters, strict=True)))
    if set(parameters) != set(present):
        raise InvalidArgument(
            f"The parameters are {', '.join(parameters) or 'none'}, those of the model {' and '.join(present)}. "
            "Parameters without names are loaded in their order as a list: parameters.arrays()."
        )
    for name, array in present.items():
        if parameters[name].shape != array.shape:
            raise InvalidArgument(
                f"{name} has the shape {parameters[name].shape}, in the model {array.shape}: other classes or other features?"
            )
    for name in present:
        setattr(model, f"{name}_", np.array(parameters[name]))
