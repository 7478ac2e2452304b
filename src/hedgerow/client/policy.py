"""The site's policy: which tasks it takes, whatever the server and its drivers want. Pure but for reading the file.

::

    drivers = ["ann", "trial-*"]                      # names in their certificates; shell-style patterns
    kinds = ["get_properties", "fit", "evaluate"]     # what may be asked

    [min_sites]                                       # of a kind: at least so many sites must be asked for the same
    fit = 3
    evaluate = 3

What is left out allows everything. Who the driver is and how many sites take part is what the server says
(:class:`~hedgerow.records.Origin`): the policy holds against drivers, and its kinds against the server as well.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hedgerow.certificates import Subject
from hedgerow.errors import ConfigError, Unauthenticated
from hedgerow.records import Kind, Origin
from hedgerow.security import Role

KEYS = ("drivers", "kinds", "min_sites")


@dataclass(frozen=True)
class Policy:
    """Which tasks a site takes; one without arguments takes all.

    Attributes:
        drivers: Patterns for names of drivers; None for anybody.
        kinds: Kinds of task; None for all.
        min_sites: For a kind of task, to how many nodes it must have been given, this one included.
    """

    drivers: tuple[str, ...] | None = None
    kinds: frozenset[str] | None = None
    min_sites: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def refusal(self, kind: str, origin: Origin) -> str:
        """Why the site does not take such a task, for its driver and the log; "" if it does.

        >>> Policy(min_sites={"fit": 3}).refusal("fit", Origin("hedgerow://driver/ann", 2))
        "The site's policy asks for at least 3 sites in fit; the server counts 2."
        """
        if self.kinds is not None and kind not in self.kinds:
            return f"The site's policy allows no tasks of the kind {kind!r}."
        if self.drivers is not None:
            name = _driver_name(origin.driver)
            if not name:
                return "The site's policy is for certain drivers, and the server does not say which one this is."
            if not any(fnmatchcase(name, pattern) for pattern in self.drivers):
                return f"The site's policy allows no tasks of the driver {name!r}."
        least = self.min_sites.get(kind, 0)
        if origin.sites < least:
            return f"The site's policy asks for at least {least} sites in {kind}; the server counts {origin.sites}."
        return ""

    def check_connection(self, *, with_certificate: bool) -> None:
        """See that the policy can be kept without refusing everything.

        Raises:
            ConfigError: It is for certain drivers, and the client shows no certificate: the server then asks nobody for one.
        """
        if self.drivers is not None and not with_certificate:
            raise ConfigError(
                "The site's policy is for certain drivers, and a server that asks for no certificates does not know who they "
                "are. Connect with certificates (CA, certificate, key), or take `drivers` out of the policy."
            )

    def __str__(self) -> str:
        parts = [
            "any driver" if self.drivers is None else f"drivers: {', '.join(self.drivers) or 'none'}",
            "any kind of task" if self.kinds is None else f"kinds: {', '.join(sorted(self.kinds)) or 'none'}",
            *(f"at least {least} sites in {kind}" for kind, least in self.min_sites.items()),
        ]
        return "; ".join(parts)


def _driver_name(certificate: str) -> str:
    """The name in a driver's certificate; "" where that is none."""
    try:
        subject = Subject.parse(certificate)
    except Unauthenticated:
        return ""
    return subject.name if subject.role in (Role.DRIVER, Role.OPERATOR) else ""


def read_policy(path: Path) -> Policy:
    """The policy in a file.

    Raises:
        ConfigError: It cannot be read, or is no policy; the message says what is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot read the site's policy {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"The site's policy {path} is not a text in UTF-8.") from None
    return parse_policy(text, str(path))


def parse_policy(text: str, where: str) -> Policy:
    """The policy in a text in TOML; ``where`` names it in messages.

    Raises:
        ConfigError: It is no policy.
    """
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise ConfigError(f"The site's policy {where} is not in TOML: {error}.") from None
    try:
        return _policy(found)
    except ConfigError as error:
        raise ConfigError(f"The site's policy {where} cannot be used: {error}") from None


def _policy(found: Mapping[str, Any]) -> Policy:
    unknown = sorted(set(found) - set(KEYS))
    if unknown:
        raise ConfigError(f"it has the key {unknown[0]!r}; the keys are {', '.join(KEYS)}.")
    drivers = None if "drivers" not in found else tuple(_texts("drivers", found["drivers"]))
    kinds = None if "kinds" not in found else frozenset(_kind("kinds", kind) for kind in _texts("kinds", found["kinds"]))
    min_sites = found.get("min_sites", {})
    if not isinstance(min_sites, dict):
        raise ConfigError(f"min_sites must be a table of kinds and numbers of sites, as in `fit = 3`; it is {min_sites!r:.80}.")
    for kind, least in min_sites.items():
        _kind("min_sites", kind)
        if not isinstance(least, int) or isinstance(least, bool) or least < 1:
            raise ConfigError(f"min_sites.{kind} must be a number of sites from 1 up; it is {least!r:.80}.")
        if kinds is not None and kind not in kinds:
            raise ConfigError(f"min_sites has the kind {kind!r}, which kinds does not allow. Add it there, or remove it here.")
    return Policy(drivers, kinds, MappingProxyType(dict(min_sites)))


def _texts(key: str, found: Any) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(text, str) and text for text in found):
        raise ConfigError(f"{key} must be a list of texts that are not empty; it is {found!r:.80}.")
    return found


def _kind(key: str, kind: str) -> str:
    if kind not in frozenset(Kind):  # a slip in min_sites would let everything in
        raise ConfigError(f"{key} has {kind!r:.80}, which is no kind of task that a client knows: {', '.join(Kind)}.")
    return kind
