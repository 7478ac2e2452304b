"""The parameters that tasks start from, as files named by digest: fetched once, shared by tasks, bounded on disk.

A round's evaluation and the next round's training start from the same parameters; the second one finds them here. Files in use
are pinned; of the others the least recently used go first when the folder grows beyond its bound. The one that was used last
stays until others are to be fetched, however large it is.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hedgerow.records import Blob

log = logging.getLogger(__name__)

MAX_CACHE_BYTES = 256 * 1024**2
MAX_CACHE_FILES = 4
"""A run needs its newest parameters alone; older ones would only be written to disk for nothing."""


class ParameterCache:
    """The folder of parameter files.

    Args:
        folder: Where the files are; what is there from before is used.
        max_bytes: Bound on the sum of the files; those in use, and the one that was used last, stay all the same.
        max_files: Bound on their number.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_CACHE_BYTES, max_files: int = MAX_CACHE_FILES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._pins: Counter[str] = Counter()
        # Least recently used first; the order of the files from before is that of their modification.
        files = sorted((p for p in folder.iterdir() if p.is_file()), key=lambda p: p.stat().st_mtime)
        self._sizes = {p.name: p.stat().st_size for p in files}
        self._evict()

    def path(self, digest: str) -> Path:
        """Where the parameters with this digest are, or are to be put."""
        return self._folder / digest

    def has(self, blob: Blob) -> bool:
        """Whether the parameters are here, whole."""
        try:
            return self.path(blob.digest).stat().st_size == blob.size
        except FileNotFoundError:
            return False

    @contextmanager
    def pinned(self, blob: Blob) -> Iterator[Path]:
        """Keep the file while it is used; afterwards it is the most recently used one. There is room for it then."""
        digest = blob.digest
        self._pins[digest] += 1
        if not self.has(blob):
            self._evict(coming=blob.size)
        try:
            yield self.path(digest)
        finally:
            self._pins[digest] -= 1
            if not self._pins[digest]:
                del self._pins[digest]
            path = self.path(digest)
            self._sizes.pop(digest, None)
            if path.exists():
                self._sizes[digest] = path.stat().st_size
            self._evict()

    def _evict(self, coming: int | None = None) -> None:
        """Remove files until the bounds are met, also with one that is to come; without that the newest stays."""
        total, count = sum(self._sizes.values()) + (coming or 0), len(self._sizes) + (coming is not None)
        old = list(self._sizes) if coming is not None else list(self._sizes)[:-1]
        for name in [n for n in old if n.removesuffix(".part") not in self._pins]:
            if total <= self._max_bytes and count <= self._max_files:
                return
            count -= 1
            total -= self._sizes.pop(name)
            (self._folder / name).unlink(missing_ok=True)
            log.debug("Removed the parameters %s from the cache", name)
