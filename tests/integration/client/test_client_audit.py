"""The client's audit log: what the site can tell afterwards of every task that came, and of what left."""

from __future__ import annotations

import json
from pathlib import Path

import blake3
import pytest

from hedgerow.audit import AUDIT_FILE, read_audit
from hedgerow.cli import hedgerow
from hedgerow.client.policy import Policy
from hedgerow.errors import InvalidArgument, Unavailable
from hedgerow.records import Outcome
from hedgerow.wire.proto import records_pb2
from tests.integration.attacks.federation import eventually
from tests.integration.client.fleet import RUN, Site, fleet_server, task

ANN = records_pb2.Origin(driver="hedgerow://driver/ann", sites=2)
EVE = records_pb2.Origin(driver="hedgerow://driver/eve", sites=9)
TEXT = """
import hedgerow.client as hc


class Hospital(hc.NumPyClient):
    def fit(self, parameters, config):
        if "gate" in config:
            open(config["gate"]).read()
        return [p + 1 for p in parameters], 5, {}


site = Hospital()
"""


def told(site: Site) -> list[tuple[object, ...]]:
    names = ("who", "what", "outcome", "task_id")
    return [tuple(entry.get(name) for name in names) for entry in read_audit(site.folder / "state" / AUDIT_FILE)]


async def until_told(site: Site, *line: object) -> None:
    await eventually(lambda: line in told(site), f"{line} in the audit log")


async def test_a_story_can_be_read_in_the_clients_audit_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = Policy(("ann",), min_sites={"evaluate": 3})
    async with fleet_server() as fleet:
        site = Site(tmp_path, fleet, TEXT, policy)
        await site.start()
        try:
            session = await fleet.session()
            unreadable = task(4)
            unreadable.instruction.kind = "rm -rf"
            good = task(1, round=7)
            for number, (message, origin) in enumerate(
                [(good, ANN), (task(2), EVE), (task(3, "evaluate"), ANN), (unreadable, ANN)], start=1
            ):
                session.push(assign=message, origin=origin)
                await until_told(site, origin.driver, "ResultSent", "ok", f"task{number:04d}")
            replies = await fleet.replies(4)
        finally:
            await site.stop()
    assert [reply.outcome for reply in replies] == [Outcome.OK, Outcome.REFUSED, Outcome.REFUSED, Outcome.INVALID_RESULT]
    ann, eve = ANN.driver, EVE.driver
    assert told(site) == [
        (ann, "TaskReceived", "accepted", "task0001"),
        (ann, "TaskEnded", "ok", "task0001"),
        (ann, "ResultSent", "ok", "task0001"),
        (eve, "TaskReceived", "refused", "task0002"),
        (eve, "ResultSent", "ok", "task0002"),
        (ann, "TaskReceived", "refused", "task0003"),
        (ann, "ResultSent", "ok", "task0003"),
        (ann, "TaskReceived", "unreadable", "task0004"),
        (ann, "ResultSent", "ok", "task0004"),
    ]
    entries = list(read_audit(tmp_path / "state" / AUDIT_FILE))
    assert {entry["run_id"] for entry in entries} == {RUN}
    assert [entry["kind"] for entry in entries[:4]] == ["fit"] * 4
    assert (entries[0]["round"], entries[0]["sites"]) == (7, 2)
    assert entries[0]["digest"] == blake3.blake3(good.instruction.parameters.inline).hexdigest(), "what came in"
    assert isinstance(replies[0].parameters, bytes)
    assert entries[2]["digest"] == blake3.blake3(replies[0].parameters).hexdigest(), "what went out"
    assert entries[3]["reason"] == replies[1].message == "The site's policy allows no tasks of the driver 'eve'."
    assert (
        entries[5]["reason"]
        == replies[2].message
        == ("The site's policy asks for at least 3 sites in evaluate; the server counts 2.")
    )
    assert hedgerow.main(["audit", "--state-dir", str(tmp_path / "state"), "--who", "eve", "--outcome", "refused", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["task_id"] == "task0002"


async def test_refused_by_the_policy_a_task_leaves_no_trace_in_the_client(tmp_path: Path) -> None:
    async with fleet_server() as fleet:
        site = Site(tmp_path, fleet, TEXT, Policy(kinds=frozenset({"evaluate"})))
        await site.start()
        try:
            session = await fleet.session()
            big = task(1)
            big.instruction.parameters.blob.digest, big.instruction.parameters.blob.size = "0" * 64, 10**6
            session.push(assign=big, origin=ANN)
            (reply,) = await fleet.replies()
            assert reply.outcome is Outcome.REFUSED
            assert fleet.asked == [], "nobody asked for the parameters"
            assert [list((tmp_path / "state" / name).iterdir()) for name in ("parameters", "work", "runs")] == [[], [], []]
            assert site.link._jobs.in_hand == []
        finally:
            await site.stop()


async def test_what_did_not_end_well_is_noted_too(tmp_path: Path) -> None:
    async with fleet_server() as fleet:
        site = Site(tmp_path, fleet, TEXT)
        await site.start()
        try:
            session = await fleet.session()
            fleet.refuse["ResolveBlob"] = [InvalidArgument("There is none.")]
            big = task(1)
            big.instruction.parameters.blob.digest, big.instruction.parameters.blob.size = "ab" * 32, 10**6
            session.push(assign=big, origin=ANN)
            await fleet.replies()
            await until_told(site, ANN.driver, "ResultSent", "ok", "task0001")
            session.push(assign=task(2, config={"gate": str(tmp_path / "gate")}), origin=ANN)
            session.push(assign=task(3))
            session.push(cancel={"task_id": "task0003", "reason": "too late"})
            session.push(assign=task(4, "get_properties"))
            await fleet.replies(2)
        finally:
            await site.stop()
    ann, unknown = ANN.driver, "unknown"
    assert [line for line in told(site) if line[3] == "task0001"] == [
        (ann, "TaskReceived", "accepted", "task0001"),
        (ann, "ParametersFetched", "InvalidArgument", "task0001"),
        (ann, "TaskEnded", "invalid_result", "task0001"),
        (ann, "ResultSent", "ok", "task0001"),
    ]
    assert [line[2] for line in told(site) if line[1:4:2] == ("TaskEnded", "task0003")] == ["cancelled"]
    assert (unknown, "TaskReceived", "accepted", "task0003") in told(site), "a server that says nothing of drivers"
    assert [line[2] for line in told(site) if line[1:4:2] == ("TaskEnded", "task0002")] == ["user_error"]


async def test_a_result_that_waited_for_a_restart_is_still_known_to_be_the_drivers(tmp_path: Path) -> None:
    async with fleet_server() as fleet:
        site = Site(tmp_path, fleet, TEXT)
        await site.start()
        fleet.refuse["complete"] = [Unavailable("Not today.")] * 1000
        (await fleet.session()).push(assign=task(1), origin=ANN)
        await until_told(site, ANN.driver, "ResultSent", "Unavailable", "task0001")
        await site.stop()
        fleet.refuse["complete"] = []
        await site.start()
        await until_told(site, ANN.driver, "ResultSent", "ok", "task0001")
        await site.stop()
