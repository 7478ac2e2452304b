"""The data plane over real sockets: BlobPeer, BlobPort, and between them a proxy that cuts connections."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import blake3
import psutil
import pytest

from hedgerow import errors
from hedgerow.certificates import https_client
from hedgerow.clock import SystemClock
from hedgerow.records import Blob
from hedgerow.security import Identity, Role, UrlSigner
from hedgerow.server.blob_port import BlobPort, BlobPortLimits
from hedgerow.store.blobs import BlobFolder
from hedgerow.store.changes import Upload
from hedgerow.store.store import Store
from hedgerow.waits import Limit, pause_thread
from hedgerow.wire.blob_http import ERROR_HEADER, OFFSET_HEADER
from hedgerow.wire.channel import Address
from hedgerow.wire.transfer import BlobPeer, Grant, TransferLimits

ME = Identity.fresh(Role.CLIENT)
OTHER = Identity.fresh(Role.CLIENT)
OWNER = f"client/{ME.id}"
UPLOAD = "upload0001"


class FakeStore:
    """The rows that the port needs, in memory. It survives a restart of the port, as the real one does."""

    def __init__(self) -> None:
        self.uploads: dict[str, Upload] = {}
        self.files: dict[str, tuple[str, int]] = {}

    async def get_upload(self, upload_id: str, who: str) -> Upload:
        upload = self.uploads.get(upload_id)
        if upload is None:
            raise errors.NotFound(f"There is no upload {upload_id}.")
        if upload.who != who:
            raise errors.PermissionDenied(f"Upload {upload_id} is not yours.")
        return upload

    async def finish_upload(self, upload_id: str, digest: str) -> str | None:
        upload = self.uploads[upload_id]
        self.uploads[upload_id] = Upload(upload_id, upload.who, upload.size, Blob(digest, upload.size))
        known = digest in self.files
        self.files.setdefault(digest, (upload_id, upload.size))
        return upload_id if known else None

    async def blob_file(self, digest: str) -> tuple[str, int]:
        if digest not in self.files:
            raise errors.NotFound(f"There is no blob {digest}.")
        return self.files[digest]

    def announce(self, upload_id: str, size: int) -> None:
        self.uploads.setdefault(upload_id, Upload(upload_id, OWNER, size))


class Server:
    """A blob port with its store and folder, which can be restarted on the same port."""

    def __init__(self, path: Path, context: ssl.SSLContext | None = None, stalled_s: float = 5.0, **limits: Any) -> None:
        self.store = FakeStore()
        self.folder = BlobFolder(path, reserve_bytes=0)
        self.signer = UrlSigner(b"k" * 32)
        self.context = context
        self.stalled_s = stalled_s
        self.more_limits = limits
        self.number = 0
        self.asked = 0
        self.port = BlobPort(self.store, self.folder, self.signer, SystemClock(), Address("127.0.0.1", 0), context, self._limits)
        self.number = self.port.start()

    @property
    def _limits(self) -> BlobPortLimits:
        return BlobPortLimits(transfer_stalled_s=self.stalled_s, stop_s=0.2, **self.more_limits)

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://localhost:{self.number}"

    def restart(self) -> None:
        self.port.stop()
        address = Address("127.0.0.1", self.number)
        self.port = BlobPort(self.store, self.folder, self.signer, SystemClock(), address, self.context, self._limits)
        self.port.start()

    def sign(self, method: str, path: str, lifetime_s: float = 60.0, who: Identity = ME) -> str:
        return self.signer.sign(method, path, who, SystemClock().now() + lifetime_s)

    def put_url(self, size: int, upload_id: str = UPLOAD, lifetime_s: float = 60.0) -> str:
        self.store.announce(upload_id, size)
        return self.sign("PUT", f"/uploads/{upload_id}", lifetime_s)

    def ask_upload(self, size: int, upload_id: str = UPLOAD) -> Callable[[], Grant]:
        def ask() -> Grant:
            self.asked += 1
            return Grant(self.put_url(size, upload_id), self.store.uploads[upload_id].done)

        return ask

    def ask_download(self, digest: str) -> Callable[[], Grant]:
        def ask() -> Grant:
            self.asked += 1
            return Grant(self.sign("GET", f"/blobs/{digest}"))

        return ask

    def keep(self, content: bytes, name: str = "kept00001") -> str:
        """Put a blob into the store without a transfer."""
        digest = blake3.blake3(content).hexdigest()
        (self.folder.path / name).write_bytes(content)
        self.store.files[digest] = (name, len(content))
        return digest

    def request(self, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """One request with a client that is not ours."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.number, timeout=10)) as connection:
            connection.request(method, url, body=body, headers=headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    def put(self, url: str, body: bytes, offset: int = 0) -> Answer:
        return self.request("PUT", url, body, {OFFSET_HEADER: str(offset)})


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


class Proxy:
    """Forwards bytes to a port and cuts each connection when ``budgets`` (bytes, one for each connection) is used up.

    A budget of None never cuts. Behind the last budget, connections are not cut. ``silent`` accepts and says nothing.
    """

    def __init__(self, port: int, budgets: list[int], *, silent: bool = False) -> None:
        self._port = port
        self._budgets = budgets
        self._silent = silent
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.number = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.number}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                self._open.append(near)
                if self._silent:
                    continue
                far = socket.create_connection(("127.0.0.1", self._port), timeout=10)
                self._open.append(far)
                budget = [self._budgets.pop(0) if self._budgets else 1 << 62]
                for source, sink in ((near, far), (far, near)):
                    thread = threading.Thread(target=self._forward, args=(source, sink, budget))
                    self._threads.append(thread)
                    thread.start()

    def _forward(self, source: socket.socket, sink: socket.socket, budget: list[int]) -> None:
        with contextlib.suppress(OSError):
            while budget[0] > 0 and (data := source.recv(min(65536, budget[0]))):
                sink.sendall(data)
                budget[0] -= len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "blobs")
    yield server
    server.port.stop()


@pytest.fixture
def proxy(server: Server) -> Iterator[Callable[..., Proxy]]:
    with contextlib.ExitStack() as exits:

        def make(budgets: list[int], *, silent: bool = False) -> Proxy:
            made = Proxy(server.number, budgets, silent=silent)
            exits.callback(made.close)
            return made

        yield make


def eventually(condition: Callable[[], bool], what: str) -> None:
    for _ in range(1500):
        if condition():
            return
        pause_thread(0.01, what)
    raise AssertionError(f"Waited 15 s for {what}.")


def start_put(sock: socket.socket, url: str, length: int, expect: bool) -> None:
    """The head of a PUT by hand; with ``expect``, the sender waits for leave to send."""
    head = f"PUT {url} HTTP/1.1\r\nHost: x\r\n{OFFSET_HEADER}: 0\r\nContent-Length: {length}\r\n"
    sock.sendall((head + ("Expect: 100-continue\r\n\r\n" if expect else "\r\n")).encode())
    if expect:
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def source(tmp_path: Path, data: bytes, name: str = "source") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


# --- whole transfers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_537, 5_000_000])
def test_upload_and_download_give_the_same_bytes(server: Server, tmp_path: Path, size: int) -> None:
    data = content(size)
    peer = BlobPeer(server.url)
    blob = peer.upload(source(tmp_path, data), server.ask_upload(size))
    assert blob == Blob(blake3.blake3(data).hexdigest(), size)
    target = tmp_path / "target"
    peer.download(size, target, server.ask_download(blob.digest))
    assert target.read_bytes() == data
    assert names(tmp_path) == ["blobs", "source", "target"]
    assert server.port.received_bytes == size
    eventually(lambda: server.port.sent_bytes == size, "the bytes to be counted")


def test_upload_that_is_done_already_sends_nothing(server: Server, tmp_path: Path) -> None:
    data = content(100_000)
    path = source(tmp_path, data)
    first = BlobPeer(server.url).upload(path, server.ask_upload(len(data)))
    assert BlobPeer(server.url).upload(path, server.ask_upload(len(data))) == first
    assert server.port.received_bytes == len(data)


def test_second_file_with_the_same_bytes_is_not_kept(server: Server, tmp_path: Path) -> None:
    data = content(100_000)
    path = source(tmp_path, data)
    peer = BlobPeer(server.url)
    first = peer.upload(path, server.ask_upload(len(data), "upload0001"))
    second = peer.upload(path, server.ask_upload(len(data), "upload0002"))
    assert first == second
    eventually(lambda: names(server.folder.path) == ["upload0001"], "the second file to be deleted, after the answer")


def test_existing_target_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    data = content(1000)
    digest = server.keep(data)
    target = source(tmp_path, data, "target")
    BlobPeer(server.url).download(len(data), target, server.ask_download(digest))
    assert server.asked == 0


def test_existing_target_of_another_size_is_replaced_under_a_fresh_inode(server: Server, tmp_path: Path) -> None:
    data = content(1000)
    digest = server.keep(data)
    target = source(tmp_path, b"short", "target")
    with target.open("rb") as old:
        BlobPeer(server.url).download(len(data), target, server.ask_download(digest))
        assert old.read() == b"short"
    assert target.read_bytes() == data


def test_downloads_of_one_target_at_the_same_time_share_one_transfer(server: Server, tmp_path: Path) -> None:
    data = content(3_000_000)
    digest = server.keep(data)
    peer = BlobPeer(server.url)
    target = tmp_path / "target"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(peer.download, len(data), target, server.ask_download(digest)) for _ in range(4)]:
            done.result(30)
    assert target.read_bytes() == data
    assert server.asked == 1


def test_transfers_of_several_peers_do_not_disturb_one_another(server: Server, tmp_path: Path) -> None:
    def both_ways(number: int) -> bytes:
        data = content(2_000_000 + number, number)
        peer = BlobPeer(server.url)
        upload_id = f"upload00{number:02d}"
        blob = peer.upload(source(tmp_path, data, f"source{number}"), server.ask_upload(len(data), upload_id))
        target = tmp_path / f"target{number}"
        peer.download(blob.size, target, server.ask_download(blob.digest))
        return target.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(both_ways, range(8), timeout=60))
    assert results == [content(2_000_000 + number, number) for number in range(8)]


# --- cuts -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_upload_resumes_wherever_it_is_cut(server: Server, proxy: Callable[..., Proxy], tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = content(3_000_000, seed)
    cuts = [rng.choice([0, 1, 300, 600, rng.randrange(2_000_000)]) for _ in range(4)]
    between = proxy(cuts)
    blob = BlobPeer(between.url, limits=TransferLimits(30.0)).upload(source(tmp_path, data), server.ask_upload(len(data)))
    assert blob == Blob(blake3.blake3(data).hexdigest(), len(data))
    assert (server.folder.path / UPLOAD).read_bytes() == data
    assert between.connections >= 5


@pytest.mark.parametrize("seed", range(8))
def test_download_resumes_wherever_it_is_cut(server: Server, proxy: Callable[..., Proxy], tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    data = content(3_000_000, seed)
    digest = server.keep(data)
    cuts = [rng.choice([0, 1, 300, 600, rng.randrange(2_000_000)]) for _ in range(4)]
    between = proxy(cuts)
    target = tmp_path / "target"
    BlobPeer(between.url, limits=TransferLimits(30.0)).download(len(data), target, server.ask_download(digest))
    assert target.read_bytes() == data
    assert between.connections == 5


def test_link_that_drops_every_megabyte_sends_little_twice(server: Server, proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    data = content(8_000_000)
    between = proxy([1_000_000] * 12)
    BlobPeer(between.url, limits=TransferLimits(30.0)).upload(source(tmp_path, data), server.ask_upload(len(data)))
    assert 9 <= between.connections <= 13
    assert server.port.received_bytes == len(data)


def test_upload_goes_on_after_the_server_was_restarted_in_the_middle(
    server: Server, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    data = content(4_000_000)
    ask = server.ask_upload(len(data))
    restarted = threading.Event()

    def ask_and_restart() -> Grant:
        if server.asked == 1 and not restarted.is_set():  # the first attempt was cut
            server.restart()
            restarted.set()
        return ask()

    blob = BlobPeer(proxy([1_500_000]).url).upload(source(tmp_path, data), ask_and_restart)
    assert restarted.is_set()
    assert blob.digest == blake3.blake3(data).hexdigest()
    assert 0 < server.port.received_bytes < len(data)  # counted since the restart


def test_upload_whose_last_answer_was_lost_is_known_as_done(server: Server, tmp_path: Path) -> None:
    data = content(10_000)
    url = server.put_url(len(data))
    assert server.put(url, data).status == 200
    again = server.put(url, data)
    assert again.status == 200
    assert blake3.blake3(data).hexdigest().encode() in again.body
    assert server.request("HEAD", url).headers[OFFSET_HEADER] == str(len(data))


def test_server_that_died_between_the_last_byte_and_the_row_finishes_on_an_empty_put(server: Server) -> None:
    data = content(10_000)
    url = server.put_url(len(data))
    (server.folder.path / UPLOAD).write_bytes(data)
    answer = server.put(url, b"", len(data))
    assert answer.status == 200
    assert blake3.blake3(data).hexdigest().encode() in answer.body


def test_resumed_upload_over_damaged_bytes_is_noticed(server: Server, tmp_path: Path) -> None:
    data = content(10_000)
    server.put_url(len(data))
    (server.folder.path / UPLOAD).write_bytes(b"\0" * 4_000)  # as after a power cut
    with pytest.raises(errors.CorruptData, match="new id"):
        BlobPeer(server.url).upload(source(tmp_path, data), server.ask_upload(len(data)))


def test_download_continues_a_part_of_an_earlier_process(server: Server, tmp_path: Path) -> None:
    data = content(1_000_000)
    digest = server.keep(data)
    source(tmp_path, data[:600_000], "target.part")
    BlobPeer(server.url).download(len(data), tmp_path / "target", server.ask_download(digest))
    assert (tmp_path / "target").read_bytes() == data
    eventually(lambda: server.port.sent_bytes == 400_000, "the bytes to be counted")


@pytest.mark.parametrize("size", [600, 1000, 1500])
def test_part_that_belongs_to_something_else_is_thrown_away(server: Server, tmp_path: Path, size: int) -> None:
    data = content(1000)
    digest = server.keep(data)
    source(tmp_path, b"x" * size, "target.part")
    BlobPeer(server.url).download(len(data), tmp_path / "target", server.ask_download(digest))
    assert (tmp_path / "target").read_bytes() == data


def test_blob_whose_bytes_are_damaged_is_refused_after_a_resume(server: Server, tmp_path: Path) -> None:
    data = content(1000)
    digest = server.keep(data)
    server.store.files["0" * 64] = server.store.files[digest]
    source(tmp_path, b"x" * 10, "target.part")
    peer = BlobPeer(server.url)
    peer.download(len(data), tmp_path / "target", server.ask_download("0" * 64))  # in one piece: taken on trust
    (tmp_path / "target").rename(tmp_path / "other.part")
    with (tmp_path / "other.part").open("ab") as file:
        file.truncate(999)
    peer.download(len(data), tmp_path / "other", server.ask_download(digest))
    assert not list(tmp_path.glob("*.part"))


# --- peers that are silent, gone or closed --------------------------------------------------------------------------------


def test_peer_that_accepts_and_stays_silent_is_unavailable(proxy: Callable[..., Proxy], server: Server, tmp_path: Path) -> None:
    mute = proxy([], silent=True)
    peer = BlobPeer(mute.url, limits=TransferLimits(0.6, 0.3))
    with pytest.raises(errors.Unavailable, match=r"transfer_stalled_s.*nothing came"):
        peer.upload(source(tmp_path, b"x" * 100), server.ask_upload(100))
    with pytest.raises(errors.Unavailable, match="transfer_stalled_s"):
        peer.download(100, tmp_path / "target", server.ask_download("0" * 64))
    assert mute.connections >= 4  # a dead connection is given up before the peer is
    assert not (tmp_path / "target").exists()


def test_nobody_listening_is_unavailable_after_the_limit(server: Server, tmp_path: Path) -> None:
    server.port.stop()
    with pytest.raises(errors.Unavailable, match="ConnectionRefusedError"):
        BlobPeer(server.url, limits=TransferLimits(0.5, 0.2)).upload(source(tmp_path, b"x"), server.ask_upload(1))


def test_link_that_cuts_every_connection_at_once_is_unavailable(
    server: Server, proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    data = content(1_000_000)
    peer = BlobPeer(proxy([0] * 1000).url, limits=TransferLimits(0.5, 0.2))
    with pytest.raises(errors.Unavailable, match="made no progress"):
        peer.upload(source(tmp_path, data), server.ask_upload(len(data)))


def test_server_that_comes_back_within_the_limit_gets_the_upload(server: Server, tmp_path: Path) -> None:
    data = content(100_000)
    server.port.stop()
    ask = server.ask_upload(len(data))

    def ask_and_start() -> Grant:
        if server.asked == 2:
            server.restart()
        return ask()

    blob = BlobPeer(server.url).upload(source(tmp_path, data), ask_and_start)
    assert blob.size == len(data)


def test_question_that_is_unavailable_is_asked_again(server: Server, tmp_path: Path) -> None:
    ask = server.ask_upload(5)
    failures = [errors.Unavailable("not now"), errors.WaitTimeout("slow")]

    def flaky() -> Grant:
        if failures:
            raise failures.pop()
        return ask()

    assert BlobPeer(server.url).upload(source(tmp_path, b"hello"), flaky).size == 5


def test_question_that_is_refused_ends_the_transfer(server: Server, tmp_path: Path) -> None:
    def refused() -> Grant:
        raise errors.PermissionDenied("not yours")

    with pytest.raises(errors.PermissionDenied, match="not yours"):
        BlobPeer(server.url).download(5, tmp_path / "target", refused)


def test_closing_the_peer_ends_its_transfers(proxy: Callable[..., Proxy], server: Server, tmp_path: Path) -> None:
    mute = proxy([], silent=True)
    peer = BlobPeer(mute.url)
    asked = threading.Event()

    def ask() -> Grant:
        asked.set()
        return server.ask_upload(10)()

    with ThreadPoolExecutor(1) as pool:
        transfer = pool.submit(peer.upload, source(tmp_path, b"x" * 10), ask)
        assert asked.wait(10)
        peer.close()
        with pytest.raises(errors.Unavailable, match="stopped"):
            transfer.result(10)
    with pytest.raises(errors.Unavailable):
        peer.download(10, tmp_path / "target", server.ask_download("0" * 64))


@pytest.mark.parametrize("expect", [False, True])
def test_sender_that_falls_silent_is_let_go_and_its_bytes_are_kept(tmp_path: Path, expect: bool) -> None:
    server = Server(tmp_path / "blobs", stalled_s=0.3)
    try:
        url = server.put_url(1000)
        with socket.create_connection(("127.0.0.1", server.number), timeout=10) as sock:
            start_put(sock, url, 1000, expect)
            sock.sendall(b"y" * 400)
            assert b" 503 " in sock.recv(65536)
        assert server.request("HEAD", url).headers[OFFSET_HEADER] == "400"
    finally:
        server.port.stop()


@pytest.mark.parametrize("expect", [False, True])
def test_sender_that_drips_is_let_go_and_its_bytes_are_kept(tmp_path: Path, expect: bool) -> None:
    server = Server(tmp_path / "blobs", stalled_s=0.5)
    try:
        url = server.put_url(10_000)
        sent = 0
        with socket.create_connection(("127.0.0.1", server.number), timeout=10) as sock:
            start_put(sock, url, 10_000, expect)
            sock.settimeout(0.02)
            for _ in range(1_000):
                with contextlib.suppress(TimeoutError):
                    answer = sock.recv(65536)
                    break
                sock.sendall(b"y")
                sent += 1
        assert b" 503 " in answer
        assert b"65,536 bytes" in answer
        kept = int(server.request("HEAD", url).headers[OFFSET_HEADER])
        assert 0 < kept <= sent, "what came before the limit"
    finally:
        server.port.stop()


def test_connection_whose_next_request_drips_in_is_closed(tmp_path: Path) -> None:
    server = Server(tmp_path / "blobs", idle_s=0.4)
    try:
        url = server.sign("GET", f"/blobs/{server.keep(b'whole')}")
        with socket.create_connection(("127.0.0.1", server.number), timeout=10) as sock:
            sock.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(b"whole"):
                answer += sock.recv(65536)
            sock.settimeout(0.02)
            with contextlib.suppress(ConnectionError):
                for number in range(1_000):
                    with contextlib.suppress(TimeoutError):
                        assert sock.recv(65536) == b""
                        break
                    sock.sendall(b"GET /" if number == 0 else b"x")
                else:
                    pytest.fail("the connection was not closed")
    finally:
        server.port.stop()


def test_peer_has_so_many_transfers_at_once_and_no_more(tmp_path: Path) -> None:
    server = Server(tmp_path / "blobs", max_transfers=2)
    try:
        url = server.sign("GET", f"/blobs/{server.keep(bytes(64_000_000))}")
        with contextlib.ExitStack() as stack:
            for number in range(2):
                sock = stack.enter_context(socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.connect(("127.0.0.1", server.number))
                path = url if number else server.put_url(100)
                if number:
                    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    assert sock.recv(1000)
                else:
                    start_put(sock, path, 100, expect=True)
            answer = server.request("GET", url)
            assert answer.status == 507
            assert "has 2 transfers going on; this server allows 2 at once" in answer.headers[ERROR_HEADER]
            other = server.sign("GET", urlsplit(url).path, who=OTHER)
            assert server.request("GET", other, headers={"Range": "bytes=0-9"}).status == 206, "others are not kept out"

        def let_in() -> bool:
            return server.request("GET", url, headers={"Range": "bytes=0-9"}).status == 206

        eventually(let_in, "the transfers to have ended")
    finally:
        server.port.stop()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux servers cut readers that take nothing")
def test_reader_that_takes_nothing_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "hedgerow")
    server = Server(tmp_path / "blobs", stalled_s=0.5)
    try:
        url = server.sign("GET", f"/blobs/{server.keep(bytes(64_000_000))}")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(20)
            sock.connect(("127.0.0.1", server.number))
            sock.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            eventually(lambda: "The reader of" in caplog.text, "the kernel's timeout")
        assert "Connection timed out" in caplog.text
    finally:
        server.port.stop()


# --- what is refused ------------------------------------------------------------------------------------------------------


def test_expired_url_is_renewed(server: Server, tmp_path: Path) -> None:
    data = content(1000)
    lifetimes = [-5.0, 60.0]
    path = source(tmp_path, data)
    blob = BlobPeer(server.url).upload(path, lambda: Grant(server.put_url(1000, lifetime_s=lifetimes.pop(0))))
    lifetimes = [-5.0, 60.0]
    target = tmp_path / "target"
    BlobPeer(server.url).download(1000, target, lambda: Grant(server.sign("GET", f"/blobs/{blob.digest}", lifetimes.pop(0))))
    assert target.read_bytes() == data


def test_url_that_stays_refused_ends_the_transfer(server: Server, tmp_path: Path) -> None:
    path = source(tmp_path, b"x" * 10)
    with pytest.raises(errors.PermissionDenied, match="expired"):
        BlobPeer(server.url).upload(path, lambda: Grant(server.put_url(10, lifetime_s=-5.0)))
    forged = UrlSigner(b"f" * 32).sign("PUT", f"/uploads/{UPLOAD}", ME, SystemClock().now() + 60)
    with pytest.raises(errors.PermissionDenied, match="signature"):
        BlobPeer(server.url).upload(path, lambda: Grant(forged))
    assert names(server.folder.path) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda url: url.split("?")[0],
        lambda url: url.replace("signature=", "signature=0"),
        lambda url: url.split("signature=")[0] + "signature=%C3%A9",
        lambda url: url.replace("expires=", "expires=9"),
        lambda url: url.replace("client", "driver"),
        lambda url: url.replace(UPLOAD, "upload0002"),
        lambda url: url + "&who=driver%2Fabc",
    ],
)
def test_url_that_was_changed_is_refused(server: Server, spoil: Callable[[str], str]) -> None:
    server.put_url(10, "upload0002")
    url = spoil(server.put_url(10))
    answer = server.put(url, b"x" * 10)
    if url.endswith("abc"):
        assert answer.status == 200  # the first value counts, and that one is signed
    else:
        assert answer.status == 403
        assert b"PermissionDenied" in answer.body
        assert names(server.folder.path) == []


def test_url_for_reading_does_not_write_and_the_other_way_round(server: Server) -> None:
    digest = server.keep(b"data")
    assert server.put(server.sign("GET", f"/uploads/{UPLOAD}"), b"x").status == 403
    assert server.request("GET", server.sign("PUT", f"/blobs/{digest}")).status == 403


def test_upload_of_somebody_else_is_refused(server: Server) -> None:
    server.put_url(10)
    stranger = server.sign("PUT", f"/uploads/{UPLOAD}", who=Identity.fresh(Role.CLIENT))
    assert server.put(stranger, b"x" * 10).status == 403


def test_sender_that_waits_for_leave_is_refused_before_it_sends(server: Server) -> None:
    url = server.put_url(10)
    with socket.create_connection(("127.0.0.1", server.number), timeout=10) as sock:
        head = f"PUT {url} HTTP/1.1\r\nHost: x\r\n{OFFSET_HEADER}: 5\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        sock.sendall(head.encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 409 ")


def test_sender_that_does_not_wait_for_the_leave_it_asked_for_is_read_right(server: Server) -> None:
    data = content(3_000_000)
    url = server.put_url(len(data))
    with socket.create_connection(("127.0.0.1", server.number), timeout=10) as sock:
        head = f"PUT {url} HTTP/1.1\r\nHost: x\r\n{OFFSET_HEADER}: 0\r\nContent-Length: {len(data)}\r\n"
        sock.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n" + data)
        eventually(lambda: server.store.uploads[UPLOAD].done is not None, "the upload to be complete")
    assert server.store.uploads[UPLOAD].done == Blob(blake3.blake3(data).hexdigest(), len(data))


@pytest.mark.parametrize("size", [1_048_575, 1_048_576, 1_048_577, 2_097_152, 7_000_001])
def test_upload_of_about_the_size_of_the_buffers_arrives_whole(server: Server, tmp_path: Path, size: int) -> None:
    data = content(size)
    blob = BlobPeer(server.url).upload(source(tmp_path, data), server.ask_upload(size))
    assert blob.digest == blake3.blake3(data).hexdigest()


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (4, 7), (10, 1), (11, 0)])
def test_more_bytes_than_announced_are_refused_and_not_kept(server: Server, offset: int, length: int) -> None:
    url = server.put_url(10)
    assert server.put(url, b"abcd").status == 204
    answer = server.put(url, b"x" * length, offset)
    assert (answer.status, b"InvalidArgument" in answer.body) == (400, True)
    assert (server.folder.path / UPLOAD).read_bytes() == b"abcd"


@pytest.mark.parametrize("offset", [0, 3, 5])
def test_put_at_another_offset_is_told_the_right_one(server: Server, offset: int) -> None:
    url = server.put_url(10)
    first = server.put(url, b"abcd")
    assert (first.status, first.headers[OFFSET_HEADER]) == (204, "4")
    answer = server.put(url, b"xyz", offset)
    assert (answer.status, answer.headers[OFFSET_HEADER]) == (409, "4")
    assert server.put(url, b"efghij", 4).status == 200
    assert (server.folder.path / UPLOAD).read_bytes() == b"abcdefghij"


@pytest.mark.parametrize("offset", ["", "-1", "1e3", "٣", "9" * 30])
def test_offset_that_is_no_number_is_refused(server: Server, offset: str) -> None:
    answer = server.request("PUT", server.put_url(10), b"x" * 10, {OFFSET_HEADER: offset.encode().decode("latin-1")})
    assert answer.status == 400


def test_body_of_unknown_length_is_refused(server: Server) -> None:
    url = server.put_url(10)
    head = f"PUT {url} HTTP/1.1\r\nHost: x\r\n{OFFSET_HEADER}: 0\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.number), timeout=10) as sock:
        sock.sendall(head.encode() + b"3\r\nabc\r\n0\r\n\r\n")
        assert b" 400 " in sock.recv(65536)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/blobs/..%2f..%2fetc%2fpasswd", 403),
        ("GET", "/blobs/short", 403),
        ("DELETE", f"/uploads/{UPLOAD}", 405),
        ("POST", "/blobs/x", 405),
    ],
)
def test_foreign_request_gets_a_clear_answer(server: Server, method: str, path: str, status: int) -> None:
    answer = server.request(method, path)
    assert answer.status == status
    assert "error" in answer.headers[ERROR_HEADER]


def test_signed_path_that_is_no_digest_is_refused(server: Server) -> None:
    assert server.request("GET", server.sign("GET", "/blobs/..")).status in (400, 404)
    assert server.request("GET", server.sign("GET", "/blobs/ABC")).status == 400


def test_unknown_blob_is_not_found(server: Server, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        BlobPeer(server.url).download(10, tmp_path / "target", server.ask_download("0" * 64))
    digest = server.keep(b"data")
    (server.folder.path / "kept00001").unlink()
    with pytest.raises(errors.NotFound, match="lost the bytes"):
        BlobPeer(server.url).download(4, tmp_path / "target", server.ask_download(digest))


def test_blob_of_another_size_than_told_is_corrupt(server: Server, tmp_path: Path) -> None:
    digest = server.keep(b"data")
    for size in (3, 5):
        with pytest.raises(errors.CorruptData):
            BlobPeer(server.url).download(size, tmp_path / "target", server.ask_download(digest))


def test_part_that_is_longer_than_the_blob_at_the_server_is_corrupt(server: Server, tmp_path: Path) -> None:
    digest = server.keep(b"data")
    source(tmp_path, b"x" * 6, "target.part")
    with pytest.raises(errors.CorruptData, match="no byte 6"):
        BlobPeer(server.url).download(9, tmp_path / "target", server.ask_download(digest))


def test_file_that_shrinks_while_it_is_sent_is_corrupt(server: Server, tmp_path: Path) -> None:
    path = source(tmp_path, content(100))
    ask = server.ask_upload(100)

    def ask_and_shrink() -> Grant:
        path.write_bytes(b"x" * 50)
        return ask()

    with pytest.raises(errors.CorruptData, match="shrunk"):
        BlobPeer(server.url).upload(path, ask_and_shrink)


def test_full_disk_refuses_and_keeps_what_it_has(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = content(100_000)
    url = server.put_url(len(data))
    server.put(url, data[:5000])
    with monkeypatch.context() as patch:
        patch.setattr(BlobFolder, "free_bytes", lambda self: 1000)
        assert server.put(url, data[5000:], 5000).status == 507
        with pytest.raises(errors.LimitReached, match="disk is full"):
            BlobPeer(server.url).upload(source(tmp_path, data), server.ask_upload(len(data)))
    assert BlobPeer(server.url).upload(tmp_path / "source", server.ask_upload(len(data))).size == len(data)
    assert server.port.received_bytes == len(data)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_disk_that_fills_up_while_bytes_arrive_is_told(server: Server) -> None:
    url = server.put_url(5_000_000)
    (server.folder.path / UPLOAD).symlink_to("/dev/full")
    answer = server.put(url, content(5_000_000))
    assert answer.status in (507, 500)
    assert b"error" in answer.body


# --- ranges, concurrent requests, life ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("range_", "status", "expected"),
    [
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=-5", 206, slice(95, None)),
        ("bytes=99-", 206, slice(99, None)),
        ("bytes=100-", 416, slice(0, 0)),
        ("bytes=x", 416, slice(0, 0)),
    ],
)
def test_range_gives_that_part(server: Server, range_: str, status: int, expected: slice) -> None:
    data = content(100)
    answer = server.request("GET", server.sign("GET", f"/blobs/{server.keep(data)}"), headers={"Range": range_})
    assert answer.status == status
    if status == 206:
        assert answer.body == data[expected]


@pytest.mark.parametrize("expect", [False, True])
def test_newer_put_wins_and_the_older_is_cut(server: Server, expect: bool) -> None:
    data = content(2_000_000)
    url = server.put_url(len(data))
    with socket.create_connection(("127.0.0.1", server.number), timeout=10) as old:
        start_put(old, url, len(data), expect)
        old.sendall(data[:500_000])
        offset = int(server.request("HEAD", url).headers[OFFSET_HEADER])  # cuts the older one: the offset holds still
        assert 0 <= offset <= 500_000
        assert server.put(url, data[offset:], offset).status == 200
        with contextlib.suppress(ConnectionResetError):
            assert old.recv(10) == b""
    assert (server.folder.path / UPLOAD).read_bytes() == data


def test_many_senders_of_one_upload_end_with_one_whole_blob(server: Server, tmp_path: Path) -> None:
    data = content(3_000_000)
    path = source(tmp_path, data)
    with ThreadPoolExecutor(4) as pool:
        uploads = [pool.submit(BlobPeer(server.url).upload, path, server.ask_upload(len(data))) for _ in range(4)]
        blobs = {upload.result(60) for upload in uploads}
    assert blobs == {Blob(blake3.blake3(data).hexdigest(), len(data))}
    assert (server.folder.path / UPLOAD).read_bytes() == data


def test_taken_port_is_a_config_error(server: Server, tmp_path: Path) -> None:
    second = BlobPort(
        server.store, server.folder, server.signer, SystemClock(), Address("127.0.0.1", server.number), None, BlobPortLimits()
    )
    with pytest.raises(errors.ConfigError, match=str(server.number)):
        second.start()


@pytest.mark.parametrize("expect", [False, True])
def test_stopping_cuts_what_is_in_flight_and_keeps_its_bytes(server: Server, expect: bool) -> None:
    url = server.put_url(1_000_000)
    with socket.create_connection(("127.0.0.1", server.number), timeout=10) as sock:
        start_put(sock, url, 1_000_000, expect)
        sock.sendall(b"z" * 300_000)
        while server.port.received_bytes < 300_000:
            threading.Event().wait(0.01)
        server.port.stop()
    server.restart()
    assert server.request("HEAD", url).headers[OFFSET_HEADER] == "300000"


def test_threads_and_files_are_gone_after_stop(tmp_path: Path) -> None:
    server = Server(tmp_path / "blobs")
    data = content(100_000)
    BlobPeer(server.url).upload(source(tmp_path, data), server.ask_upload(len(data)))
    server.port.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "blob-port"]
    opened = [file.path for file in psutil.Process().open_files()]
    assert not [path for path in opened if path.startswith(str(tmp_path))]


# --- TLS ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost."""
    path = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    extra = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(path / "key.pem"), "-out", str(path / "cert.pem")]
    subprocess.run([*command.split(), *extra], check=True, capture_output=True, timeout=60)
    return path


@pytest.fixture
def tls_server(certificates: Path, tmp_path: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    server = Server(tmp_path / "blobs", context)
    yield server
    server.port.stop()


def test_tls_carries_both_directions_and_resumes(tls_server: Server, certificates: Path, tmp_path: Path) -> None:
    data = content(5_000_000)
    context = https_client((certificates / "cert.pem").read_bytes())
    between = Proxy(tls_server.number, [2_000_000, 1_000_000])
    try:
        peer = BlobPeer(f"https://localhost:{between.number}", context)
        blob = peer.upload(source(tmp_path, data), tls_server.ask_upload(len(data)))
        assert blob.digest == blake3.blake3(data).hexdigest()
        peer.download(blob.size, tmp_path / "target", tls_server.ask_download(blob.digest))
        assert (tmp_path / "target").read_bytes() == data
        assert between.connections == 4
    finally:
        between.close()


def ask_over_tls(server: Server, certificates: Path, url: str, more: str = "") -> ssl.SSLSocket:
    """A GET whose answer the test reads, or not."""
    raw = socket.create_connection(("127.0.0.1", server.number), timeout=20)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    sock = https_client((certificates / "cert.pem").read_bytes()).wrap_socket(raw, server_hostname="localhost")
    sock.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
    return sock


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("", 0, 3_000_001), ("Range: bytes=0-\r\n", 0, None), ("Range: bytes=1500000-\r\n", 1_500_000, None),
     ("Range: bytes=5-9\r\n", 5, 10), ("Range: bytes=-7\r\n", -7, None)],
)  # fmt: skip
def test_tls_sends_the_range_that_was_asked_for(
    tls_server: Server, certificates: Path, asked: str, start: int, stop: int | None
) -> None:
    data = content(3_000_001)
    url = tls_server.sign("GET", f"/blobs/{tls_server.keep(data)}")
    with ask_over_tls(tls_server, certificates, url, asked) as sock:
        response = http.client.HTTPResponse(sock)
        response.begin()
        assert response.status == (206 if asked else 200)
        assert response.read() == data[start:stop]


def test_tls_reader_that_takes_nothing_is_cut_and_gets_no_other_bytes(certificates: Path, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    server = Server(tmp_path / "blobs", context, stalled_s=0.5)
    data = content(30_000_000)
    try:
        with ask_over_tls(server, certificates, server.sign("GET", f"/blobs/{server.keep(data)}")) as sock:
            received = sock.recv(1)  # the answer has begun
            server.port.finish(Limit("cut_s", 20.0))
            with contextlib.suppress(OSError):
                while block := sock.recv(1_000_000):
                    received += block
        body = received.partition(b"\r\n\r\n")[2]
        assert len(body) < len(data)
        assert data.startswith(body)
    finally:
        server.port.stop()


def test_refusal_over_tls_is_seen_before_the_body_is_sent(tls_server: Server, certificates: Path, tmp_path: Path) -> None:
    context = https_client((certificates / "cert.pem").read_bytes())
    data = content(2_000_000)
    url = tls_server.put_url(len(data) - 1)
    tls_server.store.announce(UPLOAD, len(data) - 1)
    with pytest.raises(errors.InvalidArgument, match="1999999 bytes"):
        BlobPeer(f"https://localhost:{tls_server.number}", context).upload(source(tmp_path, data), lambda: Grant(url))
    assert tls_server.port.received_bytes == 0


def test_server_with_an_unknown_certificate_is_not_trusted(tls_server: Server, tmp_path: Path) -> None:
    with pytest.raises(errors.Unauthenticated, match="certificate"):
        BlobPeer(tls_server.url).upload(source(tmp_path, b"x"), tls_server.ask_upload(1))


# --- with the real store --------------------------------------------------------------------------------------------------


async def test_upload_to_the_real_store_can_be_read_by_its_digest(tmp_path: Path) -> None:
    clock = SystemClock()
    store = Store.open(f"sqlite:///{tmp_path}/hedgerow.sqlite3", clock)
    port = BlobPort(store, BlobFolder(tmp_path / "blobs"), UrlSigner(store.url_key), clock, Address("127.0.0.1", 0))
    number = port.start()
    try:
        signer = UrlSigner(store.url_key)
        driver = Identity.fresh(Role.DRIVER)
        run_id = "run0000000001"
        await store.create_run(driver, run_id, "a run", 1)
        data = content(300_000)
        await store.start_upload(driver, UPLOAD, len(data), run_id)
        put_url = signer.sign("PUT", f"/uploads/{UPLOAD}", driver, clock.now() + 60)
        peer = BlobPeer(f"http://127.0.0.1:{number}/")
        blob = await asyncio.to_thread(peer.upload, source(tmp_path, data), lambda: Grant(put_url))
        assert (await store.get_upload(UPLOAD, f"driver/{driver.id}")).done == blob
        assert await store.blob_for_driver(driver, run_id, blob.digest) == blob
        get_url = signer.sign("GET", f"/blobs/{blob.digest}", driver, clock.now() + 60)
        await asyncio.to_thread(peer.download, blob.size, tmp_path / "target", lambda: Grant(get_url))
        assert (tmp_path / "target").read_bytes() == data
    finally:
        port.stop()
        store.close()


def test_base_url_may_have_a_prefix_and_must_be_http() -> None:
    assert urlsplit(BlobPeer("https://host.example/blobs/").base_url).path == "/blobs/"
    with pytest.raises(errors.ConfigError, match="ftp"):
        BlobPeer("ftp://host")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET .x HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
        b"GET /blobs/x HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_a_stranger_who_speaks_no_http_puts_no_error_into_the_log(
    server: Server, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", server.number), timeout=10.0) as stranger:
        stranger.sendall(sent)
        while stranger.recv(1000):  # the answer, then the end
            pass
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
