"""The four hospitals with logistic regression: ``logistic_client:cleveland``, ``:hungary``, ``:switzerland``, ``:long_beach``.

::

    flower-client --insecure --callable logistic_client:cleveland --server=<FLEET_ADDRESS>
"""

from __future__ import annotations

import dataclasses

import hedgerow as hg
from heart_preparation import Scaling, Statistics
from heart_records import HOSPITALS, Patients, Split, load_split
from hedgerow.frameworks.sklearn import load_parameters, parameters_of
from hedgerow.training import ControlVariates
from logistic_model import LEARNING_RATE, new_model, score, train


class Hospital(hg.NumPyClient):
    """A site with patients of its own. A task says by ``split`` which of them are for training, by ``scaling`` how to scale."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get_properties(self, config: hg.Config) -> hg.Properties:
        """Which hospital this is; and sums over its training patients, if it is asked for those of a split."""
        properties: hg.Properties = {"hospital": self.name}
        if "split" in config:
            properties["statistics"] = Statistics.of(self._split(config).train).to_bytes()
        return properties

    def get_parameters(self, config: hg.Config) -> hg.NDArrays:
        """A model that has learned nothing."""
        return parameters_of(new_model()).arrays()

    def fit(self, parameters: hg.NDArrays, config: hg.Config) -> tuple[hg.NDArrays, int, hg.Metrics]:
        """A few steps from the driver's parameters."""
        patients = self._scaled(self._split(config).train, config)
        model = new_model()
        if config["algorithm"] != "SCAFFOLD":
            load_parameters(model, parameters)
            train(model, patients)
            return parameters_of(model).arrays(), len(patients), {}
        variates = ControlVariates(parameters, config, self.context.state)
        load_parameters(model, variates.model)
        steps = train(model, patients, variates.corrections)
        trained = variates.finish(parameters_of(model).arrays(), steps=steps, learning_rate=LEARNING_RATE)
        return trained, len(patients), {}

    def evaluate(self, parameters: hg.NDArrays, config: hg.Config) -> tuple[float, int, hg.Metrics]:
        """How good the driver's parameters are for the patients that this hospital keeps back."""
        patients = self._scaled(self._split(config).test, config)
        model = new_model()
        load_parameters(model, parameters)
        found = score(model, patients)
        return found.loss, len(patients), {"hospital": self.name, **dataclasses.asdict(found)}

    def _split(self, config: hg.Config) -> Split:
        return load_split(self.name, int(config["split"]))

    def _scaled(self, patients: Patients, config: hg.Config) -> Patients:
        scaling = config["scaling"]
        assert isinstance(scaling, bytes)
        return Scaling.from_bytes(scaling).apply(patients)


cleveland, hungary, switzerland, long_beach = map(Hospital, HOSPITALS)
