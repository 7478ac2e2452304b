"""Names from outside that would lead somewhere else: none becomes a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.errors import HedgerowError, InvalidArgument, NotFound
from hedgerow.records import Outcome
from hedgerow.security import Identity, Role
from hedgerow.server.fleet import MAX_NAME_CHARS
from hedgerow.wire.convert import MAX_TRANSPORT_DTYPES
from hedgerow.wire.proto import driver_pb2, records_pb2
from tests.integration.attacks.federation import RUN, Federation
from tests.integration.client.fleet import fleet_server, site_of, task

EVIL = [
    "../../evil",
    "..",
    "/tmp/evil",
    "evil/../../../x",
    "..\\..\\evil",
    "%2e%2e%2fevil",
    "evil\x00.txt",
    "evil\nname",
    "~root",
    "a" * 65,
    "a" * 100_000,
    "",
    "évil0000",
]


@pytest.mark.parametrize("name", EVIL)
async def test_no_id_in_a_message_to_the_server_leads_anywhere(attacked: Federation, name: str) -> None:
    a, ann = attacked.peer("a", Role.CLIENT), attacked.peer("ann", Role.DRIVER)
    session = await a.session("a")
    await ann.create_run()
    before = attacked.files()
    start, resolve = records_pb2.StartUploadRequest, records_pb2.ResolveBlobRequest
    task_of = records_pb2.Task(task_id="task0001", run_id=RUN, node_id=a.identity.id, instruction={"kind": "fit"})
    attempts = [
        (ann, ann.driver.CreateRun, driver_pb2.CreateRunRequest(run_id=name, seed=1)),
        (ann, ann.driver.StartUpload, start(upload_id=name, size=1, run_id=RUN)),
        (ann, ann.driver.StartUpload, start(upload_id="upload00001", size=1, run_id=name)),
        (ann, ann.driver.ResolveBlob, resolve(digest=name, run_id=RUN)),
        (a, a.fleet.StartUpload, start(upload_id=name, size=1, run_id=RUN)),
        (a, a.fleet.StartUpload, start(upload_id="upload00001", size=1, run_id=name)),
        (a, a.fleet.ResolveBlob, resolve(digest=name, run_id=RUN, task_id="task0001")),
        (a, a.fleet.ResolveBlob, resolve(digest="0" * 64, run_id=RUN, task_id=name)),
    ]
    for field in ("task_id", "run_id", "node_id"):
        evil = records_pb2.Task()
        evil.CopyFrom(task_of)
        setattr(evil, field, name)
        attempts.append((ann, ann.driver.PushTasks, driver_pb2.PushTasksRequest(run_id=RUN, tasks=[evil])))
    with pytest.raises(NotFound):
        await a.hand_in(session, name, records_pb2.Reply(outcome=records_pb2.OUTCOME_OK))
    for peer, method, request in attempts:
        refusal = await peer.refusal(method, request)
        assert type(refusal) is not HedgerowError, f"the server failed: {refusal}"
    assert attacked.files() == before
    session.close()


@pytest.mark.parametrize("name", [name for name in EVIL if name.isascii() and "\x00" not in name and "\n" not in name])
async def test_no_id_of_a_peer_leads_anywhere(attacked: Federation, name: str) -> None:
    peer = attacked.peer("ann", Role.DRIVER, identity=Identity(Role.DRIVER, name, "s" * 64))
    await peer.refusal(peer.driver.CreateRun, driver_pb2.CreateRunRequest(run_id=RUN, seed=1))


@pytest.mark.parametrize("folder", ["blobs", "uploads"])
@pytest.mark.parametrize(
    "path",
    [
        "../hedgerow.sqlite3",
        "..%2fhedgerow.sqlite3",
        "%2e%2e/hedgerow.sqlite3",
        "..%252f..",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "a%00b",
    ],
)
async def test_no_path_on_the_blob_port_leads_out_of_it(attacked: Federation, folder: str, path: str) -> None:
    peer = attacked.peer("ann", Role.DRIVER)
    before = attacked.files()
    for method, body in (("GET", None), ("HEAD", None), ("PUT", b"x")):
        answer = await peer.http(method, f"/{folder}/{path}", body)
        assert answer.status in (400, 403, 404, 405)
        assert b"SQLite" not in answer.body
        assert b"root:" not in answer.body
    assert attacked.files() == before


SITE = """
import hedgerow.client as hc


class Hospital(hc.NumPyClient):
    def fit(self, parameters, config):
        return parameters, 1, {}


site = Hospital()
"""


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["/../../precious", "../../precious", "/../precious", "..", ""])
@pytest.mark.parametrize("field", ["task_id", "run_id"])
async def test_no_id_that_a_server_sends_leads_out_of_the_clients_state(tmp_path: Path, field: str, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for precious in (home / "precious", home / "state" / "precious"):
        precious.mkdir(parents=True)
        (precious / "data").write_text("years of work")
    async with fleet_server() as fleet, site_of(home, fleet, SITE) as site:
        session = await fleet.session()
        evil = task(1)
        setattr(evil, field, name)
        session.push(assign=evil)
        session.push(cancel={"task_id": name, "reason": "x"})
        session.push(release=[name])
        session.push(assign=task(2))
        (reply,) = await fleet.replies()
        assert reply.outcome is Outcome.OK, "the client goes on"
        assert site.outbox() == {"task0002"}
    assert all((path / "data").read_text() == "years of work" for path in (home / "precious", home / "state" / "precious"))
    assert names_in(tmp_path) == {"home"}


async def test_name_of_a_node_has_a_limit(attacked: Federation) -> None:
    with pytest.raises(InvalidArgument, match="1 to 128 printable characters"):
        await attacked.peer("a", Role.CLIENT).session("a" * (MAX_NAME_CHARS + 1))


@pytest.mark.parametrize(
    "names", [["bfloat16"] * (MAX_TRANSPORT_DTYPES + 1), ["a" * 17], ["two words"], [""], ["bfloat16\n"], ["é"]]
)
async def test_no_name_of_a_16_bit_float_that_cannot_be_is_kept(attacked: Federation, names: list[str]) -> None:
    a, ann = attacked.peer("a", Role.CLIENT), attacked.peer("ann", Role.DRIVER)
    with pytest.raises(InvalidArgument, match="names of at most 8 16-bit floats"):
        await a.session("a", names)
    (await a.session("a", ["bfloat16", "unheard_of"])).close()
    await ann.create_run()
    instruction = records_pb2.Instruction(kind="fit", transport_dtype=" ".join(names))
    task = records_pb2.Task(task_id="task0001", run_id=RUN, node_id=a.identity.id, instruction=instruction)
    if names != [""]:  # which says that there is none
        assert isinstance(
            await ann.refusal(ann.driver.PushTasks, driver_pb2.PushTasksRequest(run_id=RUN, tasks=[task])), InvalidArgument
        )
