"""``start_client(certificates=…)`` and ``start_driver(certificates=…)`` in users' own scripts."""

from __future__ import annotations

import sys
from pathlib import Path

from hedgerow.security import Role
from hedgerow.testing import Federation, Process
from hedgerow.waits import Limit

JOB = Limit("job_s", 100.0)
CLIENT = """
import sys

import numpy as np

import hedgerow as hg


class Site(hg.NumPyClient):
    def fit(self, parameters, config):
        return [p + 1 for p in parameters], 1, {}


address, state, *certificates = sys.argv[1:]
hg.start_client(server_address=address, client=Site(), certificates=certificates, state_dir=state)
"""
DRIVER = """
import sys

import numpy as np

import hedgerow as hg

address, *certificates = sys.argv[1:]
strategy = hg.FedAvg(
    min_fit_clients=1,
    min_available_clients=1,
    fraction_evaluate=0.0,
    initial_parameters=hg.ndarrays_to_parameters([np.zeros(50_000, np.float32)]),
)
hg.start_driver(
    server_address=address, strategy=strategy, config=hg.ServerConfig(num_rounds=2), certificates=tuple(certificates)
)
"""


def test_scripts_pass_their_certificates(tmp_path: Path) -> None:
    for name, text in (("site.py", CLIENT), ("job.py", DRIVER)):
        (tmp_path / name).write_text(text)
    with Federation(tmp_path / "federation", tls=True) as federation:
        server = federation.start_server()
        files = {
            name: [str(path) for path in (made.ca, made.certificate, made.key)]
            for name, role in (("hospital-x", Role.CLIENT), ("ann", Role.DRIVER))
            for made in (federation.certificates(name, role),)
        }
        command = [
            sys.executable,
            str(tmp_path / "site.py"),
            federation.fleet.text,
            str(tmp_path / "state"),
            *files["hospital-x"],
        ]
        site = Process("site", command, tmp_path / "site.log")
        try:
            site.start()
            job = federation.start_driver(tmp_path / "job.py", federation.driver.text, *files["ann"])
            assert job.wait(JOB) == 0, job.tail() + site.tail()
        finally:
            site.clear_away()
        assert "Node hospital-x connected" in server.output(), "the node has its certificate's name"
        assert "insecure" not in site.output() + job.output()
