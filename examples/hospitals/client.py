"""Two hospitals that share their code and differ in their configuration: ``client:hospital_a`` and ``client:hospital_b``.

::

    flower-client --callable client:hospital_a --insecure --server=<FLEET_ADDRESS>
"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

import hedgerow as hg
from dataset import load_part
from hedgerow.frameworks.torch import load_parameters, parameters_of
from models import Net, test, train

OK = hg.Status(hg.Code.OK, "")


class Hospital(hg.Client):
    """A site with images of its own, which never leave it. Parameters travel under the names of the network's state dict."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config

    def get_properties(self, ins: hg.GetPropertiesIns) -> hg.GetPropertiesRes:
        """What a driver may know: where this is."""
        return hg.GetPropertiesRes(OK, {"location": str(self.config.location)})

    def get_parameters(self, ins: hg.GetParametersIns) -> hg.GetParametersRes:
        """A fresh network: its weights follow the seed that came with the task."""
        return hg.GetParametersRes(OK, parameters_of(Net()))

    def fit(self, ins: hg.FitIns) -> hg.FitRes:
        """Train the driver's parameters on this hospital's images."""
        data = load_part(self.config.part).train
        model = Net()
        load_parameters(model, ins.parameters)
        loss = train(model, data, **self.config.training)
        return hg.FitRes(OK, parameters_of(model), len(data), {"location": str(self.config.location), "train_loss": loss})

    def evaluate(self, ins: hg.EvaluateIns) -> hg.EvaluateRes:
        """Test the driver's parameters on the images that this hospital keeps back."""
        data = load_part(self.config.part).held_out
        model = Net()
        load_parameters(model, ins.parameters)
        loss, accuracy = test(model, data)
        return hg.EvaluateRes(OK, loss, len(data), {"location": str(self.config.location), "accuracy": accuracy})


def app(config_name: str) -> hg.ClientApp:
    """The client app for one of the configurations in ``conf/``."""
    with hydra.initialize_config_dir(str(Path(__file__).parent.resolve() / "conf"), version_base="1.3"):
        config = hydra.compose(config_name)
    return hg.ClientApp(client_fn=lambda cid: Hospital(config))


hospital_a = app("hospital_a")
hospital_b = app("hospital_b")
