"""The README's five minutes, typed in as they stand there."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from hedgerow.testing import Federation
from hedgerow.waits import Limit

README = Path(__file__).parents[2] / "README.md"
JOB = Limit("job_s", 60.0)
STOP = Limit("stop_s", 5.0)


def test_the_tutorial_works_as_written(tmp_path: Path) -> None:
    site, driver = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "mysite.py").write_text(site)
    with Federation(tmp_path / "federation") as federation:
        (tmp_path / "driver.py").write_text(driver.replace("127.0.0.1:9092", federation.driver.text))
        federation.start_server()
        for name in ("alice", "bob"):
            federation.start_client(name, f"mysite:{name}", tmp_path)
        for _ in range(2):
            job = federation.start_driver(tmp_path / "driver.py")
            assert job.wait(JOB) == 0, job.tail()
            losses = [float(loss) for loss in re.findall(r"round \d+: ([\d.]+)", job.output())]
            assert len(losses) == 3
            assert losses[0] > losses[1] > losses[2], "it learns"
        for client in federation.clients.values():
            client.wait_for_output("Idle, waiting for work", STOP)
            assert client.stop(STOP) == 0
        assert federation.server.stop(STOP) == 0
        assert not any("Traceback" in process.output() for process in (federation.server, *federation.clients.values()))


def test_ctrl_c_ends_a_server_cleanly(tmp_path: Path) -> None:
    with Federation(tmp_path / "federation") as federation:
        server = federation.start_server()
        os.kill(server.pid, signal.SIGINT)
        assert server.wait(STOP) == 0
        assert "Traceback" not in server.output()
        assert "Stopped Flower server" in server.output()
