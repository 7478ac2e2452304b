"""Who did what, and who was refused, stands in the server's audit log."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hedgerow.audit import AUDIT_FILE, read_audit
from hedgerow.records import Outcome, Reply, RunState
from hedgerow.security import Role
from hedgerow.wire import convert
from hedgerow.wire.proto import driver_pb2, records_pb2
from tests.integration.attacks.federation import RUN, TASK, Federation, eventually


def lines(path: Path) -> list[tuple[object, ...]]:
    names = ("who", "what", "outcome", "run_id", "task_id", "digest")
    return [tuple(entry.get(name, "") for name in names) for entry in read_audit(path)]


async def test_a_story_can_be_read_in_the_audit_log(attacked: Federation) -> None:
    a, ann, eve = attacked.peer("a", Role.CLIENT), attacked.peer("ann", Role.DRIVER), attacked.peer("eve", Role.DRIVER)
    session = await a.session("a")
    await ann.create_run()
    blob = await ann.upload("upload00001", bytes(100_000))
    await ann.push_task(a, blob)
    resolve = records_pb2.ResolveBlobRequest(digest=blob.digest, run_id=RUN, task_id=TASK)
    url = (await a.ask(a.fleet.ResolveBlob, resolve)).url
    assert (await a.http("GET", url)).status == 200
    assert (await eve.http("GET", url)).status == 403
    reply = convert.reply_to_proto(Reply(Outcome.OK, num_examples=1))
    await a.hand_in(session, TASK, reply)
    await eve.refusal(eve.driver.EndRun, driver_pb2.EndRunRequest(run_id=RUN, state=convert.run_state_to_proto(RunState.FAILED)))
    session.close()
    client, driver, thief = "hedgerow://client/a", "hedgerow://driver/ann", "hedgerow://driver/eve"
    expected = [
        (client, "Session", "began", "", "", ""),
        (driver, "CreateRun", "ok", RUN, "", ""),
        (driver, "StartUpload", "ok", RUN, "", ""),
        (driver, "PUT", "200", "", "", ""),
        (driver, "PushTasks", "ok", RUN, TASK, blob.digest),
        (client, "ResolveBlob", "ok", RUN, TASK, blob.digest),
        (client, "GET", "200", "", "", blob.digest),
        (thief, "GET", "PermissionDenied", "", "", blob.digest),
        (client, "CompleteTask", "ok", RUN, TASK, ""),
        (thief, "EndRun", "PermissionDenied", RUN, "", ""),
    ]
    path = attacked.state / AUDIT_FILE

    def told() -> bool:
        # Transfers are noted by another thread than calls, when they have ended: the order is nearly that of the story.
        return Counter(line for line in lines(path) if line in expected) == Counter(expected)

    await eventually(told, f"{expected} in the audit log")
    entries = {entry["what"]: entry for entry in read_audit(path)}
    assert (entries["PushTasks"]["kind"], entries["CompleteTask"]["task_outcome"]) == ("fit", "ok")
    assert not any("signature" in text for text in (path.read_text(),)), "no URL that still works stands there"
