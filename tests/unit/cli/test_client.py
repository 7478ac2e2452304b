"""The command line of ``flower-client``: what is refused before anything is started."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.certificates import Tls
from hedgerow.cli import client
from hedgerow.client.jobs import Rules
from hedgerow.client.launch import ClientOptions
from hedgerow.client.policy import Policy
from hedgerow.client.worker_process import WorkerCommand


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[ClientOptions, WorkerCommand | None]]]:
    """What would have been run."""
    calls: list[tuple[ClientOptions, WorkerCommand | None]] = []

    def run(options: ClientOptions, command: WorkerCommand | None) -> int:
        calls.append((options, command))
        return 0

    monkeypatch.setattr(client, "run", run)
    root, package = logging.getLogger(), logging.getLogger("hedgerow")
    before = root.handlers[:], root.level, package.level
    yield calls
    root.handlers[:], root.level, package.level = before[0], before[1], before[2]


# A self-signed certificate of nobody; its key is gone.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBiTCCAS+gAwIBAgIUK+XQ2rgdlzpSVvYaqd6Z4JpK+BMwCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOdGVzdCBhdXRob3JpdHkwIBcNMjYxMTI0MDgyMTMwWhgPMjEy
NjEwMzEwODIxMzBaMBkxFzAVBgNVBAMMDnRlc3QgYXV0aG9yaXR5MFkwEwYHKoZI
zj0CAQYIKoZIzj0DAQcDQgAEXw+ua2D06EcZZUDZx2C+I4JVg8vYNQYaUUVWkJ+f
5pRSjQlww5o94YQD5m3rTQQo5wY9X0xMysL6Kez27tVpR6NTMFEwHQYDVR0OBBYE
FFlm7LZ2Zj2/pE3v3DkRWkbbS5IFMB8GA1UdIwQYMBaAFFlm7LZ2Zj2/pE3v3DkR
WkbbS5IFMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAPQQ/Q1p
HdUMtrZ526P/gBKRZtIZhX0CNi/870BWNgn2AiBmFUoHfuz8yxpY3tf359Fa5fjw
lk9MKrJGv455qe95BQ==
-----END CERTIFICATE-----
"""

Started = list[tuple[ClientOptions, WorkerCommand | None]]


def test_the_documented_command_is_understood(started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert client.main(["--callable", "client:hospital_a", "--insecure", "--server=fleet.example:9091"]) == 0
    ((options, command),) = started
    assert options.server.text == "fleet.example:9091"
    assert options.tls is None
    assert (options.name, options.state_dir, options.max_parallel) == (None, None, 1)
    assert command == WorkerCommand("client:hospital_a", tmp_path, "INFO", "text")


def test_every_option_reaches_its_place(started: Started, tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    pem.write_text(CERTIFICATE)
    policy = tmp_path / "policy.toml"
    policy.write_text("kinds = ['fit']")
    options = ["--root-certificates", str(pem), "--server", "[::1]", "--state-dir", "s", "--name", "north", "--max-parallel", "3"]
    more = [
        "--callable-dir",
        str(tmp_path),
        "--log-level",
        "DEBUG",
        "--log-format",
        "json",
        "--worker-retries",
        "4",
        "--policy",
        str(policy),
    ]
    assert client.main(["--callable", "client:it", *options, *more]) == 0
    ((got, command),) = started
    assert got == ClientOptions(
        got.server, Tls(pem.read_bytes()), "north", Path("s"), 3, Rules(Policy(kinds=frozenset({"fit"})), 4)
    )
    assert got.server.text == "[::1]:9091"
    assert command == WorkerCommand("client:it", tmp_path, "DEBUG", "json")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Give --certificates .* or --insecure"),
        (["--insecure", "--root-certificates", "ca.pem"], "contradict one another"),
        (["--root-certificates", "/nowhere/ca.pem"], "Cannot read /nowhere/ca.pem"),
        (["--root-certificates", argparse.__file__], "is not in PEM format|not certificates"),
        (["--insecure", "--server", "http://x/y"], "is not an address"),
        (["--insecure", "--max-parallel", "0"], "--max-parallel is 0"),
        (["--insecure", "--policy", "/nowhere.toml"], "Cannot read the site's policy /nowhere.toml"),
        (["--insecure", "--name", "two\nlines"], "is no name for a node"),
        (["--insecure", "--name", ""], "is no name for a node"),
        (["--insecure", "--name", "x" * 129], "is no name for a node"),
    ],
)
def test_wrong_options_end_with_2_and_say_what_to_do(
    started: Started, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert client.main(["--callable", "client:it", *arguments]) == 2
    assert re.search(told, capsys.readouterr().err)
    assert started == []


def test_a_policy_that_cannot_be_kept_is_refused(started: Started, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    for text, told in (("driver = ['ann']", "has the key 'driver'"), ("drivers = ['ann']", "asks for no certificates")):
        policy.write_text(text)
        assert client.main(["--callable", "client:it", "--insecure", "--policy", str(policy)]) == 2
        assert told in capsys.readouterr().err
    assert started == []


def test_insecure_warns(started: Started, capsys: pytest.CaptureFixture[str]) -> None:
    client.main(["--callable", "client:it", "--insecure"])
    assert "WARNING" in (err := capsys.readouterr().err)
    assert "not encrypted" in err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        client.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == f"hedgerow {importlib.metadata.version('hedgerow')}"
