"""Ten thousand clients on one server: what they cost, how soon a task is there, a round, and the return after the server's death.

    python -m benchmarks.ten_thousand_clients [--quick] [--clients 10000] [--tls both|without|only] [--idle 60]

The clients are those of ``hedgerow.testing.many_clients``: a few processes with thousands of clients each, every one with a
connection, a session and an identity of its own (with TLS a certificate of its own, too), which do no training. They run on the
same cores as the server, at a low priority except while latencies are measured. The server has its defaults.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

import hedgerow as hg
from benchmarks.figures import OURS, ROOT, Figure, Report, figure
from benchmarks.harness import Sampler, anonymous_bytes, cpu_s, new_report, parser
from hedgerow.certificates import Tls
from hedgerow.driver import Driver
from hedgerow.errors import WaitTimeout
from hedgerow.records import NodeState
from hedgerow.security import Role
from hedgerow.testing import Federation, eventually
from hedgerow.testing.many_clients import node_name
from hedgerow.waits import Limit, pause_thread

A_PROCESS = 2_500
LOW_PRIORITY = 15
CONNECT = Limit("connect_all_s", 600.0)
STORM = Limit("storm_s", 300.0)
ARRIVAL = Limit("arrival_s", 30.0)
ALL_LISTED = Limit("all_listed_s", 60.0)
SETTLE_S = 20.0
"""By then all know how often to beat, and what connecting cost is over."""
SAMPLES = 300
MODEL_NUMBERS = 250_000
MODEL_MB = 1
"""Of float32."""


class Swarm:
    """The processes with the clients; gone at the end of the ``with`` block.

    Args:
        federation: Whose server they connect to.
        clients: How many there are in all.
    """

    def __init__(self, federation: Federation, clients: int) -> None:
        self.arrivals: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
        self._sessions: dict[int, int] = {}
        self._processes: list[subprocess.Popen[str]] = []
        count = -(-clients // A_PROCESS)
        firsts = [clients * number // count for number in range(count + 1)]
        for first, end in itertools.pairwise(firsts):
            command = [sys.executable, "-m", "hedgerow.testing.many_clients", f"--server={federation.fleet.text}"]
            command += [f"--first={first}", f"--count={end - first}"]
            if federation.authority is not None:
                command.append(f"--certificates={federation.authority.folder}")
            self._start(command, federation.folder / f"clients-{first}.log")

    def _start(self, command: Sequence[str], log: Path) -> None:
        with log.open("w") as errors:
            process = subprocess.Popen(
                ["nice", "-n", str(LOW_PRIORITY), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        self._processes.append(process)
        threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if "task" in told:
                self.arrivals.put((told["task"], told["at"]))
            else:
                self._sessions[process.pid] = told["sessions"]

    @property
    def sessions(self) -> int:
        """How many clients have a session, as they know it."""
        return sum(self._sessions.values())

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [process.pid for process in self._processes]

    @contextmanager
    def at_normal_priority(self) -> Iterator[None]:
        """For what is measured at the clients; only root may raise a priority again."""
        self._set_priority(0)
        try:
            yield
        finally:
            self._set_priority(LOW_PRIORITY)

    def _set_priority(self, nice: int) -> None:
        for pid in self.pids:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                try:
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), nice)
                except (PermissionError, ProcessLookupError):
                    continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(10.0)


class Trial:
    """One server and its clients, from nothing to the end.

    Args:
        report: Where the figures go.
        federation: The server, which is started here.
        clients: How many.
        idle_s: For how long the idle server is looked at, in seconds.
    """

    def __init__(self, report: Report, federation: Federation, clients: int, idle_s: float) -> None:
        self._report = report
        self._federation = federation
        self._clients = clients
        self._idle_s = idle_s
        self._suffix = f", {clients:,} clients" + (", mTLS" if federation.authority is not None else "")

    def add(self, name: str, value: float, unit: str, must: float | None = None) -> None:
        """Keep a figure."""
        self._report.add(Figure(name=name + self._suffix, system=OURS, value=value, unit=unit, must=must))

    def run(self) -> None:
        """Measure everything."""
        if self._federation.authority is not None:
            started = time.monotonic()
            self._federation.authority.issue_all(Role.CLIENT, [node_name(number) for number in range(self._clients)])
            print(f"made {self._clients} certificates in {time.monotonic() - started:.0f} s", flush=True)
        self._federation.start_server()
        before = anonymous_bytes(self._federation.server.pid)
        with Swarm(self._federation, self._clients) as swarm:
            self._connect(swarm)
            self._memory(before)
            self._idle()
            with self._driver() as driver:
                eventually(lambda: len(driver.nodes()) == self._clients, ALL_LISTED, "the driver to know all nodes")
                self._latency(driver, swarm)
                nodes = {node.node_id for node in driver.nodes()}
            with swarm.at_normal_priority():
                self._round(swarm)
            self._storm(swarm, nodes)

    def _tls(self) -> Tls | None:
        if self._federation.authority is None:
            return None
        files = self._federation.certificates("driver", Role.DRIVER)
        return Tls.of((files.ca, files.certificate, files.key), None)

    def _driver(self) -> Driver:
        return Driver(self._federation.driver.text, tls=self._tls(), run_name="ten thousand clients", seed=1)

    def _connect(self, swarm: Swarm) -> None:
        pid, started, before = self._federation.server.pid, time.monotonic(), cpu_s(self._federation.server.pid)
        eventually(lambda: swarm.sessions == self._clients, CONNECT, "all clients to connect")
        self.add("all connect for the first time", time.monotonic() - started, "s")
        self.add("server's CPU for each that connects", 1e3 * (cpu_s(pid) - before) / self._clients, "ms")

    def _memory(self, before: int) -> None:
        pid = self._federation.server.pid
        anonymous = anonymous_bytes(pid)
        self.add("server's resident memory", resident_bytes(pid) / 1e6, "MB", must=700.0)
        self.add("server's anonymous memory", anonymous / 1e6, "MB", must=700.0)
        self.add("server's anonymous memory for each", (anonymous - before) / 1e3 / self._clients, "kB")

    def _idle(self) -> None:
        pause_thread(SETTLE_S, "the pace to settle")
        pid, started = self._federation.server.pid, time.monotonic()
        before = cpu_s(pid)
        pause_thread(self._idle_s, "what an idle server costs")
        share = (cpu_s(pid) - before) / (time.monotonic() - started)
        self.add("server's CPU when idle", 100 * share, "% of a core", must=5.0)
        self.add("server's resident memory after that", resident_bytes(pid) / 1e6, "MB", must=700.0)

    def _latency(self, driver: Driver, swarm: Swarm) -> None:
        """From the driver's call to the client that has the task, for one random client after the other."""
        rng, nodes, times = random.Random(0), driver.nodes(), list[float]()
        with swarm.at_normal_priority():
            for number in range(SAMPLES + 20):
                task = driver.task(rng.choice(nodes), "get_properties", round=1)
                started = time.monotonic()
                driver.push([task])
                arrived, at = swarm.arrivals.get(timeout=ARRIVAL.seconds)
                assert arrived == task.task_id, "one task is under way at a time"
                driver.expect(task).result(ARRIVAL.seconds)
                if number >= 20:  # the first ones compile statements
                    times.append(1e3 * (at - started))
        self._report.add(figure("a task for a random client arrives" + self._suffix, OURS, times, "ms", must=5.0))
        self.add("the same, 99th percentile", float(np.percentile(times, 99)), "ms")

    def _round(self, swarm: Swarm) -> None:
        asked = min(1000, self._clients)
        model = [np.random.default_rng(0).standard_normal(MODEL_NUMBERS, dtype=np.float32)]
        strategy = CountingFedAvg(
            fraction_fit=asked / self._clients,
            fraction_evaluate=0.0,
            min_fit_clients=asked,
            min_available_clients=self._clients,
            accept_failures=False,
            initial_parameters=hg.ndarrays_to_parameters(model),
        )
        kinds = {"server": [self._federation.server.pid], "clients": swarm.pids, "driver": [os.getpid()]}
        with Sampler(kinds, every_s=0.05) as sampler:
            tls = self._tls()
            own = None if tls is None or tls.own is None else (tls.own.ca, tls.own.certificate, tls.own.key)
            with tempfile.TemporaryDirectory() as folder:
                hg.start_driver(
                    server_address=self._federation.driver.text,
                    strategy=strategy,
                    config=hg.ServerConfig(num_rounds=1, seed=1),
                    certificates=own,
                    checkpoint_dir=Path(folder) / "run",
                )
        assert strategy.results == asked, f"{strategy.results} of {asked} clients gave a result"
        self.add(f"a round of {asked:,} with {MODEL_MB} MB", strategy.seconds, "s")
        self.add("server's peak anonymous memory in that round", sampler.used["server"].peak_anon_mb, "MB")
        for kind, used in sampler.used.items():
            self.add(f"CPU of the {kind} for that round", used.cpu_s, "s")

    def _storm(self, swarm: Swarm, nodes: set[str]) -> None:
        server = self._federation.server
        server.kill()
        server.start()
        started = time.monotonic()
        eventually(lambda: swarm.sessions < self._clients // 2, STORM, "the clients to notice")
        try:
            eventually(lambda: swarm.sessions == self._clients, STORM, "all clients to be back")
        except WaitTimeout:
            self._report.note(f"After {STORM.seconds:g} s only {swarm.sessions:,} clients were back{self._suffix}.")
        self.add("all are back after the server was killed", time.monotonic() - started, "s", must=60.0)
        self.add("server's CPU for that", cpu_s(server.pid), "s")
        self.add("server's anonymous memory after that", anonymous_bytes(server.pid) / 1e6, "MB", must=700.0)
        with self._driver() as driver:
            eventually(lambda: len(driver.nodes()) >= len(nodes), ALL_LISTED, "the driver to know all nodes")
            back = {node.node_id for node in driver.nodes() if node.state is NodeState.ONLINE}
        self.add("clients lost", len(nodes - back) + len(back - nodes), "clients", must=0.0)


class CountingFedAvg(hg.FedAvg):
    """FedAvg that knows how many results there were and how long the round took."""

    results = 0
    seconds = 0.0

    def configure_fit(self, server_round, parameters, client_manager):  # type: ignore[no-untyped-def]
        """As usual."""
        self.seconds = -time.monotonic()
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round, results, failures):  # type: ignore[no-untyped-def]
        """As usual."""
        made = super().aggregate_fit(server_round, results, failures)
        self.results, self.seconds = len(results), self.seconds + time.monotonic()
        return made


def resident_bytes(pid: int) -> int:
    """A process's resident memory now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure and write the figures."""
    made = parser(__doc__)
    made.add_argument("--clients", type=int, help="how many (default: 10,000; 400 with --quick)")
    made.add_argument("--tls", choices=("both", "without", "only"), default="both")
    made.add_argument("--idle", type=float, help="seconds to look at the idle server (default: 60; 10 with --quick)")
    options = made.parse_args()
    logging.getLogger("hedgerow").setLevel(logging.WARNING)
    clients = options.clients or (400 if options.quick else 10_000)
    idle_s = options.idle or (10.0 if options.quick else 60.0)
    report = new_report("ten_thousand_clients", "Ten thousand clients", options)
    for tls in {"both": (False, True), "without": (False,), "only": (True,)}[options.tls]:
        env = {"PYTHONPATH": f"{ROOT / 'src'}"}
        with tempfile.TemporaryDirectory() as folder, Federation(Path(folder) / "federation", tls=tls, env=env) as federation:
            Trial(report, federation, clients, idle_s).run()
    report.write()


if __name__ == "__main__":
    main()
