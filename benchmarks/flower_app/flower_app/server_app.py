"""FedAvg that writes the moments at which rounds are configured into a file, one line each."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):  # type: ignore[misc]
    """FedAvg that notes when each round is configured."""

    def __init__(self, path: Path, clients: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
        self.path = path

    def configure_train(self, *arguments: Any, **named: Any) -> Any:
        """Note the moment and configure as usual."""
        self.note()
        return super().configure_train(*arguments, **named)

    def note(self) -> None:
        """Append the time."""
        with self.path.open("a") as file:
            file.write(f"{time.perf_counter()}\n")


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; the last line of the file is the end of the last round."""
    config = context.run_config
    strategy = Timed(Path(str(config["times"])), int(config["clients"]))
    model = np.random.default_rng(0).standard_normal(int(config["elements"]), np.float32)
    strategy.start(grid=grid, initial_arrays=ArrayRecord([model]), num_rounds=int(config["rounds"]))
    strategy.note()
    strategy.path.with_suffix(".done").touch()
