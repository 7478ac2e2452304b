"""The folder of blob files: one file per upload, under the upload's id.

A file is created under a fresh name and only ever appended to; nothing is renamed, and nothing is written over (the file system
would flush old data first, which costs seconds at 100 MB). Which digest lives in which file, and which file may go, is the
store's business; this module refuses names that are not ids, and new bytes when the disk is nearly full.

Everything here blocks; the blob port calls it from worker threads.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import blake3

from hedgerow.errors import ConfigError, InvalidArgument, LimitReached

log = logging.getLogger(__name__)

# Kept free for the database and its journal, so that the server can still write down what happened.
RESERVE_BYTES = 64 * 1024 * 1024
_REHASH_BYTES = 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


def _is_name(name: str) -> bool:
    return name.isascii() and name.isalnum() and len(name) <= 64


class BlobFolder:
    """Blob files by name.

    Args:
        path: The folder; it is made when it is missing.
        reserve_bytes: Space on the disk that blobs leave free.

    Raises:
        ConfigError: The folder cannot be made or written to.
    """

    def __init__(self, path: Path, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.path = Path(path)
        self._reserve_bytes = reserve_bytes
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"Cannot make the blob folder {self.path}: {error.strerror}. Choose another --state-dir.") from None
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigError(f"The blob folder {self.path} is not writable. Change its owner or choose another --state-dir.")

    def file(self, name: str) -> Path:
        """Where the file of this name is, or would be.

        Raises:
            InvalidArgument: The name is not an id (letters and digits).
        """
        if not _is_name(name):
            raise InvalidArgument(f"{name[:80]!r} is not the name of a blob file.")
        return self.path / name

    def size(self, name: str) -> int:
        """Bytes of the file; 0 when there is none."""
        try:
            return self.file(name).stat().st_size
        except FileNotFoundError:
            return 0

    def free_bytes(self) -> int:
        """Bytes that new blobs may still take."""
        return max(0, shutil.disk_usage(self.path).free - self._reserve_bytes)

    def require_space(self, size: int) -> None:
        """Check that ``size`` more bytes fit.

        Raises:
            LimitReached: They do not.
        """
        free = self.free_bytes()
        if size > free:
            raise LimitReached(
                f"The server's disk is full: {size:,} bytes were to be stored and {free:,} are free at {self.path} "
                f"(beyond a reserve of {self._reserve_bytes:,}). Free some space; the transfer can then be resumed."
            )

    def delete(self, name: str) -> None:
        """Remove a file; one that is gone already is fine. Readers that have it open keep it until they close it.

        Raises:
            InvalidArgument: The name is not an id.
        """
        try:
            self.file(name).unlink(missing_ok=True)
        except OSError as error:
            # The row is gone; the file is an orphan now and goes with the next sweep.
            log.warning("Cannot delete the blob file %s: %s", name, error, extra={"action": "blob_delete_failed"})

    def orphans(self, live: Collection[str], older_than: float = math.inf) -> list[str]:
        """Names of files that are not in ``live`` and were last written before ``older_than`` (Unix time in seconds).

        While uploads can start, one may do so between the moment ``live`` was read and this call: give an age then.
        """
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                try:
                    if entry.name not in live and entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < older_than:
                        found.append(entry.name)
                except FileNotFoundError:
                    continue  # deleted meanwhile
        return sorted(found)

    def delete_orphans(self, live: Collection[str], older_than: float = math.inf) -> list[str]:
        """Remove the :meth:`orphans` whose names are ids, and return their names; other files are not ours."""
        orphans = [name for name in self.orphans(live, older_than) if _is_name(name)]
        for name in orphans:
            self.delete(name)
        if orphans:
            log.info("Deleted %d blob files that nothing refers to", len(orphans), extra={"action": "orphans_deleted"})
        return orphans


class ArrivingBlob:
    """A blob file that is being received, with the BLAKE3 state of what is there. Used by one thread at a time.

    Args:
        folder: Where the file lives.
        name: Name of the file.
        size: Length of the whole blob in bytes.

    Attributes:
        offset: Bytes that are there, written and hashed; known after :meth:`open`.
    """

    def __init__(self, folder: BlobFolder, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.offset = 0
        self._folder = folder
        self._hasher = blake3.blake3()
        self._file: io.FileIO | None = None

    def open(self) -> None:
        """Open the file to append to it. What it holds beyond what was hashed here (by an earlier server) is hashed now.

        Raises:
            LimitReached: The disk has no room for the rest, or the folder cannot be written now.
            OSError: The file cannot be opened or read.
        """
        present = self._folder.size(self.name)
        self._folder.require_space(self.size - present)
        try:
            file = io.FileIO(self._folder.file(self.name), "a+")
        except OSError as error:
            if error.errno not in (*_FULL, *_NOT_WRITABLE):
                raise
            raise LimitReached(
                f"The server cannot write to its blob folder {self._folder.path} ({error.strerror}). Mend that at the server; "
                "the transfer can then be resumed."
            ) from error
        try:
            if present > self.size:
                log.warning(
                    "Upload %s had %d bytes of %d: it starts again",
                    self.name,
                    present,
                    self.size,
                    extra={"action": "upload_reset"},
                )
                file.truncate(0)
                present = 0
            if present != self.offset:
                self._rehash(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _rehash(self, file: io.FileIO) -> None:
        self.offset = 0
        self._hasher = blake3.blake3()
        file.seek(0)
        block = memoryview(bytearray(_REHASH_BYTES))
        while count := file.readinto(block):
            self._hasher.update(block[:count])
            self.offset += count

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write and hash the next bytes.

        Raises:
            InvalidArgument: They are more than the blob's announced size; nothing of them is kept.
            LimitReached: The disk is full; what was appended before is kept.
        """
        total = sum(map(len, pieces))
        if self.offset + total > self.size:
            raise InvalidArgument(
                f"Upload {self.name} was announced with {self.size} bytes; byte {self.offset + total} was sent."
            )
        if self._file is None:
            raise ValueError(f"Upload {self.name} is not open.")
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(self.offset)
            if error.errno in _FULL:
                raise LimitReached(
                    f"The server's disk is full: upload {self.name} stopped at byte {self.offset} of {self.size}. "
                    "Free some space; the transfer can then be resumed."
                ) from error
            raise
        for piece in pieces:
            self._hasher.update(piece)
        self.offset += total

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.offset == self.size

    def digest(self) -> str:
        """BLAKE3-256 of the bytes so far, in hexadecimal digits."""
        return self._hasher.hexdigest()

    def close(self) -> None:
        """Close the file; it stays, and :meth:`open` goes on where it was."""
        if self._file is not None:
            self._file.close()
            self._file = None
