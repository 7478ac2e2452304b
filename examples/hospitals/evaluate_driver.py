"""Another job on the same server and clients: every hospital tests a saved model on images that it keeps back; no training.

::

    python evaluate_driver.py address=<DRIVER_ADDRESS> checkpoint=outputs/driver/<date>/<time>/checkpoints/round-003.safetensors
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import hedgerow as hg
import run_folder
from hedgerow.frameworks.torch import parameters_of
from hedgerow.strategy.strategy import EvaluateResults, Failures
from strategy import load_checkpoint

log = logging.getLogger(__name__)
run_folder.register()


class FederatedEvaluation(hg.FedAvg):
    """Sends the parameters to all clients to be evaluated, once."""

    def __init__(self, parameters: hg.Parameters, min_clients: int) -> None:
        super().__init__(
            initial_parameters=parameters,
            min_fit_clients=0,
            min_evaluate_clients=1,
            min_available_clients=min_clients,
            evaluate_metrics_aggregation_fn=mean_accuracy,
        )
        self.answers: dict[str, dict[str, hg.Scalar]] = {}

    def configure_fit(
        self, server_round: int, parameters: hg.Parameters, client_manager: hg.ClientManager
    ) -> list[tuple[hg.ClientProxy, hg.FitIns]]:
        """Nobody trains."""
        return []

    def aggregate_evaluate(
        self, server_round: int, results: EvaluateResults, failures: Failures
    ) -> tuple[float | None, dict[str, hg.Scalar]]:
        """Note what each hospital found; then average as usual."""
        for client, res in results:
            found = {"loss": res.loss, "num_examples": res.num_examples, **res.metrics}
            self.answers[client.cid] = found
            log.info(
                "%s: accuracy %.4f, loss %.4f on %s images", found["location"], found["accuracy"], res.loss, res.num_examples
            )
        return super().aggregate_evaluate(server_round, results, failures)


def mean_accuracy(answers: list[tuple[int, dict[str, hg.Scalar]]]) -> dict[str, hg.Scalar]:
    """The accuracy over the images of all hospitals."""
    images = sum(count for count, _ in answers)
    return {"accuracy": sum(count * float(metrics["accuracy"]) for count, metrics in answers) / images}


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate_driver")
def main(config: DictConfig) -> None:
    """Run the job; its log and evaluation.json are in the run's output folder."""
    strategy = FederatedEvaluation(parameters_of(load_checkpoint(Path(config.checkpoint))), config.min_clients)
    history = hg.start_driver(
        server_address=config.address,
        config=hg.ServerConfig(num_rounds=1, seed=config.seed),
        strategy=strategy,
        run_name="federated evaluation",
        root_certificates=config.root_certificates,
        limits=hg.DriverLimits(wait_for_clients_s=config.wait_s),
    )
    content = {
        "checkpoint": str(Path(config.checkpoint).resolve()),
        "clients": strategy.answers,
        "loss": dict(history.losses_distributed)[1],
        "accuracy": dict(history.metrics_distributed["accuracy"])[1],
    }
    path = Path(HydraConfig.get().runtime.output_dir) / "evaluation.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
