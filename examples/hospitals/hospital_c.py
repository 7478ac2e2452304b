"""A third hospital, written by somebody else: a script of its own, no configuration files, another optimiser.

Either of these starts it::

    flower-client --callable hospital_c:hospital_c --insecure --server=<FLEET_ADDRESS>
    python hospital_c.py <FLEET_ADDRESS>
"""

from __future__ import annotations

import sys

import torch
from torch.nn import functional

import hedgerow as hg
from dataset import load_part
from hedgerow.frameworks.torch import load_parameters, parameters_of
from models import Net, test

LOCATION = "LOCATION-C"
OK = hg.Status(hg.Code.OK, "")


class TinyHospital(hg.Client):
    """A small site that trains with Adam, one pass over its images."""

    def get_properties(self, ins: hg.GetPropertiesIns) -> hg.GetPropertiesRes:
        return hg.GetPropertiesRes(OK, {"location": LOCATION})

    def get_parameters(self, ins: hg.GetParametersIns) -> hg.GetParametersRes:
        return hg.GetParametersRes(OK, parameters_of(Net()))

    def fit(self, ins: hg.FitIns) -> hg.FitRes:
        data = load_part("C").train
        model = Net()
        load_parameters(model, ins.parameters)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
        for batch in torch.randperm(len(data)).split(50):
            optimizer.zero_grad()
            functional.cross_entropy(model(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()
        return hg.FitRes(OK, parameters_of(model), len(data), {"location": LOCATION})

    def evaluate(self, ins: hg.EvaluateIns) -> hg.EvaluateRes:
        data = load_part("C").held_out
        model = Net()
        load_parameters(model, ins.parameters)
        loss, accuracy = test(model, data)
        return hg.EvaluateRes(OK, loss, len(data), {"location": LOCATION, "accuracy": accuracy})


def hospital_c() -> hg.Client:
    """What ``flower-client`` calls once, when its worker starts."""
    return TinyHospital()


if __name__ == "__main__":
    hg.start_client(server_address=sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9091", client=hospital_c())
