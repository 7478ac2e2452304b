"""What one peer says cannot hurt the others: sizes are bounded, and a refused message leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from hedgerow.records import Blob, Instruction, Task
from hedgerow.security import Identity, Role
from hedgerow.server import bounds
from hedgerow.server.driver_api import MAX_RUN_NAME_CHARS
from hedgerow.wire import convert
from hedgerow.wire.channel import MAX_MESSAGE_BYTES, open_channel
from hedgerow.wire.proto import driver_pb2, driver_pb2_grpc, records_pb2
from tests.integration.running_server import running

RUN = "run0000000000001"
DRIVER = Identity.fresh(Role.DRIVER)


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[driver_pb2_grpc.DriverAsyncStub]:
    async with (
        running(state_dir=tmp_path / "state", max_blob_bytes=10_000) as service,
        open_channel(service.driver_address, None) as channel,
    ):
        made = driver_pb2_grpc.DriverStub(channel)
        await made.CreateRun(driver_pb2.CreateRunRequest(run_id=RUN, name="bounds", seed=1), metadata=DRIVER.metadata())
        yield made


def task(number: int, instruction: Instruction) -> records_pb2.Task:
    return convert.task_to_proto(Task(f"task{number:012d}", RUN, "node000000000001", 1, number, 0, instruction))


async def refused(stub: driver_pb2_grpc.DriverAsyncStub, *tasks: records_pb2.Task) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PushTasks(driver_pb2.PushTasksRequest(run_id=RUN, tasks=tasks), metadata=DRIVER.metadata())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value.details())


async def test_parameters_that_should_be_a_blob_are_refused_with_the_whole_call(stub: driver_pb2_grpc.DriverAsyncStub) -> None:
    fine = task(1, Instruction("fit", {}, b"x" * 1000))
    too_large = task(2, Instruction("fit", {}, b"x" * (64 * 1024 + 1)))
    assert "must be a blob" in await refused(stub, fine, too_large)
    reply = await stub.PushTasks(driver_pb2.PushTasksRequest(run_id=RUN, tasks=[fine]), metadata=DRIVER.metadata())
    assert reply.created == 1, "the first attempt left nothing behind"


async def test_a_config_beyond_the_limit_is_refused(stub: driver_pb2_grpc.DriverAsyncStub) -> None:
    large = task(1, Instruction("fit", {"text": "x" * bounds.MAX_BESIDES_PARAMETERS_BYTES}))
    assert "Config, metrics and texts" in await refused(stub, large)


async def test_a_config_of_more_entries_than_the_limit_is_refused(stub: driver_pb2_grpc.DriverAsyncStub) -> None:
    fine, too_many = ({f"{n}": n for n in range(count)} for count in (bounds.MAX_ENTRIES, bounds.MAX_ENTRIES + 1))
    assert "entries; at most" in await refused(stub, task(1, Instruction("fit", dict(too_many))))
    request = driver_pb2.PushTasksRequest(run_id=RUN, tasks=[task(1, Instruction("fit", dict(fine)))])
    assert (await stub.PushTasks(request, metadata=DRIVER.metadata())).created == 1


async def test_a_message_beyond_the_limit_is_refused_before_anything_is_read(stub: driver_pb2_grpc.DriverAsyncStub) -> None:
    beyond = driver_pb2.CancelTasksRequest(run_id=RUN, reason="x" * (MAX_MESSAGE_BYTES + 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CancelTasks(beyond, metadata=DRIVER.metadata())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_upload_beyond_the_limit_is_refused_when_it_is_announced(stub: driver_pb2_grpc.DriverAsyncStub) -> None:
    request = records_pb2.StartUploadRequest(upload_id="upload0000000001", size=10_001, run_id=RUN)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.StartUpload(request, metadata=DRIVER.metadata())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "10,001 bytes" in str(caught.value.details())
    request.size = 10_000
    assert (await stub.StartUpload(request, metadata=DRIVER.metadata())).url, "the refused id was not kept"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"manifest": [{"round": 1, "line": "x" * (bounds.MAX_MANIFEST_BYTES + 1)}]}, "manifest of round 1"),
        ({"manifest": [{"round": 1, "line": "{}"}, {"round": 2, "line": "one\ntwo"}]}, "more than one line"),
        ({"manifest": [{}] * (bounds.MAX_IDS + 1)}, "manifest has"),
        ({"keep": ["0" * 64] * (bounds.MAX_IDS + 1)}, "keep has"),
        ({"round": 2**32 - 1}, "no round 4294967295"),
        ({"manifest": [{"round": 2**32 - 1}]}, "no round 4294967295"),
    ],
)
async def test_a_round_that_says_too_much_is_not_acknowledged(
    stub: driver_pb2_grpc.DriverAsyncStub, change: dict[str, Any], told: str
) -> None:
    values: dict[str, Any] = {"run_id": RUN, "round": 1} | change
    request = driver_pb2.AcknowledgeRoundRequest(**values)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.AcknowledgeRound(request, metadata=DRIVER.metadata())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert told in str(caught.value.details())
    again = await stub.CreateRun(driver_pb2.CreateRunRequest(run_id=RUN, name="bounds", seed=1), metadata=DRIVER.metadata())
    assert again.acknowledged_rounds == 0


async def test_a_refusal_that_repeats_what_was_sent_still_arrives(stub: driver_pb2_grpc.DriverAsyncStub) -> None:
    request = driver_pb2.PushTasksRequest(run_id="é" * 300_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PushTasks(request, metadata=DRIVER.metadata())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert str(caught.value.details()).startswith("There is no run é")


async def test_a_blob_that_the_driver_does_not_have_is_refused(stub: driver_pb2_grpc.DriverAsyncStub) -> None:
    request = driver_pb2.PushTasksRequest(run_id=RUN, tasks=[task(1, Instruction("fit", {}, Blob("0" * 64, 5)))])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.PushTasks(request, metadata=DRIVER.metadata())
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("field", ["after_result", "after_node_version"])
async def test_an_impossible_cursor_is_refused(stub: driver_pb2_grpc.DriverAsyncStub, field: str) -> None:
    request = driver_pb2.WatchRequest(run_id=RUN, **{field: 2**64 - 1})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Watch(request, metadata=DRIVER.metadata()):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_too_many_ids_are_refused(stub: driver_pb2_grpc.DriverAsyncStub) -> None:
    request = driver_pb2.CancelTasksRequest(run_id=RUN, task_ids=["x"] * (bounds.MAX_IDS + 1), reason="")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CancelTasks(request, metadata=DRIVER.metadata())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_long_reason_and_a_long_name_of_a_run_are_refused(stub: driver_pb2_grpc.DriverAsyncStub) -> None:
    reason = driver_pb2.CancelTasksRequest(run_id=RUN, reason="x" * (bounds.MAX_REASON_CHARS + 1))
    name = driver_pb2.CreateRunRequest(run_id="run0000000000002", name="x" * (MAX_RUN_NAME_CHARS + 1), seed=1)
    for call, request, told in ((stub.CancelTasks, reason, "A reason has at most"), (stub.CreateRun, name, "A run's name has")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request, metadata=DRIVER.metadata())  # type: ignore[arg-type]
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert told in str(caught.value.details())


async def test_a_quota_that_is_used_up_is_told_with_its_option(tmp_path: Path) -> None:
    async with (
        running(state_dir=tmp_path / "state", max_run_blobs=1, max_run_bytes=100, max_driver_runs=1) as service,
        open_channel(service.driver_address, None) as channel,
    ):
        made = driver_pb2_grpc.DriverStub(channel)
        start = records_pb2.StartUploadRequest(upload_id="upload0000000001", size=100, run_id=RUN)
        await made.CreateRun(driver_pb2.CreateRunRequest(run_id=RUN, seed=1), metadata=DRIVER.metadata())
        large = records_pb2.StartUploadRequest(upload_id="upload0000000002", size=101, run_id=RUN)
        second = records_pb2.StartUploadRequest(upload_id="upload0000000003", size=0, run_id=RUN)
        run = driver_pb2.CreateRunRequest(run_id="run0000000000002", seed=1)
        for before, call, request, option in (
            (None, made.StartUpload, large, "--max-run-bytes"),
            (start, made.StartUpload, second, "--max-run-blobs"),
            (None, made.CreateRun, run, "--max-driver-runs"),
        ):
            if before is not None:
                await made.StartUpload(before, metadata=DRIVER.metadata())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request, metadata=DRIVER.metadata())  # type: ignore[arg-type]
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert option in str(caught.value.details())
