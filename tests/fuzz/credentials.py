"""Certificates, names in them, lists of revoked ones, and the audit log: what TLS or the disk hands to us.

What must hold: ConfigError or Unauthenticated, or a holder whose name is safe in a file's name and in a log. The same
for the files of an authority, which an operator may damage.
"""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hedgerow.audit import read_audit
from hedgerow.authority import AUTHORITY, Authority, files_of
from hedgerow.certificates import PeerCertificate, Subject, check_name, https_client, read_certificate
from hedgerow.errors import ConfigError, Unauthenticated
from hedgerow.security import Role
from hedgerow.server.revocations import Revocations
from tests.fuzz.mutation import TEXTS, Choices, json_text, mutated_bytes, mutated_json, mutated_text
from tests.fuzz.parser import Parser

URIS = ("hedgerow://client/hospital-a", "hedgerow://driver/x", "hedgerow://operator/ann", "hedgerow://server/a.b_c-1")
URI_WORDS = (*TEXTS, "hedgerow://", "client", "//", "/", "?", "#", "@", ":80", "[", "%2f", "hedgerow://client/../x")
LINES = ({"at": 1.5, "who": "hedgerow://client/a", "what": "CompleteTask", "outcome": "ok"},)


OWN = ("ca.pem", "ca.key", "issued.jsonl", "revoked.pem")


def _valid() -> tuple[dict[str, bytes], bytes]:
    """The files of an authority that has revoked a certificate, and a client's certificate."""
    with TemporaryDirectory() as name:
        authority = Authority.create(Path(name) / "ca")
        pem = files_of(authority.issue(Role.CLIENT, "hospital-a")).certificate.read_bytes()
        authority.issue(Role.DRIVER, "gone")
        authority.revoke("gone")
        return {file: (Path(name) / "ca" / AUTHORITY / file).read_bytes() for file in OWN}, pem


FILES, PEM = _valid()
CA, CRL = FILES["ca.pem"], FILES["revoked.pem"]
DER = ssl.PEM_cert_to_DER_cert(PEM.decode())
ODD = (
    (b"\x55\x1d\x0f", b"\x55\x1d\x11"),  # an extension that is there twice
    (b"\x86\x1chedgerow:", b"\xa3\x1chedgerow:"),  # a name of a kind that nobody uses
    (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"),  # a version that there is not
)


@dataclass(frozen=True)
class Case:
    """What it should be, and what it is."""

    kind: str
    data: bytes
    file: str = ""


def make(choices: Choices) -> Case:
    """One of the things with some bytes changed."""
    kind = choices.of(("certificate", "certificate", "uri", "revoked", "roots", "authority", "audit"))
    match kind:
        case "certificate":
            odd = tuple(DER.replace(*one) for one in ODD)
            names = (
                b"hedgerow://client/hospital-a",
                b"\x06\x03U\x1d\x11",
                b"0\x82",
                b"\x86\x1c",
                b"-----BEGIN CERTIFICATE-----\n",
            )
            return Case(kind, mutated_bytes(choices, (PEM, DER, DER, *odd), names))
        case "uri":
            return Case(kind, mutated_text(choices, URIS, URI_WORDS).encode())
        case "revoked":
            return Case(kind, _mutated_pem(choices, (CRL, CRL, CRL + CRL, PEM)))
        case "authority":
            file = choices.of(OWN)
            return Case(kind, _mutated_pem(choices, (FILES[file],)), file)
        case "roots":
            return Case(kind, _mutated_pem(choices, (CA, CA, CA + PEM, CRL)))
        case _:
            line = json_text(mutated_json(choices, choices.of(LINES))).encode() + b"\n"
            return Case(kind, mutated_bytes(choices, (line, line * 3)))


def _mutated_pem(choices: Choices, seeds: tuple[bytes, ...]) -> bytes:
    """With changes in the text, or in the bytes that its first part stands for."""
    begin, *lines = choices.of(seeds).partition(b"-----END")[0].splitlines()
    if not begin.startswith(b"-----BEGIN") or choices.below(3) == 0:
        return mutated_bytes(choices, seeds)
    inside = base64.b64decode(b"".join(lines))
    encoded = base64.encodebytes(mutated_bytes(choices, (inside,)))
    return b"\n".join((begin, encoded.strip(), begin.replace(b"BEGIN", b"END"), b""))


def check(case: Case, folder: Path) -> None:
    """One case."""
    with contextlib.suppress(ConfigError, Unauthenticated):
        match case.kind:
            case "certificate":
                read_certificate.cache_clear()
                found = read_certificate(case.data)
                assert isinstance(found, PeerCertificate)
                check_name(found.subject.name)
                assert found.serial >= 0
            case "uri":
                subject = Subject.parse(case.data.decode())
                check_name(subject.name)
                assert subject.uri.encode() == case.data
            case "revoked":
                path = folder / "revoked.pem"
                path.write_bytes(case.data)
                Revocations(path, CA)
            case "authority":
                (folder / AUTHORITY).mkdir(exist_ok=True)
                for name in OWN:
                    (folder / AUTHORITY / name).write_bytes(case.data if name == case.file else FILES[name])
                for issued in Authority(folder).issued():
                    check_name(issued.name)
            case "roots":
                https_client(case.data)
            case _:
                path = folder / "audit.jsonl"
                path.write_bytes(case.data)
                for entry in read_audit(path):
                    assert isinstance(entry, dict)
                    json.dumps(entry)


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[Case], None]]:
    yield lambda case: check(case, folder)


PARSER = Parser(
    "credentials", ("hedgerow.certificates", "hedgerow.server.revocations", "hedgerow.authority", "hedgerow.audit"), make, _open
)
