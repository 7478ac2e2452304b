"""ControlVariates: what it takes from the state, what it leaves there, and what it returns."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from hedgerow.aggregation import control
from hedgerow.client.context import load_state, save_state
from hedgerow.errors import InvalidArgument
from hedgerow.records import Config, NDArray, Parameters
from hedgerow.training import ControlVariates

MODEL = Parameters({"w": np.array([1.0, 2.0]), "n": np.array([7]), "b": np.array([3.0], np.float32)})


def sent(c: float = 0.0) -> Parameters:
    return control.attach(MODEL, Parameters({name: np.full_like(array, c) for name, array in control.zeros(MODEL).items()}))


def config(number: int = 1, folded: int = 0) -> Config:
    return {"scaffold_tensors": 3, "scaffold_round": number, "scaffold_folded": folded}


def train(state: dict[str, Any], number: int = 1, folded: int = 0, c: float = 0.0, down: float = 0.5) -> list[NDArray]:
    """A task of 5 steps of 0.1 that takes ``down`` from every array."""
    variates = ControlVariates(sent(c), config(number, folded), state)
    return variates.finish([array - array.dtype.type(down) for array in variates.model], steps=5, learning_rate=0.1)


def test_first_task_starts_without_a_correction_of_its_own() -> None:
    variates = ControlVariates(sent(0.25), config(), {})
    assert [np.asarray(a).tolist() for a in variates.model] == [[1.0, 2.0], [7], [3.0]]
    assert [np.asarray(a).tolist() for a in variates.corrections] == [[0.25, 0.25], 0.0, [0.25]]


def test_new_control_variate_is_that_of_option_two() -> None:
    state: dict[str, Any] = {}
    first = train(state)  # c_i = 0 - 0 + 0.5 / (5 * 0.1) = 1
    assert [a.tolist() for a in first] == [[0.5, 1.5], [7], [2.5], [1.0, 1.0], [1.0]]
    second = train(state, number=2, folded=1, c=0.25, down=1.0)  # c_i = 1 - 0.25 + 2, which is 1.75 more
    assert [a.tolist() for a in second[3:]] == [[1.75, 1.75], [1.75]]
    assert [a.dtype for a in second] == [np.float64, np.int64, np.float32, np.float64, np.float32]
    corrections = ControlVariates(sent(0.25), config(3, folded=2), state).corrections
    assert [np.asarray(a).tolist() for a in corrections] == [[-2.5, -2.5], 0.0, [-2.5]]


def test_arrays_without_names_are_taken_as_well() -> None:
    variates = ControlVariates(sent().arrays(), config(), {})
    assert len(variates.model) == len(variates.corrections) == 3


def correction(state: dict[str, Any], number: int, folded: int) -> float:
    """What a task would correct the gradients of ``b`` by, where c is 0."""
    return float(np.asarray(ControlVariates(sent(), config(number, folded), state).corrections[2])[0])


def test_task_that_is_done_again_starts_from_the_same_state() -> None:
    state: dict[str, Any] = {}
    train(state)
    died, again = dict(state), dict(state)  # the state of a task whose worker dies is never kept
    lost = train(died, number=2, folded=1, c=0.25)
    assert [a.tolist() for a in train(again, number=2, folded=1, c=0.25)] == [a.tolist() for a in lost]
    assert correction(again, 3, folded=2) == -(1.0 - 0.25 + 1.0)


def test_result_that_was_not_folded_is_taken_back_however_often() -> None:
    state: dict[str, Any] = {}
    train(state)
    for number in (2, 3, 4):
        train(state, number=number, folded=1, c=float(number))
        assert correction(state, number + 1, folded=1) == -1.0


def test_first_result_that_was_not_folded_is_taken_back() -> None:
    state: dict[str, Any] = {}
    train(state)
    assert correction(state, 2, folded=0) == 0.0
    assert correction(state, 2, folded=1) == -1.0


def test_state_that_is_lost_is_told_and_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    train({}, number=5, folded=4)
    assert "round 4 is not in this client's state" in caplog.text


def test_state_comes_back_from_its_file(tmp_path: Any) -> None:
    state: dict[str, Any] = {"the client's own": 1}
    train(state)
    save_state(state, tmp_path / "state")
    back = load_state(tmp_path / "state")
    assert back["the client's own"] == 1
    found, expected = train(back, number=2, folded=1), train(state, number=2, folded=1)
    assert [a.tobytes() for a in found] == [a.tobytes() for a in expected]


@pytest.mark.parametrize("arguments", [{"steps": 0, "learning_rate": 0.1}, {"steps": 3, "learning_rate": 0.0}])
def test_without_steps_the_control_variate_stays(arguments: dict[str, Any]) -> None:
    state: dict[str, Any] = {}
    train(state)
    variates = ControlVariates(sent(9.0), config(2, folded=1), state)
    assert [a.tolist() for a in variates.finish(variates.model, **arguments)[3:]] == [[0.0, 0.0], [0.0]]
    assert ControlVariates(sent(), config(3, folded=2), state).corrections[2] == [-1.0]


def test_arrays_that_gradients_do_not_move_have_none() -> None:
    variates = ControlVariates(sent(), config(), {})
    trained = [array - array.dtype.type(1) for array in variates.model]
    assert [a.tolist() for a in variates.finish(trained, steps=1, learning_rate=1.0, trainable=[2])[3:]] == [[0.0, 0.0], [1.0]]


def test_config_of_another_strategy_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="must be Scaffold"):
        ControlVariates(MODEL, {}, {})


def test_arrays_that_are_no_control_variates_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="0 arrays behind the 3"):
        ControlVariates(MODEL, config(), {})


def test_trained_arrays_of_other_shapes_are_refused() -> None:
    variates = ControlVariates(sent(), config(), {})
    with pytest.raises(InvalidArgument, match="2 trained arrays"):
        variates.finish(variates.model[:2], steps=1, learning_rate=0.1)
