"""How fast blobs travel, against plain sockets that copy the same files, in one run: ``python -m benchmarks.blob_transfer``.

One process serves, one process transfers, over loopback: files to files, one transfer and four at a time, up and down. The blob
port hashes with BLAKE3 and speaks HTTP; the plain sockets do nothing but copy (``recv_into`` up, ``sendfile`` down). Repeats
alternate between the two; the ratios are of neighbours. The CPU seconds of both processes per GB go with them. Nothing is left
behind.

All of it is done once more over TLS, where both sides show certificates; the plain sockets then copy block by block.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import FileIO
from pathlib import Path

from benchmarks.figures import OURS, ROOT, Figure, Report, figure, ratio
from benchmarks.harness import cpu_s, new_report, parser
from hedgerow.authority import Authority, files_of
from hedgerow.certificates import Tls, read_pem
from hedgerow.clock import SystemClock
from hedgerow.records import Blob
from hedgerow.security import Identity, Role, UrlSigner
from hedgerow.server.blob_port import BlobPort
from hedgerow.server.peer_certificates import PeerCertificates
from hedgerow.server.revocations import Revocations
from hedgerow.store.blobs import BlobFolder
from hedgerow.store.changes import Upload
from hedgerow.waits import Limit, wait_future
from hedgerow.wire.blob_http import BLOCK_BYTES
from hedgerow.wire.channel import Address
from hedgerow.wire.transfer import BlobPeer, Grant

Transfer = Callable[[], Path | None]
KEY = b"benchmark" * 4
ME = Identity.fresh(Role.DRIVER)
LIMIT = "plain sockets"
TLS_MUST = 0.8
"""Throughput over TLS, relative to a bare TLS socket."""
ONE = Limit("benchmark_transfer_s", 300.0)


class OpenStore:
    """Knows every upload, and what was uploaded."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._files: dict[str, str] = {}

    async def get_upload(self, upload_id: str, who: str) -> Upload:
        """Any upload of the one size."""
        return Upload(upload_id, who, self._size)

    async def finish_upload(self, upload_id: str, digest: str) -> str | None:
        """Keep the first file of a digest."""
        first = self._files.setdefault(digest, upload_id)
        return None if first == upload_id else upload_id

    async def blob_file(self, digest: str) -> tuple[str, int]:
        """The file of a digest."""
        return self._files[digest], self._size


# --- the serving process --------------------------------------------------------------------------------------------------


def serve(folder: Path, size: int, *, tls: bool) -> None:
    """Serve blobs and plain copies until the standard input ends."""
    store, files, address = OpenStore(size), BlobFolder(folder / "blobs"), Address("127.0.0.1", 0)
    context, holders = None, None
    if tls:
        context = files_of(folder / "certificates" / "server").https_server(client_certificates=True)
        holders = PeerCertificates(Revocations(None))
    port = BlobPort(store, files, UrlSigner(KEY), SystemClock(), address, context, holders=holders)
    plain = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=_accept_plain, args=(plain, folder, size, context), daemon=True).start()
    print(json.dumps([port.start(), plain.getsockname()[1]]), flush=True)
    sys.stdin.read()
    port.stop()


_LAST = threading.Lock()


def _accept_plain(listener: socket.socket, folder: Path, size: int, context: ssl.SSLContext | None) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve_plain, args=(sock, folder, size, context), daemon=True).start()


def _serve_plain(sock: socket.socket, folder: Path, size: int, context: ssl.SSLContext | None) -> None:
    """``u``: take a file; ``d``: give the last one that was taken."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        sock = context.wrap_socket(sock, server_side=True)
    with sock:
        if sock.recv(1) == b"u":
            name = folder / f"plain-{uuid.uuid4().hex}"
            receive(sock, name, size)
            sock.sendall(b".")
            with _LAST:
                name.unlink() if (folder / "plain-last").exists() else name.rename(folder / "plain-last")
        else:
            with (folder / "plain-last").open("rb", buffering=0) as file:
                send(sock, file)


def send(sock: socket.socket, file: FileIO) -> None:
    """Copy the file into the socket."""
    if not isinstance(sock, ssl.SSLSocket):
        sock.sendfile(file)
        return
    block = memoryview(bytearray(BLOCK_BYTES))
    while count := file.readinto(block):
        sock.sendall(block[:count])


def receive(sock: socket.socket, path: Path, size: int) -> None:
    """Copy ``size`` bytes from the socket into a new file."""
    block = memoryview(bytearray(BLOCK_BYTES))
    with path.open("xb", buffering=0) as file:
        while size:
            count = sock.recv_into(block)
            if not count:
                raise ConnectionError("The plain copy was cut.")
            file.write(block[:count])
            size -= count


# --- the transferring process ---------------------------------------------------------------------------------------------


class Bench:
    """The four kinds of transfer, each of one file."""

    def __init__(self, folder: Path, source: Path, tls: Tls | None, blob_port: int, plain_port: int) -> None:
        self._folder = folder
        self._source = source
        self._size = source.stat().st_size
        self._plain_port = plain_port
        self._context = None if tls is None else tls.https_client()
        self._peer = BlobPeer(f"{'http' if tls is None else 'https'}://127.0.0.1:{blob_port}", self._context)
        subject = None if tls is None else tls.subject
        self._me = ME if subject is None else replace(ME, certificate=subject.uri)
        self._signer = UrlSigner(KEY)
        self._blob = Blob("", 0)

    def blob_up(self) -> None:
        """Through the blob port, up."""
        upload_id = uuid.uuid4().hex
        self._blob = self._peer.upload(self._source, lambda: Grant(self._sign("PUT", f"/uploads/{upload_id}")))

    def blob_down(self) -> Path:
        """Through the blob port, down."""
        target = self._target()
        self._peer.download(self._size, target, lambda: Grant(self._sign("GET", f"/blobs/{self._blob.digest}")))
        return target

    def plain_up(self) -> None:
        """Through a plain socket, up."""
        with self._connect() as sock, self._source.open("rb", buffering=0) as file:
            sock.sendall(b"u")
            send(sock, file)
            if sock.recv(1) != b".":
                raise ConnectionError("The plain copy was not taken.")

    def plain_down(self) -> Path:
        """Through a plain socket, down."""
        target = self._target()
        with self._connect() as sock:
            sock.sendall(b"d")
            receive(sock, target, self._size)
        return target

    def pairs(self) -> list[tuple[str, list[Transfer]]]:
        """What is compared."""
        return [("up", [self.blob_up, self.plain_up]), ("down", [self.blob_down, self.plain_down])]

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._plain_port), timeout=60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if self._context is None else self._context.wrap_socket(sock, server_hostname="127.0.0.1")

    def _target(self) -> Path:
        return self._folder / f"target-{uuid.uuid4().hex}"

    def _sign(self, method: str, path: str) -> str:
        return self._signer.sign(method, path, self._me, time.time() + 300)

    def gb_per_s(self, transfer: Transfer, clients: int, pool: ThreadPoolExecutor) -> float:
        """Rate of ``clients`` transfers at the same time; what they fetched is deleted afterwards, outside the clock."""
        started = time.perf_counter()
        results = [wait_future(done, ONE, "a transfer") for done in [pool.submit(transfer) for _ in range(clients)]]
        seconds = time.perf_counter() - started
        for path in filter(None, results):
            path.unlink()
        return clients * self._size / seconds / 1e9


def measure(report: Report, args: argparse.Namespace, folder: Path, *, tls: bool) -> None:
    """All measurements, without or with TLS."""
    source = folder / "source"
    source.write_bytes(os.urandom(args.megabytes * 1_000_000))
    command = [sys.executable, "-m", "benchmarks.blob_transfer", "--serve", str(folder), "--megabytes", str(args.megabytes)]
    own = None
    if tls:
        authority = Authority.create(folder / "certificates")
        authority.issue(Role.SERVER, "server")
        mine = files_of(authority.issue(Role.DRIVER, "driver"))
        own = Tls(read_pem(mine.ca), mine)
        command.append("--tls")
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server,
        ThreadPoolExecutor(max(args.clients)) as pool,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        bench = Bench(folder, source, own, *json.loads(server.stdout.readline()))
        for _, pair in bench.pairs():  # warm up
            for transfer in pair:
                bench.gb_per_s(transfer, 1, pool)
        for clients in args.clients:
            for direction, pair in bench.pairs():
                what = f"{clients} x {args.megabytes} MB {direction}{', TLS' if tls else ''}"
                rates: tuple[list[float], list[float]] = ([], [])
                cpu = [0.0, 0.0]
                for _ in range(args.repeats):
                    for kind, transfer in enumerate(pair):
                        before = cpu_s(server.pid) + cpu_s()
                        rates[kind].append(bench.gb_per_s(transfer, clients, pool))
                        cpu[kind] += cpu_s(server.pid) + cpu_s() - before
                report.add(figure(what, OURS, rates[0], "GB/s"), figure(what, LIMIT, rates[1], "GB/s"))
                share = ratio(what, *rates, peer=LIMIT, at_least=True)
                report.add(dataclasses.replace(share, must=TLS_MUST if tls else None))
                gigabytes = args.repeats * clients * args.megabytes / 1e3
                for system, used in zip((OURS, LIMIT), cpu, strict=True):
                    report.add(Figure(name=f"CPU, {what}", system=system, value=used / gigabytes, unit="s/GB"))
        server.stdin.close()
        server.wait(30)


def main() -> None:
    """Run and report."""
    p = parser(__doc__)
    p.add_argument("--megabytes", type=int, default=100, help="default: %(default)s")
    p.add_argument("--repeats", type=int, help="default: 3 when quick, 7 otherwise")
    p.add_argument("--clients", type=int, nargs="+", default=[1, 4], help="transfers at the same time; default: %(default)s")
    p.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    p.add_argument("--tls", action="store_true", help=argparse.SUPPRESS)
    p.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.serve is not None:
        with contextlib.suppress(KeyboardInterrupt):
            serve(args.serve, args.megabytes * 1_000_000, tls=args.tls)
        return
    args.repeats = args.repeats or (3 if args.quick else 7)
    report = new_report("blob_transfer", "Blobs against plain sockets", args)
    for tls in (False, True):
        with tempfile.TemporaryDirectory(prefix="hedgerow-blobs-", dir=args.folder) as folder:
            measure(report, args, Path(folder), tls=tls)
    report.write()


if __name__ == "__main__":
    main()
