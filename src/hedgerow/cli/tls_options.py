"""How a command connects: ``--certificates``, ``--root-certificates`` or ``--insecure``; exactly one of them must be said."""

from __future__ import annotations

import argparse
from pathlib import Path

from hedgerow.certificates import Tls
from hedgerow.errors import ConfigError
from hedgerow.security import Role


def add_tls_options(parser: argparse.ArgumentParser) -> None:
    """Add the three options to a command line."""
    parser.add_argument(
        "--certificates",
        nargs=3,
        type=Path,
        metavar=("CA", "CERT", "KEY"),
        help="PEM files: the authority's certificate, the own one and its key (made by `hedgerow provision`)",
    )
    parser.add_argument(
        "--root-certificates",
        type=Path,
        metavar="PEM",
        help="certificate of the authority that signed the server's one, for servers that ask for no certificate",
    )
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="connect without encryption: anybody on the way can read and change models and results",
    )


def tls_from(args: argparse.Namespace, *roles: Role) -> Tls | None:
    """What to connect with, for a peer of one of these roles; None for ``--insecure``.

    Raises:
        ConfigError: Not exactly one of the options was given, or a file cannot be used.
    """
    given = [name for name in ("certificates", "root_certificates", "insecure") if getattr(args, name)]
    if len(given) > 1:
        flags = " and ".join("--" + name.replace("_", "-") for name in given)
        raise ConfigError(f"{flags} contradict one another. Give one of them.")
    if not given:
        raise ConfigError(
            "Give --certificates CA CERT KEY (from `hedgerow provision`), or --root-certificates with the PEM file of the "
            "authority of the server's certificate where the server asks for none, or --insecure to connect without encryption."
        )
    if args.insecure:
        return None
    tls = Tls.of(args.certificates, args.root_certificates)
    assert tls is not None
    return tls.check(*roles)
