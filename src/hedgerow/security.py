"""Who a peer is, how it proves it, and what a signed URL grants. Transport credentials come from here too.

Identity and role travel in the metadata of every call. Without client certificates a peer proves that it is the same as before
with a secret that it made itself at first contact; the server keeps the secret's hash. (The peer makes the secret, so that a
first call whose answer was lost can be repeated.)
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import grpc

from hedgerow.errors import ConfigError, PermissionDenied, ProtocolMismatch, Unauthenticated

PROTOCOL_VERSION = 1
MetadataItems = tuple[tuple[str, str], ...]


class Role(str, Enum):
    """What a peer may be."""

    CLIENT = "client"
    DRIVER = "driver"
    OPERATOR = "operator"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Identity:
    """A peer: its role, its id (a node's id, or a driver's) and the secret that proves it."""

    role: Role
    id: str
    secret: str

    @classmethod
    def fresh(cls, role: Role) -> Identity:
        """A new identity with a random id and secret."""
        return cls(role, secrets.token_hex(16), secrets.token_hex(32))

    @property
    def secret_hash(self) -> str:
        """What the server keeps of the secret: its SHA-256 (the secret is 256 random bits, so no salt is needed)."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def metadata(self) -> MetadataItems:
        """The metadata that goes with every call."""
        return (
            ("hedgerow-role", self.role.value),
            ("hedgerow-id", self.id),
            ("hedgerow-secret", self.secret),
            ("hedgerow-protocol", str(PROTOCOL_VERSION)),
        )

    def __repr__(self) -> str:
        return f"Identity({self.role}, {self.id})"


def identity_from_metadata(metadata: Iterable[tuple[str, str | bytes]] | None, role: Role) -> Identity:
    """Read the caller's identity from a call's metadata.

    Raises:
        Unauthenticated: Something is missing or malformed.
        ProtocolMismatch: The caller speaks another version of the protocol.
        PermissionDenied: The caller has another role.
    """
    found = {str(key): value for key, value in metadata or () if isinstance(value, str)}
    peer_id, secret = found.get("hedgerow-id", ""), found.get("hedgerow-secret", "")
    if not (8 <= len(peer_id) <= 64 and peer_id.isalnum()) or not 32 <= len(secret) <= 128:
        raise Unauthenticated("The call carries no valid hedgerow-id and hedgerow-secret. Use Hedgerow's own client or driver.")
    version = found.get("hedgerow-protocol", "not given")
    if version != str(PROTOCOL_VERSION):
        raise ProtocolMismatch(
            f"This server speaks protocol version {PROTOCOL_VERSION}, the {role} speaks {version}. "
            "Install the same release on both."
        )
    if found.get("hedgerow-role") != role.value:
        raise PermissionDenied(
            f"This API is for the role {role}, the caller's role is {found.get('hedgerow-role', 'not given')!r}."
        )
    return Identity(role, peer_id, secret)


def check_secret(known_hash: str, identity: Identity) -> None:
    """Compare a secret with the hash that was kept, in constant time.

    Raises:
        Unauthenticated: They differ.
    """
    if not hmac.compare_digest(known_hash, identity.secret_hash):
        raise Unauthenticated(
            f"The {identity.role} {identity.id} is known here with another secret. Use its own state directory."
        )


class UrlSigner:
    """Signs and checks relative blob URLs: HMAC-SHA256 over method, path, identity and expiry."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _mac(self, method: str, path: str, who: str, expires: str) -> str:
        text = "\n".join((method, path, who, expires))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def sign(self, method: str, path: str, who: Identity, expires_at: float) -> str:
        """The path with a query that allows ``method`` on it until ``expires_at`` (Unix time in seconds)."""
        name, expires = f"{who.role}/{who.id}", str(int(expires_at))
        return path + "?" + urlencode({"who": name, "expires": expires, "signature": self._mac(method, path, name, expires)})

    def check(self, method: str, path: str, query: str, now: float) -> str:
        """Who may do this: ``"role/id"``.

        Raises:
            PermissionDenied: The signature does not fit, or the URL has expired; ask for a new one.
        """
        fields = parse_qs(query)
        who, expires, signature = (fields.get(name, [""])[0] for name in ("who", "expires", "signature"))
        if not hmac.compare_digest(signature.encode(), self._mac(method, path, who, expires).encode()):
            raise PermissionDenied("The URL's signature does not fit.")
        if now > float(expires):
            raise PermissionDenied("The URL has expired. Ask for a new one.")
        return who


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of PEM files: the CA's certificate, the own certificate and its private key."""

    ca: Path
    certificate: Path
    key: Path

    def read(self) -> tuple[bytes, bytes, bytes]:
        """The contents of the three files.

        Raises:
            ConfigError: One of them cannot be read.
        """
        return read_pem(self.ca), read_pem(self.certificate), read_pem(self.key)

    def grpc_server(self) -> grpc.ServerCredentials:
        """Credentials for a gRPC server (TLS, the client is not asked for a certificate)."""
        _, certificate, key = self.read()
        return grpc.ssl_server_credentials([(key, certificate)])

    def https_server(self) -> ssl.SSLContext:
        """A context for an HTTPS server (TLS 1.2 or newer, the client is not asked for a certificate).

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
        try:
            context.load_cert_chain(self.certificate, self.key)
        except ssl.SSLError as error:
            raise ConfigError(
                f"{self.certificate} and {self.key} are not a certificate and its key in PEM format: {error}"
            ) from None
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
