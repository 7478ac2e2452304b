"""Nobody need be started first; and a hospital that somebody else wrote joins with either of the two ways to start a client."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hedgerow.testing import Federation, Process
from hedgerow.waits import Limit

EXAMPLE = Path(__file__).parents[2] / "examples" / "hospitals"
JOB = Limit("job_s", 200.0)
SPOKEN = Limit("spoken_s", 60.0)
# The driver goes through the first steps of a job and ends: with them comes all that depends on who is there.
NO_TRAINING = ("enroll=all", "num_rounds=0", "seed=5")


class Ordered(Federation):
    """A federation whose processes are started in a given order, each when the one before has said something.

    Attributes:
        own_state: Environment in which default state directories are in the test's folder.
    """

    own_state: Mapping[str, str]

    def start_in(self, order: str) -> None:
        """Start what the letters stand for: the server, a driver, hospitals a and b."""
        for letter in order:
            if letter == "s":
                self.start_server()
            elif letter == "d":
                self.drive(*NO_TRAINING).wait_for_output("Opened insecure gRPC connection", SPOKEN)
            else:
                self.start_client(f"hospital_{letter}", f"client:hospital_{letter}", EXAMPLE)
                self.clients[f"hospital_{letter}"].wait_for_output("Connecting to", SPOKEN)

    def drive(self, *overrides: str) -> Process:
        """Start the example's driver; its output folder is one as documented, but under this federation's folder."""
        folder = f"hydra.run.dir=${{fresh_folder:{self.folder}/outputs/driver}}"
        return self.start_driver(EXAMPLE / "driver.py", f"address={self.driver.text}", folder, *overrides)

    def histories(self) -> list[dict[str, Any]]:
        """What the drivers have written, in the order of their folders."""
        assert [driver.wait(JOB) for driver in self.drivers] == [0 for _ in self.drivers], self.drivers[-1].tail(60)
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("outputs/driver/*/*/history.json"))]


def test_start_order_does_not_matter_and_drivers_that_start_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    histories = []
    with Ordered(tmp_path / "one") as federation:
        federation.start_in("dbas")
        histories += federation.histories()
    with Ordered(tmp_path / "other") as federation:
        federation.start_in("b")
        for _ in range(3):
            federation.drive(*NO_TRAINING)
        federation.start_in("sa")
        histories += federation.histories()
    assert len(histories) == 4
    assert len({history["rounds"][0]["checkpoint"] for history in histories}) == 4
    assert len({history["rounds"][0]["sha256"] for history in histories}) == 1, "the same seed, the same bits"


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Ordered]:
    """A server without hospitals."""
    with Ordered(tmp_path / "federation") as federation:
        federation.own_state = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
        federation.start_server()
        yield federation


def test_a_hospital_in_a_script_of_its_own_trains(lonely: Ordered) -> None:
    script = [sys.executable, str(EXAMPLE / "hospital_c.py"), lonely.fleet.text]
    lonely.clients["script"] = Process("script", script, lonely.folder / "script.log", lonely.own_state).start()
    driver = lonely.drive("enroll=C", "num_rounds=1", "min_clients=1", "seed=1")
    (history,) = lonely.histories()
    assert "Client LOCATION-C enrolled in fit round." in driver.output()
    assert history["rounds"][1]["accuracy"] > 0.5 > history["rounds"][0]["accuracy"]
    assert lonely.clients["script"].running


def test_a_driver_that_finds_no_enrolled_hospital_fails_and_says_so(lonely: Ordered) -> None:
    lonely.start_client("hospital_c", "hospital_c:hospital_c", EXAMPLE)
    driver = lonely.drive("enroll=B", "num_rounds=1", "min_clients=1")
    assert driver.wait(JOB) == 1, driver.tail(60)
    assert "Client LOCATION-C excluded from fit round." in driver.output()
    assert "No client that is connected is at LOCATION-B." in driver.output()
    assert lonely.clients["hospital_c"].running
