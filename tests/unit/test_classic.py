"""Where a job's own server listens, and what is refused before it does."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hedgerow.classic import _certificate_files, _places, start_server
from hedgerow.driver import ServerConfig
from hedgerow.errors import ConfigError
from hedgerow.wire.channel import Address


@pytest.mark.parametrize(
    ("given", "fleet", "blob", "own"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080", "127.0.0.1:0", "127.0.0.1"),
        ("localhost:7", "localhost:7", "127.0.0.1:0", "127.0.0.1"),
        ("[::1]:7", "[::1]:7", "[::1]:0", "::1"),
        ("0.0.0.0:7", "0.0.0.0:7", "[::]:0", "127.0.0.1"),
        ("[::]:7", "[::]:7", "[::]:0", "127.0.0.1"),
        ("fl.example", "fl.example:8080", "[::]:0", "127.0.0.1"),
    ],
)
def test_parameters_travel_where_clients_can_reach_and_the_driver_stays_inside(
    given: str, fleet: str, blob: str, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: True)
    places = _places(given, None)
    assert (places.fleet.text, places.blob.text, places.own) == (fleet, blob, own)
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    assert _places(given, None).blob.text == blob.replace("[::]", "0.0.0.0")
    assert _places(given, "10.0.0.1:99").blob == Address("10.0.0.1", 99)


def test_wrong_arguments_are_refused_before_anything_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is not an address"):
        start_server(server_address="http://x:1/y")
    with pytest.raises(ConfigError, match="transport_dtype is 'int8'"):
        start_server(transport_dtype="int8")
    with pytest.raises(ConfigError, match="num_rounds is -1"):
        start_server(config=ServerConfig(num_rounds=-1))
    monkeypatch.setenv("HEDGEROW_CERTIFICATES", "a:b:c")
    with pytest.raises(ConfigError, match="HEDGEROW_CERTIFICATES is set"):
        start_server()


def test_the_key_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    files = _certificate_files(tmp_path, (b"ca", b"cert", b"key"))
    assert [path.read_bytes() for path in (files.ca, files.certificate, files.key)] == [b"ca", b"cert", b"key"]
    assert files.key.stat().st_mode & 0o777 == 0o600
