"""One task with one client: what the user's method may do, and what becomes of it."""

from __future__ import annotations

import errno
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hedgerow.client as hc
from hedgerow.client.loader import source
from hedgerow.client.perform import perform
from hedgerow.records import (
    Code,
    Config,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetPropertiesIns,
    GetPropertiesRes,
    NDArray,
    NDArrays,
    Outcome,
    Parameters,
    Reply,
    Status,
)
from hedgerow.wire import narrow, tensors
from hedgerow.wire.convert import entries_to_proto, reply_from_proto
from hedgerow.wire.proto import records_pb2, worker_pb2

Run = Callable[..., Reply]
_WEIGHT: NDArray = np.arange(6, dtype=np.float32).reshape(2, 3)
SENT = Parameters({"layer.weight": _WEIGHT, "layer.bias": np.ones(3, np.float64)})


class Site:
    """Runs tasks with an object, each with files of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = self.inline_max_bytes = 0
        with (folder / "sent").open("xb") as file:
            tensors.write(SENT, file)

    def run(
        self,
        thing: Any,
        kind: str = "fit",
        config: Config | None = None,
        seed: int = 1,
        parameters: bool = True,
        sent: str = "sent",
        inline: records_pb2.Payload | None = None,
        transport_dtype: str = "",
    ) -> Reply:
        self.count += 1
        self.result = self.folder / f"{self.count}.result"
        self.new_state = self.folder / f"{self.count}.state"
        task = records_pb2.Task(
            task_id="task0001",
            run_id="run00001",
            seed=seed,
            instruction=records_pb2.Instruction(
                kind=kind, config=entries_to_proto(config or {}), parameters=inline, transport_dtype=transport_dtype
            ),
        )
        done = perform(
            source(thing, "thing"),
            worker_pb2.WorkerRequest(
                task=task,
                parameters_path=str(self.folder / sent) if parameters else "",
                result_path=str(self.result),
                node_name="site",
                state_path=str(self.folder / "state"),
                new_state_path=str(self.new_state),
                inline_max_bytes=self.inline_max_bytes,
            ),
        )
        assert done.task_id == "task0001"
        assert done.has_parameters == self.result.exists()
        return reply_from_proto(done.reply)

    def keep_state(self) -> None:
        self.new_state.replace(self.folder / "state")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


class Numbers(hc.NumPyClient):
    """Returns what the test puts in."""

    def __init__(self, returned: Any = None) -> None:
        self.returned = returned

    def fit(self, parameters: NDArrays, config: Config) -> Any:
        return self.returned if self.returned is not None else ([p + 1 for p in parameters], 5, {"loss": 0.25})

    def evaluate(self, parameters: NDArrays, config: Config) -> Any:
        return self.returned

    def get_parameters(self, config: Config) -> Any:
        return self.returned

    def get_properties(self, config: Config) -> Any:
        return self.returned


def test_fit_of_a_numpy_client_keeps_the_names_that_came(site: Site) -> None:
    reply = site.run(Numbers())
    assert (reply.outcome, reply.num_examples, reply.metrics) == (Outcome.OK, 5, {"loss": 0.25})
    result = tensors.map_file(site.result)
    assert list(result) == ["layer.weight", "layer.bias"]
    np.testing.assert_array_equal(result["layer.weight"], SENT["layer.weight"] + 1)
    assert result["layer.bias"].dtype == np.float64


def test_another_number_of_arrays_is_named_by_position(site: Site) -> None:
    assert site.run(Numbers(([np.zeros(1)] * 3, 1, {}))).outcome is Outcome.OK
    assert list(tensors.map_file(site.result)) == ["000000", "000001", "000002"]


def test_received_arrays_may_be_changed_in_place_without_changing_the_file(site: Site) -> None:
    class InPlace(hc.NumPyClient):
        def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, Config]:
            for array in parameters:
                array *= 2
            return parameters, 1, {}

    assert site.run(InPlace()).outcome is Outcome.OK
    np.testing.assert_array_equal(tensors.map_file(site.result)["layer.weight"], SENT["layer.weight"] * 2)
    np.testing.assert_array_equal(tensors.map_file(site.folder / "sent")["layer.weight"], SENT["layer.weight"])


def test_numpy_scalars_are_numbers(site: Site) -> None:
    reply = site.run(Numbers((np.float32(0.5), np.int64(7), {"accuracy": np.float64(0.75), "n": np.int32(3)})), "evaluate")
    assert (reply.outcome, reply.loss, reply.num_examples) == (Outcome.OK, 0.5, 7)
    assert reply.metrics == {"accuracy": 0.75, "n": 3}
    assert not site.result.exists()


def test_get_parameters_and_get_properties_need_no_parameters(site: Site) -> None:
    assert site.run(Numbers([np.zeros(2)]), "get_parameters", parameters=False).outcome is Outcome.OK
    assert list(tensors.map_file(site.result)) == ["000000"]
    reply = site.run(Numbers({"location": "A", "beds": 3}), "get_properties", parameters=False)
    assert reply.metrics == {"location": "A", "beds": 3}


@pytest.mark.parametrize("kind", ["fit", "evaluate", "get_parameters", "get_properties"])
@pytest.mark.parametrize("base", [hc.NumPyClient, hc.Client])
def test_a_missing_method_is_reported_with_its_name(site: Site, kind: str, base: type[Any]) -> None:
    class Partial(base):  # type: ignore[misc]
        pass

    reply = site.run(Partial(), kind)
    assert reply.outcome is Outcome.NOT_IMPLEMENTED
    assert reply.message == f"The client Partial does not define {kind}()."


def test_an_unknown_kind_is_reported_with_the_known_ones(site: Site) -> None:
    reply = site.run(Numbers(), "to_client")
    assert reply.outcome is Outcome.NOT_IMPLEMENTED
    assert "'to_client'" in reply.message
    assert "fit, evaluate" in reply.message


def test_an_exception_is_a_user_error_with_the_users_own_frames(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(hc.NumPyClient):
        def fit(self, parameters: NDArrays, config: Config) -> Any:
            return [1, 2][int(str(config["index"]))]

    reply = site.run(Broken(), config={"index": 5})
    assert reply.outcome is Outcome.USER_ERROR
    assert reply.message == "IndexError: list index out of range"
    assert "in fit\n" in reply.traceback
    assert "hedgerow/client" not in reply.traceback
    assert "list index out of range" in caplog.text


def test_sys_exit_in_a_method_is_a_user_error(site: Site) -> None:
    class Quits(hc.NumPyClient):
        def fit(self, parameters: NDArrays, config: Config) -> Any:
            raise SystemExit(3)

    assert site.run(Quits()).outcome is Outcome.USER_ERROR


def test_an_exception_of_the_client_function_is_a_user_error(site: Site) -> None:
    def make(cid: str) -> hc.Client:
        raise OSError("no data")

    assert site.run(make).message == "OSError: no data"


@pytest.mark.parametrize(
    ("kind", "returned", "told"),
    [
        ("fit", [np.zeros(1)], r"fit\(\) must return \(arrays, num_examples, metrics\); it returned a list of 1"),
        ("fit", (1, 2), "a tuple of 2"),
        ("fit", (np.zeros((2, 2)), 1, {}), "a list of arrays as the parameters; it returned an array of shape"),
        ("fit", ({"a": np.zeros(1)}, 1, {}), "it returned a dict of 1"),
        ("fit", ([object()], 1, {}), "Array 0 that fit"),
        ("fit", ([np.zeros(1), [[1], [1, 2]]], 1, {}), "Array 1 that fit"),
        ("fit", ([np.array(["a"])], 1, {}), "dtype"),
        ("fit", ([np.zeros(1)], 1.5, {}), "number of examples that fit.*the float 1.5"),
        ("fit", ([np.zeros(1)], -1, {}), "number of examples"),
        ("fit", ([np.zeros(1)], True, {}), "number of examples"),
        ("fit", ([np.zeros(1)], 1, None), "The metrics that fit.*must be a dict; it is None"),
        ("fit", ([np.zeros(1)], 1, {"a": [1]}), "'a'.*list"),
        ("fit", ([np.zeros(1)], 1, {1: 1}), "key 1"),
        ("fit", ([np.zeros(1)], 1, {"big": 2**63}), "64 bits"),
        ("fit", ([np.zeros(1)], 1, {"huge": b"x" * 5_000_000}), "at most 4,194,304"),
        ("evaluate", ("0.5", 1, {}), "The loss that evaluate.*the str '0.5'"),
        ("evaluate", (np.zeros(2), 1, {}), "The loss that evaluate"),
        ("evaluate", (None, 1, {}), "it is None"),
        ("get_parameters", np.zeros(2), "a list of arrays"),
        ("get_properties", ["a"], "The properties that get_properties.*a list of 1"),
    ],
)
def test_a_result_that_cannot_be_sent_says_what_was_found(site: Site, kind: str, returned: Any, told: str) -> None:
    reply = site.run(Numbers(returned), kind)
    assert reply.outcome is Outcome.INVALID_RESULT
    assert re.search(told, reply.message), reply.message
    assert not site.result.exists()


class Classic(hc.Client):
    """Returns what the test puts in, from the classic methods."""

    def __init__(self, returned: Any) -> None:
        self.returned = returned
        self.received: Any = None

    def fit(self, ins: FitIns) -> Any:
        self.received = ins
        return self.returned

    def evaluate(self, ins: EvaluateIns) -> Any:
        return self.returned

    def get_properties(self, ins: GetPropertiesIns) -> Any:
        return self.returned


OK = Status(Code.OK, "done")


def test_a_classic_client_takes_ins_and_returns_res(site: Site) -> None:
    client = Classic(FitRes(OK, Parameters({"w": np.ones(2)}), 3, {"a": 1}))
    reply = site.run(client, config={"rate": 0.1})
    assert (reply.outcome, reply.message, reply.num_examples, reply.metrics) == (Outcome.OK, "done", 3, {"a": 1})
    assert client.received.config == {"rate": 0.1}
    assert list(client.received.parameters) == list(SENT)
    assert list(tensors.map_file(site.result)) == ["w"]
    assert site.run(Classic(EvaluateRes(OK, 0.5, 2, {})), "evaluate").loss == 0.5
    assert site.run(Classic(GetPropertiesRes(OK, {"x": 1})), "get_properties").metrics == {"x": 1}


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (EvaluateRes(OK, 0.5, 2, {}), "must return a FitRes; it returned an object of type hedgerow.records.EvaluateRes"),
        (FitRes("ok", Parameters({}), 1, {}), "must be a Status; it is the str 'ok'"),  # type: ignore[arg-type]
        (FitRes(OK, [np.zeros(1)], 1, {}), "must be a Parameters object; it is a list of 1"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_res_says_what_was_found(site: Site, returned: Any, told: str) -> None:
    reply = site.run(Classic(returned))
    assert reply.outcome is Outcome.INVALID_RESULT
    assert told in reply.message


def test_a_status_that_says_not_implemented_is_passed_on(site: Site) -> None:
    reply = site.run(Classic(FitRes(Status(Code.FIT_NOT_IMPLEMENTED, "only on Mondays"), Parameters({}), 0, {})))
    assert (reply.outcome, reply.message) == (Outcome.NOT_IMPLEMENTED, "only on Mondays")


def test_fit_without_parameters_is_the_drivers_mistake(site: Site) -> None:
    reply = site.run(Numbers(), parameters=False)
    assert reply.outcome is Outcome.INVALID_RESULT
    assert "without parameters" in reply.message


def test_parameters_that_are_no_safetensors_file_are_reported(site: Site) -> None:
    (site.folder / "sent").write_bytes(b"garbage")
    reply = site.run(Numbers())
    assert reply.outcome is Outcome.INVALID_RESULT
    assert "cannot be read" in reply.message


class Dice(hc.NumPyClient):
    """Returns what the random generators give."""

    def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, Config]:
        return [np.random.rand(3), np.array(random.random())], 1, {}


def test_the_seed_decides_what_python_and_numpy_draw_also_in_a_warm_worker(site: Site) -> None:
    def draw(seed: int) -> bytes:
        site.run(Dice(), seed=seed)
        return site.result.read_bytes()

    first = draw(2**64 - 1)
    assert draw(7) != first
    assert draw(2**64 - 1) == first


def test_get_properties_does_not_touch_the_generators(site: Site) -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    site.run(Numbers({}), "get_properties")
    assert random.random() == expected


class Counter(hc.NumPyClient):
    """Counts its tasks in the run's state."""

    def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, Config]:
        count = int(str(self.context.state.get("count", 0))) + 1
        self.context.state["count"] = count
        if config.get("fail"):
            raise ValueError("failed on purpose")
        return [np.zeros(1)], count, {"run": self.context.run_id, "node": self.context.node_name}

    def get_properties(self, config: Config) -> Config:
        self.context.state["asked"] = True
        return {"count": self.context.state["count"]}  # type: ignore[dict-item]


def test_the_state_of_a_run_goes_from_task_to_task(site: Site) -> None:
    client = Counter()
    reply = site.run(client)
    assert reply.metrics == {"run": "run00001", "node": "site"}
    site.keep_state()
    assert site.run(client).num_examples == 2


def test_a_task_that_fails_leaves_the_state_alone(site: Site) -> None:
    client = Counter()
    site.run(client)
    site.keep_state()
    assert site.run(client, config={"fail": True}).outcome is Outcome.USER_ERROR
    assert not site.new_state.exists()
    assert site.run(client).num_examples == 2


def test_a_light_task_reads_the_state_and_does_not_replace_what_a_training_beside_it_keeps(site: Site) -> None:
    client = Counter()
    site.run(client)
    site.keep_state()
    assert site.run(client, "get_properties").metrics == {"count": 1}
    assert not site.new_state.exists()


def test_a_state_that_cannot_be_kept_is_an_invalid_result(site: Site) -> None:
    class Hoarder(hc.NumPyClient):
        def fit(self, parameters: NDArrays, config: Config) -> Any:
            self.context.state["file"] = open  # type: ignore[assignment]
            return [np.zeros(1)], 1, {}

    reply = site.run(Hoarder())
    assert reply.outcome is Outcome.INVALID_RESULT
    assert "context.state['file']" in reply.message


@pytest.mark.parametrize("value", [np.array([1 + 2j]), np.array([object()]), np.array(["a"])])
def test_a_state_with_an_array_that_cannot_be_kept_is_an_invalid_result_and_leaves_the_old_state(site: Site, value: Any) -> None:
    class Hoarder(hc.NumPyClient):
        def fit(self, parameters: NDArrays, config: Config) -> Any:
            self.context.state["first"] = 1
            self.context.state["array"] = value
            return [np.zeros(1)], 1, {}

    assert site.run(Hoarder()).outcome is Outcome.INVALID_RESULT
    assert not site.new_state.exists()


def test_a_full_disk_under_the_state_is_told_and_leaves_the_old_state(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(parameters: Parameters, file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hedgerow.client.context.tensors.write", full)
    reply = site.run(Counter())
    assert reply.outcome is Outcome.INVALID_RESULT
    assert "No space left" in reply.message
    assert not site.new_state.exists()


# --- parameters that travel in 16 bits --------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("transport_dtype", ["bfloat16", "float16"])


class Looking(hc.NumPyClient):
    """Notes what it gets, changes it in place, and returns it."""

    def fit(self, parameters: NDArrays, config: Config) -> Any:
        self.seen = [(array.dtype, array.copy()) for array in parameters]
        for array in parameters:
            array += np.asarray(0.001, array.dtype)
        self.returned = [array.copy() for array in parameters]
        return parameters, 1, {}


def rounded(array: NDArray, transport_dtype: str) -> NDArray:
    """An array after its way in 16 bits."""
    return array.astype(narrow.DTYPES[transport_dtype]).astype(array.dtype)


def check_looking(looking: Looking, result: Parameters, transport_dtype: str) -> None:
    for (dtype, seen), returned, (name, array) in zip(looking.seen, looking.returned, SENT.items(), strict=True):
        assert dtype == array.dtype
        np.testing.assert_array_equal(seen, rounded(array, transport_dtype))
        assert result.stored(name).dtype == narrow.DTYPES[transport_dtype]
        assert result[name].dtype == array.dtype
        np.testing.assert_array_equal(result[name], rounded(returned, transport_dtype))


@BOTH
def test_user_code_sees_the_own_dtypes_of_parameters_that_travel_in_16_bits(site: Site, transport_dtype: str) -> None:
    with (site.folder / "narrow").open("xb") as file:
        tensors.write(SENT, file, transport_dtype)
    looking = Looking()
    reply = site.run(looking, sent="narrow", transport_dtype=transport_dtype)
    assert reply.outcome is Outcome.OK, reply.message
    check_looking(looking, tensors.map_file(site.result), transport_dtype)
    assert not list(site.folder.glob("*.wide"))
    with (site.folder / "narrow").open("rb") as file:
        assert file.read() == tensors.dumps(SENT, transport_dtype), "what the user changes is not changed in the cache"


@BOTH
def test_small_parameters_travel_in_16_bits_inside_the_message(site: Site, transport_dtype: str) -> None:
    looking = Looking()
    inline = records_pb2.Payload(inline=tensors.dumps(SENT, transport_dtype))
    site.inline_max_bytes = 4096
    reply = site.run(looking, parameters=False, inline=inline, transport_dtype=transport_dtype)
    assert isinstance(reply.parameters, bytes), reply.message
    check_looking(looking, tensors.view(reply.parameters), transport_dtype)


def test_a_result_that_does_not_fit_into_float16_is_a_failure_that_names_the_tensor(site: Site) -> None:
    large = [np.full((2, 3), 1.0, np.float32), np.array([1.0, 1e5, 2.0])]
    reply = site.run(Numbers((large, 1, {})), transport_dtype="float16")
    assert reply.outcome is Outcome.INVALID_RESULT
    assert "'layer.bias' does not fit into float16, whose largest number is 65504: element 1 is 100000.0" in reply.message
    assert "bfloat16 has the range of float32" in reply.message
    assert not site.result.exists()
    assert site.run(Numbers((large, 1, {})), transport_dtype="bfloat16").outcome is Outcome.OK


def test_a_16_bit_float_that_is_not_known_is_a_failure(site: Site) -> None:
    reply = site.run(Numbers(), transport_dtype="float8")
    assert reply.outcome is Outcome.INVALID_RESULT
    assert "float8, which is not known here" in reply.message


def test_a_full_disk_under_widened_parameters_is_a_failure(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (site.folder / "narrow").open("xb") as file:
        tensors.write(SENT, file, "bfloat16")
    monkeypatch.setattr(tensors, "write", full)
    reply = site.run(Numbers(), sent="narrow", transport_dtype="bfloat16")
    assert (reply.outcome, "No space left" in reply.message) == (Outcome.INVALID_RESULT, True)
    assert not list(site.folder.glob("*.wide"))
