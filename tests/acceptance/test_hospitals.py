"""The documented example, as its readers run it: real server, clients and drivers, real images, the documented log lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from hedgerow.testing import Federation, Process
from hedgerow.waits import Limit

EXAMPLE = Path(__file__).parents[2] / "examples" / "hospitals"
JOB = Limit("job_s", 280.0)
STOP = Limit("stop_s", 5.0)
PREFIX = r"(INFO|DEBUG|WARNING) hedgerow \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \| \w+\.py:\d+ \| "
HYDRA = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\]\[[\w.]+\]\[(INFO|DEBUG|WARNING)\] - "


class Hospitals(Federation):
    """The example's federation; drivers write their output folders into the federation's."""

    def add(self, *letters: str) -> None:
        """Start hospitals; does not wait for them."""
        for letter in letters:
            self.start_client(f"hospital_{letter}", f"client:hospital_{letter}", EXAMPLE)

    def train(self, *overrides: str) -> Process:
        """Start the documented driver."""
        return self._drive("driver.py", *overrides)

    def evaluate(self, *overrides: str) -> Process:
        """Start the other driver, which evaluates a checkpoint at the clients."""
        return self._drive("evaluate_driver.py", *overrides)

    def _drive(self, script: str, *overrides: str) -> Process:
        folder = self.folder / f"output-{len(self.drivers) + 1}"
        return self.start_driver(EXAMPLE / script, f"address={self.driver.text}", f"hydra.run.dir={folder}", *overrides)

    def output_folder(self, driver: Process) -> Path:
        """Where a driver has left its log, its checkpoints and its history."""
        return self.folder / f"output-{self.drivers.index(driver) + 1}"

    def result(self, driver: Process) -> dict[str, Any]:
        """The history of a training driver that must have ended well."""
        assert driver.wait(JOB) == 0, driver.tail(60)
        history: dict[str, Any] = json.loads((self.output_folder(driver) / "history.json").read_text())
        return history

    def digests(self, driver: Process) -> list[str]:
        """Digests of its checkpoints, round by round."""
        return [record["sha256"] for record in self.result(driver)["rounds"]]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    """Server and clients that stay up over the tests of this file, the driver having been started first of all."""
    folder = tmp_path_factory.mktemp("hospitals")
    with Hospitals(folder, env={"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}) as made:
        made.add("a")  # a client before the server
        made.train("seed=1", "num_rounds=3")  # and a driver before either hospital is connected
        made.start_server()
        made.add("b")
        yield made


@pytest.fixture(scope="module")
def only_a(hospitals: Hospitals) -> Process:
    driver = hospitals.drivers[0]
    assert driver.wait(JOB) == 0, driver.tail(60)
    return driver


@pytest.fixture(scope="module")
def both(hospitals: Hospitals, only_a: Process) -> Process:
    """A second job on the same server and clients."""
    driver = hospitals.train("enroll=all", "seed=1", "num_rounds=3")
    assert driver.wait(JOB) == 0, driver.tail(60)
    return driver


def in_order(output: str, patterns: list[str]) -> None:
    """Each pattern matches a line after the one that the last pattern matched."""
    lines = output.replace("\r", "\n").splitlines()
    position = 0
    for pattern in patterns:
        found = next((i for i in range(position, len(lines)) if re.search(pattern, lines[i])), None)
        assert found is not None, f"no line like {pattern!r} after line {position}:\n{output}"
        position = found + 1


def line_time(driver: Process, text: str) -> str:
    """When a driver wrote the line that holds a text, in Hydra's format, which sorts."""
    return next(line[1:24] for line in driver.output().splitlines() if text in line)


def test_the_server_logs_the_documented_lines(hospitals: Hospitals, only_a: Process) -> None:
    fleet, driver = re.escape(hospitals.fleet.text), re.escape(hospitals.driver.text)
    expected = [
        "Starting Flower server$",
        r"Option `--insecure` was set\. Starting insecure HTTP server\.$",
        "Using the store sqlite:",
        rf"Flower ECE: Starting Driver API \(gRPC-rere\) on {driver}$",
        rf"Flower ECE: Starting Fleet API \(gRPC-rere\) on {fleet}$",
        r"Received 1 fit task\(s\) from the driver of run \w+$",
        r"Sent fit task \w+ to node hospital_a$",
        r"Received result of task \w+ from node hospital_a: ok$",
        r"Run \w+ finished$",
    ]
    in_order(hospitals.server.output(), [PREFIX + line for line in expected])


def test_the_driver_logs_the_documented_lines_once_each(hospitals: Hospitals, only_a: Process) -> None:
    round_lines = [
        HYDRA + r"fit_round ROUND: strategy sampled 1 clients \(out of 2\)$",
        HYDRA + r"fit_round ROUND received 1 results and 0 failures$",
        r"100%\|.*\| 313/313 \[",
        HYDRA + r"Saved checkpoint in: .*round-00ROUND\.safetensors$",
        HYDRA + r"fit progress: \(ROUND, [\d.]+, \{'accuracy': [\d.]+\}, [\d.]+\)$",
    ]
    before = [
        r"Opened insecure gRPC connection \(no certificates were passed\)$",
        rf"\[Driver\] Connected to {re.escape(hospitals.driver.text)}$",
        r"Starting Flower server, config: ServerConfig\(num_rounds=3, round_timeout=None",
        "Initializing global parameters$",
        "Requesting initial parameters from one random client$",
        "Received initial parameters from one random client$",
        "Evaluating initial parameters$",
    ]
    first = [
        r"100%\|.*\| 313/313 \[",
        HYDRA + r"Saved checkpoint in: .*round-000\.safetensors$",
        HYDRA + r"initial parameters \(loss, other metrics\): [\d.]+, \{'accuracy': 0\.[01]\d*\}$",
        HYDRA + "FL starting$",
    ]
    rounds = [line.replace("ROUND", str(number)) for number in (1, 2, 3) for line in round_lines]
    output = only_a.output()
    in_order(output, [*(HYDRA + line for line in before), *first, *rounds, HYDRA + r"FL finished in [\d.]+$"])
    for enrolment in ("Client LOCATION-A enrolled in fit round.", "Client LOCATION-B excluded from fit round."):
        assert output.count(f"[strategy][INFO] - {enrolment}") == 3, enrolment
    assert output.count("FL starting") == 1, "no line is shown twice under Hydra"
    log_file = (hospitals.output_folder(only_a) / "driver.log").read_text()
    assert "fit_round 1: strategy sampled 1 clients (out of 2)" in log_file, "the log is in the output folder, too"


def test_one_hospital_learns_and_both_learn_more(hospitals: Hospitals, only_a: Process, both: Process) -> None:
    alone, together = (hospitals.result(driver)["rounds"] for driver in (only_a, both))
    assert [record["round"] for record in alone] == [0, 1, 2, 3]
    assert alone[0]["accuracy"] < 0.2
    assert alone[3]["accuracy"] >= 0.75
    assert together[3]["accuracy"] >= 0.82


def test_checkpoints_load_into_the_model(hospitals: Hospitals, only_a: Process) -> None:
    record = hospitals.result(only_a)["rounds"][3]
    saved = load_file(record["checkpoint"])
    assert all(value.dtype == "float32" for value in saved.values())
    assert sum(value.size for value in saved.values()) > 1000


def test_another_driver_script_runs_on_the_same_clients(hospitals: Hospitals, both: Process) -> None:
    checkpoint = hospitals.result(both)["rounds"][3]["checkpoint"]
    driver = hospitals.evaluate(f"checkpoint={checkpoint}")
    assert driver.wait(JOB) == 0, driver.tail(60)
    for letter in "AB":
        assert re.search(rf"LOCATION-{letter}\b.*accuracy", driver.output()), driver.tail(60)


def test_overlapping_drivers_get_what_each_gets_alone(hospitals: Hospitals, only_a: Process, both: Process) -> None:
    overlapping = [hospitals.train("enroll=A", "seed=1"), hospitals.train("enroll=all", "seed=1")]
    assert [hospitals.digests(driver) for driver in overlapping] == [hospitals.digests(only_a), hospitals.digests(both)]
    started, ended = ([line_time(driver, text) for driver in overlapping] for text in ("FL starting", "FL finished"))
    assert max(started) < min(ended), "they ran at the same time"
    assert hospitals.metrics()["hedgerow_sessions"] == 2, "server and clients are still there"
    assert hospitals.metrics()['hedgerow_tasks{state="sent"}'] == 0, "and idle"


def test_fresh_state_and_another_order_give_the_same_checkpoints(hospitals: Hospitals, both: Process, tmp_path: Path) -> None:
    with Hospitals(tmp_path / "fresh", env={"OMP_NUM_THREADS": "1"}) as fresh:
        fresh.start_server()
        fresh.add("b")
        fresh.wait_for_sessions(1)
        fresh.add("a")
        assert fresh.digests(fresh.train("enroll=all", "seed=1")) == hospitals.digests(both)
        assert fresh.clients["hospital_a"].stop(STOP) == 0
        assert fresh.server.stop(STOP) == 0
        assert "Traceback" not in fresh.server.output() + fresh.clients["hospital_a"].output()


def test_a_driver_that_is_killed_goes_on_to_the_same_checkpoints(hospitals: Hospitals, only_a: Process) -> None:
    killed = hospitals.train("enroll=A", "seed=1")
    killed.wait_for_output("fit_round 2: strategy sampled", JOB)
    killed.kill()
    folder = hospitals.output_folder(killed)
    resumed = hospitals.start_driver(EXAMPLE / "driver.py", f"address={hospitals.driver.text}", f"resume={folder}")
    assert resumed.wait(JOB) == 0, resumed.tail(60)
    history = json.loads((folder / "history.json").read_text())
    assert [record["sha256"] for record in history["rounds"]] == hospitals.digests(only_a)
    assert "fit_round 1" not in resumed.output(), "what was done is not done again"


def test_parameters_in_16_bits_are_half_the_bytes_and_train_as_well(hospitals: Hospitals, both: Process) -> None:
    narrow = hospitals.train("enroll=all", "seed=1", "transport_dtype=bfloat16")
    rounds = hospitals.result(narrow)["rounds"]
    assert rounds[3]["accuracy"] >= 0.82
    assert "Parameters travel as bfloat16" in narrow.output()
    assert "full precision" not in narrow.output()
    assert all(value.dtype == "float32" for value in load_file(rounds[3]["checkpoint"]).values())
    assert hospitals.digests(narrow)[1:] != hospitals.digests(both)[1:]
    sizes = []
    for driver in (narrow, both):
        lines = (hospitals.output_folder(driver) / "run" / "manifest.jsonl").read_text().splitlines()
        sizes.append({entry["bytes"] for line in lines for entry in json.loads(line)["fit"]})
    (half,), (whole,) = sizes
    assert half < 0.51 * whole
