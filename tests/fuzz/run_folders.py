"""What a driver that takes up a run reads: the run's folder, its checkpoint, its journal.

What must hold: CorruptData or ConfigError, or values of the types that the driver works with; nothing beside the folder changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import blake3
import numpy as np

from hedgerow.driver.checkpoint import Checkpoint
from hedgerow.driver.durable import seal
from hedgerow.driver.history import History, NodeFailure
from hedgerow.driver.journal import Asked, Batch, SentIns, Unfolded
from hedgerow.driver.run_folder import RunFolder, RunRecord
from hedgerow.errors import ConfigError, CorruptData
from hedgerow.records import Blob, Parameters
from hedgerow.security import Identity, Role
from tests.fuzz.files import Folder, changed_json, changed_sealed, mutated_files, read_files, write_files
from tests.fuzz.mutation import Choices
from tests.fuzz.parser import Parser

RUN = "run0000000000001"
STATE = "checkpoints/round-000001/state.json"
TENSORS = tuple(f"checkpoints/round-000001/{name}.safetensors" for name in ("parameters", "strategy"))
SOUND = {"manifest.jsonl": changed_json, ".json": changed_sealed}


def _valid() -> dict[str, bytes | None]:
    """The files of a run that died in its second round."""
    history = History()
    history.add_loss_distributed(1, 0.5)
    history.add_metrics_centralized(1, {"accuracy": 0.5, "raw": b"x"})
    history.add_failures(1, [NodeFailure("fit", "b", "late", "no answer")])
    strategy = {"momentum": [np.arange(3.0), np.float32(1.5)], "pair": (1, "x"), "model": Parameters([np.ones(2)]), "none": None}
    with TemporaryDirectory() as name:
        folder = RunFolder.create(
            Path(name) / "run", RunRecord(RUN, "a run", 7, Identity(Role.DRIVER, "d" * 16, "s" * 64), "server")
        )
        parameters = Parameters([np.arange(4, dtype=np.float32)])
        told = {"manifest": '{"round": 1}', "pending": [(1, "fit-000001")]}
        made = Checkpoint(1, parameters, "FedAvg", strategy, history.state_dict(), **told)  # type: ignore[arg-type]
        folder.write_checkpoint(folder.prepare_checkpoint(made, 5))
        asked = [Asked("n" * 16, "a", 0), Asked("m" * 16, "b", 1)]
        instructions = [SentIns({"rate": 0.5, "raw": b"x"}, b"inline", True), SentIns({}, Blob("0" * 64, 9), False)]
        folder.journal.write(Batch(2, "fit", asked, instructions, ["c"], [("n" * 16, "fit", 1)], {"choices": 3}))
        folder.journal.write(Batch(2, "fit-000003", asked[:1], instructions[:1]))
        folder.journal.close(2, "fit", [Unfolded(1, "late", "no answer", 9, 1.5)])
        folder.close()
        return read_files(folder.path)


FILES = _valid()
JOURNAL_FILES = tuple(name for name in FILES if name.startswith("tasks/"))


def _make(names: Sequence[str]) -> Callable[[Choices], Folder]:
    def make(choices: Choices) -> Folder:
        case = mutated_files(choices, FILES, names, SOUND)
        return _with_fitting_digests(choices, case) if choices.below(2) else case

    return make


def _with_fitting_digests(choices: Choices, case: Folder) -> Folder:
    """The state names the sizes and digests that changed tensors have."""
    try:
        content = json.loads(json.loads(case.files[STATE] or b"")["content"])
        for name in TENSORS:
            data = case.files[name] or b""
            content["files"][Path(name).stem] = {"size": len(data), "blake3_256": blake3.blake3(data).hexdigest()}
        return Folder(case.files | {STATE: seal(content)}, (*case.changed, STATE))  # type: ignore[operator]
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError):
        return case


def read(path: Path) -> None:
    """All that a driver reads when it takes up the run.

    Raises:
        CorruptData: Something is damaged.
        ConfigError: Something is another's.
    """
    folder = RunFolder.open(path)
    try:
        record = folder.record
        assert all(isinstance(text, str) for text in (record.run_id, record.name, record.server_id))
        assert all(isinstance(text, str) for text in (record.identity.id, record.identity.secret))
        assert type(record.seed) is int
        record.identity.metadata()
        checkpoint = folder.read_checkpoint()
        assert all(isinstance(folder.journal.noted(name), Batch) for name in folder.journal.names())
        if checkpoint is not None:
            _check(checkpoint)
        for batch in filter(None, (folder.journal.read(2, kind) for kind in ("fit", "evaluate"))):
            _check_batch(batch)
            for row in folder.journal.closed(2, batch.kind) or ():
                assert type(row.index) is int
                assert isinstance(row.reason, str)
                assert isinstance(row.message, str)
                assert row.bytes is None or type(row.bytes) is int
                assert row.seconds is None or isinstance(row.seconds, int | float)
        folder.journal.payloads()
    finally:
        folder.close()


def _check(checkpoint: Checkpoint) -> None:
    for number in (checkpoint.round, checkpoint.cursor, checkpoint.manifest_bytes):
        assert type(number) is int
        assert number >= 0
    assert all(type(server_round) is int and isinstance(key, str) for server_round, key in checkpoint.pending)
    assert isinstance(checkpoint.strategy, str)
    assert isinstance(checkpoint.manifest, str)
    assert isinstance(checkpoint.parameters, Parameters)
    assert isinstance(checkpoint.strategy_state, dict)
    history = History()
    history.load_state_dict(checkpoint.history)
    repr(history)


def _check_batch(batch: Batch) -> None:
    assert all(isinstance(one.node_id, str) and isinstance(one.name, str) for one in batch.asked)
    assert all(0 <= one.ins < len(batch.instructions) for one in batch.asked)
    for ins in batch.instructions:
        assert isinstance(ins.config, dict)
        assert isinstance(ins.payload, bytes | Blob)
        assert type(ins.current) is bool
    assert all(isinstance(name, str) for name in batch.not_asked)
    assert all(isinstance(node_id, str) and isinstance(kind, str) and count >= 0 for node_id, kind, count in batch.sequences)
    assert isinstance(batch.manager, dict)


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[Folder], None]]:
    beside = folder / "beside"
    write_files(beside, {"victim/file": b"x", "manifest.jsonl": b"y"})
    known = read_files(beside)

    def check(case: Folder) -> None:
        path = folder / "run"
        write_files(path, case.files)
        try:
            read(path)
        except (CorruptData, ConfigError) as error:
            assert len(str(error)) < 4000, "a message that repeats what came without a bound"
        assert sorted(one.name for one in folder.iterdir()) == ["beside", "run"]
        assert read_files(beside) == known

    yield check


def _parser(name: str, names: Sequence[str], *modules: str) -> Parser:
    return Parser(name, tuple(f"hedgerow.driver.{module}" for module in modules), _make(names), _open)


CHECKPOINT = _parser("checkpoint", (STATE, *TENSORS), "checkpoint", "durable", "state_codec", "history")
RUN_FOLDER = _parser("run_folder", ("run.json", "manifest.jsonl", "checkpoints", "tasks", STATE), "run_folder")
JOURNAL = _parser("journal", JOURNAL_FILES, "journal")
