"""Kills and cuts at random moments, and proof that they cost nothing but time.

    make chaos SEED=7 FAULTS=60        (or: python scripts/chaos.py --seed 7 --faults 60 --clients 8 --rounds 20)

A first run over real processes is left alone. A second one, with the same seed, goes through fault-injecting proxies while the
server, clients, workers and drivers are killed and connections are cut and stalled. Then it is checked that

- the parameters after every round, and the losses that clients found, are bit-identical to those of the undisturbed run (the
  strategy is FedAvgM, which has state);
- training, which notes its executions in a file that Hedgerow knows nothing of, was repeated only where a kill hit its task;
- each accepted result was folded exactly once;
- every task ended with its result: none at a deadline, none at the cap on deaths of its worker.

Which faults come, when, and where they strike follows from the seed; how far the processes have come by then depends on the
machine. The timeline that is printed tells what struck what.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import inspect
import itertools
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hedgerow
from hedgerow.testing import Federation, Process
from hedgerow.waits import Limit, pause_thread

WORKLOAD = Path(__file__).resolve().parents[1] / "tests" / "acceptance" / "workload"
KINDS = ("server", "client", "worker", "cut", "stall")
KILLS_A_TASK = 2  # one more and the task would rightly fail
POLL_S = 0.02
NUMBERS = 250_000  # of the model: 1 MB
BLOB_BYTES_PER_S = 4e6
MOMENTUM = 0.9
HANDED_OVER_S = 1.0
"""A task is at work until its result is on its client's disk. That is not noted; it is this soon after training has ended."""
RUN = Limit("chaos_run_s", 1200.0)


@dataclass(frozen=True)
class Settings:
    """What is run: the same in the undisturbed run and in the other."""

    seed: int
    faults: int
    clients: int
    rounds: int
    fraction: float
    seconds: float
    tls: bool = False


@dataclass(frozen=True)
class Fault:
    """Something to happen ``delay_s`` after a round's first execution has started; ``where`` in [0, 1) chooses its target."""

    kind: str
    round: int
    delay_s: float
    where: float
    lasts_s: float
    then_cut: bool


@dataclass(frozen=True)
class Execution:
    """One execution of ``fit``, as its own file tells."""

    node: str
    round: int
    pid: int
    started: float
    ended: float | None


@dataclass(frozen=True)
class Kill:
    """A process of this node was killed between these two times."""

    node: str
    before: float
    after: float


class Workload(Federation):
    """A federation of training sites, and one job on it."""

    def __init__(self, folder: Path, settings: Settings, *, proxied: bool) -> None:
        self.settings = settings
        self.out = folder / "out"
        self.executions_path = folder / "executions"
        env = {"EXECUTIONS": str(self.executions_path), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        super().__init__(folder, proxied=proxied, env=env, tls=settings.tls)

    def open(self) -> Process:
        """Start everything; the job's process."""
        self.start_server()
        for number in range(self.settings.clients):
            self.start_client(f"site-{number}", "training_site:site", WORKLOAD)
        self.wait_for_sessions(self.settings.clients)
        return self.start_job(resume=False)

    def start_job(self, *, resume: bool) -> Process:
        """Start the job's driver, or the one that takes up the job of a killed one."""
        s = self.settings
        options = {"rounds": s.rounds, "clients": s.clients, "fraction": s.fraction, "seconds": s.seconds, "seed": s.seed}
        options |= {"numbers": NUMBERS, "momentum": MOMENTUM, "fraction-evaluate": s.fraction}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        words += ["--checkpoint-dir", str(self.folder / "checkpoints"), *(["--resume"] if resume else [])]
        return self.start_driver(WORKLOAD / "job.py", "--address", self.driver.text, "--out", str(self.out), *words)

    def executions(self) -> list[Execution]:
        """All executions so far, in the order of their starts."""
        if not self.executions_path.exists():
            return []
        lines = [line.split() for line in self.executions_path.read_text().splitlines()]
        ends = {(node, r, pid): float(at) for at, what, node, r, pid in lines if what == "end"}
        return [
            Execution(node, int(r), int(pid), float(at), ends.get((node, r, pid)))
            for at, what, node, r, pid in lines
            if what == "start"
        ]

    def folds(self) -> dict[int, dict[int, list[str]]]:
        """For each round and each driver process that folded it, the nodes in the order in which they were folded."""
        found: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for line in (self.out / "folds").read_text().splitlines():
            pid, server_round, node = line.split()
            found[int(server_round)][int(pid)].append(node)
        return found

    def digests(self) -> dict[int, set[str]]:
        """For each round, the digests of the parameters after it; several only if a resumed driver got something else."""
        found: dict[int, set[str]] = defaultdict(set)
        for line in (self.out / "rounds").read_text().splitlines():
            server_round, digest = line.split()
            found[int(server_round)].add(digest)
        return found

    def history(self) -> str:
        """Losses and failures, as the job wrote them when it was over."""
        return (self.out / "history.json").read_text()

    def results(self, kind: str = "fit") -> list[tuple[int, str, str]]:
        """Round, node and outcome of all results of this kind in the server's database."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            query = "select r.round, n.name, r.outcome from results r join nodes n using (node_id) where r.kind = ?"
            return [(int(r), str(name), str(outcome)) for r, name, outcome in connection.execute(query, [kind])]


def can_resume() -> bool:
    """Whether drivers can be killed: whether a run can be taken up again."""
    return "checkpoint_dir" in inspect.signature(hedgerow.start_driver).parameters


def plan(settings: Settings) -> list[Fault]:
    """The faults that a seed stands for: of each kind as many, spread over the run."""
    rng = random.Random(f"chaos-{settings.seed}")
    kinds = [*KINDS, *(["driver"] if can_resume() else [])]
    chosen = [kinds[i % len(kinds)] for i in range(settings.faults)]
    rng.shuffle(chosen)
    faults = []
    for i, kind in enumerate(chosen):
        server_round = 1 + i * max(1, settings.rounds - 1) // settings.faults
        delay_s = rng.uniform(0, settings.seconds + 0.5)  # also while results are sent and folded
        faults.append(Fault(kind, server_round, delay_s, rng.random(), rng.uniform(0, 2.5), rng.random() < 0.5))
    return sorted(faults, key=lambda fault: (fault.round, fault.delay_s))


class Chaos:
    """Makes the faults of a plan happen while the job runs."""

    def __init__(self, workload: Workload, faults: list[Fault], say: Callable[[str], None]) -> None:
        self.kills: list[Kill] = []
        self.struck: Counter[str] = Counter()
        self._w = workload
        self._faults = faults
        self._say = say
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._hit: Counter[tuple[str, int]] = Counter()
        self._dead: set[int] = set()
        self._job: Process | None = None

    def run(self) -> int:
        """Run the job under the faults; its exit code."""
        # Slow enough that transfers take a while and can be hit.
        self._w.links["blob"].throttle(BLOB_BYTES_PER_S)
        job = self._job = self._w.open()
        waiting = list(self._faults)
        began: dict[int, float] = {}
        deadline = time.monotonic() + (RUN.seconds or 0)
        while job.running or job is not self._job or self._later:
            job = self._job
            if time.monotonic() > deadline:
                self._say(f"the run is not over after {RUN.seconds} s ({RUN.name})")
                return 1
            while self._later and self._later[0][0] <= time.monotonic():
                heapq.heappop(self._later)[2]()
            executions = self._w.executions()
            for execution in executions:
                began.setdefault(execution.round, execution.started)
            fault = waiting[0] if waiting else None
            reached = fault is not None and any(
                r > fault.round or (r == fault.round and time.time() >= at + fault.delay_s) for r, at in began.items()
            )
            if fault is not None and reached and job.running and self._strike(fault, executions):
                waiting.pop(0)
                self.struck[fault.kind] += 1
            pause_thread(POLL_S, "the next look")
        if waiting:
            self._say(f"the run ended before {len(waiting)} of {len(self._faults)} faults")
        return job.wait(RUN)

    def _strike(self, fault: Fault, executions: list[Execution]) -> bool:
        """Make a fault happen; False if there is nothing now that it could hit."""
        match fault.kind:
            case "server":
                return self._kill_and_restart(self._w.server, fault)
            case "client":
                clients = [client for _, client in sorted(self._w.clients.items())]
                return self._kill_and_restart(clients[int(fault.where * len(clients))], fault)
            case "worker":
                return self._kill_worker(fault, executions)
            case "driver":
                assert self._job is not None
                self._say(f"kill the driver (process {self._job.pid})")
                self._job.kill()
                self._after(fault.lasts_s, self._resume)
                return True
            case "cut":
                link = self._link(fault)
                if not self._w.links[link].connections:
                    return False
                self._say(f"cut {self._w.links[link].cut()} connections of the {link} link")
                return True
            case _:
                return self._stall(fault)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), action))

    def _kill_and_restart(self, process: Process, fault: Fault) -> bool:
        if not process.running:
            return False
        before = time.time()
        self._say(f"kill {process.name} (process {process.pid}), away for {fault.lasts_s:.1f} s")
        process.kill()
        self.kills.append(Kill(process.name, before, time.time()))
        if process.name in self._w.clients:
            self._dead |= {e.pid for e in self._w.executions() if e.node == process.name}

        def restart() -> None:
            self._say(f"start {process.name} again")
            process.start()

        self._after(fault.lasts_s, restart)
        return True

    def _kill_worker(self, fault: Fault, executions: list[Execution]) -> bool:
        running = [
            e
            for e in executions
            if e.ended is None and e.pid not in self._dead and self._hit[e.node, e.round] < KILLS_A_TASK
            if self._w.clients[e.node].running
        ]
        if not running:
            return False
        target = sorted(running, key=lambda e: e.node)[int(fault.where * len(running))]
        before = time.time()
        self._say(f"kill the worker of {target.node} in round {target.round} (process {target.pid})")
        self._dead.add(target.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(target.pid, signal.SIGKILL)
        self._hit[target.node, target.round] += 1
        self.kills.append(Kill(target.node, before, time.time()))
        return True

    def _link(self, fault: Fault) -> str:
        return sorted(self._w.links)[int(fault.where * len(self._w.links))]

    def _stall(self, fault: Fault) -> bool:
        name = self._link(fault)
        link = self._w.links[name]
        self._say(f"stall the {name} link for {fault.lasts_s:.1f} s{', then cut it' if fault.then_cut else ''}")
        link.stall()

        def resume() -> None:
            if fault.then_cut:
                link.cut()
            link.resume()
            self._say(f"the {name} link flows again")

        self._after(fault.lasts_s, resume)
        return True

    def _resume(self) -> None:
        self._say("start a driver that takes up the run")
        self._job = self._w.start_job(resume=True)


def problems(calm: Workload, stormy: Workload, chaos: Chaos) -> list[str]:
    """What is not as it must be; empty when all is well."""
    found = []
    for server_round, digests in sorted(calm.digests().items()):
        if stormy.digests().get(server_round) != digests:
            found.append(f"The parameters after round {server_round} differ from those of the undisturbed run.")
    if stormy.history() != calm.history():
        found.append(f"The history is not that of the undisturbed run: {stormy.history()} instead of {calm.history()}.")
    if Counter(stormy.results("evaluate")) != Counter(calm.results("evaluate")):
        found.append("The server's results of evaluation are not those of the undisturbed run.")
    sampled = {r: next(iter(lives.values())) for r, lives in calm.folds().items()}
    for server_round, nodes in sampled.items():
        lives = stormy.folds().get(server_round, {})
        if not lives or list(lives.values())[-1] != nodes:
            found.append(f"Round {server_round} folded {list(lives.values())[-1:]}, the undisturbed run {nodes}.")
        if any(max(Counter(folded).values()) > 1 for folded in lives.values()):
            found.append(f"Round {server_round} folded an update twice: {dict(lives)}.")
    expected = Counter((r, node, "ok") for r, nodes in sampled.items() for node in nodes)
    if Counter(stormy.results()) != expected:
        odd = (Counter(stormy.results()) - expected) + (expected - Counter(stormy.results()))
        found.append(f"The server's results are not one for each task that was folded: {sorted(odd)}.")
    return found + repetitions(stormy.executions(), chaos.kills, expected)


def repetitions(executions: list[Execution], kills: list[Kill], expected: Counter[tuple[int, str, str]]) -> list[str]:
    """Executions that no kill explains, and tasks without any."""
    found = []
    by_task: dict[tuple[int, str], list[Execution]] = defaultdict(list)
    for execution in executions:
        by_task[execution.round, execution.node].append(execution)
    tasks = {(server_round, node) for server_round, node, _ in expected}
    if set(by_task) != tasks:
        found.append(f"Not the tasks of the undisturbed run were executed: {sorted(set(by_task) ^ tasks)}.")
    for (server_round, node), times in sorted(by_task.items()):
        for first, again in itertools.pairwise(times):
            over = again.started if first.ended is None else min(again.started, first.ended + HANDED_OVER_S)
            if not any(k.node == node and first.started <= k.after and k.before <= over for k in kills):
                at = f"{first.started:.3f} and {again.started:.3f}"
                found.append(f"{node} trained twice for round {server_round}, at {at}, and no kill explains it.")
    return found


def run(settings: Settings, folder: Path) -> bool:
    """Both runs and the comparison; whether all is well."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.2f} s  {text}", flush=True)

    faults = plan(settings)
    say(f"seed {settings.seed}: {settings}; faults: {dict(Counter(f.kind for f in faults))}")
    if not can_resume():
        say("drivers are not killed: this version cannot resume a run")
    with Workload(folder / "calm", settings, proxied=False) as calm:
        code = calm.open().wait(RUN)
        if code:
            say(f"the undisturbed run failed:\n{calm.drivers[-1].tail()}")
            return False
    say("the undisturbed run is over; now the other one")
    with Workload(folder / "stormy", settings, proxied=True) as stormy:
        chaos = Chaos(stormy, faults, say)
        code = chaos.run()
        found = [f"The driver ended with {code}:\n{stormy.drivers[-1].tail()}"] if code else []
    if not found:
        found = problems(calm, stormy, chaos)
    if sum(chaos.struck.values()) < settings.faults:
        found.append(
            f"Only {sum(chaos.struck.values())} of {settings.faults} faults could strike; train for longer or more rounds."
        )
    tasks = len(stormy.results())
    say(f"{tasks} tasks, {len(stormy.executions())} executions, faults that struck: {dict(sorted(chaos.struck.items()))}")
    for problem in found:
        say(f"PROBLEM: {problem}")
    return not found


def main() -> int:
    """Read the command line and run; 0 when all is well."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seed", type=int, default=None, help="(default: a random one, which is printed)")
    p.add_argument("--faults", type=int, default=60)
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--fraction", type=float, default=0.5, help="of the clients that train in a round")
    p.add_argument("--seconds", type=float, default=1.0, help="that training takes")
    p.add_argument("--tls", action="store_true", help="everybody shows a certificate to everybody")
    p.add_argument("--folder", type=Path, help="for logs and state (default: a temporary one, kept when something is wrong)")
    args = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no process is left behind
    seed = random.SystemRandom().randrange(2**31) if args.seed is None else args.seed
    settings = Settings(seed, args.faults, args.clients, args.rounds, args.fraction, args.seconds, args.tls)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="hedgerow-chaos-"))
    well = run(settings, folder)
    if well:
        print(f"Seed {seed}: nothing was lost, nothing was done twice without need, and the parameters are bit-identical.")
        if args.folder is None:
            shutil.rmtree(folder)
    else:
        print(
            f"Seed {seed}: something is wrong. Logs and state are in {folder}. Again: make chaos SEED={seed} FAULTS={args.faults}"
        )
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
