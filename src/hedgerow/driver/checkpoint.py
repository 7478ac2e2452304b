"""A checkpoint: everything that the rounds so far gave, as a folder that is whole or not there.

::

    checkpoints/round-000003/
        parameters.safetensors   the model; any safetensors tool reads it
        strategy.safetensors     tensors of the strategy's state
        state.json               the rest, and size and SHA-256 of the two

It is written under a hidden name and renamed when all of it is on the disk. The newest one counts; older ones are removed.
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
    of_type,
    read_sealed,
    rename,
    seal,
    sync_folder,
    unpacking,
    write_new,
)
from hedgerow.driver.state_codec import Encoder, decode
from hedgerow.errors import ConfigError, CorruptData
from hedgerow.records import Parameters
from hedgerow.wire import tensors

log = logging.getLogger(__name__)

FORMAT = 1
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


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into the folder of all of them, then remove what it replaces.

    Raises:
        InvalidArgument: The strategy's state holds something that cannot be kept; nothing has changed then.
    """
    path = folder / f"round-{checkpoint.round:06d}"
    encoder = Encoder()
    content = {
        "format": FORMAT,
        "run_id": checkpoint.run_id,
        "round": checkpoint.round,
        "strategy": checkpoint.strategy,
        "strategy_state": encoder.encode(checkpoint.strategy_state, "state_dict()"),
        "history": encoder.encode(checkpoint.history, "history"),
        "cursor": checkpoint.cursor,
        "manifest": checkpoint.manifest,
        "manifest_bytes": checkpoint.manifest_bytes,
        "pending": [list(one) for one in checkpoint.pending],
        "files": {},
    }
    hidden = hidden_name(path)
    hidden.mkdir()
    try:
        for name, values in zip(_FILES, (checkpoint.parameters, encoder.tensors), strict=True):
            size, digest = write_new(hidden / f"{name}.safetensors", tensors.chunks(values))
            content["files"][name] = {"size": size, "sha256": digest}
            copied("parameters to a checkpoint", size)
        write_new(hidden / "state.json", [seal(content)])
        sync_folder(hidden)
        rename(hidden, path)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    for other in folder.iterdir():
        if other != path:
            shutil.rmtree(other, ignore_errors=True)
    log.debug("Saved checkpoint of round %s in %s", checkpoint.round, path, extra={"action": "checkpoint_saved"})


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
