"""Two hospitals that share their code and differ in their configuration: ``client:hospital_a`` and ``client:hospital_b``.

::

    flower-client --callable client:hospital_a --insecure --server=<FLEET_ADDRESS>
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

import hedgerow as hg
from dataset import load_part
from models import Net, arrays_of, load_arrays, test, train


class Hospital(hg.NumPyClient):
    """A site with images of its own, which never leave it."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config

    def get_properties(self, config: hg.Config) -> dict[str, hg.Scalar]:
        """What a driver may know: where this is."""
        return {"location": str(self.config.location)}

    def get_parameters(self, config: hg.Config) -> list[Any]:
        """A fresh network: its weights follow the seed that came with the task."""
        return arrays_of(Net())

    def fit(self, parameters: list[Any], config: hg.Config) -> tuple[list[Any], int, dict[str, hg.Scalar]]:
        """Train the driver's parameters on this hospital's images."""
        data = load_part(self.config.part).train
        model = Net()
        load_arrays(model, parameters)
        loss = train(model, data, **self.config.training)
        return arrays_of(model), len(data), {"location": str(self.config.location), "train_loss": loss}

    def evaluate(self, parameters: list[Any], config: hg.Config) -> tuple[float, int, dict[str, hg.Scalar]]:
        """Test the driver's parameters on the images that this hospital keeps back."""
        data = load_part(self.config.part).held_out
        model = Net()
        load_arrays(model, parameters)
        loss, accuracy = test(model, data)
        return loss, len(data), {"location": str(self.config.location), "accuracy": accuracy}


def app(config_name: str) -> hg.ClientApp:
    """The client app for one of the configurations in ``conf/``."""
    with hydra.initialize_config_dir(str(Path(__file__).parent.resolve() / "conf"), version_base="1.3"):
        config = hydra.compose(config_name)
    return hg.ClientApp(client_fn=lambda cid: Hospital(config))


hospital_a = app("hospital_a")
hospital_b = app("hospital_b")
