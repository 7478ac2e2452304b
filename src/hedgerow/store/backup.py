"""A consistent copy of a state directory, also while a server works in it.

The database is copied as of one moment with SQLite's online backup, which does not hold up the writer. Blob files never change
once they are complete, so those that the copy refers to are hard links to the originals on the same file system, and copies
elsewhere. What the server deletes meanwhile must not be missing: every file is linked aside before the database is copied, and
the few that came between are caught by looking again.

The copy gets a server id of its own, and notes that it is one: clients then hand in again what the copy may have missed, drivers
push their round's tasks again, and for a while the server keeps what it does not know. The database appears under its name
last: a backup that was cut short has none.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import ConfigError, CorruptData
from hedgerow.store.schema import LOCK_TIMEOUT_S, NEVER_STARTED, RESTORED_AT, VERSION

log = logging.getLogger(__name__)

DATABASE = "hedgerow.sqlite3"
BLOBS = "blobs"
ATTEMPTS = 5
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Backup:
    """What was copied.

    Attributes:
        database_bytes: Size of the database.
        blobs: Number of blobs.
        blob_bytes: Their size.
        linked: Whether they are hard links.
        missing: Blobs whose files the server itself has lost.
    """

    database_bytes: int
    blobs: int
    blob_bytes: int
    linked: bool
    missing: int


def back_up(state_dir: Path, target: Path, *, copy: bool = False) -> Backup:
    """Copy a state directory to a folder that does not exist yet, or is empty. Blocking.

    Args:
        state_dir: The state directory of a server, running or not, with its database in the default place.
        target: Where the copy goes; a server started with it as its state directory has everything of that moment.
        copy: Copy the blobs also where they could be linked.

    Raises:
        ConfigError: One of the two folders cannot be used.
        CorruptData: The database is damaged.
        OSError: Reading or writing failed; what was written so far is left.
    """
    source = state_dir / DATABASE
    if not source.is_file():
        raise ConfigError(f"There is no {DATABASE} in {state_dir}. Give --state-dir as the server has it.")
    if target.resolve().is_relative_to(state_dir.resolve()):
        raise ConfigError(f"The backup {target} would be inside the state directory {state_dir}. Choose a place outside of it.")
    _make(target)
    aside = state_dir / f"backup-{secrets.token_hex(4)}"
    partial = target / (DATABASE + _PARTIAL)
    pins = _Pins(state_dir / BLOBS, aside)
    try:
        for _ in range(ATTEMPTS):
            pins.take()
            _copy_database(source, partial)
            pins.take()  # what was completed between the two
            wanted = _blobs_of(partial)
            held = {name: size for name, size in wanted.items() if pins.has(name, size)}
            if len(held) == len(wanted):
                break
            log.debug("Blobs came and went while the database was copied; once more")
        for name in wanted.keys() - held.keys():
            log.warning("The file %s of a blob is missing or damaged at the server", name, extra={"action": "blob_file_missing"})
        linked = _put(pins, held, target / BLOBS, copy=copy)
    finally:
        pins.drop()
    _sync(partial)
    partial.rename(target / DATABASE)
    for folder in (target / BLOBS, target):
        _sync(folder)
    return Backup((target / DATABASE).stat().st_size, len(held), sum(held.values()), linked, len(wanted) - len(held))


def _make(target: Path) -> None:
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise ConfigError(f"The folder {target} is not empty. Choose one that is, or that does not exist.")
        (target / BLOBS).mkdir(mode=0o700)
    except OSError as error:
        raise ConfigError(f"The folder {target} cannot be written: {error.strerror}.") from None


class _Pins:
    """Hard links to all blob files, so that what the server deletes meanwhile is still there."""

    def __init__(self, folder: Path, aside: Path) -> None:
        self._folder = folder
        self._aside = aside

    def take(self) -> None:
        """Link what is there now."""
        self._aside.mkdir(mode=0o700, exist_ok=True)
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            try:
                os.link(path, self._aside / path.name)
            except (FileExistsError, FileNotFoundError):
                pass  # linked before; deleted meanwhile
            except OSError as error:
                raise ConfigError(f"Cannot link {path.name} into {self._aside}: {error.strerror}.") from None

    def has(self, name: str, size: int) -> bool:
        """Whether a whole file of this name is held."""
        try:
            return (self._aside / name).stat().st_size == size
        except FileNotFoundError:
            return False

    def path(self, name: str) -> Path:
        """Where a file is held."""
        return self._aside / name

    def drop(self) -> None:
        """Remove the links."""
        shutil.rmtree(self._aside, ignore_errors=True)


def _copy_database(source: Path, partial: Path) -> None:
    """Copy the database as of one moment, give the copy a server id, and check it."""
    partial.unlink(missing_ok=True)
    reading = sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=LOCK_TIMEOUT_S)
    writing = sqlite3.connect(partial)
    try:
        found = dict(reading.execute("SELECT key, value FROM meta").fetchall())
        if found.get("schema_version") != str(VERSION):
            raise ConfigError(
                f"The database {source} has the schema version {found.get('schema_version', 'unknown')}, this program needs "
                f"{VERSION}. Use the program that made it."
            )
        reading.backup(writing)  # all pages in one step: the state of one commit
        writing.execute("PRAGMA journal_mode=DELETE")  # one file, without a journal beside it
        writing.execute("UPDATE meta SET value = ? WHERE key = 'server_id'", (secrets.token_hex(16),))
        writing.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (RESTORED_AT, NEVER_STARTED))
        writing.commit()
        (said,) = writing.execute("PRAGMA quick_check").fetchone()
        if said != "ok":
            raise CorruptData(f"The database {source} is damaged: {said}.")
    except sqlite3.DatabaseError as error:
        raise CorruptData(f"The database {source} cannot be copied: {error}.") from error
    finally:
        reading.close()
        writing.close()


def _blobs_of(database: Path) -> dict[str, int]:
    """Sizes of all blob files that the database refers to, by name."""
    connection = sqlite3.connect(database)
    try:
        return dict(connection.execute("SELECT file, size FROM blobs").fetchall())
    finally:
        connection.close()


def _put(pins: _Pins, wanted: dict[str, int], target: Path, *, copy: bool) -> bool:
    """Bring the files to the target; whether they are links."""
    bring: Callable[[Path, Path], object] = _copy_file if copy else os.link
    for name in wanted:
        try:
            bring(pins.path(name), target / name)
        except OSError as error:
            if bring is _copy_file or error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            bring = _copy_file
            bring(pins.path(name), target / name)
    return bring is os.link


def _copy_file(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    _sync(target)


def _sync(path: Path) -> None:
    """Have a file or folder on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
