"""The client's state directory."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from hedgerow.client.state_dir import STALE_AFTER_S, StateDir, StateDirTaken, default_state_dir
from hedgerow.errors import ConfigError


def test_the_identity_is_the_same_after_a_restart(tmp_path: Path) -> None:
    first = StateDir.open(tmp_path / "s")
    first.close()
    second = StateDir.open(tmp_path / "s")
    assert second.identity == first.identity
    second.close()


def test_nobody_else_may_read_the_secret(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "s").close()
    assert stat.S_IMODE((tmp_path / "s" / "identity.json").stat().st_mode) == 0o600


def test_nobody_else_may_read_updates_in_a_folder_that_was_there_before(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    StateDir.open(tmp_path).close()
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir() if path.is_dir()}
    assert modes == dict.fromkeys(["outbox", "parameters", "runs", "deaths", "work"], "0o700")


def test_a_second_client_with_the_same_folder_is_refused(tmp_path: Path) -> None:
    first = StateDir.open(tmp_path / "s")
    with pytest.raises(StateDirTaken, match=r"in use by another client.*--state-dir"):
        StateDir.open(tmp_path / "s")
    first.close()
    StateDir.open(tmp_path / "s").close()


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", '{"node_id": "x"}', "[]", "nonsense", "[" * 100_000, "5"),
        *('{"node_id": "../../victim", "secret": "s"}', '{"node_id": "node00000001", "secret": "é"}'),
    ],
)
def test_a_damaged_identity_is_an_error_and_frees_the_folder(content: str, tmp_path: Path) -> None:
    StateDir.open(tmp_path / "s").close()
    (tmp_path / "s" / "identity.json").write_text(content)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"identity\.json does not hold"):
            StateDir.open(tmp_path / "s")


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be used.*--state-dir"):
        StateDir.open(tmp_path / "file" / "s")


def test_deaths_are_counted_across_restarts(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "s")
    assert state.count_death("task0001") == 1
    state.close()
    state = StateDir.open(tmp_path / "s")
    assert state.count_death("task0001") == 2
    assert state.deaths("task0002") == 0
    state.forget_deaths("task0001")
    assert state.deaths("task0001") == 0
    state.close()


def test_unfinished_work_is_removed_at_start_and_states_are_kept_until_they_are_stale(tmp_path: Path) -> None:
    state = StateDir.open(tmp_path / "s")
    state.work_path("task0001", "result").touch()
    for run in ("old00001", "new00001"):
        state.run_state_path(run).touch()
    long_ago = time.time() - STALE_AFTER_S - 1
    os.utime(state.run_state_path("old00001"), (long_ago, long_ago))
    state.close()
    state = StateDir.open(tmp_path / "s")
    assert not state.work_path("task0001", "result").exists()
    assert not state.run_state_path("old00001").exists()
    assert state.run_state_path("new00001").exists()
    state.close()


def test_default_folders_differ_by_server_and_by_name_also_where_their_readable_parts_agree() -> None:
    folders = {default_state_dir(server, name) for server in ("h:1", "h:2", "h_1") for name in ("a", "b", "a b", "a/b", "a_b")}
    assert len(folders) == 15
    assert all(folder.name.count("/") == 0 for folder in folders)


def test_what_is_no_count_of_deaths_counts_as_none(tmp_path: Path) -> None:
    StateDir.open(tmp_path / "s").close()
    for name, content in (("task0001", "-5"), ("task0002", "many"), ("task0003", "9" * 5000)):
        (tmp_path / "s" / "deaths" / name).write_text(content)
    (tmp_path / "s" / "deaths" / "task0004").mkdir()
    state = StateDir.open(tmp_path / "s")
    assert [state.count_death(f"task000{number}") for number in (1, 2, 3, 4)] == [1, 1, 1, 1]
