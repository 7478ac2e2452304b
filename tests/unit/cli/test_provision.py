"""The command line of ``hedgerow provision``: what it prints and what it refuses."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.cli import hedgerow


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    root, package = logging.getLogger(), logging.getLogger("hedgerow")
    before = root.handlers[:], root.level, package.level
    yield
    root.handlers[:], root.level, package.level = before[0], before[1], before[2]


class Provision:
    """Runs ``hedgerow provision`` in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        assert hedgerow.main(["provision", arguments[0], "--dir", str(self.folder), *arguments[1:]]) == code
        told = self._capsys.readouterr()
        return told.err if code else told.out

    def commands(self, *arguments: str) -> list[str]:
        return [line.strip() for line in self(*arguments).splitlines() if line.startswith("  ")]


@pytest.fixture
def provision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Provision:
    made = Provision(tmp_path / "made here", capsys)
    made("init")
    return made


def files(folder: Path) -> list[str]:
    return [str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem")]


def test_commands_name_the_files_and_the_server(provision: Provision) -> None:
    folder = provision.folder
    (server,) = provision.commands("server", "main", "--host", "fl.example.org")
    revoked = str(folder / "main" / "revoked.pem")
    assert shlex.split(server) == ["flower-server", "--certificates", *files(folder / "main"), "--revoked", revoked]
    (client,) = provision.commands("client", "a", "--callable", "site:app")
    assert shlex.split(client)[:5] == ["flower-client", "--callable", "site:app", "--server", "fl.example.org:9091"]
    assert shlex.split(client)[5:] == ["--certificates", *files(folder / "a")]
    (driver,) = provision.commands("driver", "ann", "--script", "my driver.py")
    joined = ":".join(files(folder / "ann"))
    assert shlex.split(driver) == [f"HEDGEROW_CERTIFICATES={joined}", "python", "my driver.py"]
    driver, operator = provision.commands("driver", "root", "--operator", "--server", "other:1")
    at = ["--server", "other:1", "--certificates", *files(folder / "root")]
    assert shlex.split(operator) == ["hedgerow", "runs", *at]
    for name, command in (("main", server), ("a", client), ("root", operator)):
        assert command in (folder / name / "README.txt").read_text()


def test_life_of_a_certificate(provision: Provision) -> None:
    provision("client", "a")
    assert "Renewed" in provision("renew", "a")
    assert provision("list").count("client") == 2
    told = provision("revoke", "a")
    assert "Revoked 2 certificate(s) of client a" in told
    assert "authority/revoked.pem" in told
    assert "client" not in provision("list")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("init",), 1, "nothing is written over"),
        (("client", "../a"), 2, "no name"),
        (("client", "a", "--days", "0"), 2, "0 days"),
        (("server", "s", "--host", "a:1"), 2, "without a port"),
        (("client", "a", "--server", "x/y"), 2, "not an address"),
        (("renew", "nobody"), 1, "no certificate 'nobody'"),
        (("revoke", "nobody"), 1, "no certificate 'nobody'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(provision: Provision, arguments: tuple[str, ...], code: int, told: str) -> None:
    error = provision(*arguments, code=code)
    assert told in error
    assert error.count("\n") == 1


def test_without_an_authority_the_first_step_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "hedgerow provision init" in Provision(tmp_path / "none", capsys)("client", "a", code=2)
