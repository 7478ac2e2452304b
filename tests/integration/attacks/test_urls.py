"""Signed URLs: altered, lent to somebody else, used for something else, or too late."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from hedgerow.clock import SystemClock
from hedgerow.records import Blob
from hedgerow.security import Role, UrlSigner
from hedgerow.wire.proto import records_pb2
from tests.integration.attacks.federation import RUN, Answer, Federation, Peer

MODEL, OTHER = b"model" * 1000, b"other" * 1000


@dataclass(frozen=True)
class Stage:
    """A driver with two blobs, the URL of one of them, and somebody else."""

    ann: Peer
    eve: Peer
    model: Blob
    other: Blob
    url: str


@pytest.fixture
async def stage(attacked: Federation) -> Stage:
    ann, eve = attacked.peer("ann", Role.DRIVER), attacked.peer("eve", Role.DRIVER)
    await ann.create_run()
    model, other = await ann.upload("upload00001", MODEL), await ann.upload("upload00002", OTHER)
    request = records_pb2.ResolveBlobRequest(digest=model.digest, run_id=RUN)
    return Stage(ann, eve, model, other, (await ann.ask(ann.driver.ResolveBlob, request)).url)


def denied(answer: Answer) -> bool:
    return answer.status == 403 and b"model" not in answer.body and "PermissionDenied" in answer.error


async def test_same_holder_may_repeat_a_url_within_its_time(stage: Stage) -> None:
    for _ in range(3):
        answer = await stage.ann.http("GET", stage.url)
        assert (answer.status, answer.body) == (200, MODEL)


async def test_url_is_worth_nothing_to_anybody_else(stage: Stage, attacked: Federation) -> None:
    for peer in (
        stage.eve,
        attacked.peer("ann-2", Role.DRIVER, identity=stage.ann.identity),
        attacked.peer("root", Role.OPERATOR),
        attacked.peer("a", Role.CLIENT),
    ):
        assert denied(await peer.http("GET", stage.url))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expires", "9999999999"),
        ("expires", "99999999999999999999999999"),
        ("expires", "nan"),
        ("expires", "-1"),
        ("who", "driver/0000000000000000"),
        ("who", ""),
        ("signature", "0" * 64),
        ("signature", ""),
        ("signature", "é"),
    ],
)
async def test_altered_url_is_refused(stage: Stage, field: str, value: str) -> None:
    parts = urlsplit(stage.url)
    fields = dict(parse_qsl(parts.query)) | {field: value}
    assert denied(await stage.ann.http("GET", f"{parts.path}?{urlencode(fields)}"))


async def test_url_is_for_its_own_method_and_blob_alone(stage: Stage) -> None:
    query = urlsplit(stage.url).query
    assert denied(await stage.ann.http("GET", f"/blobs/{stage.other.digest}?{query}"))
    assert denied(await stage.ann.http("PUT", f"/uploads/upload00001?{query}", b"x"))
    assert denied(await stage.ann.http("HEAD", f"/uploads/upload00001?{query}"))
    put = urlsplit(await stage.ann.start_upload("upload00003", 5)).query
    assert denied(await stage.ann.http("GET", f"/blobs/{stage.model.digest}?{put}"))
    assert denied(await stage.ann.http("PUT", f"/uploads/upload00004?{put}", b"x"))
    for method in ("POST", "DELETE", "PATCH", "PUT", "HEAD", "OPTIONS"):
        answer = await stage.ann.http(method, stage.url)
        assert answer.status in (404, 405)
        assert b"model" not in answer.body


async def test_without_a_signature_nothing_is_told_about_a_blob(stage: Stage) -> None:
    here, nowhere = f"/blobs/{stage.model.digest}", "/blobs/" + "0" * 64
    answers = [await stage.ann.http("GET", path) for path in (here, nowhere)]
    assert all(denied(answer) for answer in answers)
    assert answers[0].body == answers[1].body


async def test_expired_url_is_refused(stage: Stage, attacked: Federation) -> None:
    signer = UrlSigner(attacked.url_key())
    holder = stage.ann.as_seen_by_the_server()
    path, now = urlsplit(stage.url).path, SystemClock().now()
    assert (await stage.ann.http("GET", signer.sign("GET", path, holder, now + 60))).body == MODEL
    assert denied(await stage.ann.http("GET", signer.sign("GET", path, holder, now - 2)))


async def test_url_of_another_server_is_refused(stage: Stage) -> None:
    holder = stage.ann.as_seen_by_the_server()
    forged = UrlSigner(b"f" * 32).sign("GET", urlsplit(stage.url).path, holder, SystemClock().now() + 60)
    assert denied(await stage.ann.http("GET", forged))
