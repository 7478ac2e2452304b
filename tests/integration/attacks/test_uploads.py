"""Uploads that are not what was announced: too long, too short, of other bytes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import secrets

import blake3
import pytest

from hedgerow.errors import AlreadyExists, InvalidArgument, PermissionDenied
from hedgerow.records import Blob
from hedgerow.security import Role
from hedgerow.waits import wait
from hedgerow.wire.blob_http import OFFSET_HEADER
from hedgerow.wire.proto import records_pb2
from tests.integration.attacks.federation import RUN, SOON, Federation, Peer

SIZE = 100_000


@pytest.fixture
async def ann(attacked: Federation) -> Peer:
    peer = attacked.peer("ann", Role.DRIVER)
    await peer.create_run()
    return peer


def stored(attacked: Federation, upload_id: str) -> int:
    path = attacked.state / "blobs" / upload_id
    return path.stat().st_size if path.exists() else 0


async def test_more_bytes_than_announced_are_refused_and_not_written(attacked: Federation, ann: Peer) -> None:
    url = await ann.start_upload("upload00001", SIZE)
    answer = await ann.http("PUT", url, bytes(SIZE + 1))
    assert (answer.status, "InvalidArgument" in answer.error) == (400, True)
    assert stored(attacked, "upload00001") == 0
    assert (await ann.http("PUT", url, bytes(10), offset=SIZE - 5)).status == 400
    assert (await ann.http("PUT", url, bytes(SIZE))).status == 200, "the honest upload is not spoilt"


async def test_body_that_calls_itself_compressed_is_not_unpacked(attacked: Federation, ann: Peer) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    url = await ann.start_upload("upload00001", len(bomb))
    answer = await ann.http("PUT", url, bomb, headers={"Content-Encoding": "gzip"})
    assert (answer.status, stored(attacked, "upload00001")) == (200, len(bomb)), "stored as it was sent"


async def test_body_that_goes_on_after_its_declared_length_does_not_get_in(attacked: Federation, ann: Peer) -> None:
    url = await ann.start_upload("upload00001", SIZE)
    reader, writer = await asyncio.open_connection("127.0.0.1", attacked.service.blob_port, ssl=ann.context)
    head = f"PUT {url} HTTP/1.1\r\nHost: x\r\n{OFFSET_HEADER}: 0\r\nContent-Length: {SIZE}\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        writer.write(head.encode() + bytes(10 * SIZE))
        await wait(writer.drain(), SOON, "the bytes to be sent")
    with contextlib.suppress(ConnectionError):
        await wait(reader.read(), SOON, "the end of the connection")
    writer.close()
    assert stored(attacked, "upload00001") <= SIZE, "taken without the rest, or refused as a whole"
    answer = await ann.http("HEAD", url)
    offset = int(answer.headers[OFFSET_HEADER])
    assert (await ann.http("PUT", url, bytes(SIZE - offset), offset=offset)).status == 200
    assert (await ann.http("PUT", url, b"", offset=SIZE)).body.decode().count(blake3.blake3(bytes(SIZE)).hexdigest()) == 1


@pytest.mark.parametrize("length", ["-1", "1e9", "0x10", "", "99999999999999999999", "1, 2"])
async def test_length_that_is_no_number_is_refused(attacked: Federation, ann: Peer, length: str) -> None:
    url = await ann.start_upload("upload00001", SIZE)
    answer = await ann.http("PUT", url, headers={OFFSET_HEADER: "0", "Content-Length": length})
    assert answer.status == 400
    assert stored(attacked, "upload00001") == 0


@pytest.mark.parametrize("offset", ["-1", "1e9", "", "99999999999999999999", str(SIZE + 1), "5"])
async def test_offset_that_leaves_a_gap_or_is_no_number_is_refused(attacked: Federation, ann: Peer, offset: str) -> None:
    url = await ann.start_upload("upload00001", SIZE)
    answer = await ann.http("PUT", url, b"x", headers={OFFSET_HEADER: offset})
    assert answer.status in (400, 409)
    assert stored(attacked, "upload00001") == 0


async def test_chunked_body_is_bounded_by_what_was_announced(attacked: Federation, ann: Peer) -> None:
    url = await ann.start_upload("upload00001", SIZE)
    reader, writer = await asyncio.open_connection("127.0.0.1", attacked.service.blob_port, ssl=ann.context)
    head = f"PUT {url} HTTP/1.1\r\nHost: x\r\n{OFFSET_HEADER}: 0\r\nTransfer-Encoding: chunked\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        writer.write(head.encode() + b"100000\r\n" + bytes(0x100000))
        await wait(writer.drain(), SOON, "the bytes to be sent")
    with contextlib.suppress(ConnectionError):
        assert (await wait(reader.readline(), SOON, "the answer")).split()[1] == b"400"
    writer.close()
    assert stored(attacked, "upload00001") == 0


async def test_fewer_bytes_than_announced_are_no_blob(attacked: Federation, ann: Peer) -> None:
    content = secrets.token_bytes(SIZE)
    url = await ann.start_upload("upload00001", SIZE)
    answer = await ann.http("PUT", url, content[: SIZE // 2])
    assert (answer.status, answer.headers[OFFSET_HEADER]) == (204, str(SIZE // 2))
    for size in (SIZE, SIZE // 2):
        for part in (content, content[: SIZE // 2]):
            with pytest.raises(PermissionDenied):
                await ann.push_task(ann, Blob(blake3.blake3(part).hexdigest(), size))
    answer = await ann.http("PUT", url, content[SIZE // 2 :], offset=SIZE // 2)
    assert answer.status == 200, "it can be completed"


async def test_blob_has_the_digest_of_its_bytes_whatever_its_sender_says(attacked: Federation, ann: Peer) -> None:
    real = await ann.upload("upload00001", b"real" * 1000)
    wrong = blake3.blake3(b"promised").hexdigest()
    with pytest.raises(PermissionDenied):
        await ann.push_task(ann, Blob(wrong, 4000))
    with pytest.raises(InvalidArgument, match="4000 bytes, not 3999"):
        await ann.push_task(ann, Blob(real.digest, 3999))
    request = records_pb2.ResolveBlobRequest(digest=wrong, run_id=RUN)
    assert isinstance(await ann.refusal(ann.driver.ResolveBlob, request), PermissionDenied)


async def test_upload_id_is_for_one_size_alone(attacked: Federation, ann: Peer) -> None:
    await ann.start_upload("upload00001", SIZE)
    for size in (SIZE + 1, 0):
        with pytest.raises(AlreadyExists):
            await ann.start_upload("upload00001", size)
    with pytest.raises(InvalidArgument):
        await ann.start_upload("upload00002", 2**64 - 1)
