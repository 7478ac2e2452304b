"""A run's folder: who its driver is, its checkpoints, what was asked in the round that is not over, and the manifest.

::

    run.json           run id, seed, the driver's identity and secret (mode 0600), the server's state
    lock               held while a driver works
    checkpoints/       the newest one (checkpoint.py)
    tasks/             what was asked since (journal.py)
    .parameters-…      parameters in use by the driver (parameter_files.py)
    manifest.jsonl     one line for each round: who was asked, and what came of it

A folder holds one run. Other files may lie in it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from hedgerow.driver.checkpoint import Checkpoint, PreparedCheckpoint, checkpoint_path, read_checkpoint
from hedgerow.driver.durable import of_type, read_sealed, sync_folder, unpacking, write_sealed
from hedgerow.driver.journal import Journal
from hedgerow.driver.parameter_files import PREFIX
from hedgerow.errors import ConfigError, CorruptData
from hedgerow.security import Identity, Role
from hedgerow.wire.convert import check_id

log = logging.getLogger(__name__)

FORMAT = 2
MAX_LINES = 1_000
MAX_LINES_BYTES = 4 * 1024 * 1024
"""They go in one message."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What makes a run the same run. ``server_id`` is "" until the server was reached; ``transport_dtype`` is "" for none."""

    run_id: str
    name: str
    seed: int
    identity: Identity
    server_id: str = ""
    transport_dtype: str = ""


class RunFolder:
    """An open folder of one run; make one with :meth:`create` or :meth:`open`.

    Attributes:
        path: The folder.
        record: The run.
        journal: What was asked in the round that is not over.
    """

    def __init__(self, path: Path, lock: filelock.FileLock, record: RunRecord) -> None:
        self.path = path
        self.record = record
        self.journal = Journal(path / "tasks", record.run_id)
        self._checkpoints = path / "checkpoints"
        self._manifest = path / "manifest.jsonl"
        self._lock = lock

    @classmethod
    def create(cls, path: Path, record: RunRecord) -> RunFolder:
        """Make the folder where it is missing, and note the run in it.

        Raises:
            ConfigError: It holds a run already, another driver works in it, or it cannot be written.
        """
        path = path.absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
            try:
                if (path / "run.json").exists():
                    raise ConfigError(f"{path} holds a run already. Continue it with resume=, or choose another checkpoint_dir.")
                for name in ("checkpoints", "tasks"):
                    # Empty ones are of a driver that died before it noted its run; anything else is somebody's.
                    if (path / name).is_dir() and any((path / name).iterdir()):
                        raise ConfigError(f"{path / name} is in use for something else. Choose another checkpoint_dir.")
                    (path / name).mkdir(exist_ok=True)
                folder = cls(path, lock, record)
                folder._write_record()
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            raise ConfigError(f"The run's folder {path} cannot be written: {error.strerror or error}.") from None
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of a run that is to go on.

        Raises:
            ConfigError: It holds no run, another driver works in it, or something else lies in the journal.
            CorruptData: It is damaged.
        """
        path = path.absolute()
        if not (path / "run.json").exists():
            raise ConfigError(f"{path} holds no run that could be resumed: there is no run.json. Start one with checkpoint_dir=.")
        lock = _lock(path)
        try:
            folder = cls(path, lock, _read_record(path / "run.json"))
            for part in (folder._checkpoints, folder.journal.path):
                if not part.is_dir():
                    raise CorruptData(f"{part} is missing. Restore it from a copy, or start a new run.")
            # Half-written when a driver died.
            for left in (
                *folder._checkpoints.glob(".*"),
                *folder.journal.path.glob(".*"),
                *path.glob(".run.json.*"),
                *path.glob(f"{PREFIX}*"),
            ):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            folder.journal.check()
        except BaseException:
            lock.release()
            raise
        return folder

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.release()

    def note_server(self, server_id: str) -> None:
        """The run is open at the server that has this state."""
        if self.record.server_id != server_id:
            self.record = replace(self.record, server_id=server_id)
            self._write_record()

    def parameters_file(self, server_round: int) -> Path:
        """Where the parameters of a round's checkpoint lie."""
        return checkpoint_path(self._checkpoints, server_round) / "parameters.safetensors"

    def read_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint; the manifest is cut to what it had then.

        Raises:
            CorruptData: The checkpoint or the manifest is damaged.
            ConfigError: The checkpoint is another run's.
        """
        checkpoint = read_checkpoint(self._checkpoints, self.record.run_id)
        if checkpoint is not None:
            self.journal.forget(checkpoint.round, checkpoint.pending)  # a driver may have died before it came to that
        size = checkpoint.manifest_bytes if checkpoint is not None else 0
        if self._manifest.is_dir():
            raise CorruptData(f"{self._manifest} is a folder. Restore the file from a copy, or start a new run.")
        if self._manifest.exists() or size:
            found = self._manifest.stat().st_size if self._manifest.exists() else 0
            if found < size:
                raise CorruptData(f"{self._manifest} has {found} bytes, the checkpoint knows of {size}. Restore it from a copy.")
            os.truncate(self._manifest, size)
        return checkpoint

    def manifest_from(self, server_round: int) -> list[tuple[int, str]]:
        """The manifest's lines of this round and later ones, each with its round: the last ones, as many as go in a message."""
        lines = self._manifest.read_text(encoding="utf-8").splitlines() if self._manifest.exists() else []
        lines, size = lines[-MAX_LINES:], 0
        for index in reversed(range(len(lines))):
            size += len(lines[index].encode())
            if size > MAX_LINES_BYTES:
                lines = lines[index + 1 :]
                break
        with unpacking(self._manifest):
            numbered = [(of_type(json.loads(line)["round"], int), line) for line in lines]
        return [(number, line) for number, line in numbered if number >= server_round]

    def prepare_checkpoint(self, checkpoint: Checkpoint, cursor: int, file: Path | None = None) -> PreparedCheckpoint:
        """A checkpoint that :meth:`write_checkpoint` takes, now or while the next round goes on.

        Args:
            checkpoint: What is known.
            cursor: Taken where the checkpoint has none.
            file: A file that holds the parameters already; None where there is none.

        Raises:
            InvalidArgument: The strategy's state cannot be kept.
        """
        if checkpoint.cursor is not None:
            cursor = checkpoint.cursor
        return PreparedCheckpoint(replace(checkpoint, run_id=self.record.run_id, cursor=cursor), file)

    def write_checkpoint(self, prepared: PreparedCheckpoint, passed_over: Sequence[str] = ()) -> None:
        """Keep a checkpoint, which takes the place of the one before, and its line of the manifest.

        Args:
            prepared: The checkpoint.
            passed_over: Lines of the manifest of the rounds since the last one that was kept, "" for none.
        """
        checkpoint = prepared.checkpoint
        lines = [line for line in (*passed_over, checkpoint.manifest) if line]
        if lines:
            with self._manifest.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
        if checkpoint.pending:
            sync_folder(self.journal.path)  # the checkpoint names batches that must be there
        size = self._manifest.stat().st_size if self._manifest.exists() else 0
        prepared.write(self._checkpoints, size)
        self.journal.forget(checkpoint.round, checkpoint.pending)

    def _write_record(self) -> None:
        record = self.record
        content = {
            "format": FORMAT,
            "run_id": record.run_id,
            "name": record.name,
            "seed": record.seed,
            "driver_id": record.identity.id,
            "secret": record.identity.secret,
            "server_id": record.server_id,
            "transport_dtype": record.transport_dtype,
        }
        write_sealed(self.path / "run.json", content, 0o600)
        sync_folder(self.path)


def _lock(path: Path) -> filelock.FileLock:
    lock = filelock.FileLock(path / "lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ConfigError(f"Another driver works in {path}. Wait for it, or stop it.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be locked: {error.strerror or error}. Choose another folder.") from None
    return lock


def _read_record(path: Path) -> RunRecord:
    content = read_sealed(path)
    with unpacking(path):
        if content["format"] != FORMAT:
            raise ConfigError(
                f"{path} has the format {content['format']!s:.40}, this program reads {FORMAT}. Use the program that made it."
            )
        identity = Identity(Role.DRIVER, of_type(content["driver_id"], str), of_type(content["secret"], str))
        name, server_id = of_type(content["name"], str), of_type(content["server_id"], str)
        run_id, seed = check_id("run_id", content["run_id"]), of_type(content["seed"], int)
        return RunRecord(run_id, name, seed, identity, server_id, of_type(content["transport_dtype"], str))
