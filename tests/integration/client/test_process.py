"""``flower-client`` and ``start_client`` as real processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from hedgerow.errors import Fenced
from hedgerow.records import Outcome
from hedgerow.waits import Limit, wait
from tests.integration.client.fleet import SOON, FakeFleet, alive, fleet_server, parameters_of, task

MODULE = """
import os
from pathlib import Path

import hedgerow.client as hc

HERE = Path(__file__).parent


class Hospital(hc.NumPyClient):
    def fit(self, parameters, config):
        if "gate" in config:
            (HERE / "worker").write_text(str(os.getpid()))
            open(HERE / "gate").read()
        if config.get("raise"):
            raise ValueError("no data on a Sunday")
        return [p + 1 for p in parameters], 5, {"pid": os.getpid()}


hospital_a = Hospital()
"""
SCRIPT = """
import os
import numpy as np
import hedgerow.client as hc
{module}
print("pid", os.getpid(), flush=True)
hc.start_client(server_address="127.0.0.1:{port}", client=Hospital(){more})
print("returned", flush=True)
"""


@dataclass
class Process:
    """A running program with its output so far."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    reading: asyncio.Task[None] | None = None

    async def read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            async with self.changed:
                self.lines.append(line.decode().rstrip())
                self.changed.notify_all()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def line(self, pattern: str) -> re.Match[str]:
        """Wait for a line that the pattern is found in."""
        async with self.changed:
            await wait(self.changed.wait_for(lambda: re.search(pattern, self.text)), SOON, f"a line like {pattern!r}")
        found = re.search(pattern, self.text)
        assert found is not None
        return found

    async def end(self, number: signal.Signals | None = None) -> int:
        """The exit code, after a signal or by itself."""
        if number is not None:
            self.process.send_signal(number)
        code = await wait(self.process.wait(), SOON, "the process to end")
        if self.reading is not None:
            await wait(self.reading, SOON, "the rest of the output")
        return code


class Programs:
    """Starts programs in one folder; their state goes there too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Process] = []
        (folder / "client.py").write_text(MODULE)

    async def start(self, *arguments: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "XDG_STATE_HOME": str(self.folder / "xdg"), "GRPC_VERBOSITY": "ERROR"},
        )
        started = Process(process)
        started.reading = asyncio.create_task(started.read())
        self.running.append(started)
        return started

    async def client(self, port: int, *more: str, name: str = "client:hospital_a") -> Process:
        code = "import sys; from hedgerow.cli.client import main; sys.exit(main(sys.argv[1:]))"
        return await self.start("-c", code, "--callable", name, "--server", f"127.0.0.1:{port}", "--insecure", *more)

    async def script(self, port: int, more: str = "") -> Process:
        path = self.folder / "script.py"
        path.write_text(SCRIPT.format(module=MODULE.replace("hospital_a = Hospital()", ""), port=port, more=more))
        return await self.start(str(path))


@pytest.fixture
async def fleet() -> AsyncIterator[FakeFleet]:
    async with fleet_server() as server:
        yield server


@pytest.fixture
async def programs(tmp_path: Path) -> AsyncIterator[Programs]:
    started = Programs(tmp_path)
    yield started
    for process in started.running:
        if process.process.returncode is None:
            process.process.kill()
        await process.end()


async def gated_fit(fleet: FakeFleet, programs: Programs, count: int = 1) -> int:
    """Start a fit that goes on until the fifo is written to; the pid of its worker."""
    os.mkfifo(programs.folder / "gate")
    (await fleet.session(count)).push(assign=task(1, config={"gate": True}))
    worker = programs.folder / "worker"
    while not (worker.exists() and worker.read_text()):
        await wait(asyncio.sleep(0.01), SOON, "the fit to start")
    return int(worker.read_text())


async def until_dead(pid: int) -> None:
    while alive(pid):
        await wait(asyncio.sleep(0.01), SOON, f"process {pid} to end")


async def test_the_log_tells_the_story_of_a_task(fleet: FakeFleet, programs: Programs) -> None:
    client = await programs.client(fleet.port)
    session = await fleet.session()
    assert session.hello.name == "hospital_a"
    session.push(assign=task(1, round=3))
    await fleet.replies()
    await client.line("(?s)Ended the fit.*Idle")
    assert await client.end(signal.SIGTERM) == 0
    story = [
        "--insecure was set",
        "Loading client:hospital_a",
        "Connecting to 127.0.0.1:.* as node hospital_a",
        f"Connected: node hospital_a .id {session.hello.node_id}",
        "Idle, waiting for work",
        r"Received the fit task \(round 3, run run00001\)",
        r"Started the fit task \(round 3, run run00001\)",
        r"Ended the fit task \(round 3, run run00001\): ok after \d",
        "Idle, waiting for work",
        r"Stopping \(SIGTERM\)",
        "Stopped",
    ]
    assert re.search("(?s)" + ".*".join(story), client.text), client.text
    assert "Connection lost" not in client.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_in_the_middle_of_a_task_hands_it_back_and_leaves_no_process(
    fleet: FakeFleet, programs: Programs, number: signal.Signals
) -> None:
    client = await programs.client(fleet.port)
    worker = await gated_fit(fleet, programs)
    assert psutil.Process(worker).ppid() == client.process.pid
    assert await client.end(number) == 0
    assert not alive(worker)
    leave = fleet.sessions[0].leave
    assert leave is not None
    assert list(leave.handed_back) == ["task0001"]
    assert "Traceback" not in client.text


async def test_a_signal_while_there_is_no_server_ends_the_client(programs: Programs) -> None:
    client = await programs.client(1)
    await client.line("Cannot connect to 127.0.0.1:1 .*trying again in")
    assert await client.end(signal.SIGTERM) == 0
    assert "Traceback" not in client.text


async def test_a_signal_while_the_callable_is_loaded_ends_the_client(programs: Programs) -> None:
    os.mkfifo(programs.folder / "gate")
    (programs.folder / "slow.py").write_text("open('started', 'w').close(); open('gate').read()")
    client = await programs.client(1, name="slow:it")
    while not (programs.folder / "started").exists():
        await wait(asyncio.sleep(0.01), SOON, "the callable to be loading")
    (worker,) = psutil.Process(client.process.pid).children()
    assert await client.end(signal.SIGINT) == 0
    assert not alive(worker.pid)
    assert "Traceback" not in client.text


async def test_a_killed_client_leaves_no_worker_behind(fleet: FakeFleet, programs: Programs) -> None:
    client = await programs.client(fleet.port)
    worker = await gated_fit(fleet, programs)
    assert await client.end(signal.SIGKILL) == -signal.SIGKILL
    await until_dead(worker)


async def test_the_node_is_the_same_after_a_restart_and_two_names_are_two_nodes(fleet: FakeFleet, programs: Programs) -> None:
    ids = []
    for count, name in enumerate(["one", "one", "two"], start=1):
        client = await programs.client(fleet.port, "--name", name)
        ids.append((await fleet.session(count)).hello.node_id)
        await client.end(signal.SIGTERM)
    assert ids[0] == ids[1] != ids[2]


async def test_a_second_client_with_the_same_state_directory_is_refused(fleet: FakeFleet, programs: Programs) -> None:
    await programs.client(fleet.port, "--state-dir", "state")
    await fleet.session()
    second = await programs.client(fleet.port, "--state-dir", "state", "--name", "other")
    assert await second.end() == 2
    assert "state is in use by another client" in second.text
    assert "Traceback" not in second.text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("clent:hospital_a", r"no module 'clent'.*Searched in .*, which has the modules client"),
        ("client:hospital_b", r"no attribute 'hospital_b'.*Did you mean hospital_a\?"),
        ("client:HERE", "client:HERE is an object of type pathlib"),
    ],
)
async def test_a_wrong_callable_ends_the_client_before_it_connects(
    fleet: FakeFleet, programs: Programs, name: str, told: str
) -> None:
    client = await programs.client(fleet.port, name=name)
    assert await client.end() == 2
    assert re.search(told, client.text), client.text
    assert "Traceback" not in client.text
    assert fleet.sessions == []


async def test_a_callable_that_kills_its_process_is_told(programs: Programs) -> None:
    (programs.folder / "deadly.py").write_text("import os; os._exit(7)")
    client = await programs.client(1, name="deadly:it")
    assert await client.end() == 2
    assert "exited with code 7 while it loaded its callable" in client.text


async def test_a_node_that_was_taken_over_ends_its_client(fleet: FakeFleet, programs: Programs) -> None:
    fleet.refuse["Session"] = [Fenced("epoch 2 has replaced epoch 1")]
    client = await programs.client(fleet.port)
    assert await client.end() == 1
    assert "Another process runs as node hospital_a" in client.text


async def test_the_users_process_is_the_worker_of_start_client(fleet: FakeFleet, programs: Programs) -> None:
    (programs.folder / "policy.toml").write_text("kinds = ['fit']")
    script = await programs.script(fleet.port, ', policy="policy.toml"')
    session = await fleet.session()
    assert session.hello.name == "Hospital"
    session.push(assign=task(1, config={"raise": True}))
    session.push(assign=task(2))
    failed, good = await fleet.replies(2)
    assert failed.outcome is Outcome.USER_ERROR
    assert parameters_of(good)["w"].tolist() == [1, 1, 1]
    assert good.metrics["pid"] == int((await script.line(r"pid (\d+)"))[1])
    session.push(assign=task(3, "evaluate"))
    assert (await fleet.replies(3))[2].outcome is Outcome.REFUSED, "the link keeps the policy"
    await script.line("Opened insecure gRPC connection")
    await script.line("INFO hedgerow .*Connected: node Hospital")


async def test_ctrl_c_ends_start_client_and_its_link(fleet: FakeFleet, programs: Programs) -> None:
    script = await programs.script(fleet.port)
    session = await fleet.session()
    await script.line("Connected")
    (link,) = psutil.Process(script.process.pid).children()
    assert await script.end(signal.SIGINT) == 0
    assert not alive(link.pid)
    assert "returned" in script.text
    assert "Traceback" not in script.text
    assert session.leave is not None


async def test_a_killed_user_process_takes_its_link_with_it(fleet: FakeFleet, programs: Programs) -> None:
    script = await programs.script(fleet.port)
    session = await fleet.session()
    await script.line("Connected")
    (link,) = psutil.Process(script.process.pid).children()
    await script.end(signal.SIGKILL)
    await until_dead(link.pid)
    await fleet.until(lambda: session.leave is not None, "the goodbye of the link")


async def test_the_same_script_twice_is_two_nodes(fleet: FakeFleet, programs: Programs) -> None:
    await programs.script(fleet.port)
    await fleet.session()
    await programs.script(fleet.port)
    await fleet.session(2)
    assert [session.hello.name for session in fleet.sessions] == ["Hospital", "Hospital-2"]
    assert fleet.sessions[0].hello.node_id != fleet.sessions[1].hello.node_id


async def test_an_error_of_the_link_is_raised_by_start_client(fleet: FakeFleet, programs: Programs) -> None:
    script = await programs.script(fleet.port, ", name=' x '")
    assert await script.end() == 1
    assert "HedgerowError: ' x ' is no name for a node" in script.text


async def test_an_idle_client_does_not_poll(fleet: FakeFleet, programs: Programs) -> None:
    client = await programs.client(fleet.port)
    await fleet.session()
    processes = [psutil.Process(client.process.pid), *psutil.Process(client.process.pid).children()]
    await client.line("Idle")

    def wake_ups() -> int:
        return sum(p.num_ctx_switches().voluntary for p in processes)

    before = wake_ups()
    await wait(asyncio.sleep(2), Limit("idle_s", 10.0), "some idle time")
    assert wake_ups() - before < 20  # a poll every 100 ms makes 20


async def test_a_cancelled_task_of_start_client_goes_on_and_its_result_is_dropped(fleet: FakeFleet, programs: Programs) -> None:
    script = await programs.script(fleet.port)
    pid = await gated_fit(fleet, programs)
    session = fleet.sessions[0]
    session.push(cancel={"task_id": "task0001", "reason": "the round is over"})
    await script.line("Cancelled the fit task")
    (programs.folder / "gate").write_text("go")
    session.push(assign=task(2))
    (reply,) = await fleet.replies()
    assert fleet.completed[0].task_id == "task0002"
    assert reply.metrics["pid"] == pid
