"""The driver's script of the fault tests: averaging over the sites, with a record of what was folded and what came of each round.

Writes into ``--out``: ``folds`` (process, round and node of each update that was folded), ``rounds`` (round and digest of the
parameters after it) and, when the run is over, ``history.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

import hedgerow as hg


class Noted(Sequence[Any]):
    """The results of a round, which notes what is taken out of it."""

    def __init__(self, results: Sequence[Any], server_round: int, path: Path) -> None:
        self._results = results
        self._round = server_round
        self._path = path

    def __iter__(self) -> Iterator[Any]:
        for client, res in self._results:
            with self._path.open("a") as file:
                file.write(f"{os.getpid()} {self._round} {client.cid}\n")
            yield client, res

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._results[index]


class NotedFedAvg(hg.FedAvg):
    """FedAvg that notes what it folds."""

    folds: Path

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Fold and note."""
        return super().aggregate_fit(server_round, Noted(results, server_round, self.folds), failures)


class NotedFedAvgM(NotedFedAvg, hg.FedAvgM):
    """The same with momentum, which is state that rounds hand on."""


class NotedFedBuff(hg.FedBuff):
    """FedBuff that notes what it folds."""

    folds: Path

    def fold(self, server_round: int, update: Any) -> bool:
        """Fold and note."""
        with self.folds.open("a") as file:
            file.write(f"{os.getpid()} {server_round} {update.client.cid}\n")
        return super().fold(server_round, update)


def main() -> None:
    """Run one job."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--address", required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--clients", type=int, default=2)
    p.add_argument("--fraction", type=float, default=1.0)
    p.add_argument("--fraction-evaluate", type=float, default=0.0)
    p.add_argument("--momentum", type=float, default=0.0)
    p.add_argument("--buffer", type=int, default=0, help="asynchronous, with a buffer of so many updates")
    p.add_argument("--max-staleness", type=int, default=None)
    p.add_argument("--slow", default="", help="the client that takes ten times as long")
    p.add_argument("--seconds", type=float, default=0.5)
    p.add_argument("--numbers", type=int, default=50_000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--checkpoint-dir", default="")
    p.add_argument("--resume", action="store_true")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    def note_round(server_round: int, parameters: list[Any], config: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in parameters)).hexdigest()
        with (args.out / "rounds").open("a") as file:
            file.write(f"{server_round} {digest}\n")
        return float(np.mean(np.square(parameters[0]))), {}

    start = np.random.default_rng(args.seed).standard_normal(args.numbers, dtype=np.float32)
    sampling: dict[str, Any] = {
        "fraction_fit": args.fraction,
        "fraction_evaluate": args.fraction_evaluate,
        "min_fit_clients": 1,
        "min_evaluate_clients": 1,
        "min_available_clients": args.clients,
        "on_fit_config_fn": lambda server_round: {"round": server_round, "seconds": args.seconds, "slow": args.slow},
        "evaluate_fn": note_round,
        "initial_parameters": hg.ndarrays_to_parameters([start]),
    }
    strategy: NotedFedAvg | NotedFedBuff
    if args.buffer:
        sampling |= {"buffer_size": args.buffer, "concurrency": args.clients, "max_staleness": args.max_staleness}
        strategy = NotedFedBuff(**sampling)
    else:
        strategy = NotedFedAvgM(**sampling, server_momentum=args.momentum) if args.momentum else NotedFedAvg(**sampling)
    strategy.folds = args.out / "folds"
    options: dict[str, Any] = {}
    if args.checkpoint_dir and "checkpoint_dir" in inspect.signature(hg.start_driver).parameters:
        options = {"resume" if args.resume else "checkpoint_dir": args.checkpoint_dir}
    history = hg.start_driver(
        server_address=args.address,
        strategy=strategy,
        config=hg.ServerConfig(num_rounds=args.rounds, seed=args.seed),
        **options,
    )
    failures = [[r, *dataclasses.astuple(f)] for r, fs in history.failures.items() for f in fs]
    what = {"failures": failures, "losses": history.losses_centralized, "losses_distributed": history.losses_distributed}
    (args.out / "history.json").write_text(json.dumps(what))


if __name__ == "__main__":
    main()
