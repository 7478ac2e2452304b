"""A blob server that hangs up at awkward moments of an upload."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blake3
import pytest

from hedgerow.wire.transfer import BlobPeer, Grant, TransferLimits

DATA = b"some parameters" * 1000


class HangingUp:
    """Speaks just enough of the protocol, and ends the first connections after these bytes instead of giving leave to send."""

    def __init__(self, last_words: list[bytes]) -> None:
        self.last_words = last_words
        self.received = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rwb") as stream:
                self._answer(stream)

    def _answer(self, stream: Any) -> None:
        while request := stream.readline():
            while stream.readline().strip():
                pass
            if request.startswith(b"HEAD"):
                stream.write(b"HTTP/1.1 200 OK\r\nUpload-Offset: 0\r\nContent-Length: 0\r\n\r\n")
                stream.flush()
                continue
            if self.last_words:
                stream.write(self.last_words.pop(0))
                stream.flush()
                return
            stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            stream.flush()
            self.received = stream.read(len(DATA))
            answer = json.dumps({"digest": blake3.blake3(self.received).hexdigest(), "size": len(self.received)}).encode()
            stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            stream.flush()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[HangingUp]:
    made = HangingUp([request.param])
    yield made
    made.listener.close()


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "server", [b"", b"HTTP/1.", b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"], indirect=True
)
def test_an_upload_whose_server_hangs_up_before_leave_to_send_is_tried_again(server: HangingUp, tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(DATA)
    port = server.listener.getsockname()[1]
    peer = BlobPeer(f"http://127.0.0.1:{port}", None, TransferLimits(transfer_stalled_s=10))
    blob = peer.upload(path, lambda: Grant("/uploads/1?sig"))
    assert server.received == DATA
    assert (blob.digest, blob.size) == (blake3.blake3(DATA).hexdigest(), len(DATA))
    assert server.last_words == []
