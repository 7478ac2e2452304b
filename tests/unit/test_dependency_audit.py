"""What `make audit` makes of what it is told. (No network: pip-audit and the database are played.)"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.source_tree import ROOT


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependency_audit", ROOT / "scripts" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "unreachable", lambda service: "")
    return module


def package(name: str, *ids: str, fixed: tuple[str, ...] = ("2.0",)) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": [{"id": i, "fix_versions": list(fixed)} for i in ids]}


def skipped(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": "not found"}


def tool(folder: Path, *, report: object = None, code: int = 0) -> Path:
    """A program that answers as pip-audit does."""
    path = folder / "pip-audit"
    write = "" if report is None else f"open(sys.argv[sys.argv.index('--output') + 1], 'w').write({json.dumps(report)!r})"
    path.write_text(f"#!{sys.executable}\nimport sys\nprint('it said this', sys.argv[1:])\n{write}\nsys.exit({code})\n")
    path.chmod(0o755)
    return path


def outcome(audit: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = audit.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_findings_are_named_and_fail(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {
        "dependencies": [package("good"), package("bad", "CVE-1", "CVE-2"), package("worse", "CVE-3", fixed=()), skipped("own")]
    }
    code, out, err = outcome(audit, capsys, "--tool", tool(tmp_path, report=found, code=1))
    assert (code, out) == (1, "")
    assert "bad 1.0: CVE-1, mended in 2.0" in err
    assert "worse 1.0: CVE-3, not mended yet" in err
    assert "Known vulnerabilities: 3." in err


def test_nothing_found_is_fine(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = {"dependencies": [package("good"), package("better")]}
    assert outcome(audit, capsys, "--tool", tool(tmp_path, report=clean)) == (0, "No known vulnerabilities in 2 packages.\n", "")


@pytest.mark.parametrize("packages", [[skipped("a"), skipped("b")], [package("good"), skipped("a")]])
def test_packages_that_were_not_looked_up_are_not_fine(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], packages: list[dict[str, Any]]
) -> None:
    code, out, err = outcome(audit, capsys, "--tool", tool(tmp_path, report={"dependencies": packages}))
    assert (code, out) == (2, "")
    assert "could " in err
    assert "be looked up" in err


def test_failure_of_the_tool_is_none_of_the_packages(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = outcome(audit, capsys, "--tool", tool(tmp_path, code=1))
    assert code == 2
    assert "it said this" in err
    assert outcome(audit, capsys, "--tool", tmp_path / "nowhere")[0] == 2


def test_without_the_database_it_is_skipped_visibly(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "unreachable", lambda service: "no route")
    code, out, _ = outcome(audit, capsys, "--tool", tmp_path / "is not started")
    assert code == 0
    assert out.startswith("skipped: the database of vulnerabilities at https://api.osv.dev/v1/query cannot be reached (no route)")


def test_more_arguments_are_the_tools(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = outcome(audit, capsys, "--tool", tool(tmp_path), "--ignore-vuln", "CVE-1")
    assert "'--ignore-vuln', 'CVE-1'" in err
