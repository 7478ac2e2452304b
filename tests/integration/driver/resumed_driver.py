"""A driver that is killed at a named step, and the same driver that takes the run up again. Run as a program by test_resume.py.

    python -m tests.integration.driver.resumed_driver ADDRESS STRATEGY FOLDER STEP OUTPUT

STEP is a name of STEPS ("" for none). When FOLDER holds a run, it is taken up.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hedgerow.aggregation.mean import WeightedMean
from hedgerow.driver import Callback, CsvReport, RoundEnd, Server, ServerConfig, checkpoint, driver, parameter_files, start_driver
from hedgerow.driver.acknowledgements import ANSWERED, Acknowledgements
from hedgerow.driver.journal import Journal
from hedgerow.driver.results import Results
from hedgerow.records import GetPropertiesIns, Parameters
from hedgerow.strategy import FedAdam, FedAvg, FedAvgM, Krum, Scaffold
from hedgerow.strategy.fedavg import ConfigFn
from hedgerow.wire import tensors

ROUNDS = 3
SEED = 38
"""With this one, the first and the second choice of a round are different clients."""
PUSHED_S = 30.0
DEADLY = 2
"""The round in which the driver dies, unless the step says otherwise."""


def now(round: int = DEADLY) -> bool:
    """Whether the run is in this round."""
    return _Round.number == round


class _Round:
    number = -1


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, when: Callable[..., bool]) -> None:
    """Die before the call of a function for which ``when`` is true."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            die()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def after(owner: Any, name: str, when: Callable[..., bool]) -> None:
    """Die after it."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if when(*args, **kwargs):
            die()
        return result

    setattr(owner, name, wrapped)


def second(when: Callable[..., bool]) -> Callable[..., bool]:
    """True when ``when`` is true for the second time."""
    seen = []

    def counted(*args: Any, **kwargs: Any) -> bool:
        if when(*args, **kwargs):
            seen.append(1)
        return len(seen) == 2

    return counted


def in_the_push() -> None:
    driver.PUSH_MAX_TASKS = 1
    before(driver.Driver, "_push", second(is_first("fit")))


def in_the_next_round() -> None:
    """The checkpoint is not there yet when the tasks of the next round are at the server."""
    pushed, original = threading.Event(), driver.Driver.push

    def push(self: Any, tasks: Any) -> Any:
        done = original(self, tasks)
        if tasks[0].round == DEADLY + 1 and tasks[0].instruction.kind == "fit":
            pushed.set()
        return done

    driver.Driver.push = push  # type: ignore[method-assign]
    before(checkpoint, "rename", lambda hidden, path: checkpoint_of(DEADLY)(hidden, path) and pushed.wait(PUSHED_S))


def is_first(kind: str) -> Callable[..., bool]:
    return lambda self, request: now() and request.tasks[0].instruction.kind == kind


def tasks_are(kind: str) -> Callable[..., bool]:
    return lambda self, tasks: now() and tasks[0].instruction.kind == kind


def checkpoint_of(round: int) -> Callable[..., bool]:
    return lambda hidden, path: path.name == f"round-{round:06d}"


STEPS: dict[str, Callable[[], None]] = {
    "before the first checkpoint": lambda: before(checkpoint, "rename", checkpoint_of(0)),
    "after the first question": lambda: after(driver.Driver, "push", tasks_are("get_properties")),
    "after configure": lambda: after(FedAvg, "configure_fit", lambda *args: now()),
    "before the push": lambda: after(Journal, "write", lambda self, batch: now() and batch.kind == "fit"),
    "in the push": in_the_push,
    "after the push": lambda: after(driver.Driver, "push", tasks_are("fit")),
    "while results arrive": lambda: after(Results, "put", lambda *args: now()),
    "in the fold": lambda: before(WeightedMean, "add", second(lambda *args: now())),
    "before the phase is closed": lambda: before(Journal, "close", lambda *args: now()),
    "after the phase is closed": lambda: after(Journal, "close", lambda *args: now()),
    "after the fold": lambda: after(FedAvg, "_fold_fit", lambda *args: now()),
    "while clients evaluate": lambda: after(driver.Driver, "push", tasks_are("evaluate")),
    "before the rename": lambda: before(checkpoint, "rename", checkpoint_of(DEADLY)),
    "after the rename": lambda: after(checkpoint, "rename", checkpoint_of(DEADLY)),
    "before the acknowledgement": lambda: before(driver.Driver, "acknowledge", lambda self, *args, **kwargs: args[0] == DEADLY),
    "after the acknowledgement": lambda: after(Acknowledgements, "owe", lambda self, request: request.round == DEADLY),
    "after the acknowledgement is told": lambda: after(
        Acknowledgements, "owe", lambda self, request: request.round == DEADLY and self.settle(ANSWERED) is None
    ),
    "before the end": lambda: before(driver.Driver, "end", lambda *args: True),
    "after the end": lambda: after(driver.Driver, "end", lambda *args: True),
}
LARGE_STEPS: dict[str, Callable[[], None]] = {
    "while the next round goes on": in_the_next_round,
    **{step: STEPS[step] for step in ("after the fold", "before the rename", "after the rename", "before the acknowledgement")},
}
"""For parameters that lie in files, and are kept while the next round goes on."""


class Asking:
    """Asks a client before it trains and before it evaluates, so that the tasks of a round have numbers that matter."""

    on_evaluate_config_fn: ConfigFn | None

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        self._ask(client_manager, server_round + 0.1)
        return super().configure_fit(server_round, parameters, client_manager)  # type: ignore[misc]

    def configure_evaluate(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        value = self._ask(client_manager, server_round + 0.2)
        # The answer becomes part of the loss: it must be that of the second question, not of the first.
        self.on_evaluate_config_fn = lambda server_round: {"value": value}
        return super().configure_evaluate(server_round, parameters, client_manager)  # type: ignore[misc]

    @staticmethod
    def _ask(client_manager: Any, question: float) -> Any:
        client_manager.wait_for(3)
        first = next(iter(client_manager.all().values()))
        return first.get_properties(GetPropertiesIns({"question": question}), timeout=20).properties["value"]


class AskingFedAvg(Asking, FedAvg):
    pass


class AskingFedAvgM(Asking, FedAvgM):
    pass


class AskingFedAdam(Asking, FedAdam):
    pass


class AskingKrum(Asking, Krum):
    pass


class AskingScaffold(Asking, Scaffold):
    pass


class Enough(Callback):
    """Ends the run early."""

    def on_round_end(self, end: RoundEnd) -> str | None:
        return "these were enough" if end.server_round == ROUNDS else None


STRATEGIES: dict[str, Callable[..., FedAvg]] = {
    "FedAvg": AskingFedAvg,
    "FedAvgM": functools.partial(AskingFedAvgM, server_momentum=0.9, server_learning_rate=0.7),
    "LargeFedAvgM": functools.partial(AskingFedAvgM, server_momentum=0.5, server_learning_rate=0.8),
    "NarrowFedAvgM": functools.partial(AskingFedAvgM, server_momentum=0.9, server_learning_rate=0.7),
    "FedAdam": AskingFedAdam,
    "Krum": AskingKrum,
    "Scaffold": functools.partial(AskingScaffold, server_learning_rate=0.9),
}
TRANSPORT_DTYPES = {"NarrowFedAvgM": "bfloat16"}
"""With these, parameters travel in 16 bits. Nothing is said of it when the run is taken up."""
STOPPED_EARLY = {"Scaffold"}
"""With these, a callback ends the run."""
WITHOUT_CALLBACKS = {"FedAvgM", "LargeFedAvgM"}
"""With these, rounds are kept while the next ones go on: callbacks are told of a round when it is kept."""


def main(address: str, strategy: str, folder: str, step: str, output: str) -> None:
    start_round = Server._start_round

    def started(self: Server, server_round: int) -> None:
        _Round.number = server_round
        start_round(self, server_round)

    Server._start_round = started  # type: ignore[method-assign]
    if strategy == "LargeFedAvgM":
        parameter_files.MIN_BYTES = 1000
    if step:
        (STEPS | LARGE_STEPS)[step]()
    arguments: dict[str, Any] = {
        "fraction_fit": 0.7,
        "fraction_evaluate": 0.7,
        "min_available_clients": 3,
        "on_fit_config_fn": lambda server_round: {"round": server_round, "run": Path(folder).name},
    }
    server = Server(strategy=STRATEGIES[strategy](**arguments))
    there = (Path(folder) / "run.json").exists()
    history = start_driver(
        server_address=address,
        server=server,
        config=ServerConfig(num_rounds=ROUNDS + (4 if strategy in STOPPED_EARLY else 0), seed=SEED),
        callbacks=[] if strategy in WITHOUT_CALLBACKS else [CsvReport(f"{output}.csv"), Enough()],
        transport_dtype=None if there else TRANSPORT_DTYPES.get(strategy),
        **{"resume" if there else "checkpoint_dir": folder},  # type: ignore[arg-type]
    )
    found = {
        "parameters": hashlib.sha256(tensors.dumps(server.parameters)).hexdigest(),
        "history": repr(history),
        "csv": "" if strategy in WITHOUT_CALLBACKS else Path(f"{output}.csv").read_text(),
        "manifest": _manifest(Path(folder)),
        "state": hashlib.sha256(b"".join(a.tobytes() for a in _arrays(server.strategy.state_dict()))).hexdigest(),
    }
    Path(output).write_text(json.dumps(found))


def _manifest(folder: Path) -> list[dict[str, Any]]:
    """The lines of the manifest, without how long it took."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for line in lines:
        for entry in line["fit"] + line["evaluate"]:
            entry.pop("seconds", None)
    return lines


def _arrays(state: dict[str, Any]) -> list[Any]:
    return [array for value in state.values() if isinstance(value, Parameters) for array in value.arrays()]


if __name__ == "__main__":
    main(*sys.argv[1:])
