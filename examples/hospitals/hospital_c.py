"""A third hospital, written by somebody else: a script of its own, no configuration files, another optimiser.

Either of these starts it::

    flower-client --callable hospital_c:hospital_c --insecure --server=<FLEET_ADDRESS>
    python hospital_c.py <FLEET_ADDRESS>
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn import functional

import hedgerow as hg
from dataset import load_part
from models import Net, arrays_of, load_arrays, test

LOCATION = "LOCATION-C"


class TinyHospital(hg.NumPyClient):
    """A small site that trains with Adam, one pass over its images."""

    def get_properties(self, config: hg.Config) -> dict[str, hg.Scalar]:
        return {"location": LOCATION}

    def get_parameters(self, config: hg.Config) -> list[Any]:
        return arrays_of(Net())

    def fit(self, parameters: list[Any], config: hg.Config) -> tuple[list[Any], int, dict[str, hg.Scalar]]:
        data = load_part("C").train
        model = Net()
        load_arrays(model, parameters)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
        for batch in torch.randperm(len(data)).split(50):
            optimizer.zero_grad()
            functional.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()
        return arrays_of(model), len(data), {"location": LOCATION}

    def evaluate(self, parameters: list[Any], config: hg.Config) -> tuple[float, int, dict[str, hg.Scalar]]:
        data = load_part("C").held_out
        model = Net()
        load_arrays(model, parameters)
        loss, accuracy = test(model, data)
        return loss, len(data), {"location": LOCATION, "accuracy": accuracy}


def hospital_c() -> hg.NumPyClient:
    """What ``flower-client`` calls once, when its worker starts."""
    return TinyHospital()


if __name__ == "__main__":
    hg.start_client(server_address=sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9091", client=hospital_c().to_client())
