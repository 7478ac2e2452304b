"""``hedgerow provision``: a certificate authority of one's own, and ready folders for servers, clients and drivers.

Exit codes: 0 done; 1 not possible; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hedgerow import logs
from hedgerow.authority import AUTHORITY, AUTHORITY_DAYS, CERTIFICATE_DAYS, LOOPBACK_HOSTS, Authority, files_of
from hedgerow.certificates import CERTIFICATES_VARIABLE
from hedgerow.cli.tables import table
from hedgerow.errors import ConfigError, HedgerowError, InvalidArgument
from hedgerow.security import Role
from hedgerow.wire.channel import Address

FLEET_PORT, DRIVER_PORT = 9091, 9092
FOLDER = Path("hedgerow-certificates")


def parser() -> argparse.ArgumentParser:
    """The command line of ``hedgerow provision``."""
    p = argparse.ArgumentParser(
        prog="hedgerow provision",
        description="Make the keys and certificates with which server, clients and drivers know one another. For server, client "
        "and driver the command that starts it is printed; words after -- are added to it.",
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def holder(name: str, what: str) -> argparse.ArgumentParser:
        sub = command(name, f"make the folder of a {what}", CERTIFICATE_DAYS)
        sub.add_argument("name", metavar="NAME", help=f"the {what}'s name")
        return sub

    def command(name: str, what: str, days: int | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
        sub.add_argument(
            "--dir",
            type=Path,
            default=FOLDER,
            metavar="DIR",
            help="folder of the authority and what it makes (default: %(default)s)",
        )
        if days is not None:
            sub.add_argument("--days", type=int, default=days, metavar="N", help="how long it is good (default: %(default)s)")
        return sub

    command("init", "make an authority", AUTHORITY_DAYS)
    sub = holder("server", "server")
    sub.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="HOST",
        help="DNS name or IP address at which peers reach the server; may be given several times, and "
        f"{', '.join(LOOPBACK_HOSTS)} are always among them",
    )
    sub = holder("client", "client")
    sub.add_argument("--callable", default="MODULE:ATTRIBUTE", metavar="MODULE:ATTRIBUTE", help="for the command that is printed")
    sub.add_argument("--server", default="", metavar="HOST:PORT", help="the same: the Fleet API")
    sub = holder("driver", "driver")
    sub.add_argument("--operator", action="store_true", help="one that may see and end all runs")
    sub.add_argument("--script", default="driver.py", metavar="FILE", help="for the command that is printed")
    sub.add_argument("--server", default="", metavar="HOST:PORT", help="the same: the Driver API")
    sub = command("renew", "make a new certificate for a holder's key", CERTIFICATE_DAYS)
    sub.add_argument("name", metavar="NAME")
    sub = command("revoke", "make the certificates of a holder worthless")
    sub.add_argument("name", metavar="NAME")
    command("list", "show the certificates that are not revoked")
    return p


def main(argv: list[str]) -> int:
    """Run ``hedgerow provision``; returns the exit code."""
    own, more = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    args = parser().parse_args(own)
    if more and args.command not in ("server", "client", "driver"):
        parser().error("only server, client and driver print a command that words after -- could be added to")
    logs.configure("WARNING", "text")
    try:
        print(_run(args, more))
    except (ConfigError, InvalidArgument) as error:
        print(f"hedgerow provision: {error}", file=sys.stderr)
        return 2
    except HedgerowError as error:
        print(f"hedgerow provision: {error}", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace, more: Sequence[str]) -> str:
    folder: Path = args.dir.absolute()
    if args.command == "init":
        Authority.create(folder, args.days)
        return (
            f"Made an authority in {folder / AUTHORITY}.\n"
            "Whoever has the file ca.key there can be anybody in this federation: keep it off the server, and keep a copy.\n\n"
            f"Next:\n  hedgerow provision server NAME --host HOST --dir {shlex.quote(str(args.dir))}"
        )
    authority = Authority(folder)
    match args.command:
        case "server" | "client" | "driver":
            return _make(authority, args, "".join(f" {shlex.quote(word)}" for word in more))
        case "renew":
            made = authority.renew(args.name, args.days)
            return (
                f"Renewed {made / 'cert.pem'}. Copy it to where it is used, and start the server, client or driver there again."
            )
        case "revoke":
            return _revoke(authority, args.name)
        case _:
            rows = [(i.name, i.role, _date(i.not_after), " ".join(i.hosts), i.serial) for i in authority.issued()]
            return table(("NAME", "ROLE", "GOOD UNTIL", "HOSTS", "SERIAL"), rows)


def _make(authority: Authority, args: argparse.Namespace, more: str) -> str:
    hosts: Sequence[str] = ()
    match args.command:
        case "server":
            role, hosts = Role.SERVER, args.host
        case "client":
            role = Role.CLIENT
        case _:
            role = Role.OPERATOR if args.operator else Role.DRIVER
    address = "" if role is Role.SERVER else _address(authority, args.server, FLEET_PORT if role is Role.CLIENT else DRIVER_PORT)

    def commands(folder: Path) -> list[str]:
        match role:
            case Role.SERVER:
                revoked = shlex.quote(str(folder / "revoked.pem"))
                return [f"flower-server --certificates {_paths(folder)} --revoked {revoked}{more}"]
            case Role.CLIENT:
                callable = shlex.quote(args.callable)
                return [f"flower-client --callable {callable} --server {address} --certificates {_paths(folder)}{more}"]
            case _:
                files = files_of(folder)
                joined = shlex.quote(":".join(str(path) for path in (files.ca, files.certificate, files.key)))
                run = f"{CERTIFICATES_VARIABLE}={joined} python {shlex.quote(args.script)}{more}"
                see = f"hedgerow runs --server {address} --certificates {_paths(folder)}"
                return [run, see] if role is Role.OPERATOR else [run]

    made = authority.issue(role, args.name, hosts, args.days, lambda folder: _readme(folder, commands(folder)))
    lines = [f"Made {made}. Move it, over a safe way, to where it is used. There, with the path it has there:", ""]
    return "\n".join([*lines, *(f"  {command}" for command in commands(made))])


def _revoke(authority: Authority, name: str) -> str:
    gone = authority.revoke(name)
    lists = sorted(str(path) for path in authority.folder.glob("*/revoked.pem"))
    return "\n".join(
        [
            f"Revoked {len(gone)} certificate(s) of {gone[-1].role} {name}. The list of revoked certificates is up to date in:",
            *(f"  {path}" for path in lists),
            "Servers that read one of these know at once. For a server on another machine, copy it over the one in its folder.",
        ]
    )


def _address(authority: Authority, given: str, port: int) -> str:
    """Where the printed command connects: what was given, or the first host of the newest server."""
    if given:
        return Address.parse(given, port).text
    servers = [issued for issued in authority.issued() if issued.role == Role.SERVER.value]
    return Address(servers[-1].hosts[0] if servers else "HOST", port).text


def _paths(folder: Path) -> str:
    files = files_of(folder)
    return shlex.join(str(path) for path in (files.ca, files.certificate, files.key))


def _readme(folder: Path, commands: Sequence[str]) -> str:
    lines = [
        f"{folder.name}: made by `hedgerow provision`.",
        "",
        "ca.pem    the certificate of the federation's authority: whom to trust",
        "cert.pem  the certificate of this server, client or driver",
        "key.pem   its private key: whoever has it can be this server, client or driver. Give it to nobody.",
        "",
        "The command, where the folder was made; elsewhere, with the path that it has there:",
        "",
        *(f"  {command}" for command in commands),
        "",
        "In Python: start_driver(certificates=(CA, CERT, KEY), ...) and start_client(certificates=(CA, CERT, KEY), ...), or the",
        f"environment variable {CERTIFICATES_VARIABLE}=CA:CERT:KEY.",
    ]
    return "\n".join(lines) + "\n"


def _date(then: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(then))
