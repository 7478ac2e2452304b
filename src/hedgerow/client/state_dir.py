"""The client's state directory: who this node is, and where everything else of it lies. One process at a time holds it.

::

    lock                  held while a client runs
    identity.json         node id and secret, made at first start
    outbox/<task>…        finished results (outbox.py)
    parameters/<digest>   parameters that tasks started from (parameter_cache.py)
    runs/<run>.state      what the client keeps for a run (context.py)
    deaths/<task>         how often the worker died under an open task
    work/                 what tasks are writing; emptied at start
    audit.jsonl           what was asked of the site, and what became of it (task_audit.py)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path

import filelock
import platformdirs

from hedgerow.errors import ConfigError
from hedgerow.security import Identity, Role
from hedgerow.wire.convert import check_id

log = logging.getLogger(__name__)

STALE_AFTER_S = 90 * 24 * 3600.0
"""Run states and death counts that nothing has touched for so long are removed at start."""


def default_state_dir(server: str, name: str) -> Path:
    """The folder of a client that was given none: one for each server and name, since two clients may share a host."""
    slug = "".join(c if c.isalnum() or c in "-." else "_" for c in f"{name}@{server}")[:80]
    digest = hashlib.sha256(f"{server}\n{name}".encode()).hexdigest()[:8]
    return Path(platformdirs.user_state_dir("hedgerow")) / "clients" / f"{slug}-{digest}"


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Make a file that appears whole; an old one of that name is replaced."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
    fresh.replace(path)


class StateDir:
    """An open state directory.

    Attributes:
        path: The folder.
        identity: This node's id and secret.
    """

    def __init__(self, path: Path, lock: filelock.FileLock, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock
        self._deaths: dict[str, int] = {}

    @classmethod
    def open(cls, path: Path) -> StateDir:
        """Make the folder where it is missing, lock it, and read or make the identity.

        Raises:
            ConfigError: Another client holds it, it cannot be written, or its identity file is damaged.
        """
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = filelock.FileLock(path / "lock", thread_local=False)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise StateDirTaken(
                    f"The state directory {path} is in use by another client. Stop that one, or give this one its own "
                    "with --state-dir (or another --name)."
                ) from None
            try:
                for name in ("outbox", "parameters", "runs", "deaths"):
                    (path / name).mkdir(mode=0o700, exist_ok=True)
                shutil.rmtree(path / "work", ignore_errors=True)
                (path / "work").mkdir(mode=0o700)
                state = cls(path, lock, _read_identity(path / "identity.json"))
                state._remove_stale()
                state._read_deaths()
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            raise ConfigError(
                f"The state directory {path} cannot be used: {error.strerror or error}. Choose another with --state-dir."
            ) from None
        return state

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.release()

    def work_path(self, task_id: str, suffix: str) -> Path:
        """A fresh name for something that a task writes."""
        return self.path / "work" / f"{task_id}.{suffix}"

    def run_state_path(self, run_id: str) -> Path:
        """The file with what the client keeps for a run."""
        return self.path / "runs" / f"{run_id}.state"

    def deaths(self, task_id: str) -> int:
        """How often the worker has died under this task, also in earlier lives of this client."""
        return self._deaths.get(task_id, 0)

    def count_death(self, task_id: str) -> int:
        """Note one more death of the worker under this task, on disk; returns how many there were now.

        Where the disk is full the next start does not know of it. The task is not to fail for that: it may well be what the
        worker died of.
        """
        count = self._deaths[task_id] = self.deaths(task_id) + 1
        try:
            write_atomically(self.path / "deaths" / task_id, str(count).encode())
        except OSError as error:
            log.warning("Cannot note on the disk that a worker died: %s", error, extra={"action": "death_not_noted"})
        return count

    def forget_deaths(self, task_id: str) -> None:
        """The task has ended."""
        if self._deaths.pop(task_id, 0):
            with contextlib.suppress(OSError):  # it is removed when it is old
                (self.path / "deaths" / task_id).unlink(missing_ok=True)

    def _read_deaths(self) -> None:
        for file in (self.path / "deaths").iterdir():
            with contextlib.suppress(ValueError):
                self._deaths[file.name] = max(0, int(file.read_text()))

    def _remove_stale(self) -> None:
        oldest = time.time() - STALE_AFTER_S
        for name in ("runs", "deaths"):
            for file in (self.path / name).iterdir():
                if file.is_dir():  # nothing of ours
                    shutil.rmtree(file)
                elif file.stat().st_mtime < oldest:
                    file.unlink()


class StateDirTaken(ConfigError):
    """The state directory is in use by another client."""


def _read_identity(path: Path) -> Identity:
    if not path.exists():
        identity = Identity.fresh(Role.CLIENT)
        write_atomically(path, json.dumps({"node_id": identity.id, "secret": identity.secret}).encode(), 0o600)
        return identity
    try:
        stored = json.loads(path.read_text())
        node_id, secret = check_id("node_id", stored["node_id"]), str(stored["secret"])
        if not (secret.isascii() and secret.isalnum()):
            raise ValueError("a secret of other characters than were written")
        return Identity(Role.CLIENT, node_id, secret)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            f"{path} does not hold a node's identity. Restore it, or remove it to become a new node (results that wait in "
            "the outbox are then refused by the server)."
        ) from None
