"""What was asked in the round that is not over: the batches of instructions, noted on disk before they are sent.

A driver that takes a run up again asks the same nodes the same things: it does not configure again what may have been sent. Tasks
have ids that follow from the run, so that sending them once more changes nothing.

Owned here: one file for each batch (``round-000003-fit.json``). Parameters are not kept: those that are the run's current ones
are in the checkpoint, or come out of the fold again; others are fetched from the server.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hedgerow.driver.durable import Json, read_sealed, write_sealed
from hedgerow.driver.state_codec import Encoder, decode
from hedgerow.errors import ConfigError, CorruptData
from hedgerow.records import Blob, Config, Parameters, Payload

FORMAT = 1
_NAME = re.compile(r"round-(\d{6,})-(.+)\.json")


@dataclass(frozen=True, slots=True)
class Asked:
    """One instruction to one node. ``ins`` is the instruction's place in the batch's list."""

    node_id: str
    name: str
    ins: int


@dataclass(frozen=True, slots=True)
class SentIns:
    """An instruction; ``current`` says whether its parameters were the run's own at that time."""

    config: Config
    payload: Payload
    current: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """What one phase of a round asked.

    Attributes:
        round: The round.
        kind: "fit" or "evaluate"; "fit-000017" for a task of an asynchronous run, which is a batch of its own.
        asked: Who, in order.
        instructions: What; several nodes may share one.
        not_asked: Names of the nodes that were available and not asked.
        sequences: How many tasks of the round were made before: node id, kind, number.
        manager: State of the client manager then.
    """

    round: int
    kind: str
    asked: Sequence[Asked]
    instructions: Sequence[SentIns]
    not_asked: Sequence[str] = ()
    sequences: Sequence[tuple[str, str, int]] = ()
    manager: dict[str, int] = field(default_factory=dict)


class Journal:
    """The batches of one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, batch: Batch) -> None:
        """Note a batch that is about to be sent.

        Raises:
            InvalidArgument: A config holds something that cannot be sent.
        """
        encoder = Encoder()
        content = {
            "format": FORMAT,
            "asked": [[one.node_id, one.name, one.ins] for one in batch.asked],
            "instructions": [
                {
                    "config": encoder.encode(_plain(ins.config), "config"),
                    "payload": _payload_to_json(ins.payload),
                    "current": ins.current,
                }
                for ins in batch.instructions
            ],
            "not_asked": list(batch.not_asked),
            "sequences": [list(one) for one in batch.sequences],
            "manager": batch.manager,
        }
        write_sealed(self._file(batch.round, batch.kind), content)

    def read(self, round: int, kind: str) -> Batch | None:
        """The batch of a phase, or None if it was not sent.

        Raises:
            CorruptData: It is damaged.
            ConfigError: Another version wrote it.
        """
        path = self._file(round, kind)
        try:
            content = read_sealed(path)
        except FileNotFoundError:
            return None
        if content["format"] != FORMAT:
            raise ConfigError(f"{path} has the format {content['format']}, this program reads {FORMAT}.")
        return Batch(
            round,
            kind,
            [Asked(*one) for one in content["asked"]],
            [
                SentIns(decode(ins["config"], Parameters({})), _payload_from_json(ins["payload"]), ins["current"])
                for ins in content["instructions"]
            ],
            content["not_asked"],
            [(node_id, kind, count) for node_id, kind, count in content["sequences"]],
            content["manager"],
        )

    def names(self) -> list[tuple[int, str]]:
        """Round and kind of all batches, in their order."""
        found = (_NAME.fullmatch(path.name) for path in self.path.iterdir())
        return sorted((int(name[1]), name[2]) for name in found if name is not None)

    def noted(self, name: tuple[int, str]) -> Batch:
        """A batch that must be there.

        Raises:
            CorruptData: It is missing or damaged.
        """
        batch = self.read(*name)
        if batch is None:
            raise CorruptData(f"{self._file(*name)} is missing. Restore it from a copy, or start a new run.")
        return batch

    def forget(self, round: int, keep: Collection[tuple[int, str]] = ()) -> None:
        """This round and all before it are over, but for some batches of an asynchronous run."""
        for name in self.names():
            if name[0] <= round and name not in keep:
                self._file(*name).unlink(missing_ok=True)

    def _file(self, round: int, kind: str) -> Path:
        return self.path / f"round-{round:06d}-{kind}.json"


def _plain(config: Config) -> Config:
    """Numpy scalars as the Python values as which they are sent."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in config.items()}


def _payload_to_json(payload: Payload) -> Json:
    if isinstance(payload, Blob):
        return {"digest": payload.digest, "size": payload.size}
    return {"inline": base64.b64encode(payload).decode()}


def _payload_from_json(content: Json) -> Payload:
    if "inline" in content:
        return base64.b64decode(content["inline"])
    return Blob(content["digest"], content["size"])
