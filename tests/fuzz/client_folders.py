"""What a client finds in its state directory when it starts: identity, outbox, counts of deaths, the states of runs.

What must hold: ConfigError or CorruptData, or entries that are whole, under ids that name nothing outside; nothing beside the
directory changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from google.protobuf.message import DecodeError

from hedgerow.client.context import load_state, save_state
from hedgerow.client.outbox import About, Outbox
from hedgerow.client.parameter_cache import ParameterCache
from hedgerow.client.state_dir import StateDir
from hedgerow.errors import ConfigError, CorruptData
from hedgerow.wire.convert import check_id
from hedgerow.wire.proto import records_pb2, worker_pb2
from tests.fuzz.files import Folder, changed_json, mutated_files, read_files, write_files
from tests.fuzz.mutation import TEXTS, Choices, mutated_bytes, mutated_message
from tests.fuzz.parser import Parser

TASK, OTHER_TASK, RUN = "task000000000001", "task000000000002", "run0000000000001"
REPLY = records_pb2.Reply(outcome=records_pb2.OUTCOME_OK, num_examples=3, message="fine")
VICTIM = "../../beside/victim"


def _valid() -> dict[str, bytes | None]:
    with TemporaryDirectory() as name:
        state = StateDir.open(Path(name) / "client")
        outbox = Outbox(state)
        for task_id, with_parameters in ((TASK, True), (OTHER_TASK, False)):
            parameters, kept = state.work_path(task_id, "result"), state.work_path(task_id, "state")
            parameters.write_bytes(b"tensors")
            save_state({"steps": 3, "w": np.arange(3.0)}, kept)
            outbox.put(About(task_id, RUN, "fit", 1, "driver/ann"), REPLY, parameters if with_parameters else None, kept)
        # As a client leaves it that died between the entry's rename and the state's.
        state.run_state_path(RUN).rename(state.path / "outbox" / f"{TASK}.state")
        outbox.accepted(TASK, "server")
        state.count_death(TASK)
        save_state({"steps": 3, "w": np.arange(3.0)}, state.run_state_path("run0000000000002"))
        (state.path / "parameters" / ("0" * 64)).write_bytes(b"x")
        state.close()
        return read_files(state.path)


FILES = _valid()
NAMES = (
    *(f"outbox/{TASK}{ending}" for ending in ("", "", "", ".parameters", ".state", ".accepted")),
    *("outbox", "outbox/.hidden", f"outbox/{OTHER_TASK}", f"outbox/{OTHER_TASK}.parameters", "identity.json", "identity.json"),
    *("runs/run0000000000002.state", f"deaths/{TASK}", "deaths", "runs", "work", "parameters", "parameters/" + "0" * 64, "lock"),
)
ENTRY_TEXTS = (*TEXTS, TASK, RUN, VICTIM, "../beside/victim")


def _changed_entry(choices: Choices, content: bytes) -> bytes:
    """Another result under a digest that fits."""
    body = content[hashlib.sha256().digest_size :]
    with suppress(DecodeError):
        body = mutated_message(choices, worker_pb2.KeptResult.FromString(body), ENTRY_TEXTS).SerializeToString()
    if choices.chance(4):
        body = mutated_bytes(choices, [body])
    return hashlib.sha256(body).digest() + body


def _changed_state(choices: Choices, content: bytes) -> bytes:
    return mutated_bytes(choices, [content], (b"hedgerow-state-1", b"steps", b"w", b"\x12\x05steps"))


def make(choices: Choices) -> Folder:
    """The state directory with some files changed."""
    sound = {TASK: _changed_entry, ".json": changed_json, ".state": _changed_state}
    return mutated_files(choices, FILES, NAMES, sound)


def read(path: Path) -> None:
    """All that a client reads when it starts and takes up a run.

    Raises:
        ConfigError: The directory cannot be used.
        CorruptData: The state of a run is damaged.
    """
    state = StateDir.open(path)
    try:
        assert isinstance(state.identity.id, str)
        state.identity.metadata()
        outbox = Outbox(state)
        ParameterCache(path / "parameters")
        for entry in outbox:
            check_id("task_id", entry.task_id)
            check_id("run_id", entry.run_id)
            check_id("upload_id", entry.upload_id)
            assert isinstance(entry.label, str)
            assert isinstance(entry.accepted_by, str)
            if entry.parameters is not None:
                assert entry.parameters.stat().st_size == entry.size
            entry.reply.SerializeToString()
            assert state.deaths(entry.task_id) >= 0
            outbox.accepted(entry.task_id, "another")
            outbox.send_again(entry.task_id)
            if entry.parameters is None:
                outbox.to_file(entry)
            outbox.remove(entry.task_id)
        for file in (path / "runs").iterdir():
            load_state(file)
    finally:
        state.close()


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[Folder], None]]:
    beside = folder / "beside"
    write_files(beside, {"victim.state": b"x", "victim/file": b"y"})
    known = read_files(beside)

    def check(case: Folder) -> None:
        path = folder / "client"
        write_files(path, case.files)
        try:
            read(path)
        except (ConfigError, CorruptData) as error:
            assert len(str(error)) < 4000, "a message that repeats what came without a bound"
        assert sorted(one.name for one in folder.iterdir()) == ["beside", "client"]
        assert read_files(beside) == known

    yield check


PARSER = Parser("outbox", ("hedgerow.client.outbox", "hedgerow.client.state_dir", "hedgerow.client.context"), make, _open)
