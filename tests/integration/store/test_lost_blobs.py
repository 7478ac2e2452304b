"""Blobs whose files a power loss took: asked for again, or gone with a reason."""

from __future__ import annotations

import pytest

from hedgerow.errors import NotFound, PermissionDenied, Unavailable
from hedgerow.records import Blob
from hedgerow.security import Identity
from hedgerow.store.store import Store
from tests.integration.store.conftest import RUN, HeldClock, client, done, driver, fit, upload

A, B, DRIVER = client(1), client(2), driver()


async def lost_result(store: Store, node: Identity = A, number: int = 7) -> tuple[str, Blob]:
    """A task whose result's file is lost after it was accepted; its id and the blob."""
    await store.create_run(DRIVER, RUN, "demo", 1)
    opened = await store.open_session(node, f"node {number}", [], [])
    task = fit(node, sequence=number)
    await store.push_tasks(DRIVER, RUN, [task])
    blob = await upload(store, node, number, upload_id=f"lostupload{number}")
    await store.complete_task(node.id, opened.epoch, task.task_id, done(blob))
    assert await store.mark_lost_blobs({f"lostupload{number}"}) == (1, 0)
    return task.task_id, blob


async def test_result_whose_bytes_are_lost_is_asked_again_from_the_outbox(store: Store) -> None:
    task_id, blob = await lost_result(store)
    with pytest.raises(Unavailable, match="asked for them again"):
        await store.blob_for_driver(DRIVER, RUN, blob.digest)
    opened = await store.open_session(A, "node 7", [], [task_id])
    assert [task.task_id for task in opened.assign] == [task_id]
    assert not opened.cancel
    assert not opened.release
    before = await store.results_after(RUN, 0, 10)
    again = await store.start_upload(A, "freshupload", blob.size, RUN)
    assert again.done is None
    assert await store.finish_upload("freshupload", blob.digest) is None
    assert not (await store.complete_task(A.id, opened.epoch, task_id, done(blob))).accepted
    assert await store.blob_for_driver(DRIVER, RUN, blob.digest) == blob
    assert await store.blob_file(blob.digest) == ("freshupload", blob.size)
    assert await store.results_after(RUN, 0, 10) == before, "the driver sees one result"
    assert (await store.open_session(A, "node 7", [], [task_id])).assign == []
    ended = await store.acknowledge_round(DRIVER, RUN, 1, [])
    assert ended.files == ["freshupload"]


async def test_same_upload_may_be_sent_again(store: Store) -> None:
    _, blob = await lost_result(store)
    assert (await store.start_upload(A, "lostupload7", blob.size, RUN)).done is None
    assert await store.finish_upload("lostupload7", blob.digest) is None
    assert await store.blob_file(blob.digest) == ("lostupload7", blob.size)


async def test_bytes_are_gone_when_the_node_comes_without_them(store: Store) -> None:
    _, blob = await lost_result(store)
    assert (await store.open_session(A, "node 7", [], [])).assign == []
    with pytest.raises(NotFound, match="nobody has them"):
        await store.blob_for_driver(DRIVER, RUN, blob.digest)


async def test_bytes_are_gone_with_their_node(store: Store, clock: HeldClock) -> None:
    _, blob = await lost_result(store)
    clock.advance(10)
    await store.close_session(A.id, 1)
    clock.advance(1000)
    await store.lose_nodes(clock.now() - 600, clock.now() - 60)
    with pytest.raises(NotFound, match="nobody has them"):
        await store.blob_for_driver(DRIVER, RUN, blob.digest)


async def test_other_nodes_do_not_change_what_is_awaited(store: Store) -> None:
    task_id, blob = await lost_result(store)
    assert (await store.open_session(B, "b", [], [])).assign == []
    with pytest.raises(Unavailable):
        await store.blob_for_driver(DRIVER, RUN, blob.digest)
    assert len((await store.open_session(A, "node 7", [], [task_id])).assign) == 1


async def test_bytes_that_a_driver_sent_are_gone_and_may_be_sent_again(store: Store) -> None:
    await store.create_run(DRIVER, RUN, "demo", 1)
    await store.open_session(A, "a", [], [])
    blob = await upload(store, DRIVER, 1, upload_id="modelupload")
    task = fit(A, payload=blob)
    await store.push_tasks(DRIVER, RUN, [task])
    assert await store.blob_files() == {"modelupload": blob.size}
    assert await store.mark_lost_blobs({"modelupload", "unknown"}) == (0, 1)
    assert await store.blob_files() == {}
    with pytest.raises(NotFound, match="lost the bytes"):
        await store.blob_for_client(A.id, task.task_id, blob.digest)
    with pytest.raises(PermissionDenied, match="Upload it first"):
        await store.push_tasks(DRIVER, RUN, [fit(A, sequence=1, payload=blob)])
    assert await upload(store, DRIVER, 1, upload_id="modelagain") == blob
    assert await store.blob_for_client(A.id, task.task_id, blob.digest) == blob
