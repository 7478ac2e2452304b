"""Hedgerow's driver for benchmarks, in batches of rounds (:mod:`benchmarks.conducted`): ``python -m benchmarks.round_driver``."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import numpy as np

import hedgerow as hg
from benchmarks.conducted import Conducted


class ConductedFedAvg(Conducted, hg.FedAvg):
    """FedAvg in batches."""


def main() -> None:
    """Run rounds until nobody asks for more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="of the Driver API")
    parser.add_argument("clients", type=int)
    parser.add_argument("--elements", type=int, default=10, help="of the one tensor, float32 (default: %(default)s)")
    parser.add_argument("--checkpoints", type=Path, help="folder of the run; nothing is kept without it")
    options = parser.parse_args()
    model = np.random.default_rng(0).standard_normal(options.elements, np.float32)
    strategy = ConductedFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=options.clients,
        min_available_clients=options.clients,
        initial_parameters=hg.ndarrays_to_parameters([model]),
    )
    with contextlib.suppress(KeyboardInterrupt):
        hg.start_driver(
            server_address=options.address,
            strategy=strategy,
            config=hg.ServerConfig(num_rounds=1_000_000, seed=1),
            checkpoint_dir=options.checkpoints,
        )


if __name__ == "__main__":
    main()
