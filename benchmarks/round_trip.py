"""Seconds a round through a real server, clients and driver, when training costs nothing.

    python benchmarks/round_trip.py [--clients 2 10] [--megabytes 0] [--rounds 30]

Each client is a ``flower-client`` process of its own whose ``fit`` returns the parameters plus one. With ``--megabytes M`` the
model has one float32 tensor of M MB of random numbers. Prints the median, the slowest and the fastest round, and as the limit of
what the machine can do in the same run, the time of one echo over a loopback TCP connection.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import hedgerow as hg

CLIENT = """
import numpy as np
import hedgerow as hg

class Echo(hg.NumPyClient):
    def fit(self, parameters, config):
        return [p + np.float32(1) for p in parameters], 1, {}

site = Echo()
"""


class Timed(hg.FedAvg):
    """FedAvg that notes when each round was configured."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.starts: list[float] = []

    def configure_fit(self, server_round, parameters, client_manager):  # type: ignore[no-untyped-def]
        """Note the time and configure as usual."""
        self.starts.append(time.perf_counter())
        return super().configure_fit(server_round, parameters, client_manager)


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def await_clients(web: int, clients: int, log: Path) -> None:
    """Wait until the server counts all clients; show the log if they do not come."""
    for _ in range(300):
        with contextlib.suppress(OSError):
            text = urllib.request.urlopen(f"http://127.0.0.1:{web}/metrics", timeout=5).read().decode()
            if f"hedgerow_sessions {clients}.0" in text:
                return
        time.sleep(0.1)
    raise SystemExit(f"The clients did not connect:\n{log.read_text()}")


@contextlib.contextmanager
def service(clients: int, folder: Path) -> Iterator[str]:
    """A server and its clients as real processes; gives the Driver API's address."""
    fleet, driver, blob, web = (free_port() for _ in range(4))
    (folder / "echo_site.py").write_text(CLIENT)
    scripts = Path(sys.executable).parent
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    commands: list[list[str]] = [
        [
            str(scripts / "flower-server"),
            "--insecure",
            f"--fleet-api-address=127.0.0.1:{fleet}",
            f"--driver-api-address=127.0.0.1:{driver}",
            f"--blob-address=127.0.0.1:{blob}",
            f"--web-address=127.0.0.1:{web}",
            f"--state-dir={folder / 'server'}",
        ]
    ]
    for i in range(clients):
        command = [str(scripts / "flower-client"), "--insecure", "--callable=echo_site:site", f"--callable-dir={folder}"]
        commands.append([*command, f"--server=127.0.0.1:{fleet}", f"--name=site{i}", f"--state-dir={folder / f'client{i}'}"])
    log = (folder / "log").open("w")
    processes = [subprocess.Popen(command, stdout=log, stderr=log, env=env) for command in commands]
    try:
        await_clients(web, clients, folder / "log")
        yield f"127.0.0.1:{driver}"
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(20)


def measure(clients: int, megabytes: int, rounds: int) -> list[float]:
    """Seconds of each round after the first two."""
    rng = np.random.default_rng(0)
    model = [rng.standard_normal(max(megabytes * 250_000, 10), dtype=np.float32)]
    strategy = Timed(
        fraction_evaluate=0.0,
        min_fit_clients=clients,
        min_available_clients=clients,
        initial_parameters=hg.ndarrays_to_parameters(model),
    )
    with tempfile.TemporaryDirectory() as folder, service(clients, Path(folder)) as address:
        hg.start_driver(server_address=address, strategy=strategy, config=hg.ServerConfig(num_rounds=rounds + 3, seed=1))
    return [b - a for a, b in zip(strategy.starts[2:-1], strategy.starts[3:], strict=True)]


def loopback_echo() -> float:
    """Median seconds of one byte there and back over a loopback TCP connection between two threads."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        peer, _ = listener.accept()
        with peer:
            while data := peer.recv(1):
                peer.sendall(data)

    threading.Thread(target=echo, daemon=True).start()
    times = []
    with socket.create_connection(listener.getsockname()) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(500):
            start = time.perf_counter()
            s.sendall(b"x")
            s.recv(1)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure and print a table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--clients", type=int, nargs="+", default=[2, 10])
    p.add_argument("--megabytes", type=int, default=0)
    p.add_argument("--rounds", type=int, default=30)
    args = p.parse_args()
    logging.getLogger("hedgerow").setLevel(logging.WARNING)
    echo = loopback_echo()
    print(f"one loopback echo between two threads: {echo * 1e3:.3f} ms")
    for clients in args.clients:
        times = measure(clients, args.megabytes, args.rounds)
        median = statistics.median(times)
        print(
            f"{clients:3d} clients, {args.megabytes} MB: median {median * 1e3:.1f} ms a round "
            f"(fastest {min(times) * 1e3:.1f}, slowest {max(times) * 1e3:.1f}, {len(times)} rounds), {median / echo:.0f} echoes"
        )


if __name__ == "__main__":
    main()
