"""A round's hops over plain sockets, files at each end: what there is to reach. Run by :mod:`benchmarks.large_models`.

A driver process sends a file to a server process, which writes it to a file; N client processes fetch that into files, write a
result from memory into a file, and send that; the server writes it to a file, and the driver process fetches it into a file. No
hash, no database, no arithmetic; each client goes on as soon as it can. Files live until the next round begins, as in Hedgerow,
where results are kept until the round is safe.

``bare`` deletes each file as soon as it was sent on, and sends results that lie in files already: what a system could do that
loses work when a process dies. On a virtual machine whose unused memory goes back to its host this is faster by more than the
work that it saves, for it uses the same pages again at once; others cost a fault at the host.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.figures import ROOT
from hedgerow.waits import Limit, wait_condition

BLOCK_BYTES = 1024 * 1024
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

    def client(number: int) -> subprocess.Popen[bytes]:
        words = (port, number, rounds, folder / f"source-{number + 1}", folder, kind)
        return subprocess.Popen([*command, "client", *map(str, words)], cwd=ROOT)

    for number in range(clients + 1):
        random_file(folder / f"source-{number}", megabytes, seed=number)
    command = [sys.executable, "-m", "benchmarks.plain_sockets"]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            subprocess.Popen(
                [*command, "server", str(folder), str(clients), kind],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        for number in range(clients):
            stack.enter_context(client(number))
        driver = subprocess.run(
            [*command, "driver", *map(str, (port, clients, rounds, folder / "source-0", folder))],
            cwd=ROOT,
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


def main() -> None:
    """One of the processes: ``server FOLDER CLIENTS BARE``, ``client …`` or ``driver …``."""
    kind, *words = sys.argv[1:]
    if kind == "server":
        PlainServer(Path(words[0]), int(words[1]), bare=bool(words[2])).serve()
    elif kind == "client":
        port, client, rounds, source, folder, bare = words
        plain_client(int(port), int(client), int(rounds), Path(source), Path(folder), bare)
    else:
        port, clients, rounds, source, folder = words
        plain_driver(int(port), int(clients), int(rounds), Path(source), Path(folder))


if __name__ == "__main__":
    main()
