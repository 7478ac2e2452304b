"""Certificates as files and as values: whose one is, and the TLS contexts that are made from them.

A certificate of Hedgerow names its holder in a URI among its alternative names: ``hedgerow://<role>/<name>``, with the roles
``server``, ``client``, ``driver`` and ``operator`` (a driver that may see and end all runs). What makes such certificates is
:mod:`hedgerow.authority`; what gRPC makes of them is in :mod:`hedgerow.wire.channel`.
"""

from __future__ import annotations

import functools
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hedgerow.errors import ConfigError, Unauthenticated
from hedgerow.security import Role

CERTIFICATES_VARIABLE = "HEDGEROW_CERTIFICATES"
"""Environment variable with the paths of CA, certificate and key, joined as in PATH: used where a script names none."""
SCHEME = "hedgerow"
MAX_NAME_CHARS = 63
MAX_URI_CHARS = 200
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_CERTIFICATES_REMEMBERED = 4096


def check_name(name: str) -> str:
    """The name itself: one that is safe in a certificate, in a folder's name and in a log.

    Raises:
        ConfigError: It is not 1 to 63 letters, digits, dots, dashes and underlines, with a letter or digit at both ends.
    """
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:200]!r} is no name for a certificate: up to {MAX_NAME_CHARS} letters, digits, '.', '-' and '_', "
            "with a letter or digit at both ends."
        )
    return name


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a certificate is for.

    >>> Subject.parse("hedgerow://client/hospital-a").name
    'hospital-a'
    >>> Subject(Role.OPERATOR, "ann").uri
    'hedgerow://operator/ann'
    """

    role: Role
    name: str

    @property
    def uri(self) -> str:
        """How the certificate writes it."""
        return f"{SCHEME}://{self.role}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Subject:
        """Read the URI.

        Raises:
            Unauthenticated: It is not of this form.
        """
        try:
            parts = urlsplit(uri[:MAX_URI_CHARS])  # which remembers what it has read
            subject = cls(Role(parts.netloc), check_name(parts.path[1:]))
        except (ValueError, ConfigError):
            subject = None
        if subject is None or subject.uri != uri:
            raise Unauthenticated(f"The certificate's name is {uri[:200]!r}; it must be {SCHEME}://<role>/<name>.")
        return subject

    def __str__(self) -> str:
        return self.uri


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What matters of a certificate: its holder, its serial number, and the end of its life (Unix time in seconds)."""

    subject: Subject
    serial: int
    not_after: float


@functools.cache
def parsing_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What parsers of certificates, keys and lists of revoked ones raise for odd bytes, and others."""
    from cryptography import exceptions, x509  # here, because workers and insecure peers need not load it

    odd = (x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, exceptions.UnsupportedAlgorithm)
    return ValueError, TypeError, *odd, *others


@functools.lru_cache(_CERTIFICATES_REMEMBERED)
def read_certificate(data: bytes) -> PeerCertificate:
    """Read a certificate, PEM or DER. Who signed it is the business of TLS.

    Raises:
        Unauthenticated: It is no certificate, or it does not name its holder with exactly one ``hedgerow:`` URI.
    """
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(data) if data.startswith(b"-----") else x509.load_der_x509_certificate(data)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except parsing_errors() as error:
        raise Unauthenticated(f"What should be a certificate is none: {str(error)[:200]}.") from None
    ours = [uri for uri in uris if uri.startswith(f"{SCHEME}:")]
    if len(ours) != 1:
        raise Unauthenticated(
            f"The certificate has {len(ours)} names of the form {SCHEME}://<role>/<name>; it must have one. "
            "Make certificates with `hedgerow provision`."
        )
    return PeerCertificate(Subject.parse(ours[0]), found.serial_number, found.not_valid_after_utc.timestamp())


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files: the CA's certificate, the own certificate and its private key."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, paths: Sequence[str | Path]) -> Certificates:
        """From three paths.

        Raises:
            ConfigError: They are not three.
        """
        if isinstance(paths, str | bytes) or len(paths) != 3:
            raise ConfigError(f"certificates must be three paths: CA, certificate and key. They are {paths!r}.")
        return cls(*(Path(path) for path in paths))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Certificates | None:
        """What :data:`CERTIFICATES_VARIABLE` names, if it is set.

        Raises:
            ConfigError: It does not name three files.
        """
        value = environment.get(CERTIFICATES_VARIABLE, "")
        if not value:
            return None
        paths = value.split(os.pathsep)
        if len(paths) != 3:
            raise ConfigError(
                f"{CERTIFICATES_VARIABLE} is {value!r}; it must be CA{os.pathsep}CERT{os.pathsep}KEY, paths of three PEM files."
            )
        return cls.of(paths)

    def read(self) -> tuple[bytes, bytes, bytes]:
        """The contents of the three files.

        Raises:
            ConfigError: One of them cannot be read.
        """
        return read_pem(self.ca), read_pem(self.certificate), read_pem(self.key)

    def subject(self) -> Subject | None:
        """Whom the own certificate names; None where it is none of Hedgerow's.

        Raises:
            ConfigError: It cannot be read.
        """
        try:
            return read_certificate(read_pem(self.certificate)).subject
        except Unauthenticated:
            return None

    def https_server(self, *, client_certificates: bool = False) -> ssl.SSLContext:
        """A context for an HTTPS server (TLS 1.2 or newer).

        Args:
            client_certificates: Whether peers must show a certificate that the CA has signed.

        Raises:
            ConfigError: A file cannot be read or does not hold what it should.
        """
        ca, _, _ = self.read()
        try:
            https_client(ca)
        except ConfigError as error:
            raise ConfigError(f"{self.ca}: {error}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.load_into(context)
        if client_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=ca.decode("ascii"))
        return context

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let a context show the own certificate.

        Raises:
            ConfigError: The files are not a certificate and its key.
        """
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"{self.certificate} and {self.key} are not a certificate and its key in PEM format: {error}"
            ) from None


@dataclass(frozen=True, slots=True)
class Tls:
    """What a client, a driver or an operator connects with.

    Attributes:
        root_certificates: PEM bytes: whom it trusts.
        own: Its own certificate; None where the server asks for none.
    """

    root_certificates: bytes
    own: Certificates | None = None

    @classmethod
    def of(cls, certificates: Sequence[str | Path] | None, root_certificates: bytes | str | Path | None) -> Tls | None:
        """From the arguments of the Python API; without any, from the environment; None where there is nothing either.

        Raises:
            ConfigError: They contradict each other, or a file cannot be used.
        """
        if certificates is not None and root_certificates is not None:
            raise ConfigError("Give either certificates (CA, certificate, key) or root_certificates; the CA is among the former.")
        if root_certificates is not None:
            roots = root_certificates if isinstance(root_certificates, bytes) else read_pem(Path(root_certificates))
            return cls(roots)
        own = Certificates.from_environment() if certificates is None else Certificates.of(certificates)
        return None if own is None else cls(read_pem(own.ca), own)

    @property
    def subject(self) -> Subject | None:
        """Whom the own certificate names."""
        return None if self.own is None else self.own.subject()

    def check(self, *roles: Role) -> Tls:
        """This, when it can be used by a peer of one of these roles; before anything is opened.

        Raises:
            ConfigError: A file does not hold what it should, or the certificate is for another role.
        """
        self.https_client()
        subject = self.subject
        if subject is not None and subject.role not in roles:
            assert self.own is not None
            wanted = " or ".join(roles)
            raise ConfigError(f"{self.own.certificate} is the certificate of {subject}; one for the role {wanted} is needed.")
        return self

    def https_client(self) -> ssl.SSLContext:
        """A context for an HTTPS client.

        Raises:
            ConfigError: A file does not hold what it should.
        """
        context = https_client(self.root_certificates)
        if self.own is not None:
            self.own.load_into(context)
        return context


def read_pem(path: Path) -> bytes:
    """The bytes of a PEM file.

    Raises:
        ConfigError: It cannot be read or holds no PEM.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from None
    if b"-----BEGIN " not in data:
        raise ConfigError(f"{path} is not in PEM format.")
    return data


def https_client(root_certificates: bytes) -> ssl.SSLContext:
    """A context for an HTTPS client that trusts these PEM root certificates alone.

    Raises:
        ConfigError: They are no certificates.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=root_certificates.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"The root certificates are not certificates in PEM format (is it a key?): {error}") from None
    return context
