"""Whose a certificate is, and what is refused before anything is opened."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from hedgerow.authority import Authority, files_of
from hedgerow.certificates import (
    CERTIFICATES_VARIABLE,
    Certificates,
    Subject,
    Tls,
    check_name,
    https_client,
    read_certificate,
    read_pem,
)
from hedgerow.errors import ConfigError, Unauthenticated
from hedgerow.security import Role


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a server, a client, a driver and an operator of one authority."""
    authority = Authority.create(tmp_path_factory.mktemp("made") / "certificates")
    roles = {"server": Role.SERVER, "site": Role.CLIENT, "ann": Role.DRIVER, "root": Role.OPERATOR}
    return {name: authority.issue(role, name) for name, role in roles.items()}


@pytest.mark.parametrize("name", ["a", "hospital-a", "A.b_c-9", "x" * 63])
def test_name_that_is_safe_everywhere_is_accepted(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "-a", "a-", ".a", "a b", "a\n", "a\x00", "é", "x" * 64, "~a", "a:b", "%2e%2e"]
)
def test_name_that_could_mean_something_else_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no name"):
        check_name(name)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "hedgerow://client",
        "hedgerow://client/",
        "hedgerow://king/a",
        "hedgerow://client/a/b",
        "hedgerow://client/../a",
        "hedgerow://client/a?x",
        "hedgerow://client/a#x",
        "hedgerow://client:1/a",
        "hedgerow://x@client/a",
        "HEDGEROW://client/a",
        "hedgerow://CLIENT/a",
        "hedgerow:///a",
        "hedgerow://[client/a",
        "http://client/a",
    ],
)
def test_uri_of_any_other_form_names_nobody(uri: str) -> None:
    with pytest.raises(Unauthenticated, match="hedgerow://<role>/<name>"):
        Subject.parse(uri)


def test_certificate_names_its_holder_in_both_encodings(folders: dict[str, Path]) -> None:

    pem = (folders["site"] / "cert.pem").read_bytes()
    found = read_certificate(pem)
    assert found.subject == Subject(Role.CLIENT, "site")
    assert read_certificate(ssl.PEM_cert_to_DER_cert(pem.decode())) == found


def test_certificate_without_a_name_of_ours_proves_nothing(folders: dict[str, Path]) -> None:
    with pytest.raises(Unauthenticated, match="0 names"):
        read_certificate((folders["site"] / "ca.pem").read_bytes())
    for data in (b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(Unauthenticated, match="is none"):
            read_certificate(data)


def test_environment_names_three_files_or_is_refused(folders: dict[str, Path]) -> None:
    files = files_of(folders["ann"])
    joined = os.pathsep.join(map(str, (files.ca, files.certificate, files.key)))
    assert Certificates.from_environment({CERTIFICATES_VARIABLE: joined}) == files
    assert Certificates.from_environment({}) is None
    with pytest.raises(ConfigError, match=CERTIFICATES_VARIABLE):
        Certificates.from_environment({CERTIFICATES_VARIABLE: str(folders["ann"])})


def test_arguments_come_before_the_environment(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files = files_of(folders["ann"])
    monkeypatch.setenv(CERTIFICATES_VARIABLE, os.pathsep.join(["/nowhere/ca.pem"] * 3))
    tls = Tls.of((files.ca, files.certificate, files.key), None)
    assert tls is not None
    assert tls.subject == Subject(Role.DRIVER, "ann")
    roots = Tls.of(None, files.ca)
    assert roots is not None
    assert (roots.own, roots.subject) == (None, None)
    with pytest.raises(ConfigError, match=r"/nowhere/ca\.pem"):
        Tls.of(None, None)
    monkeypatch.delenv(CERTIFICATES_VARIABLE)
    assert Tls.of(None, None) is None


def test_contradicting_or_incomplete_arguments_are_refused(folders: dict[str, Path]) -> None:
    files = files_of(folders["ann"])
    with pytest.raises(ConfigError, match="either"):
        Tls.of((files.ca, files.certificate, files.key), files.ca)
    for wrong in ((files.ca,), "three"):
        with pytest.raises(ConfigError, match="three paths"):
            Tls.of(wrong, None)


def test_certificate_of_another_role_is_refused_at_home(folders: dict[str, Path]) -> None:
    files = files_of(folders["ann"])
    tls = Tls(read_pem(files.ca), files)
    assert tls.check(Role.DRIVER, Role.OPERATOR) is tls
    with pytest.raises(ConfigError, match=r"hedgerow://driver/ann; one for the role client"):
        tls.check(Role.CLIENT)


def test_key_of_another_certificate_is_refused(folders: dict[str, Path]) -> None:
    mixed = Certificates(folders["ann"] / "ca.pem", folders["ann"] / "cert.pem", folders["root"] / "key.pem")
    with pytest.raises(ConfigError, match=r"key\.pem are not a certificate and its key"):
        Tls(read_pem(mixed.ca), mixed).check(Role.DRIVER)
    with pytest.raises(ConfigError, match=r"key\.pem are not a certificate and its key"):
        mixed.https_server()


def test_missing_or_foreign_pem_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        read_pem(tmp_path / "missing.pem")
    (tmp_path / "other.pem").write_text("hello")
    with pytest.raises(ConfigError, match="not in PEM format"):
        read_pem(tmp_path / "other.pem")


def test_pem_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.pem"
    path.write_text("-----BEGIN NOTHING-----\nAAAA\n-----END NOTHING-----\n")
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        Certificates(path, path, path).https_server()


def test_root_certificates_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="not certificates"):
        https_client(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        (b"\x55\x1d\x0f", b"\x55\x1d\x11"),  # an extension that is there twice
        (b"\x86\x16hedgerow:", b"\xa3\x16hedgerow:"),  # a name of a kind that nobody uses
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"),  # a version that there is not
    ],
)
def test_certificate_of_an_odd_kind_is_refused(folders: dict[str, Path], there: bytes, instead: bytes) -> None:
    data = ssl.PEM_cert_to_DER_cert((folders["site"] / "cert.pem").read_text())
    assert there in data
    with pytest.raises(Unauthenticated, match="is none"):
        read_certificate(data.replace(there, instead))
