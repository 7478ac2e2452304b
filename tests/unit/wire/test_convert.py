"""Records go through bytes and come back the same; what does not fit the contract is refused on both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import InvalidArgument
from hedgerow.records import Blob, DataPlane, Instruction, Node, NodeState, Outcome, Reply, RunState, Task, TaskResult
from hedgerow.wire import convert
from hedgerow.wire.proto import driver_pb2, records_pb2

uint32, uint64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), text, st.binary(max_size=50))
configs = st.dictionaries(text, scalars, max_size=6)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
blobs = st.builds(Blob, digests, uint64)
payloads = st.one_of(st.none(), st.binary(max_size=100), blobs)
kinds = st.from_regex(r"[a-z_][a-z0-9_]{0,63}", fullmatch=True)
ids = st.from_regex(r"[a-zA-Z0-9]{8,64}", fullmatch=True)
instructions = st.builds(Instruction, kinds, configs, payloads)
tasks = st.builds(Task, ids, ids, ids, uint32, uint32, uint64, instructions)
finite = st.floats(0, 1e300)
replies = st.builds(
    Reply, st.sampled_from(Outcome), text, text, uint64, st.floats(allow_nan=False), configs, payloads, finite, uint32
)
results = st.builds(TaskResult, uint64, ids, ids, uint32, kinds, replies)
nodes = st.builds(Node, ids, text, st.sampled_from(NodeState), uint64, finite)
planes = st.builds(DataPlane, uint32, text, uint32)


def types(values: dict[str, Any]) -> list[tuple[str, type]]:
    return [(key, type(value)) for key, value in values.items()]


def through(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


@given(tasks)
def test_task_comes_back_the_same(task: Task) -> None:
    back = convert.task_from_proto(through(convert.task_to_proto(task)))
    assert back == task
    assert types(back.instruction.config) == types(task.instruction.config)  # 1 == 1.0 == True, and order


@given(results)
def test_result_comes_back_the_same(result: TaskResult) -> None:
    back = convert.result_from_proto(through(convert.result_to_proto(result)))
    assert back == result
    assert types(back.reply.metrics) == types(result.reply.metrics)


@given(nodes)
def test_node_comes_back_the_same(node: Node) -> None:
    assert convert.node_from_proto(through(convert.node_to_proto(node))) == node


@given(planes)
def test_data_plane_comes_back_the_same(plane: DataPlane) -> None:
    assert convert.data_plane_from_proto(through(convert.data_plane_to_proto(plane))) == plane


@pytest.mark.parametrize("state", list(RunState))
def test_run_state_comes_back_the_same(state: RunState) -> None:
    assert convert.run_state_from_proto(convert.run_state_to_proto(state)) is state


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ({convert.reply_to_proto(Reply(o)).outcome for o in Outcome}, records_pb2.Outcome.values()),
        ({convert.node_to_proto(Node("n", "n", s, 1, 1)).state for s in NodeState}, records_pb2.NodeState.values()),
        ({convert.run_state_to_proto(s) for s in RunState}, driver_pb2.RunState.values()),
    ],
)
def test_every_number_of_the_contract_has_a_word_and_none_is_sent_as_unspecified(values: set[int], numbers: list[int]) -> None:
    assert values == set(numbers) - {0}


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf, -0.0])
def test_special_floats_survive(special: float) -> None:
    back = convert.scalar_from_proto(through(convert.scalar_to_proto(special, "x")), "x")
    assert isinstance(back, float)
    assert math.copysign(1, back) == math.copysign(1, special)
    assert back == special or math.isnan(back) == math.isnan(special)


@pytest.mark.parametrize(
    ("given_value", "arrives"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.float64(0.25), 0.25),
        (np.str_("s"), "s"),
        (np.uint8(7), 7),
    ],
)
def test_numpy_scalar_arrives_as_the_python_value_that_it_is(given_value: Any, arrives: object) -> None:
    back = convert.scalar_from_proto(convert.scalar_to_proto(given_value, "x"), "x")
    assert back == arrives
    assert type(back) is type(arrives)


@pytest.mark.parametrize("value", [None, [1], {"a": 1}, 1j, object(), np.zeros(2), 2**63, -(2**63) - 1])
def test_value_that_cannot_be_sent_is_refused_with_its_key(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="'lr'"):
        convert.entries_to_proto({"lr": value})


def test_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="int"):
        convert.entries_to_proto({1: 2})  # type: ignore[dict-item]


def entry(key: str, **value: Any) -> records_pb2.Entry:
    return records_pb2.Entry(key=key, value=records_pb2.Scalar(**value))


def task_message(**changed: Any) -> records_pb2.Task:
    fields: dict[str, Any] = {"task_id": "t" * 8, "run_id": "r" * 8, "node_id": "n" * 8}
    return records_pb2.Task(**(fields | {"instruction": records_pb2.Instruction(kind="fit")} | changed))


REFUSED: dict[str, Callable[[], object]] = {
    "key twice": lambda: convert.entries_from_proto([entry("a", int64=1), entry("a", int64=2)]),
    "entry without a value": lambda: convert.entries_from_proto([entry("a")]),
    "payload without content": lambda: convert.payload_from_proto(records_pb2.Payload()),
    "no digest": lambda: convert.blob_from_proto(records_pb2.Blob(digest="", size=1)),
    "digest in capitals": lambda: convert.check_digest("A" * 64),
    "digest that is a path": lambda: convert.check_digest("../" + "a" * 61),
    "digest that is too long": lambda: convert.check_digest("a" * 65),
    "no task id": lambda: convert.task_from_proto(task_message(task_id="")),
    "run id that is a path": lambda: convert.task_from_proto(task_message(run_id="../../etc")),
    "node id that is too long": lambda: convert.task_from_proto(task_message(node_id="n" * 65)),
    "id in other letters": lambda: convert.check_id("x", "äääääääää"),
    "no kind": lambda: convert.task_from_proto(task_message(instruction=records_pb2.Instruction())),
    "kind with a space": lambda: convert.instruction_from_proto(records_pb2.Instruction(kind="f it")),
    "kind that is too long": lambda: convert.instruction_from_proto(records_pb2.Instruction(kind="k" * 65)),
    "no outcome": lambda: convert.reply_from_proto(records_pb2.Reply()),
    "unknown outcome": lambda: convert.reply_from_proto(records_pb2.Reply(outcome=99)),  # type: ignore[arg-type]
    "no run state": lambda: convert.run_state_from_proto(0),
    "unknown run state": lambda: convert.run_state_from_proto(99),
}


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_message_is_refused(case: str) -> None:
    with pytest.raises(InvalidArgument):
        REFUSED[case]()


def test_empty_inline_payload_and_no_payload_are_told_apart() -> None:
    for payload in (b"", None):
        back = convert.instruction_from_proto(through(convert.instruction_to_proto(Instruction("fit", {}, payload))))
        assert back.parameters == payload


@pytest.mark.parametrize("field", ["num_examples", "worker_deaths"])
def test_negative_count_is_refused_by_the_sender(field: str) -> None:
    changed: Any = {field: -1}
    with pytest.raises(ValueError, match=r"(?i)range"):
        convert.reply_to_proto(Reply(Outcome.OK, **changed))
