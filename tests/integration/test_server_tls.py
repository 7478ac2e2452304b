"""TLS without client certificates: the documented flags, with certificates that anybody has made."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from hedgerow.authority import Authority, files_of
from hedgerow.certificates import Certificates, Tls
from hedgerow.errors import ConfigError, Unauthenticated
from hedgerow.security import Identity, Role
from hedgerow.server.options import ServerOptions
from hedgerow.server.service import Service
from tests.integration.attacks.federation import Peer
from tests.integration.running_server import on_free_ports

MODEL = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A server's certificate that is its own authority, made with openssl."""
    path = tmp_path_factory.mktemp("foreign")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=server"
    extra = [
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout",
        str(path / "key.pem"),
        "-out",
        str(path / "cert.pem"),
    ]
    subprocess.run([*command.split(), *extra], check=True, capture_output=True, timeout=60)
    return Certificates(path / "cert.pem", path / "cert.pem", path / "key.pem")


def options(state_dir: Path, certificates: Certificates, client_certificates: bool | None) -> ServerOptions:
    return on_free_ports(certificates=certificates, client_certificates=client_certificates, state_dir=state_dir)


@pytest.fixture(params=["foreign", "provisioned"])
async def service(request: pytest.FixtureRequest, foreign: Certificates, tmp_path: Path) -> AsyncIterator[tuple[Service, Path]]:
    """A server with a certificate of somebody, or with one of ours and the word that it asks for none."""
    if request.param == "foreign":
        chosen = options(tmp_path / "state", foreign, None)
    else:
        made = files_of(Authority.create(tmp_path / "certificates").issue(Role.SERVER, "server"))
        chosen = options(tmp_path / "state", made, False)
    running = Service(chosen)
    await running.start()
    assert chosen.certificates is not None
    yield running, chosen.certificates.ca
    await running.stop()


async def test_peers_without_certificates_work_with_their_secrets(service: tuple[Service, Path]) -> None:
    client, driver = (Peer(*service, None, role) for role in (Role.CLIENT, Role.DRIVER))
    (await client.session("any name")).close()
    await driver.create_run()
    blob = await driver.upload("upload00001", MODEL)
    assert blob.size == len(MODEL)
    thief = Peer(*service, None, Role.DRIVER, Identity(Role.DRIVER, driver.identity.id, "f" * 64))
    with pytest.raises(Unauthenticated):
        await thief.create_run()
    for peer in (client, driver, thief):
        await peer.close()


async def test_server_says_loudly_that_it_asks_for_no_certificates(
    foreign: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = Service(options(tmp_path / "state", foreign, None))
    with caplog.at_level(logging.WARNING):
        await running.start()
        await running.stop()
    assert "Peers are not asked for certificates: anybody who reaches the ports can join" in caplog.text


@pytest.mark.parametrize("listed", [True, False])
async def test_server_says_that_it_has_no_list_of_revoked_certificates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, listed: bool
) -> None:
    folder = Authority.create(tmp_path / "certificates").issue(Role.SERVER, "server")
    chosen = options(tmp_path / "state", files_of(folder), None)
    running = Service(replace(chosen, revoked=folder / "revoked.pem") if listed else chosen)
    with caplog.at_level(logging.WARNING):
        await running.start()
        await running.stop()
    assert ("--revoked" in caplog.text) is not listed


async def test_server_with_a_foreign_certificate_can_be_told_to_ask_for_certificates(
    foreign: Certificates, tmp_path: Path
) -> None:
    assert options(tmp_path, foreign, True).mutual
    assert not options(tmp_path, foreign, None).mutual
    made = files_of(Authority.create(tmp_path / "certificates").issue(Role.SERVER, "server"))
    assert options(tmp_path, made, None).mutual


def test_options_that_contradict_one_another_are_refused(foreign: Certificates, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--revoked is of use only where peers must show certificates"):
        ServerOptions(certificates=foreign, revoked=tmp_path / "revoked.pem")
    for more in ({"client_certificates": True}, {"revoked": tmp_path / "revoked.pem"}):
        with pytest.raises(ConfigError, match="--insecure contradicts"):
            ServerOptions(insecure=True, **more)
    with pytest.raises(ConfigError, match="with --certificates it must begin with https://"):
        ServerOptions(certificates=foreign, blob_public_url="http://fl.example.org")
    ServerOptions(insecure=True, blob_public_url="http://fl.example.org")


def test_a_key_in_the_place_of_the_authority_is_refused(foreign: Certificates) -> None:
    with pytest.raises(ConfigError, match="not certificates"):
        Tls(foreign.key.read_bytes()).check(Role.CLIENT)
