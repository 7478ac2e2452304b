"""A site with a policy in a job of several: it is left out, and the job's manifest says why."""

from __future__ import annotations

import json
from pathlib import Path

from hedgerow.audit import AUDIT_FILE, read_audit
from hedgerow.testing import Federation
from hedgerow.waits import Limit

JOB = Limit("job_s", 100.0)
SITE = """
from pathlib import Path

import hedgerow.client as hc


class Site(hc.NumPyClient):
    def fit(self, parameters, config):
        with (Path(__file__).parent / "worked").open("a") as file:
            file.write(self.context.node_name + "\\n")
        return [p + 1 for p in parameters], 1, {}


site = Site()
"""
JOB_SCRIPT = """
import sys

import numpy as np

import hedgerow as hg

address, folder = sys.argv[1:]
strategy = hg.FedAvg(
    min_fit_clients=3,
    min_available_clients=3,
    fraction_evaluate=0.0,
    initial_parameters=hg.ndarrays_to_parameters([np.zeros(50_000, np.float32)]),
)
hg.start_driver(
    server_address=address, strategy=strategy, config=hg.ServerConfig(num_rounds=1), checkpoint_dir=folder
)
"""
POLICIES = {
    "allows": 'drivers = ["driv*"]\nkinds = ["fit"]\n[min_sites]\nfit = 3\n',
    "strangers": 'drivers = ["somebody-else"]\n',
    "lonely": "[min_sites]\nfit = 4\n",
}


def test_a_site_that_refuses_is_left_out_and_the_manifest_says_why(tmp_path: Path) -> None:
    (tmp_path / "hospital.py").write_text(SITE)
    (tmp_path / "job.py").write_text(JOB_SCRIPT)
    with Federation(tmp_path / "federation", tls=True) as federation:
        federation.start_server()
        for name, policy in POLICIES.items():
            (tmp_path / f"{name}.toml").write_text(policy)
            federation.start_client(name, "hospital:site", tmp_path, "--policy", str(tmp_path / f"{name}.toml"))
        federation.wait_for_sessions(3)
        job = federation.start_driver(tmp_path / "job.py", federation.driver.text, str(tmp_path / "run"))
        assert job.wait(JOB) == 0, job.tail()
        assert "policy allows drivers: driv*; kinds: fit; at least 3 sites in fit" in federation.clients["allows"].output()
        (manifest,) = [json.loads(line) for line in (tmp_path / "run" / "manifest.jsonl").read_text().splitlines()]
        told = {entry["node"]: entry for entry in manifest["fit"]}
        assert told["allows"]["outcome"] == "contributed"
        for name, why in (
            ("strangers", "The site's policy allows no tasks of the driver 'driver'."),
            ("lonely", "The site's policy asks for at least 4 sites in fit; the server counts 3."),
        ):
            assert (told[name]["outcome"], told[name]["reason"], told[name]["message"]) == ("failed", "refused", why)
            (entry, _) = read_audit(federation.client_state(name) / AUDIT_FILE)
            assert (entry["who"], entry["outcome"], entry["reason"]) == ("hedgerow://driver/driver", "refused", why)
        assert (tmp_path / "worked").read_text() == "allows\n"
