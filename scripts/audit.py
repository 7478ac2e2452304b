"""Known vulnerabilities of what requirements.lock names, as the database of OSV (osv.dev) has them.

    make audit
    make audit ARGS="--ignore-vuln CVE-2027-1"     one that was looked at, and does not concern us; say why in the Makefile

Ends with 1 when something is found, and with 2 when the search itself fails. Where the database cannot be reached it says
``skipped:`` and ends with 0: nothing was looked for then. pip-audit does the work, in a virtual environment of its own that is
made when it is first needed, so that nothing of it is among Hedgerow's own packages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
VENV = ROOT / ".venv-audit"
PIP_AUDIT = "pip-audit==2.10.1"
SERVICE = "https://api.osv.dev/v1/query"
REACH_S, INSTALL_S, AUDIT_S = 10.0, 600.0, 600.0
CLEAN, FOUND, FAILED = 0, 1, 2
NAMES_TOLD = 10


def unreachable(service: str) -> str:
    """Why the database cannot be asked; "" when it answers, whatever it says to a request without a question."""
    try:
        with urllib.request.urlopen(service, timeout=REACH_S):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, urllib.error.URLError) as error:
        return str(getattr(error, "reason", error))


def installed_tool() -> Path:
    """pip-audit, which is installed when it is not there.

    Raises:
        subprocess.SubprocessError: It cannot be installed.
    """
    tool = VENV / "bin" / "pip-audit"
    if not tool.exists():
        print(f"Installing {PIP_AUDIT} into {VENV.name} ...")
        venv.create(VENV, clear=True, with_pip=True)
        install: list[str | Path] = [
            VENV / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            PIP_AUDIT,
        ]
        subprocess.run(install, check=True, timeout=INSTALL_S)
    return tool


def report_of(tool: Path, lock: Path, service: str, more: list[str]) -> tuple[dict[str, Any] | None, str]:
    """What pip-audit found, None where it failed; and what it said."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        command: list[str | Path] = [tool, "--requirement", lock, "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", "osv", "--osv-url", service]
        command += ["--progress-spinner", "off", "--format", "json", "--output", output, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_S)
        try:
            report: dict[str, Any] = json.loads(output.read_text())
        except (OSError, ValueError):
            return None, done.stdout + done.stderr
        return report, done.stdout + done.stderr


def judge(report: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit code, and what to tell.

    A package that was not looked up is not a package without vulnerabilities, as pip-audit's own exit code has it.
    """
    packages = report["dependencies"]
    asked = [package for package in packages if "vulns" in package]
    not_asked = [package["name"] for package in packages if "vulns" not in package]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}"
        + (f", mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else ", not mended yet")
        for package in asked
        for found in package["vulns"]
    ]
    if lines:
        lines.append(f"Known vulnerabilities: {len(lines)}. Raise the versions in pyproject.toml, then: make lock")
        return FOUND, lines
    if not asked:
        return FAILED, [f"None of {len(packages)} packages could be looked up."]
    if not_asked:
        told = ", ".join(not_asked[:NAMES_TOLD]) + (", ..." if len(not_asked) > NAMES_TOLD else "")
        return FAILED, [f"{len(not_asked)} of {len(packages)} packages could not be looked up: {told}"]
    return CLEAN, [f"No known vulnerabilities in {len(asked)} packages."]


def main(argv: list[str] | None = None) -> int:
    """Look, tell, and return the exit code. Arguments that are not known here are pip-audit's."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--lock", type=Path, default=LOCK, help="what to look through (default: requirements.lock)")
    p.add_argument("--service", default=SERVICE, metavar="URL", help="the database (default: %(default)s)")
    p.add_argument("--tool", type=Path, metavar="PATH", help=f"pip-audit itself (default: {PIP_AUDIT} in {VENV.name})")
    args, more = p.parse_known_args(argv)
    why = unreachable(args.service)
    if why:
        print(f"skipped: the database of vulnerabilities at {args.service} cannot be reached ({why}); nothing was looked for.")
        return CLEAN
    try:
        report, said = report_of(args.tool or installed_tool(), args.lock, args.service, more)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"pip-audit could not be run: {error}", file=sys.stderr)
        return FAILED
    if report is None:
        print(f"pip-audit failed:\n{said.strip()}", file=sys.stderr)
        return FAILED
    code, lines = judge(report)
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
