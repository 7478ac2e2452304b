"""What a client keeps for a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hedgerow.client.context import State, load_state, save_state
from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.records import Parameters
from hedgerow.wire import tensors


def test_a_state_comes_back_with_order_types_and_bits(tmp_path: Path) -> None:
    state: State = {
        "control": np.arange(6, dtype=np.float32).reshape(2, 3),
        "rounds": 7,
        "rate": 0.1,
        "": "empty key",
        "mask": np.array([True, False]),
        "raw": b"\x00\xff",
        "flag": True,
    }
    save_state(state, tmp_path / "s")
    loaded = load_state(tmp_path / "s")
    assert list(loaded) == list(state)
    for name, value in state.items():
        assert type(loaded[name]) is type(value)
        np.testing.assert_array_equal(loaded[name], value)


def test_loaded_arrays_may_be_changed(tmp_path: Path) -> None:
    save_state({"a": np.zeros(3)}, tmp_path / "s")
    array = load_state(tmp_path / "s")["a"]
    assert isinstance(array, np.ndarray)
    array += 1
    assert load_state(tmp_path / "s")["a"].sum() == 0  # type: ignore[union-attr]


def test_no_file_is_an_empty_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "nothing") == {}


@pytest.mark.parametrize(
    ("state", "told"),
    [({"a": [1]}, r"context.state\['a'\] is a list"), ({1: 2}, "key 1 of type int"), ({"o": object()}, "object")],
)
def test_what_cannot_be_kept_is_named(state: State, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=told):
        save_state(state, tmp_path / "s")
    assert not (tmp_path / "s").exists()


EMPTY = tensors.dumps(Parameters({}))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"something else entirely, and long enough", b"hedgerow-state-1\xff\x00\x00\x00\x00\x00\x00\x00"),
        b"hedgerow-state-1\2" + bytes(7) + b"\xff\xff" + EMPTY,  # no message
        b"hedgerow-state-1\7" + bytes(7) + b"\x12\5steps" + EMPTY,  # a key without a value
        b"hedgerow-state-1\5" + bytes(7) + b"\n\3\n\1x" + EMPTY,  # an entry without a value
    ],
)
def test_a_foreign_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(CorruptData, match="no state of a run"):
        load_state(tmp_path / "s")


def test_a_folder_in_the_states_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(CorruptData, match="no state of a run"):
        load_state(tmp_path / "s")
