"""What belongs to one peer and is wanted by another: tasks, blobs, results, runs. Knowing an id or a digest grants nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio
import pytest

from hedgerow.client.session import Session
from hedgerow.errors import AlreadyExists, HedgerowError, InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from hedgerow.records import Blob, Outcome, Reply, RunState
from hedgerow.security import Identity, Role
from hedgerow.waits import wait
from hedgerow.wire import convert
from hedgerow.wire.proto import driver_pb2, operator_pb2, records_pb2
from hedgerow.wire.status import from_rpc_error
from tests.integration.attacks.federation import RUN, SOON, TASK, Federation, Peer

MODEL = bytes(range(256)) * 1000


@dataclass(frozen=True)
class Stage:
    """A run of the driver ann, with a task for the client b; a is the client that wants it, eve the driver that does."""

    a: Peer
    b: Peer
    ann: Peer
    eve: Peer
    model: Blob
    sessions: dict[str, Session]

    async def complete(self, name: str, task_id: str = TASK, parameters: Blob | None = None) -> bool:
        """Let a client hand in the result of a task; whether the server takes it."""
        reply = convert.reply_to_proto(Reply(Outcome.OK, num_examples=1, parameters=parameters))
        return (await self.a.hand_in(self.sessions[name], task_id, reply)).accepted


@pytest.fixture
async def stage(attacked: Federation) -> AsyncIterator[Stage]:
    a, b = attacked.peer("a", Role.CLIENT), attacked.peer("b", Role.CLIENT)
    ann, eve = attacked.peer("ann", Role.DRIVER), attacked.peer("eve", Role.DRIVER)
    sessions = {"a": await a.session("a"), "b": await b.session("b")}
    await ann.create_run()
    model = await ann.upload("upload00001", MODEL)
    await ann.push_task(b, model)
    yield Stage(a, b, ann, eve, model, sessions)
    for session in sessions.values():
        session.close()


def resolve(digest: str, task_id: str = TASK) -> records_pb2.ResolveBlobRequest:
    return records_pb2.ResolveBlobRequest(digest=digest, run_id=RUN, task_id=task_id)


async def test_holder_of_the_task_gets_its_blob(stage: Stage) -> None:
    url = (await stage.b.ask(stage.b.fleet.ResolveBlob, resolve(stage.model.digest))).url
    answer = await stage.b.http("GET", url)
    assert (answer.status, answer.body) == (200, MODEL)


async def test_client_does_not_get_the_blob_of_anothers_task(stage: Stage) -> None:
    for task_id in (TASK, "task000000009", ""):
        assert isinstance(
            await stage.a.refusal(stage.a.fleet.ResolveBlob, resolve(stage.model.digest, task_id)), PermissionDenied
        )


async def test_client_does_not_complete_anothers_task(stage: Stage) -> None:
    with pytest.raises(NotFound):
        await stage.complete("a")
    assert await stage.complete("b")


async def test_client_does_not_claim_to_be_another(stage: Stage) -> None:
    posing = Identity(Role.CLIENT, stage.b.identity.id, stage.a.identity.secret)
    for who in (posing, Identity(Role.CLIENT, stage.b.identity.id, stage.b.identity.secret)):
        metadata = who.metadata()
        for method, request in (
            (stage.a.fleet.ResolveBlob, resolve(stage.model.digest)),
            (stage.a.fleet.StartUpload, records_pb2.StartUploadRequest(upload_id="upload00009", size=1, run_id=RUN)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await method(request, metadata=metadata, timeout=10)
            assert isinstance(from_rpc_error(refused.value), Unauthenticated)


async def test_client_does_not_name_a_blob_that_it_did_not_upload(stage: Stage, attacked: Federation) -> None:
    await stage.ann.push_task(stage.a, None, "task000000002")
    with pytest.raises(PermissionDenied):
        await stage.complete("a", "task000000002", stage.model)


async def test_client_does_not_take_over_anothers_upload_or_result(stage: Stage) -> None:
    result = await stage.b.upload("upload00002", b"result of b" * 100)
    refusal = await stage.a.refusal(
        stage.a.fleet.StartUpload, records_pb2.StartUploadRequest(upload_id="upload00002", size=1100, run_id=RUN)
    )
    assert isinstance(refusal, AlreadyExists)
    assert isinstance(await stage.a.refusal(stage.a.fleet.ResolveBlob, resolve(result.digest)), PermissionDenied)
    url = await stage.b.start_upload("upload00003", 5)
    assert (await stage.a.http("PUT", url, b"12345")).status == 403
    assert (await stage.a.http("HEAD", url)).status == 403


async def test_driver_neither_sees_nor_touches_anothers_run(stage: Stage) -> None:
    eve, api = stage.eve, stage.eve.driver
    for method, request in (
        (api.CreateRun, driver_pb2.CreateRunRequest(run_id=RUN, name="mine", seed=1)),
        (api.PushTasks, driver_pb2.PushTasksRequest(run_id=RUN)),
        (api.CancelTasks, driver_pb2.CancelTasksRequest(run_id=RUN, task_ids=[TASK])),
        (api.StartUpload, records_pb2.StartUploadRequest(upload_id="upload00009", size=1, run_id=RUN)),
        (api.ResolveBlob, resolve(stage.model.digest)),
        (api.AcknowledgeRound, driver_pb2.AcknowledgeRoundRequest(run_id=RUN, round=1)),
        (api.EndRun, driver_pb2.EndRunRequest(run_id=RUN, state=convert.run_state_to_proto(RunState.FAILED))),
    ):
        assert isinstance(await eve.refusal(method, request), PermissionDenied | AlreadyExists), request
    watch = api.Watch(driver_pb2.WatchRequest(run_id=RUN), metadata=eve.identity.metadata())
    assert await wait(watch.code(), SOON, "the refusal") is grpc.StatusCode.PERMISSION_DENIED
    assert await stage.complete("b"), "the run goes on"


async def test_secret_of_a_driver_is_worth_nothing_under_another_certificate(stage: Stage, attacked: Federation) -> None:
    stolen = attacked.peer("eve", Role.DRIVER, identity=stage.ann.identity)
    refusal = await stolen.refusal(stolen.driver.PushTasks, driver_pb2.PushTasksRequest(run_id=RUN))
    assert isinstance(refusal, Unauthenticated)


async def test_driver_does_not_name_anothers_blob_in_a_run_of_its_own(stage: Stage) -> None:
    await stage.eve.create_run("run0000000002")
    with pytest.raises(PermissionDenied):
        await stage.eve.push_task(stage.a, stage.model, "task000000003", "run0000000002")
    request = records_pb2.ResolveBlobRequest(digest=stage.model.digest, run_id="run0000000002")
    assert isinstance(await stage.eve.refusal(stage.eve.driver.ResolveBlob, request), PermissionDenied)
    assert isinstance(
        await stage.eve.refusal(
            stage.eve.driver.PushTasks,
            driver_pb2.PushTasksRequest(run_id="run0000000002", tasks=[records_pb2.Task(run_id=RUN, task_id=TASK)]),
        ),
        InvalidArgument,
    )


async def test_driver_is_not_told_what_ran_before_it_came_and_an_operator_is(stage: Stage, attacked: Federation) -> None:
    root = attacked.peer("root", Role.OPERATOR, as_role=Role.OPERATOR)
    (run,) = (await root.ask(root.operator.ListRuns, operator_pb2.ListRunsRequest())).runs
    assert run.run_id == RUN
    stopped = await root.ask(root.operator.StopRun, operator_pb2.StopRunRequest(run_id=RUN, reason="enough"))
    assert stopped.stopped
    with pytest.raises(HedgerowError):
        await stage.ann.push_task(stage.b, None, "task000000004")
