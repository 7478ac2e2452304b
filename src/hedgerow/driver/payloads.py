"""Parameters on their way between the driver and the server: inline when small, else as blobs through files.

Owned here: the folder of files in transit (deleted with the driver), and the memory of what is at the server already. Parameters
are known by object identity: handing the same :class:`~hedgerow.records.Parameters` to a hundred clients, and to evaluate after
fit, is one upload; one more where some of them take a 16-bit float and others do not. Arrays must not be changed in place once
their parameters were sent.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hedgerow.certificates import Tls
from hedgerow.copies import copied
from hedgerow.driver.connection import Connection
from hedgerow.driver.parameter_files import ParameterFiles
from hedgerow.errors import HedgerowError, LimitReached, NotFound, Unavailable
from hedgerow.records import Blob, DataPlane, Parameters, Payload
from hedgerow.waits import Backoff, Limit
from hedgerow.wire import convert, tensors
from hedgerow.wire.channel import blob_base_url
from hedgerow.wire.narrow import NarrowParameters
from hedgerow.wire.proto import records_pb2
from hedgerow.wire.transfer import BlobPeer, Grant

log = logging.getLogger(__name__)

T = TypeVar("T")
ASK = Limit("ask_s", 30.0)


class Payloads:
    """Turns parameters into payloads and back.

    Args:
        connection: The way to the server.
        run_id: The run on whose behalf blobs travel.
        tls: What to connect with; None for HTTP without TLS.
        reconnect: How long the server may be away during a transfer.
        files: Parameters that lie in files already.

    Attributes:
        has_blobs: Whether any parameters have travelled as a blob.
    """

    def __init__(self, connection: Connection, run_id: str, tls: Tls | None, reconnect: Limit, files: ParameterFiles) -> None:
        self._files = files
        self._connection = connection
        self._run_id = run_id
        self._ssl = None if tls is None else tls.https_client()
        self._reconnect = reconnect
        self._folder: Path | None = None
        self._numbers = itertools.count()
        self._plane: DataPlane | None = None
        self._peer: BlobPeer | None = None
        self._closed = False
        self.has_blobs = False
        self._lock = threading.Lock()
        self._uploading = threading.Lock()
        # By the 16-bit float in which they travelled, "" for none.
        self._known: weakref.WeakKeyDictionary[Parameters, dict[str, Payload]] = weakref.WeakKeyDictionary()

    def use(self, plane: DataPlane) -> None:
        """The server said where blobs travel."""
        with self._lock:
            if plane != self._plane:
                self._plane = plane
                base_url = blob_base_url(self._connection.address, plane, tls=self._ssl is not None)
                self._peer = BlobPeer(base_url, self._ssl)

    def upload(self, parameters: Parameters, transport_dtype: str = "") -> Payload:
        """Make parameters nameable in instructions: inline bytes, or a blob that is at the server now.

        Args:
            parameters: What is sent.
            transport_dtype: The 16-bit float in which they travel; "" for their own dtypes.

        Raises:
            InvalidArgument: A tensor cannot be sent, or has a value that is too large for the 16-bit float.
            HedgerowError: The server refused, or was away for longer than ``reconnect_s``.
        """
        with self._uploading:  # the same parameters from two threads are one upload
            payload = self._known.get(parameters, {}).get(transport_dtype)
            if payload is None or self._is_too_large(payload):
                payload = self._send(parameters, transport_dtype)
                self.adopt(parameters, payload, transport_dtype)
        return payload

    def download(self, payload: Payload, given_up: threading.Event | None = None) -> Parameters:
        """The parameters of a result: read-only views of the bytes, or of a memory-mapped file.

        Args:
            payload: What the result names.
            given_up: Set when nobody wants them any longer: the transfer is not tried again then.

        Raises:
            CorruptData: The bytes are no parameters.
            HedgerowError: The server refused, or was away for longer than ``reconnect_s``.
        """
        parameters = self._fetch(payload, given_up or threading.Event()) if isinstance(payload, Blob) else tensors.view(payload)
        travelled = parameters.transport_dtype if isinstance(parameters, NarrowParameters) else ""
        self.adopt(parameters, payload, travelled)  # the server has it: handing it on to a client needs no upload
        return parameters

    def adopt(self, parameters: Parameters, payload: Payload, transport_dtype: str = "") -> None:
        """These parameters are at the server under this name already, in this 16-bit float."""
        with self._lock:
            self._known.setdefault(parameters, {})[transport_dtype] = payload

    def forget(self, parameters: Parameters) -> None:
        """These parameters are not at the server: they are uploaded when they are needed next."""
        with self._lock:
            self._known.pop(parameters, None)

    def digests(self) -> list[str]:
        """Digests of the blobs whose parameters are still in use here."""
        with self._lock:
            return sorted({one.digest for forms in self._known.values() for one in forms.values() if isinstance(one, Blob)})

    def close(self) -> None:
        """End transfers and delete the files in transit."""
        with self._lock:
            self._closed = True
            if self._peer is not None:
                self._peer.close()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _is_too_large(self, payload: Payload) -> bool:
        """Whether the payload rode in messages to the server before this one, which takes less in a message."""
        assert self._plane is not None, "the run is open"
        return isinstance(payload, bytes) and len(payload) >= self._plane.inline_max_bytes

    def _send(self, parameters: Parameters, transport_dtype: str) -> Payload:
        assert self._plane is not None, "the run is open"
        size = tensors.nbytes(parameters, transport_dtype)
        if size < self._plane.inline_max_bytes:
            copied("parameters to a message", size)
            return tensors.dumps(parameters, transport_dtype)
        own = None if transport_dtype else self._files.path(parameters)
        path = own or self._new_path()
        request = records_pb2.StartUploadRequest(upload_id=secrets.token_hex(16), size=size, run_id=self._run_id)
        try:
            if own is None:
                with path.open("xb", buffering=0) as file:
                    tensors.write(parameters, file, transport_dtype)
                copied("parameters to a file", size)
            blob = self._persist(lambda peer: peer.upload(path, lambda: self._grant_upload(request)), "upload", threading.Event())
        finally:
            if own is None:
                path.unlink(missing_ok=True)
        log.debug("Uploaded parameters of %d bytes", blob.size, extra={"action": "parameters_uploaded", "digest": blob.digest})
        return blob

    def _fetch(self, blob: Blob, given_up: threading.Event) -> Parameters:
        request = records_pb2.ResolveBlobRequest(digest=blob.digest, run_id=self._run_id)
        path = self._new_path()
        self._persist(lambda peer: peer.download(blob.size, path, lambda: self._grant_download(request)), "download", given_up)
        try:
            return tensors.map_file(path)
        finally:
            path.unlink(missing_ok=True)  # the mapping keeps the data until nobody uses it any longer

    def _persist(self, transfer: Callable[[BlobPeer], T], what: str, given_up: threading.Event) -> T:
        """Transfer, and go on with it when the server comes back."""
        self.has_blobs = True
        backoff = Backoff()
        started = time.monotonic()
        while True:
            with self._lock:
                peer = self._peer
            assert peer is not None, "the run is open"
            try:
                return transfer(peer)
            except (Unavailable, LimitReached, NotFound, ConnectionError) as error:
                away_s = time.monotonic() - started
                # NotFound from a port that another server has now: until the stream is open again, the address may be old.
                moved = self._peer is not peer
                stuck = isinstance(error, NotFound) and not moved
                over = self._closed or given_up.is_set()
                if over or stuck or (self._reconnect.seconds is not None and away_s > self._reconnect.seconds):
                    raise
                log.warning("The %s does not get on; trying again: %s", what, error)
            given_up.wait(backoff.next())

    def _grant_upload(self, request: records_pb2.StartUploadRequest) -> Grant:
        reply = self._connection.call_blocking("StartUpload", request, ASK)
        return Grant(reply.url, convert.blob_from_proto(reply.done) if reply.HasField("done") else None)

    def _grant_download(self, request: records_pb2.ResolveBlobRequest) -> Grant:
        return Grant(self._connection.call_blocking("ResolveBlob", request, ASK).url)

    def _new_path(self) -> Path:
        with self._lock:
            if self._closed:
                raise HedgerowError("The driver is closed.")
            if self._folder is None:  # small parameters need none
                self._folder = Path(tempfile.mkdtemp(prefix="hedgerow-driver-"))
        return self._folder / f"{next(self._numbers):06d}.safetensors"
