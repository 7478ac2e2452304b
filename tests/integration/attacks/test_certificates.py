"""Certificates that are missing, foreign, out of date, revoked, or of another role."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hedgerow.authority import Authority, files_of
from hedgerow.certificates import Certificates
from hedgerow.errors import HedgerowError, PermissionDenied, Unauthenticated, Unavailable
from hedgerow.security import Identity, Role
from hedgerow.waits import wait
from hedgerow.wire.blob_http import OFFSET_HEADER
from hedgerow.wire.proto import driver_pb2, operator_pb2, records_pb2
from hedgerow.wire.status import from_rpc_error
from tests.integration.attacks.federation import CALL_S, RUN, SOON, Federation, Peer, eventually, forge

CREATE = driver_pb2.CreateRunRequest(run_id=RUN, name="a run", seed=1)
RUNS = operator_pb2.ListRunsRequest()


async def nothing_gets_through(attacked: Federation, own: Certificates | None) -> None:
    """Neither gRPC port nor the blob port answers; nothing is noted anywhere."""
    client, driver = attacked.holder(own, Role.CLIENT), attacked.holder(own, Role.DRIVER)
    with pytest.raises(Unavailable):
        await client.session("a")
    assert isinstance(await driver.refusal(driver.driver.CreateRun, CREATE), Unavailable)
    assert isinstance(await driver.refusal(driver.operator.ListRuns, RUNS), Unavailable)
    for method, path in (("GET", "/blobs/" + "0" * 64), ("PUT", "/uploads/upload0001"), ("HEAD", "/uploads/upload0001")):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await driver.http(method, path, b"x" if method == "PUT" else None)
    root = attacked.peer("root", Role.OPERATOR, as_role=Role.OPERATOR)
    assert not (await root.ask(root.operator.ListRuns, RUNS)).runs
    assert not (await root.ask(root.operator.ListNodes, operator_pb2.ListNodesRequest())).nodes


async def test_no_certificate_opens_nothing(attacked: Federation) -> None:
    await nothing_gets_through(attacked, None)


async def test_certificate_of_another_authority_opens_nothing(attacked: Federation, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")
    files = files_of(other.issue(Role.CLIENT, "a"))
    await nothing_gets_through(attacked, Certificates(attacked.ca, files.certificate, files.key))


async def test_certificate_out_of_date_opens_nothing(attacked: Federation, tmp_path: Path) -> None:
    own = forge(attacked.authority, tmp_path / "old", "hedgerow://client/a", expired=True)
    await nothing_gets_through(attacked, own)


@pytest.mark.parametrize("uri", ["https://client/a", "hedgerow://king/a", "hedgerow://client/../a", "hedgerow://client/a/b"])
async def test_certificate_with_a_name_of_another_form_is_nobodys(attacked: Federation, tmp_path: Path, uri: str) -> None:
    peer = attacked.holder(forge(attacked.authority, tmp_path / "odd", uri), Role.CLIENT)
    with pytest.raises(Unauthenticated, match="hedgerow://<role>/<name>"):
        await peer.session("a")
    assert (await peer.http("GET", "/blobs/" + "0" * 64)).status == 401


async def test_peer_that_trusts_another_authority_does_not_talk_to_this_server(attacked: Federation, tmp_path: Path) -> None:
    elsewhere = Authority.create(tmp_path / "other")
    files = files_of(elsewhere.issue(Role.CLIENT, "a"))
    peer = Peer(attacked.service, files.ca, files, Role.CLIENT)
    with pytest.raises(Unavailable):
        await peer.session("a")
    await peer.close()


async def test_clients_certificate_cannot_be_a_servers(attacked: Federation) -> None:
    files = files_of(attacked.authority.issue(Role.CLIENT, "a"))
    context = files.https_server()
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    client = ssl.create_default_context(cafile=str(attacked.ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        await wait(asyncio.open_connection("127.0.0.1", port, ssl=client), SOON, "the handshake")
    server.close()


# --- roles ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claimed", [Role.CLIENT, Role.DRIVER, Role.OPERATOR])
@pytest.mark.parametrize("held", [Role.CLIENT, Role.DRIVER, Role.OPERATOR])
async def test_each_api_is_for_its_own_certificates_whatever_the_caller_claims(
    attacked: Federation, held: Role, claimed: Role
) -> None:
    peer = attacked.peer("it", held, as_role=claimed)
    allowed = {
        "fleet": held is claimed is Role.CLIENT,
        "driver": held in (Role.DRIVER, Role.OPERATOR) and claimed is Role.DRIVER,
        "operator": held is claimed is Role.OPERATOR,
    }

    async def session() -> None:
        (await peer.session("it")).close()

    attempts: dict[str, Callable[[], Any]] = {
        "fleet": session,
        "driver": peer.create_run,
        "operator": lambda: peer.ask(peer.operator.ListRuns, RUNS),
    }
    for api, attempt in attempts.items():
        if allowed[api]:
            await attempt()
        else:
            with pytest.raises(PermissionDenied, match="role"):
                await attempt()


async def test_driver_gets_nothing_from_any_method_of_the_fleet_api_and_a_client_nothing_from_the_driver_api(
    attacked: Federation,
) -> None:
    driver = attacked.peer("ann", Role.DRIVER, as_role=Role.CLIENT)
    client = attacked.peer("a", Role.CLIENT, as_role=Role.DRIVER)
    fleet, api, operator = driver.fleet, client.driver, client.operator
    for peer, method, request in (
        (driver, fleet.StartUpload, records_pb2.StartUploadRequest()),
        (driver, fleet.ResolveBlob, records_pb2.ResolveBlobRequest()),
        (client, api.CreateRun, CREATE),
        (client, api.PushTasks, driver_pb2.PushTasksRequest()),
        (client, api.CancelTasks, driver_pb2.CancelTasksRequest()),
        (client, api.StartUpload, records_pb2.StartUploadRequest()),
        (client, api.ResolveBlob, records_pb2.ResolveBlobRequest()),
        (client, api.AcknowledgeRound, driver_pb2.AcknowledgeRoundRequest()),
        (client, api.EndRun, driver_pb2.EndRunRequest()),
    ):
        assert isinstance(await peer.refusal(method, request), PermissionDenied)
    watch = api.Watch(driver_pb2.WatchRequest(run_id=RUN), metadata=client.identity.metadata())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await wait(watch.read(), SOON, "the refusal")
    assert isinstance(from_rpc_error(refused.value), PermissionDenied)
    as_operator = attacked.peer("b", Role.CLIENT, as_role=Role.OPERATOR)
    for method, about_runs in (
        (operator.ListRuns, RUNS),
        (operator.GetRun, operator_pb2.GetRunRequest(run_id="x")),
        (operator.StopRun, operator_pb2.StopRunRequest(run_id="x")),
        (operator.ListNodes, operator_pb2.ListNodesRequest()),
    ):
        assert isinstance(await as_operator.refusal(method, about_runs), PermissionDenied)


async def test_node_has_the_name_of_its_certificate(attacked: Federation) -> None:
    peer = attacked.peer("a", Role.CLIENT)
    for name in ("b", "A", "a ", "x/a"):
        with pytest.raises((PermissionDenied, HedgerowError), match="certificate is hedgerow://client/a"):
            await peer.session(name)
    (await peer.session("a")).close()


async def test_secret_of_a_node_is_worth_nothing_under_another_certificate(attacked: Federation) -> None:
    a = attacked.peer("a", Role.CLIENT)
    session = await a.session("a")
    stolen = attacked.peer("b", Role.CLIENT, identity=Identity(Role.CLIENT, a.identity.id, a.identity.secret))
    with pytest.raises(Unauthenticated, match="another secret or certificate"):
        await stolen.session("b")
    request = records_pb2.StartUploadRequest(upload_id="upload00001", size=1, run_id=RUN)
    assert isinstance(await stolen.refusal(stolen.fleet.StartUpload, request), Unauthenticated)
    assert not session._ended.is_set(), "the node keeps its session"
    session.close()


# --- revocation -----------------------------------------------------------------------------------------------------------


async def test_revoked_certificate_is_refused_at_once_and_its_open_streams_end(attacked: Federation) -> None:
    a, b, ann = attacked.peer("a", Role.CLIENT), attacked.peer("b", Role.CLIENT), attacked.peer("ann", Role.DRIVER)
    sessions = {peer: await peer.session(name) for peer, name in ((a, "a"), (b, "b"))}
    await ann.create_run()
    url = await ann.start_upload("upload00001", 3)
    watch = ann.driver.Watch(driver_pb2.WatchRequest(run_id=RUN), metadata=ann.identity.metadata())
    await wait(watch.read(), SOON, "the first nodes")
    for name in ("a", "ann"):
        attacked.authority.revoke(name)

    with pytest.raises(Unauthenticated, match="has been revoked"):
        await wait(anext(sessions[a].events()), SOON, "the end of the session")
    await wait(watch.code(), SOON, "the end of the stream")
    assert await watch.code() is grpc.StatusCode.UNAUTHENTICATED
    assert isinstance(await ann.refusal(ann.driver.CreateRun, CREATE), Unauthenticated)
    with pytest.raises(Unauthenticated):
        await a.session("a")
    answer = await ann.http("PUT", url, b"abc")
    assert (answer.status, "revoked" in answer.error) == (401, True)
    assert attacked.service.sessions.find(b.identity.id) is not None, "nobody else is disturbed"
    sessions[b].close()

    again = attacked.peer("a", Role.CLIENT)
    (await again.session("a")).close()


async def test_revoked_certificate_opens_not_even_the_services_that_ask_nobody_who_he_is(attacked: Federation) -> None:
    a, b = attacked.peer("a", Role.CLIENT), attacked.peer("b", Role.CLIENT)
    channels: list[Any] = [peer._channels[0] for peer in (a, b)]
    health, of_b = cast(Any, [health_pb2_grpc.HealthStub(channel) for channel in channels])
    question = health_pb2.HealthCheckRequest()
    watch, watch_of_b = health.Watch(question), of_b.Watch(question)
    described: Any = reflection_pb2_grpc.ServerReflectionStub(channels[0])
    describe = described.ServerReflectionInfo()
    await describe.write(reflection_pb2.ServerReflectionRequest(list_services="all"))
    for stream in (watch, watch_of_b, describe):
        assert await wait(stream.read(), SOON, "an answer before")
    attacked.authority.revoke("a")
    for call in (health.Check(question, timeout=CALL_S), watch, describe):
        assert await wait(call.code(), SOON, "the end of the call") is grpc.StatusCode.UNAUTHENTICATED
    assert (await of_b.Check(question, timeout=CALL_S)).status == health_pb2.HealthCheckResponse.SERVING
    assert not watch_of_b.done(), "nobody else is disturbed"
    watch_of_b.cancel()


async def test_the_first_call_after_a_revocation_is_refused_without_waiting_for_the_sweep(attacked: Federation) -> None:
    ann = attacked.peer("ann", Role.DRIVER)
    await ann.create_run()
    attacked.authority.revoke("ann")
    assert isinstance(await ann.refusal(ann.driver.CreateRun, CREATE), Unauthenticated)


async def test_transfer_that_is_under_way_is_cut_when_its_certificate_is_revoked(attacked: Federation) -> None:
    ann = attacked.peer("ann", Role.DRIVER)
    await ann.create_run()
    url = await ann.start_upload("upload00001", 1_000_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", attacked.service.blob_port, ssl=ann.context)
    head = f"PUT {url} HTTP/1.1\r\nHost: x\r\n{OFFSET_HEADER}: 0\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + bytes(1000))
    file = attacked.state / "blobs" / "upload00001"
    await eventually(lambda: file.exists(), "the upload to begin")
    attacked.authority.revoke("ann")
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        assert await wait(reader.read(), SOON, "the cut") == b""
    writer.close()
