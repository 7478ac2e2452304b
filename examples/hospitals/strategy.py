"""Federated averaging that chooses hospitals by where they are, tests the model on images of its own, and keeps checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hedgerow as hg
from dataset import load_test
from hedgerow.errors import InvalidArgument, NotFound, TaskFailed, WaitTimeout
from hedgerow.frameworks.torch import load_parameters, parameters_of
from hedgerow.wire import tensors
from models import Net, test

log = logging.getLogger(__name__)

PROPERTIES_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class RoundRecord:
    """What the model of one round was worth, and where it is. Round 0 is before training."""

    round: int
    loss: float
    accuracy: float
    checkpoint: str
    sha256: str


class EnrollByLocation(hg.FedAvg):
    """Trains at the enrolled locations only.

    Args:
        locations: The locations to enroll, such as ``{"LOCATION-A"}``; None enrolls every one.
        folder: Where the checkpoints go, one file for each round.
        min_clients: A round begins when so many clients are connected, whether enrolled or not.
    """

    def __init__(self, *, locations: Collection[str] | None, folder: Path, min_clients: int) -> None:
        super().__init__(
            fraction_evaluate=0.0,
            min_fit_clients=1,
            min_evaluate_clients=0,
            min_available_clients=min_clients,
            fit_metrics_aggregation_fn=mean_train_loss,
        )
        self.locations = locations
        self.folder = folder
        self.records: list[RoundRecord] = []

    def configure_fit(
        self, server_round: int, parameters: hg.Parameters, client_manager: hg.ClientManager
    ) -> list[tuple[hg.ClientProxy, hg.FitIns]]:
        """Ask every client where it is, and let the enrolled ones train."""
        client_manager.wait_for(self.min_available_clients)
        ins = hg.FitIns(parameters, {"server_round": server_round})
        enrolled = [(client, ins) for client in client_manager.all().values() if self._is_enrolled(client)]
        if not enrolled:
            raise NotFound(f"No client that is connected is at {', '.join(sorted(self.locations or ()))}.")
        return enrolled

    def _is_enrolled(self, client: hg.ClientProxy) -> bool:
        try:
            answer = client.get_properties(hg.GetPropertiesIns({}), timeout=PROPERTIES_TIMEOUT_S)
        except (TaskFailed, WaitTimeout) as error:
            log.warning("Client %s excluded from fit round: it did not say where it is (%s)", client.cid, error)
            return False
        location = str(answer.properties.get("location", f"{client.cid}, which has no location,"))
        enrolled = self.locations is None or location in self.locations
        log.info("Client %s %s fit round.", location, "enrolled in" if enrolled else "excluded from")
        return enrolled

    def evaluate(self, server_round: int, parameters: hg.Parameters) -> tuple[float, dict[str, hg.Scalar]]:
        """Loss and accuracy on the 10,000 test images; the parameters are saved on the way."""
        model = Net()
        load_parameters(model, parameters)
        loss, accuracy = test(model, load_test(), progress=True)
        path = save_checkpoint(model, self.folder / f"round-{server_round:03d}.safetensors")
        log.info("Saved checkpoint in: %s", path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.records.append(RoundRecord(server_round, loss, accuracy, str(path), digest))
        return loss, {"accuracy": accuracy}

    def state_dict(self) -> dict[str, Any]:
        """The records so far, so that a driver that goes on with the run has them."""
        return {"records": [dataclasses.asdict(record) for record in self.records]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back the records."""
        self.records = [RoundRecord(**record) for record in state["records"]]


def mean_train_loss(answers: list[tuple[int, dict[str, hg.Scalar]]]) -> dict[str, hg.Scalar]:
    """The loss of the last epoch over the images of the hospitals that tell it."""
    told = [(count, float(metrics["train_loss"])) for count, metrics in answers if "train_loss" in metrics]
    images = sum(count for count, _ in told)
    return {"train_loss": sum(count * loss for count, loss in told) / images} if images else {}


def save_checkpoint(model: Net, path: Path) -> Path:
    """Write the model as a safetensors file, which appears whole. ``safetensors.torch.load_file`` reads it, too."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        tensors.write(parameters_of(model), file)
    partial.rename(path)
    return path


def load_checkpoint(path: Path) -> Net:
    """The model that was saved in this file.

    Raises:
        ValueError: The file holds another kind of model.
    """
    model = Net()
    try:
        load_parameters(model, tensors.map_file(path))
    except InvalidArgument as error:
        raise ValueError(f"{path} does not hold a model of this example. {error}") from error
    return model
