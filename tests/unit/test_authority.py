"""What the authority makes, renews and revokes, and what it refuses."""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from hedgerow.authority import Authority, files_of
from hedgerow.certificates import Subject, read_certificate
from hedgerow.errors import AlreadyExists, ConfigError, InvalidArgument, NotFound
from hedgerow.security import Role


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "certificates")


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())


def revoked(path: Path) -> set[int]:
    return {entry.serial_number for entry in x509.load_pem_x509_crl(path.read_bytes())}


def test_everything_is_for_its_owner_alone(authority: Authority) -> None:
    old = os.umask(0)
    try:
        authority.issue(Role.SERVER, "server")
        authority.renew("server")
        authority.issue(Role.CLIENT, "a")
        authority.revoke("a")
    finally:
        os.umask(old)
    for path in (authority.folder, *authority.folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_servers_certificate_is_for_its_hosts_and_its_purpose(authority: Authority) -> None:
    folder = authority.issue(Role.SERVER, "main", ["fl.example.org", "10.1.2.3", "2001:db8::1", "localhost"])
    made = certificate(folder)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org", "localhost"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.1.2.3", "2001:db8::1", "127.0.0.1", "::1"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["hedgerow://server/main"]
    purposes = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert sorted(path.name for path in folder.iterdir()) == ["README.txt", "ca.pem", "cert.pem", "key.pem", "revoked.pem"]


@pytest.mark.parametrize("role", [Role.CLIENT, Role.DRIVER, Role.OPERATOR])
def test_peers_certificate_cannot_be_a_servers(authority: Authority, role: Role) -> None:
    made = certificate(authority.issue(role, "it"))
    assert read_certificate((authority.folder / "it" / "cert.pem").read_bytes()).subject == Subject(role, "it")
    assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    key = made.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"


def test_lifetimes_are_as_asked_and_end_with_the_authority(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, days=10)
    now = dt.datetime.now(dt.UTC)
    short = certificate(authority.issue(Role.CLIENT, "short", days=2))
    assert abs(short.not_valid_after_utc - now - dt.timedelta(days=2)) < dt.timedelta(minutes=5)
    assert short.not_valid_before_utc < now
    long = certificate(authority.issue(Role.CLIENT, "long", days=365))
    assert abs(long.not_valid_after_utc - now - dt.timedelta(days=10)) < dt.timedelta(minutes=5)
    for days in (0, -1, 36_501):
        with pytest.raises(InvalidArgument, match=str(days)):
            authority.issue(Role.CLIENT, "never", days=days)


def test_nothing_is_written_over(authority: Authority) -> None:
    folder = authority.issue(Role.CLIENT, "a")
    before = (folder / "key.pem").read_bytes()
    for role in (Role.CLIENT, Role.DRIVER):
        with pytest.raises(AlreadyExists, match="given already"):
            authority.issue(role, "a")
    with pytest.raises(AlreadyExists, match="given already"):  # file systems may not tell them apart
        authority.issue(Role.CLIENT, "A")
    assert (folder / "key.pem").read_bytes() == before
    (authority.folder / "b").mkdir()
    with pytest.raises(AlreadyExists, match="nothing is written over"):
        authority.issue(Role.CLIENT, "b")
    with pytest.raises(AlreadyExists, match="nothing is written over"):
        Authority.create(authority.folder)
    (authority.folder / "c").symlink_to("/nowhere")
    with pytest.raises(AlreadyExists, match="nothing is written over"):
        authority.issue(Role.CLIENT, "c")
    assert not list(authority.folder.glob(".*"))


def test_name_whose_folder_has_gone_away_is_still_given(authority: Authority) -> None:
    shutil.rmtree(authority.issue(Role.CLIENT, "a"))
    with pytest.raises(AlreadyExists, match="given already"):
        authority.issue(Role.CLIENT, "a")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "authority", "Authority", "", "a/../../b"])
def test_no_name_leads_out_of_the_folder_or_into_the_authority(authority: Authority, name: str) -> None:
    before = sorted(authority.folder.parent.rglob("*"))
    with pytest.raises(ConfigError):
        authority.issue(Role.CLIENT, name)
    for act in (authority.renew, authority.revoke):
        with pytest.raises(NotFound):
            act(name)
    assert [path for path in sorted(authority.folder.parent.rglob("*")) if path.name != "lock"] == before


@pytest.mark.parametrize("host", ["", "a b", "host:9091", "*.example.org", "-a", "a..b", "a/b", "x" * 64, "http://a", "a\n"])
def test_what_is_no_host_is_refused(authority: Authority, host: str) -> None:
    with pytest.raises(ConfigError, match="neither a DNS name nor an IP address"):
        authority.issue(Role.SERVER, "server", [host])
    assert not (authority.folder / "server").exists()


def test_only_servers_have_hosts(authority: Authority) -> None:
    with pytest.raises(ConfigError, match="Only a server's"):
        authority.issue(Role.CLIENT, "a", ["a.example.org"])


def test_renewed_certificate_is_of_the_same_holder_and_key(authority: Authority) -> None:
    folder = authority.issue(Role.SERVER, "main", ["fl.example.org"], days=2)
    before, key = certificate(folder), (folder / "key.pem").read_bytes()
    assert authority.renew("main") == folder
    after = certificate(folder)
    assert (folder / "key.pem").read_bytes() == key
    assert after.public_key() == before.public_key()
    assert after.serial_number != before.serial_number
    assert after.not_valid_after_utc > before.not_valid_after_utc
    names = [c.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for c in (before, after)]
    assert names[0] == names[1]


def test_renewal_needs_the_key_and_a_name_that_is_not_revoked(authority: Authority) -> None:
    folder = authority.issue(Role.CLIENT, "a")
    folder.rename(folder.with_name("moved"))
    with pytest.raises(NotFound, match="no key"):
        authority.renew("a")
    folder.with_name("moved").rename(folder)
    authority.revoke("a")
    with pytest.raises(NotFound, match="no certificate 'a'"):
        authority.renew("a")


def test_revoking_covers_all_certificates_of_the_name_and_frees_it(authority: Authority) -> None:
    server = authority.issue(Role.SERVER, "main")
    first = certificate(authority.issue(Role.CLIENT, "a"))
    second = certificate(authority.renew("a"))
    other = certificate(authority.issue(Role.CLIENT, "b"))
    gone = authority.revoke("a")
    assert {int(issued.serial, 16) for issued in gone} == {first.serial_number, second.serial_number}
    for path in (authority.folder / "authority" / "revoked.pem", server / "revoked.pem"):
        assert revoked(path) == {first.serial_number, second.serial_number}
    with pytest.raises(NotFound, match="no certificate 'a'"):
        authority.revoke("a")
    third = certificate(authority.issue(Role.CLIENT, "a"))
    assert third.serial_number not in revoked(server / "revoked.pem")
    authority.revoke("b")
    assert revoked(server / "revoked.pem") == {c.serial_number for c in (first, second, other)}
    assert [issued.name for issued in authority.issued()] == ["main", "a"]


def test_list_of_revoked_certificates_is_signed_by_the_authority(authority: Authority, tmp_path: Path) -> None:
    listed = x509.load_pem_x509_crl((authority.folder / "authority" / "revoked.pem").read_bytes())
    other = Authority.create(tmp_path / "other").folder / "authority" / "ca.pem"
    keys = [
        x509.load_pem_x509_certificate(p.read_bytes()).public_key() for p in (authority.folder / "authority" / "ca.pem", other)
    ]
    for key, good in zip(keys, (True, False), strict=True):
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert listed.is_signature_valid(key) is good


def test_folder_without_a_whole_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hedgerow provision init"):
        Authority(tmp_path / "empty")
    (authority.folder / "authority" / "issued.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="Restore it from a copy"):
        authority.issue(Role.CLIENT, "a")
    (authority.folder / "authority" / "ca.key").write_text("garbage")
    with pytest.raises(ConfigError, match="cannot be used"):
        Authority(authority.folder)


@pytest.mark.parametrize(
    "change",
    [
        {"serial": "xyz"},
        {"serial": 7},
        {"not_after": 1e300},
        {"name": "../a"},
        {"role": "king"},
        {"hosts": ["a b"]},
        {"hosts": [[]]},
    ],
)
def test_list_of_certificates_with_an_impossible_value_is_refused(authority: Authority, change: dict[str, object]) -> None:
    authority.issue(Role.CLIENT, "a")
    path = authority.folder / "authority" / "issued.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=r"issued\.jsonl cannot be read .*Restore it from a copy"):
        authority.issued()


def with_byte(path: Path, there: bytes, instead: bytes) -> None:
    """Change what a PEM file stands for."""
    begin, *lines, end = path.read_bytes().splitlines()
    inside = base64.b64decode(b"".join(lines))
    assert there in inside
    path.write_bytes(b"\n".join((begin, base64.b64encode(inside.replace(there, instead, 1)), end, b"")))


def test_files_of_a_kind_that_is_not_supported_are_refused_by_name(authority: Authority) -> None:
    own = authority.folder / "authority"
    authority.issue(Role.CLIENT, "a")
    with_byte(own / "revoked.pem", b"\x02\x01\x01", b"\x02\x01\x21")
    with pytest.raises(ConfigError, match=r"revoked\.pem cannot be read .*Restore it from a copy"):
        authority.issued()
    with_byte(own / "ca.pem", b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x21")
    with pytest.raises(ConfigError, match="cannot be used"):
        Authority(authority.folder)


@pytest.mark.parametrize("name", ["authority/ca.key", "a/key.pem"])
def test_key_on_a_curve_that_nobody_knows_is_refused(authority: Authority, name: str) -> None:
    authority.issue(Role.CLIENT, "a")
    with_byte(authority.folder / name, b"\x2a\x86\x48\xce\x3d\x03\x01\x07", b"\x2a\x86\x48\xce\x3d\x03\x01\x70")
    with pytest.raises(ConfigError, match="cannot be used"):
        Authority(authority.folder).renew("a")


def test_the_files_are_a_pair_that_tls_accepts(authority: Authority) -> None:
    files_of(authority.issue(Role.SERVER, "main")).https_server(client_certificates=True)


def test_certificates_of_many_are_made_at_once_and_those_before_a_name_that_was_given_stay(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path)
    assert authority.issue_all(Role.CLIENT, ["a", "b"]) == [tmp_path / "a", tmp_path / "b"]
    for name in "ab":
        assert files_of(tmp_path / name).subject() == Subject(Role.CLIENT, name)
    with pytest.raises(AlreadyExists, match="The name B was given"):
        authority.issue_all(Role.CLIENT, ["c", "B", "d"])
    assert [issued.name for issued in authority.issued()] == ["a", "b", "c"]
    with pytest.raises(InvalidArgument, match="one by one"):
        authority.issue_all(Role.SERVER, ["s"])
