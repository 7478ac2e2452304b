"""One job: a few rounds of federated averaging over the enrolled hospitals.

::

    python driver.py address=<DRIVER_ADDRESS>
    python driver.py address=<DRIVER_ADDRESS> enroll=all num_rounds=5 seed=7
    python driver.py address=<DRIVER_ADDRESS> enroll=all transport_dtype=bfloat16
    python driver.py address=<DRIVER_ADDRESS> resume=outputs/driver/<date>/<time>
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import hedgerow as hg
import run_folder
from hedgerow.errors import ConfigError
from strategy import EnrollByLocation, RoundRecord

run_folder.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="driver")
def main(config: DictConfig) -> None:
    """Run the job, or go on with one; its log, checkpoints and history.json are in the run's output folder."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    resumed = config.resume is not None
    config = settings(folder, config)
    strategy = EnrollByLocation(
        locations=enrolled_locations(config.enroll),
        folder=folder / "checkpoints",
        min_clients=config.min_clients,
    )
    history = hg.start_driver(
        server_address=config.address,
        config=hg.ServerConfig(num_rounds=config.num_rounds, round_timeout=config.round_timeout, seed=config.seed),
        strategy=strategy,
        run_name=f"train, enroll={config.enroll}",
        root_certificates=config.root_certificates,
        limits=hg.DriverLimits(wait_for_clients_s=config.wait_s),
        # What a driver needs to go on where one that died has stopped.
        checkpoint_dir=folder / "run",
        resume=folder / "run" if resumed else None,
        transport_dtype=config.transport_dtype,
    )
    write_history(folder / "history.json", config, strategy.records, history)


def settings(folder: Path, config: DictConfig) -> DictConfig:
    """The run's settings: noted in its folder when it starts, read from there when it goes on (but for the server's address).

    Raises:
        ConfigError: There is no such run.
    """
    path = folder / "settings.yaml"
    if config.resume is None:
        OmegaConf.save(config, path, resolve=True)
        return config
    if not path.exists():
        raise ConfigError(
            f"There is no run in {folder}: it has no settings.yaml. Give the folder outputs/driver/<date>/<time> of one."
        )
    noted = OmegaConf.load(path)
    assert isinstance(noted, DictConfig)
    noted.address = config.address
    return noted


def enrolled_locations(enroll: str | Sequence[str]) -> set[str] | None:
    """From ``A``, ``[A,B]`` or ``all`` to the locations, None for all of them."""
    if enroll == "all":
        return None
    letters = [enroll] if isinstance(enroll, str) else enroll
    return {f"LOCATION-{letter}" for letter in letters}


def write_history(path: Path, config: DictConfig, records: Sequence[RoundRecord], history: hg.History) -> None:
    """Write what came out, for programs: one record for each round, and who failed."""
    enroll = config.enroll if isinstance(config.enroll, str) else ",".join(config.enroll)
    content = {
        "enroll": enroll,
        "seed": config.seed,
        "num_rounds": config.num_rounds,
        "rounds": [dataclasses.asdict(record) for record in records],
        "failures": {number: [dataclasses.asdict(one) for one in failures] for number, failures in history.failures.items()},
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
