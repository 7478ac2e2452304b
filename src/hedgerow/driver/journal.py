"""What was asked in the round that is not over, noted on disk before it is sent, and who was left out when a phase was closed.

A driver that takes a run up again asks the same nodes the same things: it does not configure again what may have been sent. Tasks
have ids that follow from the run, so that sending them once more changes nothing. And it folds what was folded before: who was
late stays late, although the answer may be at the server by now.

Owned here: one file for each batch (``round-000003-fit.json``) and one more when it is closed (``round-000003-fit-closed.json``).
When the machine dies (not the driver alone), the last files may be gone as if that phase had not been sent; it is configured
anew.
Parameters are not kept: those that are the run's current ones are in the checkpoint, or come out of the fold again; others are
fetched from the server.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from hedgerow.driver.durable import Json, of_type, read_sealed, unpacking, write_sealed
from hedgerow.driver.state_codec import Encoder, decode
from hedgerow.errors import ConfigError, CorruptData
from hedgerow.records import Blob, Config, Parameters, Payload
from hedgerow.wire.convert import check_digest

FORMAT = 2
T = TypeVar("T")
_CLOSED = "-closed"
_NAME = re.compile(r"round-(\d{6,})-(fit|evaluate|fit-\d{6,})(-closed)?\.json")


@dataclass(frozen=True, slots=True)
class Asked:
    """One instruction to one node. ``ins`` is the instruction's place in the batch's list."""

    node_id: str
    name: str
    ins: int


@dataclass(frozen=True, slots=True)
class SentIns:
    """An instruction.

    ``current`` says whether its parameters were the run's own at that time, ``transport_dtype`` in which 16-bit float they
    travelled ("" for none).
    """

    config: Config
    payload: Payload
    current: bool
    transport_dtype: str = ""


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


@dataclass(frozen=True, slots=True)
class Unfolded:
    """A client that was asked and gave nothing that was folded.

    Attributes:
        index: Its place among those that were asked.
        reason: Why, in one word.
        message: Why, for people.
        bytes: Size of the parameters that it gave; None where it gave none.
        seconds: What it took at the client; None where that is not known.
    """

    index: int
    reason: str
    message: str
    bytes: int | None = None
    seconds: float | None = None


class Journal:
    """The batches of one run's folder.

    Args:
        path: The folder of the journal's own.
        run_id: The run; a file of another one is refused.
    """

    def __init__(self, path: Path, run_id: str = "") -> None:
        self.path = path
        self._run_id = run_id

    def write(self, batch: Batch) -> None:
        """Note a batch that is about to be sent.

        Raises:
            InvalidArgument: A config holds something that cannot be sent.
        """
        encoder = Encoder()
        content = {
            "format": FORMAT,
            "run_id": self._run_id,
            "asked": [[one.node_id, one.name, one.ins] for one in batch.asked],
            "instructions": [
                {
                    "config": encoder.encode(_plain(ins.config), "config"),
                    "payload": _payload_to_json(ins.payload),
                    "current": ins.current,
                    "transport_dtype": ins.transport_dtype,
                }
                for ins in batch.instructions
            ],
            "not_asked": list(batch.not_asked),
            "sequences": [list(one) for one in batch.sequences],
            "manager": batch.manager,
        }
        write_sealed(self._file(batch.round, batch.kind), content, sync_name=False)

    def read(self, round: int, kind: str) -> Batch | None:
        """The batch of a phase, or None if it was not sent.

        Raises:
            CorruptData: It is damaged.
            ConfigError: Another run's driver or another version wrote it.
        """
        return self._read(self._file(round, kind), lambda content: _batch_from_json(round, kind, content))

    def close(self, round: int, kind: str, unfolded: Sequence[Unfolded]) -> None:
        """Note that a phase has all answers that it will have, and who is not among those that are folded."""
        rows = [[one.index, one.reason, one.message, one.bytes, one.seconds] for one in unfolded]
        content = {"format": FORMAT, "run_id": self._run_id, "unfolded": rows}
        write_sealed(self._file(round, kind + _CLOSED), content, sync_name=False)

    def closed(self, round: int, kind: str) -> list[Unfolded] | None:
        """Who was asked in a phase and left out of the fold, or None if the phase was not closed.

        Raises:
            CorruptData: The note is damaged.
            ConfigError: Another run's driver or another version wrote it.
        """
        path = self._file(round, kind + _CLOSED)
        return self._read(path, lambda content: [_unfolded(*row) for row in content["unfolded"]])

    def check(self) -> None:
        """See whether all of it can be read.

        Raises:
            CorruptData: A file is damaged.
            ConfigError: A file is another run's or somebody else's, or another version wrote it.
        """
        known = set()
        for round, kind, closed, path in self._files():
            known.add(path)
            read = self.closed if closed else self.read
            read(round, kind)
        for path in sorted(set(self.path.iterdir()) - known):
            raise ConfigError(f"{path} is no file of a run's journal. Put it elsewhere: this folder is the driver's own.")

    def payloads(self) -> list[Payload]:
        """What all instructions that are noted name."""
        return [ins.payload for name in self.names() for ins in self.noted(name).instructions]

    def names(self) -> list[tuple[int, str]]:
        """Round and kind of all batches, in their order."""
        return sorted((round, kind) for round, kind, closed, _ in self._files() if not closed)

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
        for at, kind, _, path in self._files():
            if at <= round and (at, kind) not in keep:
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[int, str, bool, Path]]:
        for path in sorted(self.path.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found is not None:
                yield int(found[1]), found[2], found[3] is not None, path

    def _read(self, path: Path, make: Callable[[Json], T]) -> T | None:
        try:
            content = read_sealed(path)
        except FileNotFoundError:
            return None
        with unpacking(path):
            if content["format"] == FORMAT and content["run_id"] == self._run_id:
                return make(content)
            if content["format"] == FORMAT:
                raise ConfigError(
                    f"{path} belongs to the run {content['run_id']!s:.80}, not to {self._run_id}. Use the run's own folder."
                )
            raise ConfigError(
                f"{path} has the format {content['format']!s:.40}, this program reads {FORMAT}. Use the program that made it."
            )

    def _file(self, round: int, kind: str) -> Path:
        return self.path / f"round-{round:06d}-{kind}.json"


def _batch_from_json(round: int, kind: str, content: Json) -> Batch:
    instructions = [_sent_ins(**ins) for ins in content["instructions"]]
    asked = [Asked(of_type(node_id, str), of_type(name, str), of_type(ins, int)) for node_id, name, ins in content["asked"]]
    if any(one.ins >= len(instructions) for one in asked):
        raise ValueError(f"an instruction that is not among the {len(instructions)}")
    not_asked = [of_type(name, str) for name in content["not_asked"]]
    sequences = [(of_type(node, str), of_type(what, str), of_type(count, int)) for node, what, count in content["sequences"]]
    manager = {name: of_type(value, int) for name, value in content["manager"].items()}
    return Batch(round, kind, asked, instructions, not_asked, sequences, manager)


def _sent_ins(config: Json, payload: Json, current: Json, transport_dtype: Json) -> SentIns:
    values = of_type(decode(config, Parameters({})), dict)
    return SentIns(values, _payload_from_json(payload), of_type(current, bool), of_type(transport_dtype, str))


def _unfolded(index: Json, reason: Json, message: Json, size: Json, seconds: Json) -> Unfolded:
    """A row as it was written; only the last two may be None."""
    if seconds is not None and type(seconds) not in (int, float):
        raise TypeError(f"{seconds!r:.80} instead of seconds")
    known_size = None if size is None else of_type(size, int)
    return Unfolded(of_type(index, int), of_type(reason, str), of_type(message, str), known_size, seconds)


def _plain(config: Config) -> Config:
    """Numpy scalars as the Python values as which they are sent."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in config.items()}


def _payload_to_json(payload: Payload) -> Json:
    if isinstance(payload, Blob):
        return {"digest": payload.digest, "size": payload.size}
    return {"inline": base64.b64encode(payload).decode()}


def _payload_from_json(content: Json) -> Payload:
    if "inline" in content:
        return base64.b64decode(content["inline"], validate=True)
    return Blob(check_digest(content["digest"]), of_type(content["size"], int))
