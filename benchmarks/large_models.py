"""Rounds with large models: seconds, against plain sockets that move the same bytes, and anonymous memory of every process.

    python benchmarks/large_models.py [--cases 4x100 2x1000] [--rounds 5] [--curves] [--five-gigabytes]

A case ``NxM`` is N clients and a model of M MB in ten float32 tensors. Server, clients and driver are real processes. A client
does no training: the first time it is asked it draws random weights of its own, and from then on changes a few of them and
returns all. A round is configure, fit, aggregate, checkpoint: from one ``configure_fit`` to the next. It is timed with a
checkpoint folder and without.

The limit is plain sockets in the same run: a driver process sends a file to a server process, which writes it to a file; N client
processes fetch that into files, write a result from memory into a file, and send that; the server writes it to a file, and the
driver process fetches it into a file. No hash, no database, no arithmetic; each client goes on as soon as it can. Files live until
the next round begins, as in Hedgerow, where results are kept until the round is safe. A second limit, "bare", deletes each file as
soon as it was sent on, and sends a result that lies in a file already: what a system could do that loses work when a process dies.
The two differ by more than the work: on a virtual machine whose unused memory goes back to its host, a page that was not used a
moment ago costs a fault there, about 1 s a GB where this was written, and the second limit uses pages again at once.

Memory is the largest ``RssAnon`` of a process (``/proc/PID/status``, 50 times a second): what it has for itself, without mapped
files, which the kernel can drop.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

import hedgerow as hg
from hedgerow.waits import Limit, wait_condition

TENSORS = 10
BLOCK_BYTES = 1024 * 1024
CLIENT = """
import numpy as np
import hedgerow as hg

class Random(hg.NumPyClient):
    weights = None

    def fit(self, parameters, config):
        if self.weights is None:
            rng = np.random.default_rng(list(self.context.node_name.encode()))
            Random.weights = [rng.standard_normal(p.shape, dtype=p.dtype) for p in parameters]
        for w in self.weights:
            w.reshape(-1)[::65536] += np.float32(0.001)
        return self.weights, 1, {}

class Same(hg.Client):
    def fit(self, ins):
        return hg.FitRes(hg.Status(hg.Code.OK, ""), ins.parameters, 1, {})

site = Random()
same = Same()
"""


# --- plain sockets --------------------------------------------------------------------------------------------------------

HEAD = struct.Struct("<cIIQ")
"""What, round, client, bytes. M: a model comes; G: it goes to a client; R: a result comes; F: it goes to the driver."""
HERE = Limit("plain_socket_s", 600.0)


class PlainServer:
    """Files in and files out, a thread for each connection."""

    def __init__(self, folder: Path, clients: int, *, bare: bool) -> None:
        self._folder = folder
        self._bare = bare
        self._clients = clients
        self._changed = threading.Condition()
        self._there: set[str] = set()
        self._given: dict[int, int] = defaultdict(int)

    def serve(self) -> None:
        """Until the standard input ends."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        sys.stdin.read()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            what, number, client, size = HEAD.unpack(sock.recv(HEAD.size, socket.MSG_WAITALL))
            name = f"model-{number}" if what in b"MG" else f"result-{number}-{client}"
            path = self._folder / name
            if what == b"M" and not self._bare:
                for old in [*self._folder.glob(f"model-{number - 1}"), *self._folder.glob(f"result-{number - 1}-*")]:
                    old.unlink()
            if what in b"MR":
                receive(sock, path, size)
                sock.sendall(b".")
                with self._changed:
                    self._there.add(name)
                    self._changed.notify_all()
                return
            with self._changed:
                wait_condition(self._changed, lambda: name in self._there, HERE, name)
            with path.open("rb", buffering=0) as file:
                sock.sendfile(file)
            with self._changed:
                self._given[number] += what == b"G"
                if self._bare and (what == b"F" or self._given[number] == self._clients):
                    path.unlink()


def receive(sock: socket.socket, path: Path, size: int) -> None:
    """From a socket into a new file."""
    block = memoryview(bytearray(BLOCK_BYTES))
    with path.open("xb", buffering=0) as file:
        while size:
            count = sock.recv_into(block[:size])
            if not count:
                raise ConnectionError("The plain copy was cut.")
            file.write(block[:count])
            size -= count


def plain_put(port: int, what: bytes, number: int, client: int, path: Path) -> None:
    """Send a file."""
    with socket.create_connection(("127.0.0.1", port)) as sock, path.open("rb", buffering=0) as file:
        sock.sendall(HEAD.pack(what, number, client, path.stat().st_size))
        sock.sendfile(file)
        if sock.recv(1) != b".":
            raise ConnectionError("The plain copy was not taken.")


def plain_get(port: int, what: bytes, number: int, client: int, path: Path, size: int) -> None:
    """Fetch a file."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(HEAD.pack(what, number, client, size))
        receive(sock, path, size)


def plain_client(port: int, client: int, rounds: int, source: Path, folder: Path, bare: str) -> None:
    """Fetch the model and send a result, round by round."""
    size = source.stat().st_size
    result = np.empty(0, np.uint8) if bare else np.fromfile(source, np.uint8)
    old: list[Path] = []
    for number in range(rounds):
        path, written = folder / f"fetched-{client}-{number}", folder / f"own-{client}-{number}"
        plain_get(port, b"G", number, client, path, size)
        for one in old:
            one.unlink()
        old = [path]
        if not bare:
            with written.open("xb", buffering=0) as file:
                file.write(result.data)
            old.append(written)
        plain_put(port, b"R", number, client, source if bare else written)
        if bare:
            path.unlink()
            old = []


def plain_rounds(clients: int, megabytes: int, rounds: int, folder: Path, *, bare: bool) -> list[float]:
    """Seconds of each round of plain sockets after the first."""
    kind = "bare" if bare else ""
    for client in range(clients + 1):
        random_file(folder / f"source-{client}", megabytes, seed=client)
    command = [sys.executable, __file__]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            subprocess.Popen(
                [*command, "--plain-server", str(folder), str(clients), kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        for client in range(clients):
            source = folder / f"source-{client + 1}"
            stack.enter_context(
                subprocess.Popen([*command, "--plain-client", *map(str, (port, client, rounds, source, folder, kind))])
            )
        driver = subprocess.run(
            [*command, "--plain-driver", *map(str, (port, clients, rounds, folder / "source-0", folder))],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        server.stdin.close()
    return [float(line) for line in driver.stdout.split()][1:]


def plain_driver(port: int, clients: int, rounds: int, source: Path, folder: Path) -> None:
    """Send the model, fetch the results; prints the seconds of each round."""
    size = source.stat().st_size
    paths: list[Path] = []
    for number in range(rounds):
        started = time.perf_counter()
        for path in paths:
            path.unlink()
        plain_put(port, b"M", number, 0, source)
        paths = [folder / f"update-{number}-{client}" for client in range(clients)]
        threads = [
            threading.Thread(target=plain_get, args=(port, b"F", number, client, path, size)) for client, path in enumerate(paths)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(time.perf_counter() - started, flush=True)


def random_file(path: Path, megabytes: int, seed: int) -> None:
    """A file of random float32 numbers."""
    rng = np.random.default_rng(seed)
    with path.open("xb") as file:
        for _ in range(megabytes):
            file.write(rng.standard_normal(250_000, dtype=np.float32).data)


# --- Hedgerow -------------------------------------------------------------------------------------------------------------


def anonymous_kb(pid: int) -> int:
    """Anonymous resident memory of a process in KiB; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
    return 0


class Sampler:
    """Keeps the peak of each process while it runs."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peaks: dict[str, int] = defaultdict(int)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.02):
            for name, pid in self._pids.items():
                self.peaks[name] = max(self.peaks[name], anonymous_kb(pid))

    def megabytes(self, prefix: str) -> float:
        """The largest peak of the processes whose names begin so, in MB."""
        return max((kb for name, kb in self.peaks.items() if name.startswith(prefix)), default=0) * 1024 / 1e6


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


@contextlib.contextmanager
def service(clients: int, folder: Path, callable_name: str) -> Iterator[tuple[str, dict[str, int]]]:
    """A server and its clients as real processes; gives the Driver API's address, and who is who."""
    fleet, driver, blob, web = (free_port() for _ in range(4))
    (folder / "random_site.py").write_text(CLIENT)
    scripts = Path(sys.executable).parent
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    commands = {
        "server": [
            str(scripts / "flower-server"),
            "--insecure",
            f"--fleet-api-address=127.0.0.1:{fleet}",
            f"--driver-api-address=127.0.0.1:{driver}",
            f"--blob-address=127.0.0.1:{blob}",
            f"--web-address=127.0.0.1:{web}",
            f"--state-dir={folder / 'server'}",
        ]
    }
    for i in range(clients):
        command = [str(scripts / "flower-client"), "--insecure", f"--callable=random_site:{callable_name}"]
        commands[f"link {i}"] = [
            *command,
            f"--callable-dir={folder}",
            f"--server=127.0.0.1:{fleet}",
            f"--name=site{i}",
            f"--state-dir={folder / f'client{i}'}",
        ]
    log = (folder / "log").open("w")
    processes = {name: subprocess.Popen(command, stdout=log, stderr=log, env=env) for name, command in commands.items()}
    try:
        yield f"127.0.0.1:{driver}", {name: process.pid for name, process in processes.items()}
    finally:
        for process in reversed(processes.values()):
            process.send_signal(signal.SIGTERM)
        for process in processes.values():
            process.wait(20)


class Timed(hg.FedAvg):
    """FedAvg that notes when each round was configured."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.starts: list[float] = []

    def configure_fit(self, server_round, parameters, client_manager):  # type: ignore[no-untyped-def]
        """Note the time and configure as usual."""
        self.starts.append(time.perf_counter())
        return super().configure_fit(server_round, parameters, client_manager)


def drive(address: str, clients: int, megabytes: int, rounds: int, checkpoints: str) -> None:
    """The driver's process; prints the seconds of the rounds after the first two."""
    logging.getLogger("hedgerow").setLevel(logging.WARNING)
    strategy = Timed(
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        initial_parameters=random_model(megabytes),
    )
    config = hg.ServerConfig(num_rounds=rounds + 3, seed=1)
    folder = checkpoints or None
    history = hg.start_driver(server_address=address, strategy=strategy, config=config, checkpoint_dir=folder)
    if history.failures:
        raise SystemExit(f"Clients failed: {history.failures}")
    print(json.dumps([b - a for a, b in zip(strategy.starts[2:-1], strategy.starts[3:], strict=True)]))


def random_model(megabytes: int) -> hg.Parameters:
    """A model of ten float32 tensors of random numbers."""
    rng = np.random.default_rng(0)
    return hg.Parameters([rng.standard_normal(megabytes * 250_000 // TENSORS, dtype=np.float32) for _ in range(TENSORS)])


@dataclass
class Row:
    """What one case gave: seconds a round, and peaks of anonymous memory in MB."""

    clients: int
    megabytes: int
    plain_s: list[float] = field(default_factory=list)
    bare_s: list[float] = field(default_factory=list)
    round_s: list[float] = field(default_factory=list)
    no_checkpoint_s: list[float] = field(default_factory=list)
    server_mb: float = 0.0
    link_mb: float = 0.0
    driver_mb: float = 0.0

    @property
    def ratio(self) -> float:
        """A round with checkpoint to one of plain sockets."""
        return statistics.median(self.round_s) / statistics.median(self.plain_s)


def hedgerow_rounds(row: Row, rounds: int, folder: Path, *, checkpoint: bool, callable_name: str = "site") -> list[float]:
    """Seconds of each round; the row gets the peaks."""
    with service(row.clients, folder, callable_name) as (address, pids):
        command = [sys.executable, __file__, "--drive", address, *map(str, (row.clients, row.megabytes, rounds))]
        command.append(str(folder / "run") if checkpoint else "")
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        with Sampler({**pids, "driver": driver.pid}) as sampler:
            assert driver.stdout is not None
            text = driver.stdout.read()
            if driver.wait():
                raise SystemExit(f"The driver failed. The log of server and clients:\n{(folder / 'log').read_text()[-4000:]}")
    row.server_mb = max(row.server_mb, sampler.megabytes("server"))
    row.link_mb = max(row.link_mb, sampler.megabytes("link"))
    row.driver_mb = max(row.driver_mb, sampler.megabytes("driver"))
    times: list[float] = json.loads(text)
    return times


def measure(clients: int, megabytes: int, args: argparse.Namespace) -> Row:
    """One case."""
    row = Row(clients, megabytes)

    def fresh() -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="hedgerow-large-", dir=args.folder)

    with fresh() as folder:
        row.plain_s = plain_rounds(clients, megabytes, args.rounds + 1, Path(folder), bare=False)
    with fresh() as folder:
        row.bare_s = plain_rounds(clients, megabytes, args.rounds + 1, Path(folder), bare=True)
    with fresh() as folder:
        row.round_s = hedgerow_rounds(row, args.rounds, Path(folder), checkpoint=True)
    if args.both:
        with fresh() as folder:
            row.no_checkpoint_s = hedgerow_rounds(row, args.rounds, Path(folder), checkpoint=False)
    return row


def show(row: Row) -> None:
    """A line of the table."""
    plain, ours = statistics.median(row.plain_s), statistics.median(row.round_s)
    off = statistics.median(row.no_checkpoint_s) if row.no_checkpoint_s else float("nan")
    print(
        f"{row.clients:3d} x {row.megabytes:5d} MB: plain sockets {plain:.2f} s (bare {statistics.median(row.bare_s):.2f} s), round {ours:.2f} s ({row.ratio:.2f} times; "
        f"without checkpoint {off:.2f} s); anonymous MB: server {row.server_mb:.0f}, link {row.link_mb:.0f}, "
        f"driver {row.driver_mb:.0f} (2 models + {row.driver_mb - 2 * row.megabytes:.0f})",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", nargs="*", default=["4x100", "2x1000"])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--both", action="store_true", help="also without a checkpoint folder")
    p.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    p.add_argument("--json", type=Path)
    p.add_argument("--drive", nargs=5, help=argparse.SUPPRESS)
    p.add_argument("--plain-server", nargs=3, help=argparse.SUPPRESS)
    p.add_argument("--plain-client", nargs=6, help=argparse.SUPPRESS)
    p.add_argument("--plain-driver", nargs=5, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.drive:
        address, clients, megabytes, rounds, checkpoints = args.drive
        drive(address, int(clients), int(megabytes), int(rounds), checkpoints)
    elif args.plain_server:
        PlainServer(Path(args.plain_server[0]), int(args.plain_server[1]), bare=bool(args.plain_server[2])).serve()
    elif args.plain_client:
        port, client, rounds, source, folder, bare = args.plain_client
        plain_client(int(port), int(client), int(rounds), Path(source), Path(folder), bare)
    elif args.plain_driver:
        port, clients, rounds, source, folder = args.plain_driver
        plain_driver(int(port), int(clients), int(rounds), Path(source), Path(folder))
    else:
        rows = []
        for case in args.cases:
            count, size = map(int, case.split("x"))
            rows.append(measure(count, size, args))
            show(rows[-1])
        if args.json:
            args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
