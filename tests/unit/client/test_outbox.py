"""Finished results on disk."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgerow.client.outbox import About, Outbox
from hedgerow.client.state_dir import StateDir
from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.wire.proto import records_pb2, worker_pb2

TASK = "a" * 32
ABOUT = About(TASK, "run00001", "fit", 3, "hedgerow://driver/ann")
REPLY = records_pb2.Reply(outcome=records_pb2.OUTCOME_OK, num_examples=3)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDir]:
    opened = StateDir.open(tmp_path / "client")
    yield opened
    opened.close()


def file(state: StateDir, content: bytes) -> Path:
    path = state.work_path(TASK, "result")
    path.write_bytes(content)
    return path


def put(state: StateDir, content: bytes = b"tensors") -> Outbox:
    outbox = Outbox(state)
    outbox.put(ABOUT, REPLY, file(state, content), None)
    return outbox


def test_an_entry_survives_a_restart(state: StateDir) -> None:
    before = put(state).get(TASK)
    after = Outbox(state).get(TASK)
    assert after == before
    assert after is not None
    assert after.parameters is not None
    assert after.parameters.read_bytes() == b"tensors"
    assert after.reply == REPLY


def test_parameters_are_moved_not_copied(state: StateDir) -> None:
    put(state)
    assert list((state.path / "work").iterdir()) == []


def test_an_entry_without_parameters_survives_too(state: StateDir) -> None:
    Outbox(state).put(ABOUT, REPLY, None, None)
    entry = Outbox(state).get(TASK)
    assert entry is not None
    assert entry.parameters is None


def _truncate_parameters(entry: Path) -> None:
    entry.with_name(f"{TASK}.parameters").write_bytes(b"ten")


def _remove_parameters(entry: Path) -> None:
    entry.with_name(f"{TASK}.parameters").unlink()


def _empty(entry: Path) -> None:
    entry.write_bytes(b"")


def _cut(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:-1])


def _change_a_byte(entry: Path) -> None:
    data = bytearray(entry.read_bytes())
    data[-3] ^= 1
    entry.write_bytes(data)


def _no_message(entry: Path) -> None:
    body = b"\xff\xff"
    entry.write_bytes(hashlib.sha256(body).digest() + body)


def _remove_entry(entry: Path) -> None:
    entry.unlink()


def _hide(entry: Path) -> None:
    entry.rename(entry.with_name("." + entry.name))


@pytest.mark.parametrize(
    "damage", [_truncate_parameters, _remove_parameters, _empty, _cut, _change_a_byte, _no_message, _remove_entry, _hide]
)
def test_a_half_written_entry_is_removed_at_start(
    state: StateDir, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    put(state)
    damage(state.path / "outbox" / TASK)
    outbox = Outbox(state)
    assert len(outbox) == 0
    assert list((state.path / "outbox").iterdir()) == []
    assert "half-written" in caplog.text


def test_a_full_disk_leaves_the_files_for_another_try(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, result = Outbox(state), file(state, b"tensors")

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            outbox.put(ABOUT, REPLY, result, None)
    assert TASK not in outbox
    assert outbox.put(ABOUT, REPLY, result, None).size == 7


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_whichever_rename_fails_another_try_keeps_parameters_and_state(
    state: StateDir, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, result, new_state = Outbox(state), file(state, b"tensors"), state.work_path(TASK, "state")
    new_state.write_bytes(b"new")
    calls, rename = [], Path.rename

    def broken(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", broken)
        with pytest.raises(OSError, match="No space left"):
            outbox.put(ABOUT, REPLY, result, new_state)
    assert not state.run_state_path("run00001").exists(), "the state changes with the result, not before it"
    entry = outbox.put(ABOUT, REPLY, result, new_state)
    assert entry.parameters is not None
    assert entry.parameters.read_bytes() == b"tensors"
    assert state.run_state_path("run00001").read_bytes() == b"new"
    assert Outbox(state).get(TASK) == entry


def test_a_death_before_the_result_was_kept_changes_no_state(state: StateDir) -> None:
    state.run_state_path("run00001").write_bytes(b"old")
    (state.path / "outbox" / f"{TASK}.state").write_bytes(b"new")
    assert len(Outbox(state)) == 0
    assert state.run_state_path("run00001").read_bytes() == b"old"


class Killed(BaseException):
    """The process ends here."""


@contextlib.contextmanager
def fails_at(step: int, error: BaseException) -> Iterator[list[str]]:
    """What changes the disk fails at this step, counted from 0; gives the steps that were begun."""
    steps: list[str] = []

    def guarded(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            steps.append(name)
            if len(steps) == step + 1:
                raise error
            return change(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "write_bytes", "rename", "unlink"):
            patch.setattr(Path, name, guarded(name, getattr(Path, name)))
        yield steps


FULL = OSError(28, "No space left on device")
STEPS = 6
"""So many has an entry with parameters and a state."""


@pytest.mark.parametrize("step", range(STEPS))
def test_wherever_the_disk_fails_another_try_keeps_the_result_and_the_state(state: StateDir, step: int) -> None:
    state.run_state_path("run00001").write_bytes(b"old")
    outbox, result, new_state = Outbox(state), file(state, b"tensors"), state.work_path(TASK, "state")
    new_state.write_bytes(b"new")
    with fails_at(step, FULL) as steps, contextlib.suppress(OSError):
        outbox.put(ABOUT, REPLY, result, new_state)
    assert len(steps) == step + 1, "one step more fails each time"
    entry = outbox.put(ABOUT, REPLY, result, new_state)
    assert entry.parameters is not None
    assert entry.parameters.read_bytes() == b"tensors"
    assert state.run_state_path("run00001").read_bytes() == b"new"
    assert Outbox(state).get(TASK) == entry


@pytest.mark.parametrize("step", range(STEPS))
def test_wherever_the_client_dies_it_has_the_whole_result_with_its_state_or_neither(state: StateDir, step: int) -> None:
    state.run_state_path("run00001").write_bytes(b"old")
    outbox, result, new_state = Outbox(state), file(state, b"tensors"), state.work_path(TASK, "state")
    new_state.write_bytes(b"new")
    with fails_at(step, Killed()), pytest.raises(Killed):
        outbox.put(ABOUT, REPLY, result, new_state)
    entry = Outbox(state).get(TASK)
    kept = state.run_state_path("run00001").read_bytes()
    if entry is None:
        assert kept == b"old"
    else:
        assert entry.parameters is not None
        assert (entry.parameters.read_bytes(), kept) == (b"tensors", b"new")
    assert sorted(path.name for path in (state.path / "outbox").iterdir()) == (
        [] if entry is None else [TASK, f"{TASK}.parameters"]
    )


@pytest.mark.parametrize("step", range(2))
@pytest.mark.parametrize("error", [FULL, Killed()])
def test_until_a_failure_has_taken_its_place_a_refused_result_is_there(state: StateDir, step: int, error: BaseException) -> None:
    outbox, failure = put(state), records_pb2.Reply(outcome=records_pb2.OUTCOME_INVALID_RESULT)
    with fails_at(step, error), pytest.raises(type(error)):
        outbox.put(ABOUT, failure, None, None)
    entry = Outbox(state).get(TASK)
    assert entry is not None
    assert entry.reply == REPLY
    assert entry.parameters is not None
    assert entry.parameters.read_bytes() == b"tensors"


def test_a_result_whose_file_is_gone_is_told_and_not_tried_for_ever(state: StateDir) -> None:
    with pytest.raises(CorruptData, match="not there any longer"):
        Outbox(state).put(ABOUT, REPLY, state.work_path(TASK, "result"), None)


def test_notes_that_do_not_fit_on_the_disk_end_nobody(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = put(state)

    def full(*args: object, **kwargs: object) -> int:
        raise FULL

    with monkeypatch.context() as patch:
        for name in ("write_text", "unlink", "replace"):
            patch.setattr(Path, name, full)
        outbox.accepted(TASK, "server1")
        entry = outbox.get(TASK)
        assert entry is not None
        assert entry.accepted_by == "server1"
        outbox.send_again(TASK)
        entry = outbox.get(TASK)
        assert entry is not None
        assert entry.accepted_by == ""
        outbox.remove(TASK)
        assert TASK not in outbox
    assert TASK in Outbox(state), "it is sent once more, which changes nothing"


def test_the_runs_state_changes_together_with_the_result(state: StateDir) -> None:
    outbox = Outbox(state)
    new_state = state.work_path(TASK, "state")
    new_state.write_bytes(b"new")
    outbox.put(ABOUT, REPLY, None, new_state)
    assert state.run_state_path("run00001").read_bytes() == b"new"


def test_a_death_right_after_the_result_was_kept_loses_no_state(state: StateDir) -> None:
    put(state)
    (state.path / "outbox" / f"{TASK}.state").write_bytes(b"new")
    Outbox(state)
    assert state.run_state_path("run00001").read_bytes() == b"new"


def test_what_a_server_accepted_is_remembered(state: StateDir) -> None:
    put(state).accepted(TASK, "server1")
    entry = Outbox(state).get(TASK)
    assert entry is not None
    assert entry.accepted_by == "server1"


def test_small_parameters_stay_in_the_reply_and_move_to_a_file_on_demand(state: StateDir) -> None:
    reply = records_pb2.Reply(outcome=records_pb2.OUTCOME_OK, parameters=records_pb2.Payload(inline=b"tensors"))
    outbox = Outbox(state)
    entry = outbox.put(ABOUT, reply, None, None)
    assert Outbox(state).get(TASK) == entry
    assert [path.name for path in (state.path / "outbox").iterdir()] == [TASK], "one file"
    moved = outbox.to_file(entry)
    assert moved.parameters is not None
    assert (moved.parameters.read_bytes(), moved.size) == (b"tensors", 7)
    assert not moved.reply.HasField("parameters")
    assert Outbox(state).get(TASK) == moved


def test_sending_again_uses_a_fresh_upload(state: StateDir) -> None:
    outbox = put(state)
    before = outbox.get(TASK)
    outbox.accepted(TASK, "server1")
    outbox.send_again(TASK)
    after = Outbox(state).get(TASK)
    assert before is not None
    assert after is not None
    assert after.upload_id != before.upload_id
    assert after.accepted_by == ""


def test_a_failure_takes_the_place_of_a_refused_result(state: StateDir) -> None:
    failure = records_pb2.Reply(outcome=records_pb2.OUTCOME_INVALID_RESULT)
    put(state).put(ABOUT, failure, None, None)
    entry = Outbox(state).get(TASK)
    assert entry is not None
    assert entry.reply == failure
    assert entry.parameters is None


def test_a_removed_entry_is_gone_and_removing_twice_is_the_same(state: StateDir) -> None:
    outbox = put(state)
    outbox.remove(TASK)
    outbox.remove(TASK)
    assert TASK not in outbox
    assert list((state.path / "outbox").iterdir()) == []


@pytest.mark.parametrize("name", [".", "..", "", "/", "../victim", "../../victim", "a/../../../victim", "a" * 300])
def test_an_id_that_names_another_place_is_refused_and_nothing_is_touched(state: StateDir, name: str) -> None:
    outbox = put(state)
    victim = state.path.parent / "victim"
    victim.write_bytes(b"x")
    for task_id, run_id in ((name, "run00001"), ("task00000001", name)):
        with pytest.raises(InvalidArgument, match="8 to 64 letters and digits"):
            outbox.put(replace(ABOUT, task_id=task_id, run_id=run_id), REPLY, None, None)
    assert victim.read_bytes() == b"x"
    assert {path.name for path in (state.path / "outbox").iterdir()} == {TASK, f"{TASK}.parameters"}


@pytest.mark.parametrize("field", ["run_id", "upload_id"])
def test_an_entry_with_an_id_that_names_another_place_is_removed_at_start(state: StateDir, field: str) -> None:
    put(state)
    entry = state.path / "outbox" / TASK
    kept = worker_pb2.KeptResult.FromString(entry.read_bytes()[32:])
    setattr(kept, field, "../../victim")
    body = kept.SerializeToString()
    entry.write_bytes(hashlib.sha256(body).digest() + body)
    assert len(Outbox(state)) == 0
    assert list((state.path / "outbox").iterdir()) == []


@pytest.mark.parametrize("name", [TASK, "zzz", ".hidden"])
def test_a_folder_in_the_outbox_is_removed_at_start(state: StateDir, name: str) -> None:
    (state.path / "outbox" / name).mkdir()
    (state.path / "outbox" / name / "file").touch()
    assert len(Outbox(state)) == 0
    assert list((state.path / "outbox").iterdir()) == []
