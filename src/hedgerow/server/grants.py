"""Signed URLs for the blob port: the answers to StartUpload and ResolveBlob of both APIs."""

from __future__ import annotations

from hedgerow.clock import Clock
from hedgerow.errors import InvalidArgument
from hedgerow.records import Blob
from hedgerow.security import Identity, UrlSigner
from hedgerow.server.gate import Gate
from hedgerow.store.store import Store
from hedgerow.wire.convert import check_id
from hedgerow.wire.proto import records_pb2


class Grants:
    """Hands out URLs that allow one peer one thing with one blob for a limited time.

    Args:
        store: Knows the uploads.
        clock: Tells the time from which a URL's life counts.
        url_lifetime_s: How long a URL is good for starting a transfer; one that runs on past it is not cut.
        gate: Closed when no new transfer may begin.
        max_blob_bytes: What an upload may have at most.
    """

    def __init__(self, store: Store, clock: Clock, url_lifetime_s: float, gate: Gate, max_blob_bytes: int) -> None:
        self._store = store
        self._clock = clock
        self._signer = UrlSigner(store.url_key)
        self._lifetime_s = url_lifetime_s
        self._gate = gate
        self._max_blob_bytes = max_blob_bytes

    async def upload(self, who: Identity, request: records_pb2.StartUploadRequest) -> records_pb2.StartUploadReply:
        """Where to put the bytes, or word that they are here already.

        Raises:
            InvalidArgument: An id is malformed, or the upload is too large.
            AlreadyExists: The id was used for something else.
            Unavailable: The server is stopping.
        """
        self._gate.check()
        check_id("upload_id", request.upload_id)
        if request.size > self._max_blob_bytes:
            raise InvalidArgument(
                f"The upload {request.upload_id} has {request.size:,} bytes; this server takes at most "
                f"{self._max_blob_bytes:,} in one blob (--max-blob-bytes)."
            )
        upload = await self._store.start_upload(who, request.upload_id, request.size, check_id("run_id", request.run_id))
        done = None if upload.done is None else records_pb2.Blob(digest=upload.done.digest, size=upload.done.size)
        return records_pb2.StartUploadReply(
            url=self._sign("PUT", f"/uploads/{request.upload_id}", who), url_lifetime_s=self._lifetime_s, done=done
        )

    def download(self, who: Identity, blob: Blob) -> records_pb2.ResolveBlobReply:
        """Where to get the bytes of a blob that the caller may read.

        Raises:
            Unavailable: The server is stopping.
        """
        self._gate.check()
        return records_pb2.ResolveBlobReply(
            url=self._sign("GET", f"/blobs/{blob.digest}", who), url_lifetime_s=self._lifetime_s, size=blob.size
        )

    def _sign(self, method: str, path: str, who: Identity) -> str:
        return self._signer.sign(method, path, who, self._clock.now() + self._lifetime_s)
