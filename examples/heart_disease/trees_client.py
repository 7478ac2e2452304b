"""The four hospitals with boosted trees: ``trees_client:cleveland``, ``:hungary``, ``:switzerland``, ``:long_beach``.

::

    flower-client --insecure --callable trees_client:cleveland --server=<FLEET_ADDRESS>
"""

from __future__ import annotations

import dataclasses

import numpy as np
import xgboost as xgb

import hedgerow as hg
from heart_records import HOSPITALS, load_split
from hedgerow.frameworks.xgboost import load_parameters, parameters_of
from trees_model import matrix, score, settings


class Hospital(hg.NumPyClient):
    """A site with patients of its own. A task says by ``split`` which are for training, by ``sites`` how many train at once."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, parameters: hg.NDArrays, config: hg.Config) -> tuple[hg.NDArrays, int, hg.Metrics]:
        """One more tree for the driver's model: alone, or with the model if ``whole``."""
        patients = load_split(self.name, int(config["split"])).train
        chosen = settings(int(config["sites"]), seed=np.random.randint(2**31))  # numpy's seed came with the task
        booster = xgb.Booster(chosen)
        before = load_parameters(booster, parameters)
        booster = xgb.train(chosen, matrix(patients), num_boost_round=1, xgb_model=booster if before else None)
        given = parameters_of(booster, since=0 if config["whole"] else before)
        return given.arrays(), len(patients), {}

    def evaluate(self, parameters: hg.NDArrays, config: hg.Config) -> tuple[float, int, hg.Metrics]:
        """How good the driver's model is for the patients that this hospital keeps back."""
        patients = load_split(self.name, int(config["split"])).test
        booster = xgb.Booster()
        load_parameters(booster, parameters)
        found = score(booster, patients)
        return found.loss, len(patients), {"hospital": self.name, **dataclasses.asdict(found)}


cleveland, hungary, switzerland, long_beach = map(Hospital, HOSPITALS)
