"""Checkpoints and the run's folder: what comes back, what is refused, and that nothing half-written counts."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hedgerow.driver import checkpoint as checkpoints
from hedgerow.driver.checkpoint import Checkpoint
from hedgerow.driver.durable import read_sealed, write_sealed
from hedgerow.driver.history import History, NodeFailure
from hedgerow.driver.parameter_files import MIN_BYTES, PREFIX, ParameterFiles
from hedgerow.driver.run_folder import RunFolder, RunRecord
from hedgerow.errors import ConfigError, CorruptData, InvalidArgument
from hedgerow.records import Parameters
from hedgerow.security import Identity, Role
from hedgerow.wire import tensors

RECORD = RunRecord("run00000001", "demo", 2**64 - 1, Identity.fresh(Role.DRIVER))
MODEL = Parameters({"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, ml_dtypes.bfloat16)})


def checkpoint(round: int = 1, **changes: Any) -> Checkpoint:
    state = {"velocity": MODEL, "step": 3, "rates": (0.1, np.float32(0.2)), "mask": np.array([True, False]), "note": None}
    return replace(Checkpoint(round, MODEL, "FedAvgM", state, History().state_dict()), **changes)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", RECORD)


def again(folder: RunFolder) -> RunFolder:
    folder.close()
    return RunFolder.open(folder.path)


def test_checkpoint_comes_back_as_it_was(folder: RunFolder) -> None:
    folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(7), cursor=42))
    found = again(folder).read_checkpoint()
    assert found is not None
    assert (found.round, found.strategy, found.run_id, found.cursor) == (7, "FedAvgM", RECORD.run_id, 42)
    assert tensors.dumps(found.parameters) == tensors.dumps(MODEL)
    state = found.strategy_state
    assert tensors.dumps(state.pop("velocity")) == tensors.dumps(MODEL)
    assert state.pop("mask").tolist() == [True, False]
    assert state == {"step": 3, "rates": (0.1, np.float32(0.2)), "note": None}
    assert type(state["rates"][1]) is np.float32


def test_history_comes_back_as_it_was(folder: RunFolder) -> None:
    history = History()
    history.add_loss_centralized(0, float("nan"))
    history.add_loss_distributed(1, 0.1 + 0.2)
    history.add_metrics_distributed_fit(1, {"raw": b"\0", "n": 2**62, "text": "é", "flag": True})
    history.add_failures(1, [NodeFailure("fit", "a", "late", "no answer")])
    folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(history=history.state_dict()), 0))
    found = again(folder).read_checkpoint()
    assert found is not None
    loaded = History()
    loaded.load_state_dict(found.history)
    assert repr(loaded) == repr(history)
    loaded.add_failures(1, [NodeFailure("fit", "b", "late", "no answer")])
    assert len(history.failures[1]) == 1


def test_run_comes_back_as_the_same_run_and_its_secret_is_the_owners_alone(folder: RunFolder) -> None:
    folder.note_server("server01")
    assert stat.S_IMODE((folder.path / "run.json").stat().st_mode) == 0o600
    assert again(folder).record == replace(RECORD, server_id="server01")


def test_only_the_newest_checkpoint_is_kept(folder: RunFolder) -> None:
    for round in (0, 1, 2):
        folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(round), 0))
    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == ["round-000002"]


def test_folder_without_checkpoint_starts_at_the_beginning(folder: RunFolder) -> None:
    assert again(folder).read_checkpoint() is None


def test_checkpoint_that_was_not_finished_does_not_count(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(1), 0))

    def dies(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "rename", dies)
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # a process that dies tidies nothing up
        with pytest.raises(KeyboardInterrupt):
            folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(2), 0))
    reopened = again(folder)
    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == ["round-000001"]
    found = reopened.read_checkpoint()
    assert found is not None
    assert found.round == 1


@pytest.mark.parametrize("name", ["parameters.safetensors", "strategy.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damaged_checkpoint_is_refused_by_name(folder: RunFolder, name: str, damage: str) -> None:
    folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(), 0))
    path = folder.path / "checkpoints" / "round-000001" / name
    data = bytearray(path.read_bytes())
    match damage:
        case "flipped":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[:-1] if name != "state.json" else data[: len(data) // 2])
        case _:
            path.unlink()
    with pytest.raises(CorruptData, match=name):
        again(folder).read_checkpoint()


def test_damaged_run_file_is_refused(folder: RunFolder) -> None:
    path = folder.path / "run.json"
    path.write_text(path.read_text().replace("demo", "dome"))
    with pytest.raises(CorruptData, match=r"run.json is damaged"):
        again(folder)


def test_checkpoint_of_another_run_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    other = RunFolder.create(tmp_path / "other", replace(RECORD, run_id="run00000002"))
    other.write_checkpoint(other.prepare_checkpoint(checkpoint(), 0))
    (other.path / "checkpoints" / "round-000001").rename(folder.path / "checkpoints" / "round-000001")
    with pytest.raises(ConfigError, match="belongs to the run run00000002, not to run00000001"):
        again(folder).read_checkpoint()


def test_folder_that_holds_a_run_is_not_used_for_another(folder: RunFolder) -> None:
    folder.close()
    with pytest.raises(ConfigError, match="holds a run already"):
        RunFolder.create(folder.path, RECORD)


def test_folder_with_files_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    model = tmp_path / "checkpoints" / "best.safetensors"
    model.parent.mkdir()
    model.write_bytes(b"months of training")
    with pytest.raises(ConfigError, match="in use for something else"):
        RunFolder.create(tmp_path, RECORD)
    assert model.read_bytes() == b"months of training"


def test_folder_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        RunFolder.open(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_folder_has_one_driver_at_a_time(folder: RunFolder) -> None:
    with pytest.raises(ConfigError, match="Another driver works in"):
        RunFolder.open(folder.path)


def test_state_that_cannot_be_kept_is_refused_and_the_last_checkpoint_stays(folder: RunFolder) -> None:
    folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(1), 0))
    with pytest.raises(InvalidArgument, match=r"state_dict\(\)\['a'\]\[1\] has the type object"):
        folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(2, strategy_state={"a": [1, object()]}), 0))
    assert [path.name for path in (folder.path / "checkpoints").iterdir()] == ["round-000001"]


def test_manifest_is_cut_to_what_the_checkpoint_knows(folder: RunFolder) -> None:
    folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(1, manifest='{"round": 1}'), 0))
    path = folder.path / "manifest.jsonl"
    with path.open("a") as file:
        file.write('{"round": 2}\n{"half')
    found = again(folder).read_checkpoint()
    assert found is not None
    assert found.manifest == '{"round": 1}'
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"round": 1}]


def test_manifest_that_lost_lines_is_refused(folder: RunFolder) -> None:
    folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(1, manifest='{"round": 1}'), 0))
    (folder.path / "manifest.jsonl").unlink()
    with pytest.raises(CorruptData, match=r"manifest.jsonl has 0 bytes"):
        again(folder).read_checkpoint()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("format", None),
            ("run_id", 5),
            ("round", -1),
            ("round", True),
            ("round", "1"),
            ("strategy", None),
            ("strategy_state", []),
        ),
        *(
            ("strategy_state", {"array": 99}),
            ("strategy_state", {"dict": [[{"dict": []}, 1]]}),
            ("history", {"dict": []}),
            ("files", {}),
        ),
        *(
            ("files", {"parameters": {"size": None, "blake3_256": 5}}),
            ("manifest", 5),
            ("cursor", 1.5),
            ("manifest_bytes", -1),
            ("pending", [5]),
        ),
    ],
)
def test_checkpoint_under_a_seal_that_fits_is_checked_value_by_value(folder: RunFolder, key: str, value: object) -> None:
    folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(), 0))
    path = folder.path / "checkpoints" / "round-000001" / "state.json"
    write_sealed(path, read_sealed(path) | {key: value})
    with pytest.raises((CorruptData, ConfigError), match=r"Restore it|Use the|cannot be read|A history has"):
        History().load_state_dict(getattr(again(folder).read_checkpoint(), "history", {}))


@pytest.mark.parametrize("content", [None, [], {}, {"format": 2}, {"format": 2, "run_id": "../../x"}, {"format": 2, "run_id": 5}])
def test_run_file_under_a_seal_that_fits_is_checked_value_by_value(folder: RunFolder, content: object) -> None:
    write_sealed(folder.path / "run.json", content)
    with pytest.raises(CorruptData, match=r"run.json does not hold what it should"):
        again(folder)


def test_json_that_is_nested_without_end_is_damage(folder: RunFolder) -> None:
    text = "[" * 100_000 + "]" * 100_000
    content = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "content": text}
    (folder.path / "run.json").write_text(json.dumps(content))
    with pytest.raises(CorruptData, match=r"run.json is damaged"):
        again(folder)


@pytest.mark.parametrize("name", ["run.json", "manifest.jsonl", "checkpoints/round-000001/state.json", "lock"])
def test_folder_in_a_files_place_is_refused(folder: RunFolder, name: str) -> None:
    folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(manifest="{}"), 0))
    folder.close()
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).mkdir()
    with pytest.raises((CorruptData, ConfigError), match=name):
        RunFolder.open(folder.path).read_checkpoint()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("losses_distributed", 5), ("losses_centralized", [1]), ("metrics_distributed", []), ("failures", {1: [["fit"]]})),
        ("invalid_rounds", None),
    ],
)
def test_history_of_another_shape_is_refused(name: str, value: object) -> None:
    with pytest.raises(CorruptData, match="history"):
        History().load_state_dict(History().state_dict() | {name: value})


def test_parameters_that_lie_in_a_file_get_a_second_name_and_are_not_written_again(folder: RunFolder) -> None:
    source = folder.path / "source"
    source.write_bytes(tensors.dumps(MODEL))
    prepared = folder.prepare_checkpoint(checkpoint(3), 0, source)
    folder.write_checkpoint(prepared)
    assert folder.parameters_file(3).samefile(source)
    source.unlink()
    found = again(folder).read_checkpoint()
    assert found is not None
    assert tensors.dumps(found.parameters) == tensors.dumps(MODEL)


def test_parameters_whose_file_cannot_get_a_second_name_are_written(folder: RunFolder) -> None:
    folder.write_checkpoint(folder.prepare_checkpoint(checkpoint(3), 0, folder.path / "not there"))
    assert folder.parameters_file(3).read_bytes() == tensors.dumps(MODEL)


def test_what_is_prepared_does_not_see_what_happens_later(folder: RunFolder) -> None:
    history, state = History(), {"steps": [1]}
    history.add_loss_distributed(1, 0.5)
    prepared = folder.prepare_checkpoint(checkpoint(history=history.state_dict(), strategy_state=state), 7)
    history.add_loss_distributed(2, 0.25)
    state["steps"].append(2)
    folder.write_checkpoint(prepared)
    found = again(folder).read_checkpoint()
    assert found is not None
    loaded = History()
    loaded.load_state_dict(found.history)
    assert (loaded.losses_distributed, found.strategy_state, found.cursor) == ([(1, 0.5)], {"steps": [1]}, 7)


def test_files_of_a_driver_that_died_are_removed(folder: RunFolder) -> None:
    files = ParameterFiles(folder.path)
    filed = files.filed(Parameters({"w": np.zeros(MIN_BYTES, np.uint8)}))
    assert files.path(filed) is not None
    assert not [path for path in again(folder).path.iterdir() if path.name.startswith(PREFIX)]
