"""Everything on this machine: a server, the four hospitals and a driver, as processes of their own; then the table and the plot.

::

    python run.py logistic
    python run.py trees --splits=3

Other options than ``--output`` are the driver's: ``python logistic_driver.py --help`` shows them.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from heart_records import fetch
from hedgerow.testing import Federation
from hedgerow.waits import Limit

FOLDER = Path(__file__).parent
SITES = ("cleveland", "hungary", "switzerland", "long_beach")
JOB = Limit("job_s", 3600.0)


def main() -> int:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(description="Run a server, four hospitals and a driver that compares methods.")
    parser.add_argument("model", choices=("logistic", "trees"))
    parser.add_argument("--output", type=Path, help="folder for results and logs (default: outputs/<model>)")
    given, others = parser.parse_known_args()
    output: Path = given.output or Path("outputs") / given.model
    output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that no process outlives this one
    fetch()
    with tempfile.TemporaryDirectory() as state, Federation(Path(state), env={"OMP_NUM_THREADS": "1"}) as federation:
        federation.start_server("--log-level=INFO")
        for site in SITES:
            federation.start_client(site, f"{given.model}_client:{site}", FOLDER)
        arguments = [f"--address={federation.driver.text}", f"--output={output}", *others]
        driver = federation.start_driver(FOLDER / f"{given.model}_driver.py", *arguments)
        code = driver.wait(JOB)
        for log in Path(state).glob("*.log"):
            shutil.copy(log, output)
        print(driver.output(), end="")
    return code


if __name__ == "__main__":
    sys.exit(main())
