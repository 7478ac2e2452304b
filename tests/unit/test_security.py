from __future__ import annotations

from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from hedgerow.errors import PermissionDenied, Unauthenticated
from hedgerow.security import (
    Identity,
    Role,
    UrlSigner,
    check_secret,
    identity_from_metadata,
)

CLIENT = Identity(Role.CLIENT, "a" * 16, "s" * 64)


def test_fresh_identities_differ_and_pass_their_own_check() -> None:
    first, second = Identity.fresh(Role.CLIENT), Identity.fresh(Role.CLIENT)
    assert first.id != second.id
    assert first.secret != second.secret
    assert identity_from_metadata(first.metadata(), Role.CLIENT) == first


def test_secret_shows_neither_in_the_text_of_an_identity_nor_in_its_hash() -> None:
    assert CLIENT.secret not in f"{CLIENT} {CLIENT!r}"
    assert CLIENT.secret not in CLIENT.secret_hash
    assert len(CLIENT.secret_hash) == 64


def test_caller_of_another_role_is_denied() -> None:
    with pytest.raises(PermissionDenied, match="driver"):
        identity_from_metadata(CLIENT.metadata(), Role.DRIVER)


@pytest.mark.parametrize(
    "changed",
    [
        {"hedgerow-id": ""},
        {"hedgerow-id": "short"},
        {"hedgerow-id": "x" * 65},
        {"hedgerow-id": "../../passwd"},
        {"hedgerow-id": b"a" * 16},
        {"hedgerow-secret": ""},
        {"hedgerow-secret": "s" * 31},
        {"hedgerow-secret": "s" * 129},
        {"hedgerow-secret": b"s" * 64},
    ],
)
def test_malformed_identity_is_refused(changed: dict[str, str | bytes]) -> None:
    metadata: dict[str, str | bytes] = dict(CLIENT.metadata())
    with pytest.raises(Unauthenticated):
        identity_from_metadata((metadata | changed).items(), Role.CLIENT)


def test_call_without_an_identity_is_refused() -> None:
    for metadata in (None, (), (("user-agent", "grpc"),)):
        with pytest.raises(Unauthenticated, match="hedgerow-id"):
            identity_from_metadata(metadata, Role.CLIENT)


def test_secret_is_checked_against_its_hash() -> None:
    check_secret(CLIENT.secret_hash, CLIENT)
    with pytest.raises(Unauthenticated, match=CLIENT.id) as caught:
        check_secret(CLIENT.secret_hash, Identity(Role.CLIENT, CLIENT.id, "t" * 64))
    assert "t" * 64 not in str(caught.value)


# --- signed URLs ----------------------------------------------------------------------------------------------------------

SIGNER = UrlSigner(b"k" * 32)
URL = SIGNER.sign("GET", "/blobs/abc", CLIENT, 1000.9)


def parts(url: str) -> tuple[str, str]:
    split = urlsplit(url)
    return split.path, split.query


def test_signed_url_is_relative_and_says_who_may_do_what_until_when() -> None:
    path, query = parts(URL)
    assert path == "/blobs/abc"
    assert SIGNER.check("GET", path, query, 1000.0) == f"client/{CLIENT.id}"


def test_expired_url_is_denied() -> None:
    with pytest.raises(PermissionDenied, match="expired"):
        SIGNER.check("GET", *parts(URL), 1000.1)


@pytest.mark.parametrize(
    ("method", "path", "changed"),
    [
        ("PUT", "/blobs/abc", {}),
        ("GET", "/blobs/abd", {}),
        ("GET", "/blobs/abc/", {}),
        ("GET", "/blobs/abc", {"who": "client/other"}),
        ("GET", "/blobs/abc", {"who": f"driver/{CLIENT.id}"}),
        ("GET", "/blobs/abc", {"expires": "9999999999"}),
        ("GET", "/blobs/abc", {"expires": "abc"}),
        ("GET", "/blobs/abc", {"signature": "0" * 64}),
        ("GET", "/blobs/abc", {"signature": "é"}),
        ("GET", "/blobs/abc", {"signature": ""}),
    ],
)
def test_url_with_anything_changed_is_denied(method: str, path: str, changed: dict[str, str]) -> None:
    fields = {key: values[0] for key, values in parse_qs(parts(URL)[1]).items()} | changed
    with pytest.raises(PermissionDenied, match="signature"):
        SIGNER.check(method, path, urlencode(fields), 0)


def test_url_without_a_query_or_of_another_server_is_denied() -> None:
    for query in ("", "who=a", "&&&=%ff"):
        with pytest.raises(PermissionDenied):
            SIGNER.check("GET", "/blobs/abc", query, 0)
    with pytest.raises(PermissionDenied):
        UrlSigner(b"x" * 32).check("GET", *parts(URL), 0)
