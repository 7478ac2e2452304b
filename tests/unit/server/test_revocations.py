"""The list of revoked certificates: read again when it changes, and kept when what is there cannot be used."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import pytest

from hedgerow.authority import Authority
from hedgerow.certificates import PeerCertificate, read_certificate
from hedgerow.errors import ConfigError, Unauthenticated
from hedgerow.security import Role
from hedgerow.server.revocations import Revocations


class Made:
    """An authority with a server's folder and two clients."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority.create(folder)
        self.list = self.authority.issue(Role.SERVER, "main") / "revoked.pem"
        self.ca = (folder / "authority" / "ca.pem").read_bytes()
        self.a, self.b = (self.client(name) for name in "ab")

    def client(self, name: str) -> PeerCertificate:
        return read_certificate((self.authority.issue(Role.CLIENT, name) / "cert.pem").read_bytes())


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "certificates")


def test_certificate_is_refused_from_the_next_look_on(made: Made) -> None:
    revocations = Revocations(made.list, made.ca)
    revocations.check(made.a, 0.0)
    made.authority.revoke("a")
    with pytest.raises(Unauthenticated, match=r"hedgerow://client/a has been revoked"):
        revocations.check(made.a, 0.0)
    revocations.check(made.b, 0.0)
    revocations.check(made.client("a"), 0.0)  # a new certificate of the same name


def test_certificate_out_of_date_is_refused(made: Made) -> None:
    revocations = Revocations(None)
    revocations.check(made.a, made.a.not_after)
    with pytest.raises(Unauthenticated, match="out of date"):
        revocations.check(made.a, made.a.not_after + 1)


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "missing"])
def test_list_that_cannot_be_used_leaves_the_old_one_in_force(made: Made, content: bytes | None) -> None:
    made.authority.revoke("a")
    revocations = Revocations(made.list, made.ca)
    if content is None:
        made.list.unlink()
    else:
        made.list.write_bytes(content)
    with pytest.raises(Unauthenticated):
        revocations.check(made.a, 0.0)
    revocations.check(made.b, 0.0)


def test_list_of_another_authority_is_not_believed(made: Made, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other")
    forged = (other.folder / "authority" / "revoked.pem").read_bytes()
    made.authority.revoke("a")
    revocations = Revocations(made.list, made.ca)
    made.list.write_bytes(forged)
    with pytest.raises(Unauthenticated):
        revocations.check(made.a, 0.0)
    with pytest.raises(ConfigError, match="not signed by the authority"):
        Revocations(made.list, made.ca)


def test_server_does_not_start_with_a_list_that_cannot_be_read(made: Made, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pem", made.list.with_name("cert.pem")):
        with pytest.raises(ConfigError, match=path.name):
            Revocations(path, made.ca)


def test_list_of_a_version_that_there_is_not_is_refused_and_leaves_the_old_one_in_force(made: Made) -> None:
    made.authority.revoke("a")
    revocations = Revocations(made.list, made.ca)
    begin, *lines, end = made.list.read_bytes().splitlines()
    inside = base64.b64decode(b"".join(lines))
    assert b"\x02\x01\x01" in inside
    odd = base64.b64encode(inside.replace(b"\x02\x01\x01", b"\x02\x01\x21", 1))
    made.list.write_bytes(b"\n".join((begin, odd, end, b"")))
    with pytest.raises(Unauthenticated):
        revocations.check(made.a, 0.0)
    revocations.check(made.b, 0.0)
    with pytest.raises(ConfigError, match=r"Copy revoked\.pem from the authority's folder"):
        Revocations(made.list, made.ca)


async def test_subscribers_are_called_once_for_each_new_list(made: Made) -> None:
    revocations = Revocations(made.list, made.ca)
    calls: list[int] = []
    revocations.subscribe(asyncio.get_running_loop(), lambda: calls.append(1))
    revocations.refresh()
    await asyncio.sleep(0)
    assert calls == []
    made.authority.revoke("a")
    revocations.refresh()
    revocations.refresh()
    await asyncio.sleep(0)
    assert calls == [1]
    os.utime(made.list, (1, 1))
    await asyncio.to_thread(revocations.refresh)
    await asyncio.sleep(0)
    assert calls == [1, 1]
