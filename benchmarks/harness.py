"""What benchmarks share: a real service on loopback, what its processes cost, and the options that every script has.

A benchmark is one script with a ``main()`` that fills a :class:`benchmarks.figures.Report`::

    def main() -> None:
        options = parser(__doc__).parse_args()
        report = new_report("rounds", "Rounds", options)
        with service(folder, clients=2) as federation, Sampler(kinds_of(federation)) as sampler:
            ...
        report.add(figure("round, 2 clients", OURS, times_ms, "ms", stretch=4.0))
        report.add(Figure(name="memory", system=OURS, value=sampler.used["server"].peak_anon_mb, unit="MB", must=150.0))
        report.write()

It is run with ``python -m benchmarks.NAME [--quick] [--peers flwr-1.6 ...]`` from the project's folder, and by ``make bench``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.figures import QUICK_RESULTS, RESULTS, ROOT, Report
from hedgerow.testing import Federation, free_port

__all__ = [
    "PEERS",
    "Sampler",
    "Used",
    "anonymous_bytes",
    "children",
    "cpu_s",
    "free_port",
    "interleaved",
    "kinds_of",
    "loopback_echo_s",
    "new_report",
    "parser",
    "peak_resident_bytes",
    "service",
    "write_and_sync_s",
]

PEERS = ("flwr-1.6", "flwr-1.42")
"""The peers that a run compares with unless it is told otherwise: a name and a version, without the last number."""
SITE = "benchmarks.random_site:site"
TICKS = os.sysconf("SC_CLK_TCK")
EVERY_S = 0.01


# --- options ---------------------------------------------------------------------------------------------------------------


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have: ``quick``, ``peers`` and ``results``."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="fewer repeats and smaller sizes; writes to results/quick")
    made.add_argument(
        "--peers", nargs="*", default=list(PEERS), help="such as flwr-1.6; none after --peers (default: %(default)s)"
    )
    made.add_argument("--results", type=Path, help="where the files go (default: benchmarks/results)")
    return made


def new_report(name: str, title: str, options: argparse.Namespace) -> Report:
    """A report that goes where the options say."""
    return Report(name, title, options.results or (QUICK_RESULTS if options.quick else RESULTS))


# --- a service -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def service(
    folder: Path, clients: int, *, site: str = SITE, server: Sequence[str] = (), client: Sequence[str] = (), tls: bool = False
) -> Iterator[Federation]:
    """A server and connected clients as real processes with their defaults, on 127.0.0.1.

    Args:
        folder: For state directories and logs.
        clients: How many, named ``site0000`` and so on.
        site: The callable of the clients, importable from the project's folder.
        server: Further options of ``flower-server``.
        client: Further options of ``flower-client``.
        tls: Whether everybody shows a certificate.
    """
    with Federation(folder, env={"OPENBLAS_NUM_THREADS": "1"}, tls=tls) as federation:
        federation.start_server(*server)
        for number in range(clients):
            federation.start_client(f"site{number:04d}", site, ROOT, *client)
        federation.wait_for_sessions(clients)
        yield federation


def kinds_of(federation: Federation, **others: int) -> dict[str, list[int]]:
    """Process ids by kind: the server, the clients' links, their workers (which live once there was a task), and others."""
    links = [client.pid for client in federation.clients.values()]
    kinds = {"server": [federation.server.pid], "link": links, "worker": [pid for link in links for pid in children(link)]}
    return kinds | {kind: [pid] for kind, pid in others.items()}


# --- what processes cost ---------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Ids of the processes that a process has started and that live."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, task.read_text().split())
    return found


def anonymous_bytes(pid: int | str = "self") -> int:
    """A process's resident memory that is no file's, now; 0 when it is gone."""
    return _status_bytes(pid, "RssAnon:")


def peak_resident_bytes(pid: int | str = "self") -> int:
    """The most resident memory that a process has had, mapped files included; 0 when it is gone."""
    return _status_bytes(pid, "VmHWM:")


def _status_bytes(pid: int | str, field: str) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def cpu_s(pid: int | str = "self") -> float:
    """CPU seconds of a process so far, user and system; 0 when it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    return 0.0


@dataclass(frozen=True)
class Used:
    """What the processes of one kind used.

    Attributes:
        peak_anon_mb: Peak of anonymous resident memory of the largest process, sampled; MB are millions of bytes.
        peak_rss_mb: Peak of resident memory of the largest process over its whole life, mapped files included.
        cpu_s: CPU seconds of all of them together, while they were looked at.
    """

    peak_anon_mb: float
    peak_rss_mb: float
    cpu_s: float


class Sampler:
    """Looks at processes from a thread while its ``with`` block runs.

    Args:
        kinds: Process ids by kind.
        every_s: Seconds between two looks. A peak that is shorter may be missed.

    Attributes:
        used: What each kind used; filled when the block ends.
    """

    def __init__(self, kinds: Mapping[str, Sequence[int]], every_s: float = EVERY_S) -> None:
        self.used: dict[str, Used] = {}
        self._kinds = {kind: tuple(pids) for kind, pids in kinds.items()}
        self._every_s = every_s
        self._peaks = dict.fromkeys(self._kinds, 0)
        self._residents = dict.fromkeys(self._kinds, 0)
        self._before: dict[str, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._before = self._cpu()
        self._look()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join(10.0)
        self._look()
        for name, after in self._cpu().items():
            peaks = self._peaks[name] / 1e6, self._residents[name] / 1e6
            self.used[name] = Used(*peaks, after - self._before[name])

    def _run(self) -> None:
        while not self._done.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        for kind, pids in self._kinds.items():
            self._peaks[kind] = max([self._peaks[kind], *map(anonymous_bytes, pids)])
            self._residents[kind] = max([self._residents[kind], *map(peak_resident_bytes, pids)])

    def _cpu(self) -> dict[str, float]:
        return {kind: sum(map(cpu_s, pids)) for kind, pids in self._kinds.items()}


# --- limits of the machine -------------------------------------------------------------------------------------------------


def interleaved(ways: Mapping[str, Callable[[], object]], repeats: int, *, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each way, all of them once in each repeat, in an order that changes: what else the machine does hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    if warm_up:
        for way in ways.values():
            way()
    rng = random.Random(0)
    for _ in range(repeats):
        for name in rng.sample(list(ways), len(ways)):
            started = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def loopback_echo_s(count: int = 500) -> float:
    """Median seconds of one byte there and back over a loopback TCP connection between two threads."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        peer, _ = listener.accept()
        with peer:
            while data := peer.recv(1):
                peer.sendall(data)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    with listener, socket.create_connection(listener.getsockname()) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def once() -> None:
            s.sendall(b"x")
            s.recv(1)

        found = interleaved({"echo": once}, count)["echo"]
    thread.join(10.0)
    return statistics.median(found)


def write_and_sync_s(folder: Path, count: int = 100, size: int = 4096) -> float:
    """Median seconds to append a block to a file and bring it to the disk (``fdatasync``)."""
    block = os.urandom(size)
    with (folder / "synced").open("wb", buffering=0) as file:

        def once() -> None:
            file.write(block)
            os.fdatasync(file.fileno())

        found = interleaved({"sync": once}, count)["sync"]
    (folder / "synced").unlink()
    return statistics.median(found)
