"""The audit log of a server or a client: one line of JSON for everything that was done or refused, appended and never changed.

::

    {"at": 1795521600.25, "who": "hedgerow://client/a", "id": "…", "what": "CompleteTask", "run_id": "…", "task_id": "…",
     "digest": "…", "outcome": "ok"}

A file that has grown to its limit is set aside as ``<name>.<number>``, counted up; only so many are kept. Lines are written at
once, and are on the disk when the operating system gets to it: the log is for people, not for recovery.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from hedgerow.clock import Clock
from hedgerow.errors import ConfigError

log = logging.getLogger(__name__)

AUDIT_FILE = "audit.jsonl"
"""Its name in a state directory."""
MAX_BYTES = 64 * 1024 * 1024
KEPT_FILES = 16
MAX_VALUE_CHARS = 200


class AuditLog:
    """Appends to one file, from any thread.

    Args:
        path: The file; its folder exists.
        clock: Tells when something happened.
        max_bytes: When to begin a new file.
        kept_files: How many full files are kept.

    Raises:
        ConfigError: The file cannot be written.
    """

    def __init__(self, path: Path, clock: Clock, max_bytes: int = MAX_BYTES, kept_files: int = KEPT_FILES) -> None:
        self._path = path
        self._clock = clock
        self._max_bytes = max_bytes
        self._kept_files = kept_files
        self._lock = threading.Lock()
        try:
            self._fd = self._open()
        except OSError as error:
            raise ConfigError(f"The audit log {path} cannot be written: {error.strerror}.") from None
        self._size = os.fstat(self._fd).st_size

    def note(self, who: str, what: str, outcome: str, about: Mapping[str, str | int]) -> None:
        """Append a line. Values are cut to 200 characters; empty ones are left out. A full disk costs the line, not the call."""
        fields = {"at": round(self._clock.now(), 3), "who": who, "what": what, **about, "outcome": outcome}
        cut = {key: value[:MAX_VALUE_CHARS] if isinstance(value, str) else value for key, value in fields.items() if value != ""}
        line = json.dumps(cut).encode() + b"\n"
        with self._lock:
            try:
                if self._size and self._size + len(line) > self._max_bytes:
                    self._rotate()
                self._size += os.write(self._fd, line)
            except OSError as error:
                log.error("Not noted in the audit log %s: %s (%s)", self._path, line.decode(), error)

    def close(self) -> None:
        """Close the file. What is noted after that is lost, and said in the other log."""
        with self._lock:
            fd, self._fd = self._fd, -1  # the number may soon be another file's
            os.close(fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _rotate(self) -> None:
        full = _full_files(self._path)
        number = int(full[-1].suffix[1:]) + 1 if full else 1
        self._path.rename(self._path.with_name(f"{self._path.name}.{number}"))
        for old in full[: max(0, len(full) + 1 - self._kept_files)]:
            old.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd, self._size = self._open(), 0


def read_audit(path: Path) -> Iterator[dict[str, object]]:
    """All entries that are there, oldest first, over all files; lines that are no entries (a full disk's) are passed over.

    Raises:
        ConfigError: There is no such log.
    """
    files = [*_full_files(path), *([path] if path.exists() else [])]
    if not files:
        raise ConfigError(f"There is no audit log {path}. Name the state directory of a server or client: --state-dir DIR.")
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(entry, dict):
                    yield entry


def _full_files(path: Path) -> list[Path]:
    found = [file for file in path.parent.glob(f"{path.name}.*") if file.suffix[1:].isdigit()]
    return sorted(found, key=lambda file: int(file.suffix[1:]))
