"""A checkpoint: everything that the rounds so far gave, as a folder that is whole or not there.

::

    checkpoints/round-000003/
        parameters.safetensors   the model; any safetensors tool reads it
        strategy.safetensors     tensors of the strategy's state
        state.json               the rest, and size and BLAKE3-256 of the two

It is written under a hidden name and renamed when all of it is on the disk. Parameters that lie in a file already get a second
name there, and are not written again. The newest one counts; older ones are removed.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hedgerow.copies import copied
from hedgerow.driver.durable import (
    check_file,
    hidden_name,
    link_new,
    of_type,
    read_sealed,
    rename,
    seal,
    sync_folder,
    unpacking,
    write_new,
)
from hedgerow.driver.parameter_files import MIN_BYTES
from hedgerow.driver.state_codec import Encoder, decode
from hedgerow.errors import ConfigError, CorruptData
from hedgerow.records import Parameters
from hedgerow.wire import tensors

log = logging.getLogger(__name__)

FORMAT = 2
_FILES = ("parameters", "strategy")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is known when a round is over.

    Attributes:
        round: The round that is over; 0 is before training.
        parameters: The model.
        strategy: Name of the strategy's class.
        strategy_state: Its ``state_dict()``.
        history: The history's ``state_dict()``.
        manifest: The round's line in the manifest; "" for round 0.
        run_id: The run.
        cursor: Results of the run up to this cursor are not needed any longer; None for all that came so far.
        pending: What is still under way of an asynchronous run: names of batches in the journal.
        manifest_bytes: Size of the manifest's file with that line.
    """

    round: int
    parameters: Parameters
    strategy: str
    strategy_state: dict[str, Any]
    history: dict[str, Any]
    manifest: str = ""
    run_id: str = ""
    cursor: int | None = None
    manifest_bytes: int = 0
    pending: Sequence[tuple[int, str]] = ()


def _as_they_are(parameters: Parameters) -> Parameters:
    """Copies of small arrays, which somebody may change in place while they are written; large ones would cost their memory."""
    if parameters.nbytes >= MIN_BYTES:
        return parameters
    return Parameters({name: array.copy() for name, array in parameters.items()})


def checkpoint_path(folder: Path, server_round: int) -> Path:
    """The checkpoint of a round in the folder of all of them."""
    return folder / f"round-{server_round:06d}"


class PreparedCheckpoint:
    """A checkpoint that can be written while the run goes on: strategy and history may change meanwhile.

    Args:
        checkpoint: What is known.
        file: A file that holds the parameters already, and stays until the checkpoint is written; None where there is none.

    Raises:
        InvalidArgument: The strategy's state holds something that cannot be kept.
    """

    def __init__(self, checkpoint: Checkpoint, file: Path | None = None) -> None:
        self.checkpoint = checkpoint
        self._file = file
        encoder = Encoder()
        self._state = encoder.encode(checkpoint.strategy_state, "state_dict()")
        self._history = encoder.encode(checkpoint.history, "history")
        self._tensors = _as_they_are(encoder.tensors)
        self._parameters = checkpoint.parameters if file is not None else _as_they_are(checkpoint.parameters)

    def write(self, folder: Path, manifest_bytes: int) -> None:
        """Write it into the folder of all of them, then remove what it replaces.

        Args:
            folder: The folder of all checkpoints.
            manifest_bytes: Size of the manifest's file with the round's line.
        """
        path = checkpoint_path(folder, self.checkpoint.round)
        content = self._content(manifest_bytes)
        hidden = hidden_name(path)
        hidden.mkdir()
        try:
            for name, written in zip(_FILES, (self._write_parameters, self._write_tensors), strict=True):
                size, digest = written(hidden / f"{name}.safetensors")
                content["files"][name] = {"size": size, "blake3_256": digest}
            write_new(hidden / "state.json", [seal(content)])
            sync_folder(hidden)
            rename(hidden, path)
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        for other in folder.iterdir():
            if other != path:
                shutil.rmtree(other, ignore_errors=True)
        log.debug("Saved checkpoint of round %s in %s", self.checkpoint.round, path, extra={"action": "checkpoint_saved"})

    def _write_parameters(self, path: Path) -> tuple[int, str]:
        if self._file is not None:
            try:
                return link_new(path, self._file)
            except OSError as error:
                log.debug("%s cannot get a second name: %s", self._file, error)
                path.unlink(missing_ok=True)
        return self._copied(self._parameters, path)

    def _write_tensors(self, path: Path) -> tuple[int, str]:
        return self._copied(self._tensors, path)

    @staticmethod
    def _copied(parameters: Parameters, path: Path) -> tuple[int, str]:
        size, digest = write_new(path, tensors.chunks(parameters))
        copied("parameters to a checkpoint", size)
        return size, digest

    def _content(self, manifest_bytes: int) -> dict[str, Any]:
        checkpoint = self.checkpoint
        return {
            "format": FORMAT,
            "run_id": checkpoint.run_id,
            "round": checkpoint.round,
            "strategy": checkpoint.strategy,
            "strategy_state": self._state,
            "history": self._history,
            "cursor": checkpoint.cursor,
            "manifest": checkpoint.manifest,
            "manifest_bytes": manifest_bytes,
            "pending": [list(one) for one in checkpoint.pending],
            "files": {},
        }


def read_checkpoint(folder: Path, run_id: str) -> Checkpoint | None:
    """The newest checkpoint, or None where there is none yet.

    Raises:
        CorruptData: It is damaged.
        ConfigError: It is another run's.
    """
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not found:
        return None
    path = found[-1]
    try:
        content = read_sealed(path / "state.json")
    except FileNotFoundError:
        raise CorruptData(f"{path / 'state.json'} is missing. Restore it from a copy, or start a new run.") from None
    with unpacking(path / "state.json"):
        if content["format"] != FORMAT:
            raise ConfigError(
                f"{path} has the format {content['format']!s:.40}, this program reads {FORMAT}. Use the program that made it."
            )
        if content["run_id"] != run_id:
            raise ConfigError(
                f"{path} belongs to the run {content['run_id']!s:.80}, not to {run_id}. Use the folder of its own run."
            )
        for name in _FILES:
            check_file(path / f"{name}.safetensors", **content["files"][name])
        state = tensors.map_file(path / "strategy.safetensors")
        return Checkpoint(
            of_type(content["round"], int),
            tensors.map_file(path / "parameters.safetensors"),
            of_type(content["strategy"], str),
            of_type(decode(content["strategy_state"], state), dict),
            of_type(decode(content["history"], state), dict),
            of_type(content["manifest"], str),
            run_id,
            of_type(content["cursor"], int),
            of_type(content["manifest_bytes"], int),
            [(of_type(server_round, int), of_type(key, str)) for server_round, key in content["pending"]],
        )
