"""The logistic regression that the hospitals train together: scikit-learn's, and how a site improves it by a few steps.

What is minimised is the mean negative log-likelihood over the patients plus half of ``PENALTY`` times the squared coefficients.
scikit-learn's ``fit`` finds the minimum for one pile of records; a hospital in a federation takes a few steps of stochastic
gradient descent from the parameters that it got.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from heart_records import COLUMNS, Floats, Labels, Patients
from heart_scores import Score
from hedgerow.frameworks.sklearn import initialize

PENALTY = 0.01
EPOCHS = 5
BATCH_SIZE = 32
LEARNING_RATE = 0.1


def new_model() -> LogisticRegression:
    """A model that has learned nothing: it gives everybody one chance in two."""
    model = LogisticRegression()
    initialize(model, classes=[0, 1], n_features=len(COLUMNS))
    return model


def fit_to_the_end(patients: Patients) -> LogisticRegression:
    """The best model for these patients, by scikit-learn's own solver."""
    model = LogisticRegression(C=1 / (PENALTY * len(patients)), max_iter=1000)
    return model.fit(patients.features, patients.labels)


def train(model: LogisticRegression, patients: Patients, corrections: Sequence[Floats | float] = (0.0, 0.0)) -> int:
    """A few epochs of stochastic gradient descent in place, in an order that follows numpy's global seed.

    Args:
        model: Changed in place.
        patients: Scaled features without missing values.
        corrections: Added to the gradients of coefficients and intercept in every step, for SCAFFOLD.

    Returns:
        The number of steps.
    """
    steps = 0
    for _ in range(EPOCHS):
        for batch in np.array_split(np.random.permutation(len(patients)), -(-len(patients) // BATCH_SIZE)):
            coef, intercept = gradients(model, patients.features[batch], patients.labels[batch])
            model.coef_ -= LEARNING_RATE * (coef + corrections[0])
            model.intercept_ -= LEARNING_RATE * (intercept + corrections[1])
            steps += 1
    return steps


def gradients(model: LogisticRegression, features: Floats, labels: Labels) -> tuple[Floats, Floats]:
    """The gradients of what is minimised by the coefficients, of shape (1, columns), and by the intercept, of shape (1,)."""
    surprise = model.predict_proba(features)[:, 1] - labels
    return surprise[np.newaxis] @ features / len(labels) + PENALTY * model.coef_, np.array([surprise.mean()])


def score(model: LogisticRegression, patients: Patients) -> Score:
    """How good the model is for these patients."""
    return Score.of(model.predict_proba(patients.features)[:, 1], patients.labels)
