from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import ConfigError
from hedgerow.records import DataPlane
from hedgerow.wire.channel import CHANNEL_OPTIONS, MAX_MESSAGE_BYTES, SERVER_OPTIONS, Address, blob_base_url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9092", Address("127.0.0.1", 9092)),
        ("server.example", Address("server.example", 9091)),
        ("  server.example:1 ", Address("server.example", 1)),
        ("[::1]:80", Address("::1", 80)),
        ("[fe80::1]", Address("fe80::1", 9091)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
    ],
)
def test_address_is_read_with_and_without_a_port(text: str, expected: Address) -> None:
    assert Address.parse(text, 9091) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":9091",
        "host:port",
        "host:99999",
        "http://host:1",
        "host:1/path",
        "me@host:1",
        "::1:80",
        "[::1",
        "a b:1",
        "'x;:1",
        "a\0b:1",
        "a\nb",
    ],
)
def test_text_that_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9091"):
        Address.parse(text, 9091)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_address_survives_being_written_and_read(host: object, port: int) -> None:
    address = Address(str(host), port)
    assert Address.parse(address.text, 1) == address


@pytest.mark.parametrize(
    ("host", "plane", "tls", "expected"),
    [
        ("10.0.0.1", DataPlane(9093), False, "http://10.0.0.1:9093"),
        ("::1", DataPlane(9093), True, "https://[::1]:9093"),
        ("10.0.0.1", DataPlane(9093, "https://proxy.example/blobs/"), False, "https://proxy.example/blobs"),
    ],
)
def test_blobs_are_at_the_host_that_the_peer_talks_to_unless_told_otherwise(
    host: str, plane: DataPlane, tls: bool, expected: str
) -> None:
    assert blob_base_url(Address(host, 9091), plane, tls=tls) == expected


def test_who_came_over_tls_sends_nothing_unencrypted_whatever_the_server_says() -> None:
    with pytest.raises(ConfigError, match="unencrypted"):
        blob_base_url(Address("10.0.0.1", 9091), DataPlane(9093, "http://proxy.example"), tls=True)
    plane = DataPlane(9093, "HTTPS://proxy.example")
    assert blob_base_url(Address("10.0.0.1", 9091), plane, tls=True) == plane.blob_public_url


def test_server_allows_the_pings_that_channels_send_and_both_take_the_same_messages() -> None:
    channel, server = dict(CHANNEL_OPTIONS), dict(SERVER_OPTIONS)
    assert server["grpc.http2.min_recv_ping_interval_without_data_ms"] < channel["grpc.keepalive_time_ms"]
    assert server["grpc.keepalive_permit_without_calls"] == channel["grpc.keepalive_permit_without_calls"] == 1
    for key in ("grpc.max_receive_message_length", "grpc.max_send_message_length"):
        assert channel[key] == server[key] == MAX_MESSAGE_BYTES
    assert server["grpc.so_reuseport"] == 0
