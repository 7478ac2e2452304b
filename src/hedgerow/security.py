"""Who a peer is, how it proves it, and what a signed URL grants.

Identity and role travel in the metadata of every call. A peer proves that it is the same as before with a secret that it made
itself at first contact; the server keeps the secret's hash. (The peer makes the secret, so that a first call whose answer was
lost can be repeated.) Where the server asks for certificates, role and name come from the certificate, and what is kept of the
secret is bound to that name: the secret alone is then worth nothing, and neither is another peer's certificate.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qs, urlencode

from hedgerow.errors import PermissionDenied, ProtocolMismatch, Unauthenticated

PROTOCOL_VERSION = 2
MetadataItems = tuple[tuple[str, str], ...]


class Role(str, Enum):
    """What a peer may be."""

    CLIENT = "client"
    DRIVER = "driver"
    OPERATOR = "operator"
    SERVER = "server"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Identity:
    """A peer: its role, its id (a node's id, or a driver's) and the secret that proves it.

    ``certificate`` is the name in its certificate as the server saw it, ``hedgerow://<role>/<name>``; "" where it asks for none.
    """

    role: Role
    id: str
    secret: str
    certificate: str = ""

    @classmethod
    def fresh(cls, role: Role) -> Identity:
        """A new identity with a random id and secret."""
        return cls(role, secrets.token_hex(16), secrets.token_hex(32))

    @property
    def label(self) -> str:
        """What logs call it: the name in its certificate, or role and id."""
        return self.certificate or f"{self.role}/{self.id}"

    @property
    def secret_hash(self) -> str:
        """What the server keeps of secret and certificate: a SHA-256 (the secret is 256 random bits, so no salt is needed)."""
        proof = f"{self.certificate}\n{self.secret}" if self.certificate else self.secret
        return hashlib.sha256(proof.encode()).hexdigest()

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
            f"The {identity.role} {identity.id} is known here with another secret or certificate. Use its own state directory "
            "and certificate."
        )


class UrlSigner:
    """Signs and checks relative blob URLs: HMAC-SHA256 over method, path, identity, expiry and the name in the certificate."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _mac(self, method: str, path: str, who: str, expires: str, certificate: str) -> str:
        text = "\n".join((method, path, who, expires, certificate))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def sign(self, method: str, path: str, who: Identity, expires_at: float) -> str:
        """The path with a query that allows ``method`` on it until ``expires_at`` (Unix time in seconds)."""
        name, expires = f"{who.role}/{who.id}", str(int(expires_at))
        signature = self._mac(method, path, name, expires, who.certificate)
        return path + "?" + urlencode({"who": name, "expires": expires, "signature": signature})

    def check(self, method: str, path: str, query: str, now: float, certificate: str = "") -> str:
        """Who may do this: ``"role/id"``.

        Args:
            method: What is asked for.
            path: Of what.
            query: The URL's query, with the signature.
            now: Unix time in seconds.
            certificate: The name in the asking peer's certificate; "" where it showed none.

        Raises:
            PermissionDenied: The signature does not fit, or the URL has expired; ask for a new one.
        """
        fields = parse_qs(query)
        who, expires, signature = (fields.get(name, [""])[0] for name in ("who", "expires", "signature"))
        if not hmac.compare_digest(signature.encode(), self._mac(method, path, who, expires, certificate).encode()):
            raise PermissionDenied("The URL's signature does not fit: it is for another request, or for another peer.")
        if now > float(expires):
            raise PermissionDenied("The URL has expired. Ask for a new one.")
        return who
