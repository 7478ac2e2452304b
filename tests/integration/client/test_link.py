"""The link against a Fleet API over real gRPC, with real worker processes."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from hedgerow import errors
from hedgerow.client import jobs, state_dir
from hedgerow.client.worker_process import ChildWorker
from hedgerow.records import Blob, Outcome
from hedgerow.waits import wait
from hedgerow.wire.proto import worker_pb2
from tests.integration.attacks.federation import eventually
from tests.integration.client.fleet import (
    SOON,
    FakeFleet,
    Site,
    alive,
    fleet_server,
    parameters_of,
    site_of,
    task,
)

TEXT = """
import os
import signal
import time
from pathlib import Path

import hedgerow.client as hc

HERE = Path(__file__).parent


class Hospital(hc.NumPyClient):
    def get_properties(self, config):
        return {"location": "A", "pid": os.getpid()}

    def fit(self, parameters, config):
        with (HERE / "fits").open("a") as log:
            log.write(f"{os.getpid()}\\n")
        if "gate" in config:  # a fifo: opening it waits for the other side
            (HERE / "started").touch()
            open(HERE / config["gate"]).read()
        if "kills" in config:
            kills = HERE / "kills"
            done = len(kills.read_text()) if kills.exists() else 0
            if done < config["kills"]:
                kills.write_text("x" * (done + 1))
                os.kill(os.getpid(), signal.SIGKILL)
        if config.get("raise"):
            raise ValueError("no data on a Sunday")
        if config.get("keep"):
            self.context.state["count"] = self.context.state.get("count", 0) + 1
        return [p + 1 for p in parameters], 5, {"pid": os.getpid(), "count": self.context.state.get("count", 0)}


site = Hospital()
"""


@pytest.fixture
async def fleet() -> AsyncIterator[FakeFleet]:
    async with fleet_server() as server:
        yield server


@pytest.fixture
async def site(fleet: FakeFleet, tmp_path: Path) -> AsyncIterator[Site]:
    async with site_of(tmp_path, fleet, TEXT) as started:
        yield started


async def until_started(site: Site) -> None:
    """Wait for a gated fit to be under way."""
    started = site.folder / "started"
    while not started.exists():
        await wait(asyncio.sleep(0.01), SOON, "the fit to start")
    started.unlink()


def gate(site: Site) -> Path:
    """What a fit with config gate=gate waits for."""
    path = site.folder / "gate"
    if not path.exists():
        os.mkfifo(path)
    return path


async def test_a_task_is_carried_out_and_its_result_kept_until_it_is_released(fleet: FakeFleet, site: Site) -> None:
    session = await fleet.session()
    assert session.hello.name == "site"
    assert session.hello.node_id == site.state.identity.id
    session.push(assign=task(1))
    (reply,) = await fleet.replies()
    assert reply.num_examples == 5
    np.testing.assert_array_equal(parameters_of(reply)["w"], np.ones(3, np.float32))
    assert site.outbox() == {"task0001"}
    session.push(release=["task0001", "unknown1"])
    session.push(assign=task(2))
    await fleet.replies(2)
    assert site.outbox() == {"task0002"}
    assert list((site.folder / "state" / "work").iterdir()) == []


async def test_the_worker_stays_warm_and_a_users_exception_does_not_hurt_it(fleet: FakeFleet, site: Site) -> None:
    session = await fleet.session()
    session.push(assign=task(1, config={"raise": True}))
    session.push(assign=task(2))
    failed, good = await fleet.replies(2)
    assert failed.outcome is Outcome.USER_ERROR
    assert "ValueError: no data on a Sunday" in failed.traceback
    assert good.metrics["pid"] == site.worker.pid


async def test_a_missing_method_is_reported(fleet: FakeFleet, site: Site) -> None:
    (await fleet.session()).push(assign=task(1, "evaluate"))
    (reply,) = await fleet.replies()
    assert reply.outcome is Outcome.NOT_IMPLEMENTED
    assert "Hospital does not define evaluate()" in reply.message


async def test_a_worker_that_dies_is_replaced_and_the_task_done_again(fleet: FakeFleet, site: Site) -> None:
    (await fleet.session()).push(assign=task(1, config={"kills": 2}))
    (reply,) = await fleet.replies()
    assert (reply.outcome, reply.worker_deaths) == (Outcome.OK, 2)
    assert len((site.folder / "fits").read_text().split()) == 3
    assert not alive(site.worker.pid)


async def test_a_task_that_kills_every_worker_fails_and_the_client_goes_on(fleet: FakeFleet, site: Site) -> None:
    session = await fleet.session()
    session.push(assign=task(1, config={"kills": 3}))
    session.push(assign=task(2))
    failed, good = await fleet.replies(2)
    assert (failed.outcome, failed.worker_deaths) == (Outcome.WORKER_DIED, 3)
    assert "SIGKILL" in failed.message
    assert good.outcome is Outcome.OK
    assert list((site.folder / "state" / "deaths").iterdir()) == []


async def test_what_a_worker_had_written_when_it_died_is_removed_when_the_task_fails(
    fleet: FakeFleet, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = ChildWorker.carry_out

    async def writing(worker: ChildWorker, request: worker_pb2.WorkerRequest) -> worker_pb2.WorkerDone:
        for path in (request.result_path, request.new_state_path):
            Path(path).write_bytes(b"half")  # noqa: ASYNC240 (a few bytes)
        return await carry_out(worker, request)

    monkeypatch.setattr(ChildWorker, "carry_out", writing)
    session = await fleet.session()
    session.push(assign=task(1, config={"kills": 3}))
    (failed,) = await fleet.replies()
    assert failed.outcome is Outcome.WORKER_DIED
    session.push(assign=task(2, "get_parameters"))
    await fleet.replies(2)
    assert [path.name for path in (site.folder / "state" / "work").iterdir() if path.name.startswith("task0001")] == []


async def test_a_worker_that_dies_while_the_disk_is_full_is_replaced_all_the_same(
    fleet: FakeFleet, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes, mode: int = 0) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    session = await fleet.session()
    monkeypatch.setattr(state_dir, "write_atomically", full)
    session.push(assign=task(1, config={"kills": 1}))
    (reply,) = await fleet.replies()
    assert (reply.outcome, reply.worker_deaths) == (Outcome.OK, 1)


async def test_a_result_without_parameters_has_none_where_all_parameters_are_blobs(fleet: FakeFleet, site: Site) -> None:
    await fleet.session()
    fleet.inline_max_bytes = 0
    await fleet.stop()
    await fleet.start()
    (await fleet.session(2)).push(assign=task(1, "get_properties"))
    (reply,) = await fleet.replies()
    assert (reply.outcome, reply.parameters) == (Outcome.OK, None)


async def test_deaths_are_counted_across_restarts_of_the_client(fleet: FakeFleet, site: Site) -> None:
    await fleet.session()
    site.state.count_death("task0001")
    site.state.count_death("task0001")
    await site.stop()
    await site.start()
    (await fleet.session(2)).push(assign=task(1, config={"kills": 1}))
    (reply,) = await fleet.replies()
    assert (reply.outcome, reply.worker_deaths) == (Outcome.WORKER_DIED, 3)


async def test_a_task_assigned_twice_is_done_once(fleet: FakeFleet, site: Site) -> None:
    session = await fleet.session()
    session.push(assign=task(1))
    session.push(assign=task(1))
    session.push(assign=task(2))
    await fleet.replies(2)
    assert [request.task_id for request in fleet.completed] == ["task0001", "task0002"]
    assert len((site.folder / "fits").read_text().split()) == 2


async def test_a_finished_task_that_is_assigned_again_is_sent_again_not_done_again(fleet: FakeFleet, site: Site) -> None:
    session = await fleet.session()
    session.push(assign=task(1))
    await fleet.replies(1)
    while (entry := site.link.outbox.get("task0001")) is None or not entry.accepted_by:
        await wait(asyncio.sleep(0.01), SOON, "the client to note that the result was accepted")
    session.push(assign=task(1))
    first, second = await fleet.replies(2)
    assert first == second
    assert len((site.folder / "fits").read_text().split()) == 1


async def test_get_properties_is_answered_during_a_long_fit(fleet: FakeFleet, site: Site) -> None:
    fifo = gate(site)
    session = await fleet.session()
    session.push(assign=task(1, config={"gate": "gate"}))
    await until_started(site)
    session.push(assign=task(2, "get_properties"))
    (properties,) = await fleet.replies(1)
    assert properties.metrics["location"] == "A"
    assert properties.metrics["pid"] != site.worker.pid
    fifo.write_text("go")
    await fleet.replies(2)


async def test_a_cancelled_task_that_goes_on_loses_its_worker(
    fleet: FakeFleet, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "CANCEL_GRACE_S", 0.05)
    gate(site)
    session = await fleet.session()
    session.push(assign=task(1, config={"gate": "gate"}))
    await until_started(site)
    session.push(cancel={"task_id": "task0001", "reason": "the round is over"})
    session.push(assign=task(2))
    (reply,) = await fleet.replies(1)
    assert fleet.completed[0].task_id == "task0002"
    assert reply.metrics["pid"] != site.worker.pid
    assert not alive(site.worker.pid)


async def test_a_cancelled_task_that_ends_soon_keeps_its_worker_and_its_result_is_dropped(fleet: FakeFleet, site: Site) -> None:
    fifo = gate(site)
    session = await fleet.session()
    session.push(assign=task(1, config={"gate": "gate"}))
    await until_started(site)
    session.push(cancel={"task_id": "task0001", "reason": "the round is over"})
    session.push(assign=task(2, "get_properties"))
    await fleet.replies(1)  # the cancellation came before this
    fifo.write_text("go")
    session.push(assign=task(3))
    replies = await fleet.replies(2)
    assert replies[1].metrics["pid"] == site.worker.pid
    assert site.outbox() == {"task0002", "task0003"}


async def test_a_waiting_task_that_is_cancelled_is_never_started(fleet: FakeFleet, site: Site) -> None:
    fifo = gate(site)
    session = await fleet.session()
    session.push(assign=task(1, config={"gate": "gate"}))
    await until_started(site)
    session.push(assign=task(2))
    session.push(cancel={"task_id": "task0002", "reason": "not needed"})
    session.push(assign=task(3, "get_properties"))
    await fleet.replies(1)
    fifo.write_text("go")
    session.push(assign=task(4))
    await fleet.replies(3)
    assert {request.task_id for request in fleet.completed} == {"task0001", "task0003", "task0004"}
    assert len((site.folder / "fits").read_text().split()) == 2


async def test_a_server_that_comes_back_is_told_what_is_in_hand_and_gets_what_it_missed(
    fleet: FakeFleet, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hedgerow")
    fifo = gate(site)
    session = await fleet.session()
    session.push(assign=task(1))
    await fleet.replies(1)
    session.push(assign=task(2, config={"gate": "gate"}))
    await until_started(site)
    await fleet.stop()
    await fleet.start()
    second = await fleet.session(2)
    assert list(second.hello.running) == ["task0002"]
    assert list(second.hello.finished) == ["task0001"]
    await fleet.stop()
    fifo.write_text("go")
    while site.outbox() != {"task0001", "task0002"}:
        await wait(asyncio.sleep(0.01), SOON, "the fit to end without a server")
    await fleet.start()
    third = await fleet.session(3)
    await fleet.replies(2)
    assert list(third.hello.running) == []
    assert [request.task_id for request in fleet.completed] == ["task0001", "task0002"]
    assert len((site.folder / "fits").read_text().split()) == 2
    for line in ("Connection lost", "reconnecting in", "Reconnected"):
        assert line in caplog.text


async def test_a_result_survives_the_client_and_is_sent_by_the_next_one(fleet: FakeFleet, site: Site) -> None:
    session = await fleet.session()
    fleet.refuse["complete"] = [errors.Unavailable("not now")] * 1000
    session.push(assign=task(1))
    while not site.outbox() >= {"task0001"}:
        await wait(asyncio.sleep(0.01), SOON, "the result to be kept")
    await site.stop()
    fleet.refuse.clear()
    await site.start()
    second = await fleet.session(2)
    assert list(second.hello.finished) == ["task0001"]
    (reply,) = await fleet.replies(1)
    np.testing.assert_array_equal(parameters_of(reply)["w"], np.ones(3, np.float32))
    assert second.hello.node_id == session.hello.node_id


async def test_another_server_is_sent_what_the_first_one_had_accepted(fleet: FakeFleet, site: Site) -> None:
    (await fleet.session()).push(assign=task(1))
    await fleet.replies(1)
    await fleet.stop()
    fleet.server_id = "server0002"
    await fleet.start()
    first, second = await fleet.replies(2)
    assert first == second


async def test_a_result_is_sent_again_until_the_server_can_take_it(fleet: FakeFleet, site: Site) -> None:
    fleet.refuse["complete"] = [
        *(errors.Unavailable("busy"), errors.LimitReached("disk full"), errors.HedgerowError("bug")),
        errors.Unauthenticated("The certificate has been revoked."),
    ]
    (await fleet.session()).push(assign=task(1))
    (reply,) = await fleet.replies(1)
    assert reply.outcome is Outcome.OK


async def test_a_refused_result_becomes_a_failure_with_the_servers_reason(fleet: FakeFleet, site: Site) -> None:
    fleet.refuse["complete"] = [errors.InvalidArgument("I do not like it")]
    (await fleet.session()).push(assign=task(1))
    (reply,) = await fleet.replies(1)
    assert reply.outcome is Outcome.INVALID_RESULT
    assert "I do not like it" in reply.message


async def test_a_result_for_a_task_that_the_server_does_not_know_is_dropped(fleet: FakeFleet, site: Site) -> None:
    session = await fleet.session()
    fleet.refuse["complete"] = [errors.NotFound("no such task")]
    session.push(assign=task(1))
    session.push(assign=task(2))
    await fleet.replies(1)
    assert fleet.completed[0].task_id == "task0002"
    await eventually(lambda: site.outbox() == {"task0002"}, "the first result to be dropped")


async def test_parameters_that_the_client_may_not_read_are_a_failure(fleet: FakeFleet, site: Site) -> None:
    fleet.refuse["ResolveBlob"] = [errors.NotFound("the blob is gone")]
    (await fleet.session()).push(assign=task(1, parameters=Blob("ab" * 32, 100)))
    (reply,) = await fleet.replies(1)
    assert reply.outcome is Outcome.INVALID_RESULT
    assert "the blob is gone" in reply.message


async def test_a_silent_server_is_left_and_beats_keep_a_session_open(fleet: FakeFleet, site: Site) -> None:
    await fleet.session()
    fleet.beat_interval_s = 0.05
    await fleet.stop()
    await fleet.start()
    second = await fleet.session(2)
    await fleet.until(lambda: second.beats >= 1, "a beat")
    await fleet.session(3)  # the fake never beats


async def test_goodbye_with_a_time_brings_the_client_back(fleet: FakeFleet, site: Site) -> None:
    session = await fleet.session()
    session.push(goodbye={"reason": "restarting", "come_back_after_s": 0.01})
    session.queue.put_nowait(None)
    await fleet.session(2)


async def test_goodbye_without_a_time_ends_the_client(fleet: FakeFleet, site: Site) -> None:
    (await fleet.session()).push(goodbye={"reason": "a newer session has taken over"})
    assert site.running is not None
    with pytest.raises(errors.HedgerowError, match="for good: a newer session has taken over"):
        await wait(site.running, SOON, "the client's end")


async def test_goodbye_of_a_server_whose_one_job_is_done_ends_the_client_well(fleet: FakeFleet, site: Site) -> None:
    (await fleet.session()).push(goodbye={"reason": "its one job is done", "job_done": True})
    assert site.running is not None
    await wait(site.running, SOON, "the client's end")


async def test_the_state_of_a_run_survives_a_restart(fleet: FakeFleet, site: Site) -> None:
    (await fleet.session()).push(assign=task(1, config={"keep": True}))
    await fleet.replies(1)
    await site.stop()
    await site.start()
    (await fleet.session(2)).push(assign=task(2, config={"keep": True}))
    await fleet.until(lambda: fleet.completed[-1].task_id == "task0002", "the second result")
    assert (await fleet.replies())[-1].metrics["count"] == 2


async def test_leaving_hands_back_what_is_in_hand(fleet: FakeFleet, site: Site) -> None:
    gate(site)
    session = await fleet.session()
    session.push(assign=task(1, config={"gate": "gate"}))
    await until_started(site)
    session.push(assign=task(2))
    session.push(assign=task(3, "get_properties"))
    await fleet.replies(1)
    await site.link.leave("SIGTERM")
    assert session.leave is not None
    assert list(session.leave.handed_back) == ["task0001", "task0002"]
    await site.stop()
    assert not alive(site.worker.pid)


async def test_a_refusal_at_first_contact_is_raised(fleet: FakeFleet, tmp_path: Path) -> None:
    fleet.refuse["Session"] = [errors.AlreadyExists("another node is called site")]
    async with site_of(tmp_path, fleet, TEXT) as site:
        assert site.running is not None
        with pytest.raises(errors.AlreadyExists, match="another node is called site"):
            await wait(site.running, SOON, "the refusal")
