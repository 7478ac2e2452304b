"""A site with a policy at a real server that knows its drivers: whatever these claim, what is outside the policy is not done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hedgerow.audit import AUDIT_FILE, read_audit
from hedgerow.certificates import Tls, read_pem
from hedgerow.client.connection import Connection
from hedgerow.client.jobs import Rules
from hedgerow.client.link import Link
from hedgerow.client.policy import Policy
from hedgerow.client.state_dir import StateDir
from hedgerow.errors import NotFound
from hedgerow.records import Blob, Instruction, Outcome, Reply, Task, TaskResult
from hedgerow.security import Role
from hedgerow.waits import wait
from hedgerow.wire import convert
from hedgerow.wire.proto import driver_pb2, records_pb2, worker_pb2
from tests.integration.attacks.federation import RUN, SOON, Federation, Peer, eventually

POLICY = Policy(("ann", "root"), frozenset({"get_properties", "fit"}), {"fit": 2})


class Workers:
    """Stand in for the site's code; what reaches it is remembered."""

    replaces_workers = True

    def __init__(self) -> None:
        self.heard: list[str] = []

    @asynccontextmanager
    async def place(self, run_id: str, *, light: bool) -> AsyncIterator[object]:
        yield object()

    async def worker(self, place: object) -> Any:
        return self

    async def carry_out(self, request: worker_pb2.WorkerRequest) -> worker_pb2.WorkerDone:
        self.heard.append(request.task.task_id)
        reply = convert.reply_to_proto(Reply(Outcome.OK, num_examples=1))
        return worker_pb2.WorkerDone(task_id=request.task.task_id, reply=reply)

    async def discard(self, place: object) -> None:
        pass


class Guarded:
    """A client with a policy at the federation's server, and the node id of another one that has none."""

    def __init__(self, federation: Federation, folder: Path, policy: Policy) -> None:
        self.federation = federation
        self.workers = Workers()
        pool: Any = self.workers
        own = federation.peer("hospital-a", Role.CLIENT).own
        assert own is not None
        self.state = StateDir.open(folder)
        tls = Tls(read_pem(federation.ca), own)
        self.link = Link(federation.service.fleet_address, tls, "hospital-a", self.state, pool, Rules(policy))

    async def ask(self, driver: Peer, name: str, kind: str, *others: str, blob: Blob | None = None, round: int = 1) -> TaskResult:
        """Let a driver give the client a task, and other nodes the same; what it reads of the client's result."""
        tasks = [
            convert.task_to_proto(Task(f"{name}{number:05d}", RUN, node, round, 0, 1, Instruction(kind, {}, blob)))
            for number, node in enumerate([self.state.identity.id, *others])
        ]
        await driver.ask(driver.driver.PushTasks, driver_pb2.PushTasksRequest(run_id=RUN, tasks=tasks))
        watch = driver.driver.Watch(driver_pb2.WatchRequest(run_id=RUN), metadata=driver.identity.metadata())
        try:
            return await wait(self._result(watch, tasks[0].task_id), SOON, "the client's result")
        finally:
            watch.cancel()

    async def _result(self, watch: Any, task_id: str) -> TaskResult:
        async for event in watch:
            for result in event.results.results:
                if result.task_id == task_id:
                    return convert.result_from_proto(result)
        raise AssertionError("the stream has ended")

    def audit(self) -> list[tuple[object, ...]]:
        entries = read_audit(self.state.path / AUDIT_FILE)
        return [(e["who"], e["outcome"], e["sites"]) for e in entries if e["what"] == "TaskReceived"]


@contextlib.asynccontextmanager
async def guarded(federation: Federation, folder: Path, policy: Policy) -> AsyncIterator[Guarded]:
    site = Guarded(federation, folder, policy)
    running = asyncio.create_task(site.link.run())
    try:
        await eventually(lambda: site.link._connection.session is not None, "the client's session")
        yield site
    finally:
        running.cancel()
        await site.link.close()
        await asyncio.gather(running, return_exceptions=True)
        site.state.close()


async def test_only_the_drivers_of_the_policy_are_worked_for(
    attacked: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Blob] = []

    async def download(connection: Connection, blob: Blob, *_: object) -> None:
        fetched.append(blob)
        raise NotFound("This server has none.")

    monkeypatch.setattr(Connection, "download", download)
    eve = attacked.peer("eve", Role.DRIVER)
    async with guarded(attacked, tmp_path / "site", POLICY) as site:
        await eve.create_run()
        blob = await eve.upload("upload00001", bytes(100_000))
        result = await site.ask(eve, "evil", "fit", blob=blob)
        assert (result.reply.outcome, result.reply.message) == (
            Outcome.REFUSED,
            "The site's policy allows no tasks of the driver 'eve'.",
        )
        assert (site.workers.heard, fetched) == ([], []), "neither parameters nor site's code were touched"
        assert site.audit() == [("hedgerow://driver/eve", "refused", 1)]


async def test_what_a_driver_calls_itself_makes_it_no_other(attacked: Federation, tmp_path: Path) -> None:
    eve = attacked.peer("eve", Role.DRIVER)
    async with guarded(attacked, tmp_path / "site", POLICY) as site:
        await eve.ask(eve.driver.CreateRun, driver_pb2.CreateRunRequest(run_id=RUN, name="hedgerow://driver/ann", seed=1))
        result = await site.ask(eve, "evil", "get_properties")
        assert result.reply.outcome is Outcome.REFUSED
        assert site.audit() == [("hedgerow://driver/eve", "refused", 1)]


async def test_kinds_and_numbers_of_sites_are_held_against_a_driver_of_the_policy(attacked: Federation, tmp_path: Path) -> None:
    ann, b = attacked.peer("ann", Role.DRIVER), attacked.peer("b", Role.CLIENT)
    session = await b.session("b")
    async with guarded(attacked, tmp_path / "site", POLICY) as site:
        await ann.create_run()
        assert (await site.ask(ann, "evaluate", "evaluate")).reply.message == (
            "The site's policy allows no tasks of the kind 'evaluate'."
        )
        invented = [f"invented{number:04d}" for number in range(20)]
        alone = await site.ask(ann, "alone", "fit", *invented)
        assert alone.reply.message == "The site's policy asks for at least 2 sites in fit; the server counts 1."
        assert site.workers.heard == []
        together = await site.ask(ann, "together", "fit", b.identity.id, round=2)
        assert together.reply.outcome is Outcome.OK
        assert (await site.ask(ann, "asking", "get_properties")).reply.outcome is Outcome.OK
        assert site.workers.heard == ["together00000", "asking00000"]
        assert [line[1:] for line in site.audit()] == [("refused", 1), ("refused", 1), ("accepted", 2), ("accepted", 1)]
    session.close()


async def test_a_task_that_waited_is_held_against_the_policy_when_the_client_comes(attacked: Federation, tmp_path: Path) -> None:
    root = attacked.peer("root", Role.OPERATOR)
    async with guarded(attacked, tmp_path / "site", POLICY):
        pass
    async with guarded(attacked, tmp_path / "site", POLICY) as site:
        await root.create_run()
    node = site.state.identity.id
    for name, kind in (("waits00001", "get_properties"), ("waits00002", "evaluate")):
        task = records_pb2.Task(task_id=name, run_id=RUN, node_id=node, round=1, instruction={"kind": kind})
        await root.ask(root.driver.PushTasks, driver_pb2.PushTasksRequest(run_id=RUN, tasks=[task]))
    async with guarded(attacked, tmp_path / "site", POLICY) as site:
        await eventually(lambda: len(site.audit()) == 2, "both tasks at the client")
        assert site.audit() == [("hedgerow://operator/root", "accepted", 1), ("hedgerow://operator/root", "refused", 1)]
        await eventually(lambda: site.workers.heard == ["waits00001"], "the task to be done")
