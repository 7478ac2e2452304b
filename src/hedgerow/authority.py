"""A certificate authority in a folder: makes, renews and revokes the certificates of one federation.

::

    <folder>/authority/ca.pem         the authority's certificate (public; a copy is in every other folder)
                      ca.key          its private key: whoever has it can be anybody. Keep it off the server.
                      issued.jsonl    a line for each certificate that was ever made
                      revoked.pem     the list of revoked certificates, signed (a CRL)
    <folder>/<name>/  ca.pem cert.pem key.pem README.txt, and for a server revoked.pem: ready to be moved to where it is used

Keys are ECDSA on P-256: small, fast, and accepted by every TLS library, gRPC's among them. All files have the mode 0600 and all
folders 0700. A name is given once, whatever its role, and nothing is written over.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hedgerow.certificates import Certificates, Subject, check_name, parsing_errors
from hedgerow.errors import AlreadyExists, ConfigError, InvalidArgument, NotFound
from hedgerow.security import Role

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
MAX_DAYS = 36_500
LOCK_S = 10.0
"""How long another process that works with the authority is waited for, in seconds."""
AUTHORITY = "authority"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
"""In every server's certificate, so that what runs on its machine can reach it, too."""
CLOCK_SKEW = dt.timedelta(minutes=5)
_HOST = re.compile(r"(?=.{1,253}$)([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made. ``not_after`` is Unix time in seconds, ``serial`` is in hexadecimal digits."""

    name: str
    role: str
    serial: str
    not_after: float
    hosts: tuple[str, ...] = ()


def files_of(folder: Path) -> Certificates:
    """The paths of CA, certificate and key in a folder that was made here."""
    return Certificates(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")


class Authority:
    """An authority that was made with :meth:`create`, opened.

    Args:
        folder: Holds the authority, and the folders that it makes.

    Raises:
        ConfigError: There is no authority, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = folder / AUTHORITY
        try:
            self._certificate = x509.load_pem_x509_certificate((self._own / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((self._own / "ca.key").read_bytes(), None)
        except FileNotFoundError:
            raise ConfigError(f"There is no authority in {folder}. Make one: hedgerow provision init --dir {folder}") from None
        except parsing_errors(OSError) as error:
            raise ConfigError(f"The authority in {self._own} cannot be used: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{self._own / 'ca.key'} is no ECDSA key. Restore the folder from a copy.")
        self._key = key

    @classmethod
    def create(cls, folder: Path, days: int = AUTHORITY_DAYS) -> Authority:
        """Make a new authority whose certificate is good for so many days.

        Raises:
            AlreadyExists: There is one.
            ConfigError: The folder cannot be written.
            InvalidArgument: The number of days is impossible.
        """
        own = folder / AUTHORITY
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hedgerow authority {os.urandom(4).hex()}")])
        now = dt.datetime.now(dt.UTC)
        builder = _builder(name, name, key.public_key(), now, now + dt.timedelta(days=_days(days)))
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        with _new_folder(own) as fresh:
            _write(fresh / "ca.key", _key_pem(key))
            _write(fresh / "ca.pem", _pem(certificate))
            _write(fresh / "issued.jsonl", b"")
            _write(fresh / "revoked.pem", _crl(certificate, key, {}))
        return cls(folder)

    def issue(
        self,
        role: Role,
        name: str,
        hosts: Sequence[str] = (),
        days: int = CERTIFICATE_DAYS,
        readme: Callable[[Path], str] = str,
    ) -> Path:
        """Make a key and a certificate, in a folder of that name.

        Args:
            role: What its holder may be.
            name: Who the holder is.
            hosts: For a server: the DNS names and IP addresses that peers reach it at.
            days: How long it is good, at most as long as the authority.
            readme: Makes the text of README.txt from the folder's path.

        Returns:
            The folder.

        Raises:
            AlreadyExists: The name was given already.
            ConfigError: The name or a host is not one, or the folder cannot be written.
            InvalidArgument: The number of days is impossible.
        """
        if bool(hosts) and role is not Role.SERVER:
            raise ConfigError("Only a server's certificate names hosts.")
        alternative = tuple(dict.fromkeys((*map(_check_host, hosts), *LOOPBACK_HOSTS))) if role is Role.SERVER else ()
        return self._issue_all(role, [name], alternative, days, readme)[0]

    def issue_all(self, role: Role, names: Sequence[str], days: int = CERTIFICATE_DAYS) -> list[Path]:
        """The same for many clients, drivers or operators at once, which is quicker than one by one.

        Raises:
            InvalidArgument: The role is a server's.
            AlreadyExists, ConfigError: As for :meth:`issue`. Those that come before the one that fails have been made.
        """
        if role is Role.SERVER:
            raise InvalidArgument("Servers have hosts of their own: issue their certificates one by one.")
        return self._issue_all(role, names, (), days, str)

    def _issue_all(
        self, role: Role, names: Sequence[str], hosts: Sequence[str], days: int, readme: Callable[[Path], str]
    ) -> list[Path]:
        with self._locked():
            given = {issued.name.lower() for issued in self._valid()}
            for name in names:
                if check_name(name).lower() == AUTHORITY:
                    raise ConfigError(f"{name!r} is the authority's own folder. Choose another name.")
                if name.lower() in given:
                    raise AlreadyExists(
                        f"The name {name} was given already. Choose another; for a new certificate of the same holder: "
                        f"hedgerow provision renew {name}, or revoke it first."
                    )
                given.add(name.lower())
                self._issue(Subject(role, name), hosts, days, readme)
        return [self.folder / name for name in names]

    def _issue(self, subject: Subject, hosts: Sequence[str], days: int, readme: Callable[[Path], str]) -> None:
        key, folder = ec.generate_private_key(ec.SECP256R1()), self.folder / subject.name
        with _new_folder(folder) as fresh:
            certificate = self._sign(subject, hosts, key.public_key(), days)
            _write(fresh / "key.pem", _key_pem(key))
            _write(fresh / "cert.pem", _pem(certificate))
            _write(fresh / "ca.pem", _pem(self._certificate))
            if subject.role is Role.SERVER:
                _write(fresh / "revoked.pem", (self._own / "revoked.pem").read_bytes())
            _write(fresh / "README.txt", readme(folder).encode())

    def renew(self, name: str, days: int = CERTIFICATE_DAYS) -> Path:
        """Make a new certificate for the holder's key, in place of the one in its folder; that one stays good until its end.

        Raises:
            NotFound: No certificate that is not revoked has this name, or its folder is gone.
            ConfigError: The folder cannot be written or its key cannot be read.
        """
        with self._locked():
            last = self._last(name)
            folder = self.folder / last.name
            try:
                key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
            except FileNotFoundError:
                raise NotFound(f"There is no key in {folder}. Put the folder back, or revoke {name} and make it anew.") from None
            except parsing_errors(OSError) as error:
                raise ConfigError(f"The key in {folder} cannot be used: {error}") from None
            public = key.public_key()
            if not isinstance(public, ec.EllipticCurvePublicKey):
                raise ConfigError(f"{folder / 'key.pem'} is no ECDSA key. Revoke {name} and make it anew.")
            certificate = self._sign(Subject(Role(last.role), last.name), last.hosts, public, days)
            _replace(folder / "cert.pem", _pem(certificate))
        return folder

    def revoke(self, name: str) -> list[Issued]:
        """Put all certificates that have this name on the list of revoked ones; its folder is set aside, and the name is free.

        The list in the folders of servers here is brought up to date; a server elsewhere needs a copy of it.

        Raises:
            NotFound: No certificate that is not revoked has this name.
        """
        with self._locked():
            self._last(name)
            gone = [issued for issued in self._issued() if issued.name == name and int(issued.serial, 16) not in self._revoked()]
            now = dt.datetime.now(dt.UTC)
            listed = self._revoked() | {int(issued.serial, 16): now for issued in gone}
            crl = _crl(self._certificate, self._key, listed)
            for path in (self._own / "revoked.pem", *self.folder.glob("*/revoked.pem")):
                _replace(path, crl)
            folder = self.folder / name
            if folder.is_dir():
                folder.rename(self.folder / f"{name}.revoked-{gone[-1].serial[:8]}")
        return gone

    def issued(self) -> list[Issued]:
        """The certificates that are not revoked, oldest first; also those that are out of date."""
        with self._locked():
            return self._valid()

    def _valid(self) -> list[Issued]:
        revoked = self._revoked()
        return [issued for issued in self._issued() if int(issued.serial, 16) not in revoked]

    def _last(self, name: str) -> Issued:
        found = [issued for issued in self._valid() if issued.name == name]
        if not found:
            raise NotFound(f"The authority in {self.folder} has no certificate {name[:200]!r} that could be renewed or revoked.")
        return found[-1]

    def _issued(self) -> list[Issued]:
        path = self._own / "issued.jsonl"
        try:
            return [_read_issued(line) for line in path.read_text().splitlines()]
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, ConfigError) as error:
            raise ConfigError(f"{path} cannot be read ({error}). Restore it from a copy.") from None

    def _revoked(self) -> dict[int, dt.datetime]:
        path = self._own / "revoked.pem"
        try:
            return {entry.serial_number: entry.revocation_date_utc for entry in x509.load_pem_x509_crl(path.read_bytes())}
        except parsing_errors(OSError) as error:
            raise ConfigError(f"{path} cannot be read ({error}). Restore it from a copy.") from None

    def _sign(self, subject: Subject, hosts: Sequence[str], public: ec.EllipticCurvePublicKey, days: int) -> x509.Certificate:
        """Sign a certificate, noted before anybody has it: what is not noted could not be revoked."""
        now = dt.datetime.now(dt.UTC)
        until = min(now + dt.timedelta(days=_days(days)), self._certificate.not_valid_after_utc)
        is_server = subject.role is Role.SERVER
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.name)])
        authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _builder(name, self._certificate.subject, public, now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectAlternativeName(_alternative_names(subject, hosts)), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(authority_id, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        serial = f"{certificate.serial_number:x}"
        issued = Issued(subject.name, subject.role.value, serial, certificate.not_valid_after_utc.timestamp(), tuple(hosts))
        with (self._own / "issued.jsonl").open("a") as file:
            file.write(json.dumps(asdict(issued)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return certificate

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with filelock.FileLock(self._own / "lock", timeout=LOCK_S, mode=0o600):
                yield
        except filelock.Timeout:
            raise ConfigError(f"Another `hedgerow provision` works in {self.folder}. Wait for its end.") from None


def _read_issued(line: str) -> Issued:
    """A line of the file. Whatever it raises, the line is damaged."""
    fields = json.loads(line)
    issued = Issued(**(fields | {"hosts": tuple(_check_host(str(host)) for host in fields["hosts"])}))
    check_name(issued.name)
    Role(issued.role)
    int(issued.serial, 16)
    dt.datetime.fromtimestamp(issued.not_after, dt.UTC)
    return issued


def _alternative_names(subject: Subject, hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(subject.uri)]
    for host in hosts:
        address = _address(host)
        names.append(x509.DNSName(host) if address is None else x509.IPAddress(address))
    return names


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _check_host(host: str) -> str:
    if _address(host) is None and not _HOST.fullmatch(host):
        raise ConfigError(f"{host[:300]!r} is neither a DNS name nor an IP address. Write it without a port.")
    return host


def _days(days: int) -> int:
    if not 0 < days <= MAX_DAYS:
        raise InvalidArgument(f"A certificate cannot be good for {days} days; 1 to {MAX_DAYS} are possible.")
    return days


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: dt.datetime, until: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(until)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _crl(authority: x509.Certificate, key: ec.EllipticCurvePrivateKey, revoked: dict[int, dt.datetime]) -> bytes:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now)
        .next_update(max(authority.not_valid_after_utc, now + CLOCK_SKEW))
    )
    for serial, since in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears whole, or not at all.

    Raises:
        AlreadyExists: There is something of that name.
        ConfigError: It cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        if path.exists() or path.is_symlink():
            raise AlreadyExists(f"{path} exists already, and nothing is written over. Move it away, or choose another.")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.mkdir(mode=0o700)
        yield fresh
        fresh.rename(path)  # fails where a folder with something in it has appeared meanwhile
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, data: bytes) -> None:
    """Put a new file in the place of an old one, in one step."""
    fresh = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        _write(fresh, data)
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        fresh.unlink(missing_ok=True)
