"""The driver is killed at every step of a round and started again: the outcome has the same bits, and nobody trains twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from tests.integration.driver.resumed_driver import LARGE_STEPS, ROUNDS, STEPS, STRATEGIES
from tests.source_tree import ROOT

LIMIT_S = 60
CLIENT = """
import os
import signal
from pathlib import Path

import numpy as np

import hedgerow.client as hc
from hedgerow.training import ControlVariates

HERE = Path(__file__).parent


class Hospital(hc.NumPyClient):
    def get_properties(self, config):
        return {"value": config["question"]}

    def get_parameters(self, config):
        return [np.zeros(20_000, np.float32), np.zeros((), np.int64)]

    def fit(self, parameters, config):
        with (HERE / "fits").open("a") as file:
            file.write(f"{config['run']} {config['round']} {self.context.node_name}\\n")
        if "scaffold_round" in config:
            returned = self.fit_scaffold(ControlVariates(parameters, config, self.context.state))
            marker = HERE / f"die-{config['run']}-{config['round']}-{self.context.node_name}"
            if marker.exists():
                marker.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            return returned
        noise = np.random.standard_normal(20_000).astype(np.float32)
        return [parameters[0] * np.float32(0.5) + noise, parameters[1] + 1], np.random.randint(1, 9), {}

    def fit_scaffold(self, variates):
        noise = np.random.standard_normal(20_000).astype(np.float32)
        trained = [variates.model[0] * np.float32(0.5) - np.float32(0.1) * variates.corrections[0] + noise, variates.model[1] + 1]
        return variates.finish(trained, steps=5, learning_rate=0.1), np.random.randint(1, 9), {}

    def evaluate(self, parameters, config):
        return float(np.abs(parameters[0]).mean() + config["value"]), np.random.randint(1, 9), {}


hospital_a, hospital_b, hospital_c = Hospital(), Hospital(), Hospital()
"""


@dataclass
class Site:
    """A server and three clients, which stay up for all tests."""

    folder: Path
    address: str

    def drive(self, strategy: str, name: str, step: str = "") -> int:
        """Run the driver until it ends; its exit code."""
        arguments = [self.address, strategy, str(self.folder / name), step, str(self.folder / f"{name}.json")]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.run(
                [sys.executable, "-m", "tests.integration.driver.resumed_driver", *arguments],
                cwd=ROOT,
                env=ENVIRONMENT,
                stdout=log,
                stderr=log,
                timeout=LIMIT_S,
                check=False,
            ).returncode

    def outcome(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return found

    def fits(self, name: str) -> Counter[str]:
        """How often each client trained in each round."""
        return Counter(
            line.split(" ", 1)[1] for line in (self.folder / "fits").read_text().splitlines() if line.startswith(f"{name} ")
        )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "client.py").write_text(CLIENT)
    processes: list[subprocess.Popen[bytes]] = []

    def start(log: str, command: str, *arguments: str) -> Path:
        file: IO[bytes]
        with (folder / log).open("wb") as file:
            code = f"import sys; from hedgerow.cli.{command} import main; sys.exit(main(sys.argv[1:]))"
            processes.append(
                subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=folder, env=ENVIRONMENT, stdout=file, stderr=file)
            )
        return folder / log

    def line(log: Path, pattern: str) -> str:
        until = time.monotonic() + LIMIT_S
        while (found := re.search(pattern, log.read_text())) is None:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)
        return found[1]

    try:
        addresses = [f"--{name}-address=127.0.0.1:0" for name in ("fleet-api", "driver-api", "blob", "web")]
        server = start("server.log", "server", "--insecure", "--state-dir", "server", *addresses)
        fleet = line(server, r"Starting Fleet API .* on (127\.0\.0\.1:\d+)")
        for name in ("hospital_a", "hospital_b", "hospital_c"):
            start(f"{name}.log", "client", "--insecure", "--server", fleet, "--state-dir", name, "--callable", f"client:{name}")
        yield Site(folder, line(server, r"Starting Driver API .* on (127\.0\.0\.1:\d+)"))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(LIMIT_S)


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> dict[str, dict[str, Any]]:
    for strategy in STRATEGIES:
        assert site.drive(strategy, f"undisturbed-{strategy}") == 0, site.log(f"undisturbed-{strategy}")
    return {strategy: site.outcome(f"undisturbed-{strategy}") for strategy in STRATEGIES}


# Every step for those that are the base of all others; for others those at which what a round notes, or keeps, is at stake.
@pytest.mark.parametrize(
    ("strategy", "step"),
    [
        *((strategy, step) for strategy in ("FedAvg", "FedAvgM") for step in STEPS),
        *(("LargeFedAvgM", step) for step in LARGE_STEPS),
        *((strategy, step) for strategy in ("FedAdam", "Krum") for step in ("while results arrive", "after the rename")),
        *(
            ("NarrowFedAvgM", step)
            for step in ("before the push", "in the push", "while results arrive", "after the fold", "while clients evaluate")
        ),
        *(
            ("Scaffold", step)
            for step in ("before the push", "while results arrive", "in the fold", "after the rename", "after the end")
        ),
    ],
)
def test_driver_killed_at_any_step_and_resumed_gives_the_same_bits(
    site: Site, undisturbed: dict[str, dict[str, Any]], step: str, strategy: str
) -> None:
    name = f"{step}-{strategy}".replace(" ", "-")
    assert site.drive(strategy, name, step) == -signal.SIGKILL, site.log(name)
    assert site.drive(strategy, name) == 0, site.log(name)
    assert site.outcome(name) == undisturbed[strategy]
    assert site.fits(name) == site.fits(f"undisturbed-{strategy}"), "nobody trains twice"
    assert set(site.fits(name).values()) == {1}
    assert len(site.fits(name)) == ROUNDS * 2
    assert [line["round"] for line in site.outcome(name)["manifest"]] == list(range(1, ROUNDS + 1))
    assert {entry["outcome"] for line in site.outcome(name)["manifest"] for entry in line["fit"]} == {"contributed", "excluded"}


def test_control_variate_is_applied_once_when_a_worker_dies_with_it(site: Site, undisturbed: dict[str, dict[str, Any]]) -> None:
    markers = [site.folder / f"die-dying-{number}-hospital_{which}" for number in range(1, ROUNDS + 1) for which in "abc"]
    for marker in markers:
        marker.touch()
    assert site.drive("Scaffold", "dying") == 0, site.log("dying")
    assert site.outcome("dying") == undisturbed["Scaffold"]
    assert set(site.fits("dying").values()) == {2}, "every worker died once in every fit"
    assert len([marker for marker in markers if not marker.exists()]) == ROUNDS * 2


def test_the_strategies_differ(undisturbed: dict[str, dict[str, Any]]) -> None:
    assert len({outcome["parameters"] for outcome in undisturbed.values()}) == len(STRATEGIES)
