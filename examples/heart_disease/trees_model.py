"""The boosted trees that the hospitals grow together: XGBoost's. A tree sends what is missing left or right, as it is."""

from __future__ import annotations

from typing import Any

import xgboost as xgb

from heart_records import Patients
from heart_scores import Score

LEARNING_RATE = 0.2


def settings(sites: int = 1, *, seed: int = 0) -> dict[str, Any]:
    """XGBoost's parameters where so many sites boost the same model in a round; their trees' sum is a step of the usual size."""
    return {
        "objective": "binary:logistic",
        "base_score": 0.5,  # stated, or each hospital would take its own share of the ill
        "eta": LEARNING_RATE / sites,
        "max_depth": 3,
        "subsample": 0.8,
        "nthread": 1,
        "seed": seed,
    }


def matrix(patients: Patients) -> xgb.DMatrix:
    """The patients as XGBoost wants them."""
    return xgb.DMatrix(patients.features, patients.labels, nthread=1)


def grow(patients: Patients, rounds: int) -> xgb.Booster:
    """A model for one pile of records."""
    return xgb.train(settings(), matrix(patients), num_boost_round=rounds)


def score(booster: xgb.Booster, patients: Patients) -> Score:
    """How good the model is for these patients."""
    return Score.of(booster.predict(matrix(patients)), patients.labels)
