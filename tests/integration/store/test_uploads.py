"""Uploads, references and the collection of blobs in a real database."""

from __future__ import annotations

import pytest

from hedgerow.errors import AlreadyExists, CorruptData, InvalidArgument, NotFound, PermissionDenied, RunEnded, Unauthenticated
from hedgerow.records import Blob, RunState
from hedgerow.security import Identity
from hedgerow.store.changes import Upload
from hedgerow.store.references import owner
from hedgerow.store.store import Store
from tests.integration.store.conftest import RUN, HeldClock, client, digest, done, driver, fit, upload

A, B, DRIVER = client(1), client(2), driver()


@pytest.fixture(autouse=True)
async def _run_and_nodes(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    for node, name in ((A, "a"), (B, "b")):
        await store.open_session(node, name, [], [])
    await store.push_tasks(DRIVER, RUN, [fit(node, round=99) for node in (A, B)])  # they take part in the run


async def test_upload_is_announced_once_and_answers_how_it_stands(store: Store) -> None:
    assert await store.start_upload(A, "upload01", 10, RUN) == Upload("upload01", owner(A), 10)
    assert await store.start_upload(A, "upload01", 10, RUN) == Upload("upload01", owner(A), 10)
    assert await store.finish_upload("upload01", digest(1)) is None
    assert await store.finish_upload("upload01", digest(1)) is None
    finished = Upload("upload01", owner(A), 10, Blob(digest(1), 10))
    assert await store.start_upload(A, "upload01", 10, RUN) == finished
    assert await store.get_upload("upload01", owner(A)) == finished
    assert await store.blob_file(digest(1)) == ("upload01", 10)


async def test_upload_with_another_size_or_owner_is_refused(store: Store) -> None:
    await store.start_upload(A, "upload01", 10, RUN)
    with pytest.raises(AlreadyExists, match="10 bytes"):
        await store.start_upload(A, "upload01", 11, RUN)
    with pytest.raises(AlreadyExists, match="another peer"):
        await store.start_upload(B, "upload01", 10, RUN)
    with pytest.raises(PermissionDenied):
        await store.get_upload("upload01", owner(B))
    with pytest.raises(NotFound):
        await store.get_upload("upload99", owner(A))
    with pytest.raises(NotFound):
        await store.finish_upload("upload99", digest(1))


@pytest.mark.parametrize("size", [-1, 2**63])
async def test_upload_of_an_impossible_size_is_refused(store: Store, size: int) -> None:
    with pytest.raises(InvalidArgument):
        await store.start_upload(A, "upload01", size, RUN)


async def test_upload_of_strangers_and_for_runs_that_are_unknown_or_over_is_refused(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.start_upload(client(9), "upload01", 10, RUN)
    with pytest.raises(NotFound):
        await store.start_upload(A, "upload01", 10, "run00000099")
    with pytest.raises(Unauthenticated):
        await store.start_upload(Identity(A.role, A.id, "e" * 64), "upload01", 10, RUN)
    await store.end_run(DRIVER, RUN, RunState.FINISHED, "")
    with pytest.raises(RunEnded):
        await store.start_upload(DRIVER, "upload01", 10, RUN)
    assert await store.live_files() == set()


async def test_second_upload_of_the_same_bytes_gives_its_file_up(store: Store) -> None:
    await store.start_upload(A, "upload01", 10, RUN)
    await store.start_upload(B, "upload02", 10, RUN)
    assert await store.finish_upload("upload01", digest(1)) is None
    assert await store.finish_upload("upload02", digest(1)) == "upload02"
    assert await store.finish_upload("upload02", digest(1)) == "upload02"
    assert await store.live_files() == {"upload01"}
    counts = await store.counts()
    assert (counts.blobs, counts.blob_bytes) == (1, 10)


async def test_finishing_with_another_digest_or_size_is_corrupt(store: Store) -> None:
    await upload(store, A, 1, size=10, upload_id="upload01")
    with pytest.raises(CorruptData):
        await store.finish_upload("upload01", digest(2))
    await store.start_upload(B, "upload02", 11, RUN)
    with pytest.raises(CorruptData):
        await store.finish_upload("upload02", digest(1))


async def test_knowing_a_digest_grants_nothing(store: Store) -> None:
    secret = await upload(store, A, 1)
    with pytest.raises(PermissionDenied):
        await store.push_tasks(DRIVER, RUN, [fit(B), fit(B, sequence=1, payload=secret)])
    assert sum((await store.counts()).tasks.values()) == 2, "those of before"
    task = fit(B)
    await store.push_tasks(DRIVER, RUN, [task])
    with pytest.raises(PermissionDenied):
        await store.complete_task(B.id, 1, task.task_id, done(secret))
    with pytest.raises(PermissionDenied):
        await store.blob_for_client(B.id, task.task_id, secret.digest)
    with pytest.raises(PermissionDenied):
        await store.blob_for_driver(DRIVER, RUN, secret.digest)
    assert await store.results_after(RUN, 0, 10) == []


async def test_blob_that_was_never_uploaded_or_has_another_size_is_refused(store: Store) -> None:
    with pytest.raises(PermissionDenied):
        await store.push_tasks(DRIVER, RUN, [fit(A, payload=Blob(digest(1), 10))])
    blob = await upload(store, DRIVER, 2, size=10)
    with pytest.raises(InvalidArgument, match="10 bytes"):
        await store.push_tasks(DRIVER, RUN, [fit(A, payload=Blob(blob.digest, 11))])
    with pytest.raises(NotFound):
        await store.blob_file(digest(1))


async def test_task_gives_its_node_its_blob_and_the_node_may_name_it_in_the_reply(store: Store) -> None:
    blob = await upload(store, DRIVER, 1)
    task = fit(A, payload=blob)
    await store.push_tasks(DRIVER, RUN, [task])
    assert await store.blob_for_client(A.id, task.task_id, blob.digest) == blob
    with pytest.raises(PermissionDenied):
        await store.blob_for_client(B.id, task.task_id, blob.digest)
    assert (await store.complete_task(A.id, 1, task.task_id, done(blob))).accepted


async def test_result_gives_the_driver_its_blob_and_the_driver_may_send_it_on(store: Store) -> None:
    task = fit(A)
    await store.push_tasks(DRIVER, RUN, [task])
    blob = await upload(store, A, 1)
    await store.complete_task(A.id, 1, task.task_id, done(blob))
    assert await store.blob_for_driver(DRIVER, RUN, blob.digest) == blob
    assert (await store.push_tasks(DRIVER, RUN, [fit(B, payload=blob)])).created == 1
    await store.create_run(driver(2), "run00000002", "other", 1)
    with pytest.raises(PermissionDenied):
        await store.push_tasks(driver(2), "run00000002", [fit(B, run_id="run00000002", payload=blob)])


async def test_acknowledged_round_lets_its_blobs_go_except_those_to_keep(store: Store) -> None:
    old, new = await upload(store, DRIVER, 1), await upload(store, DRIVER, 2)
    task = fit(A, payload=old)
    await store.push_tasks(DRIVER, RUN, [task, fit(B, payload=new)])
    result = await upload(store, A, 3)
    await store.complete_task(A.id, 1, task.task_id, done(result))
    files = (await store.acknowledge_round(DRIVER, RUN, 1, [new.digest, digest(77)])).files
    assert sorted(files) == sorted([f"upload0001{DRIVER.id}", f"upload0003{A.id}"])
    assert await store.live_files() == {f"upload0002{DRIVER.id}"}
    await store.push_tasks(DRIVER, RUN, [fit(A, round=2, payload=new)])
    assert (await store.acknowledge_round(DRIVER, RUN, 1, [])).files == []  # round 2 uses it
    assert (await store.acknowledge_round(DRIVER, RUN, 2, [])).files == [f"upload0002{DRIVER.id}"]


async def test_blob_that_two_runs_use_goes_with_the_second(store: Store) -> None:
    await store.create_run(driver(2), "run00000002", "other", 1)
    blob = await upload(store, DRIVER, 1)
    await upload(store, driver(2), 1, run_id="run00000002")
    await store.push_tasks(DRIVER, RUN, [fit(A, payload=blob)])
    await store.push_tasks(driver(2), "run00000002", [fit(A, run_id="run00000002", payload=blob)])
    assert (await store.end_run(DRIVER, RUN, RunState.FINISHED, "")).files == []
    assert (await store.end_run(driver(2), "run00000002", RunState.FINISHED, "")).files == [f"upload0001{DRIVER.id}"]


async def test_blob_uploaded_by_one_driver_is_not_taken_from_another_that_has_not_used_it_yet(store: Store) -> None:
    await store.create_run(driver(2), "run00000002", "other", 1)
    blob = await upload(store, DRIVER, 1)
    await store.push_tasks(DRIVER, RUN, [fit(A, payload=blob)])
    await upload(store, driver(2), 1, run_id="run00000002")
    assert (await store.end_run(DRIVER, RUN, RunState.FINISHED, "")).files == []
    await store.push_tasks(driver(2), "run00000002", [fit(A, run_id="run00000002", payload=blob)])


async def test_uploads_never_finished_and_blobs_never_used_are_collected(store: Store, clock: HeldClock) -> None:
    used = await upload(store, DRIVER, 1)
    await store.push_tasks(DRIVER, RUN, [fit(A, payload=used)])
    await upload(store, A, 2)
    await store.start_upload(A, "half0001", 10, RUN)
    clock.advance(100)
    await upload(store, A, 3)
    await store.start_upload(A, "half0002", 10, RUN)
    assert await store.collect_blobs(clock.now() - 200) == []
    assert sorted(await store.collect_blobs(clock.now() - 50)) == ["half0001", f"upload0002{A.id}"]
    assert await store.live_files() == {f"upload0001{DRIVER.id}", f"upload0003{A.id}", "half0002"}


async def test_upload_whose_blob_was_collected_starts_again(store: Store, clock: HeldClock) -> None:
    await upload(store, A, 1, size=10, upload_id="upload01")
    clock.advance(1)
    assert await store.collect_blobs(clock.now()) == ["upload01"]
    assert (await store.start_upload(A, "upload01", 10, RUN)).done is None
    assert await store.finish_upload("upload01", digest(1)) is None


async def test_asking_for_an_upload_again_keeps_it(store: Store, clock: HeldClock) -> None:
    await upload(store, A, 1, size=10, upload_id="upload01")
    await store.start_upload(A, "half0001", 10, RUN)
    clock.advance(100)
    await store.start_upload(A, "upload01", 10, RUN)
    await store.start_upload(A, "half0001", 10, RUN)
    assert await store.collect_blobs(clock.now() - 50) == []
