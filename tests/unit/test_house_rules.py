"""House rules that no tool checks: sizes, names, faces, exits and comments in the contracts."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_origin

import pytest

from tests.source_tree import PACKAGE, ROOT, modules

MAX_LINES = 600
FORBIDDEN_NAMES = re.compile(r"^_*(utils?|common|helpers?|misc|stuff|\w*(base|manager)\d+|\w+\d)$")
FACES = [module.name for module in modules() if module.path.name == "__init__.py" and "__all__" in module.text]
# A message, an enum or a call; a field; a value of an enum. (What a service or a oneof is, is told by what is around it.)
DECLARES = re.compile(
    r"""(message|enum|rpc)\s+\w+
    | ((optional|repeated)\s+)? [\w.<>,\ ]+ \s+ \w+ \s* = \s* \d+ \s* (\[[^]]*\])? \s* ;
    | \w+ \s* = \s* -?\d+ \s* ;""",
    re.VERBOSE,
)
CONTRACTS = sorted(PACKAGE.glob("wire/proto/*.proto"))


def test_no_module_is_longer_than_its_reader_can_hold() -> None:
    long = {module.place: lines for module in modules() if (lines := module.text.count("\n")) > MAX_LINES}
    assert not long, f"split these modules (more than {MAX_LINES} lines): {long}"


def test_no_module_is_named_after_nothing() -> None:
    assert [module.place for module in modules() if FORBIDDEN_NAMES.match(module.path.stem)] == []


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "base2", "manager2", "client2", "_utils", "task_manager2"])
def test_a_forbidden_module_name_is_found(name: str) -> None:
    assert FORBIDDEN_NAMES.match(name)


def test_every_module_says_what_it_is_for() -> None:
    assert [module.place for module in modules() if not ast.get_docstring(module.tree)] == []


def test_the_package_has_a_face() -> None:
    assert "hedgerow" in FACES


@pytest.mark.parametrize("name", FACES)
def test_a_face_is_sorted_and_everything_in_it_can_be_imported(name: str) -> None:
    face = importlib.import_module(name)
    assert list(face.__all__) == sorted(face.__all__)
    assert [public for public in face.__all__ if not hasattr(face, public)] == []


@pytest.mark.parametrize("name", FACES)
def test_what_a_face_shows_has_a_docstring(name: str) -> None:
    face = importlib.import_module(name)
    shown = [getattr(face, public) for public in face.__all__ if not public.startswith("__")]
    told = [thing for thing in shown if callable(thing) and get_origin(thing) is None]  # an alias of a type cannot have one
    assert [thing for thing in told if not (getattr(thing, "__doc__", None) or "").strip()] == []


def test_everything_in_the_package_face_is_documented() -> None:
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    face = importlib.import_module("hedgerow")
    assert [name for name in face.__all__ if not re.search(rf"(hedgerow\.|`){name}\b", reference)] == [], "add to docs/api.md"


def test_only_programs_exit() -> None:
    found = []
    for module in modules():
        if module.name.startswith("hedgerow.cli"):
            continue
        main = {id(inner) for node in module.tree.body if _is_main_guard(node) for inner in ast.walk(node)}
        for node in ast.walk(module.tree):
            if (
                id(node) not in main
                and ast.unparse(node) in {"sys.exit", "os._exit", "SystemExit", "exit", "quit"}
                and isinstance(node, ast.Name | ast.Attribute)
            ):
                found.append(f"{module.place}:{node.lineno}")
    assert not found, f"raise an error instead of exiting: {found}"


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def test_every_module_logs_under_its_own_name() -> None:
    found = [
        f"{module.place}:{node.lineno}: {ast.unparse(node)}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        if ast.unparse(node.value.func) == "logging.getLogger" and module.name != "hedgerow.logs"
        if ast.unparse(node) != "log = logging.getLogger(__name__)"
    ]
    assert not found, f"write log = logging.getLogger(__name__): {found}"


# -- the contracts


def uncommented(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of each message, field, enum value and rpc without a comment above or beside it."""
    before = ""
    for number, line in enumerate((raw.strip() for raw in text.splitlines()), start=1):
        declares = DECLARES.match(line)
        if declares and not before.startswith("//") and not before.endswith("*/") and "//" not in line:
            yield number, line
        before = line


@pytest.mark.parametrize("path", CONTRACTS, ids=lambda path: path.name)
def test_everything_in_a_contract_is_commented(path: Path) -> None:
    found = [f"{path.name}:{number}: {line}" for number, line in uncommented(path.read_text(encoding="utf-8"))]
    assert not found, "\n" + "\n".join(found)


def test_the_contracts_are_there() -> None:
    assert {path.name for path in CONTRACTS} >= {"records.proto", "fleet.proto", "driver.proto"}


def test_an_uncommented_field_is_found() -> None:
    text = """
    // A thing.
    message Thing {
      // Its name.
      string name = 1;
      repeated bytes rest = 2;
      map<string, int64> counts = 3;  // beside it
      map<string, int64> more = 4;
      oneof kind {
        Other other = 5;
      }
      reserved 6;
    }
    enum State {
      // Unknown.
      STATE_UNSPECIFIED = 0;
      STATE_ON = 1;
    }
    """
    assert [line for _, line in uncommented(text)] == [
        "repeated bytes rest = 2;",
        "map<string, int64> more = 4;",
        "Other other = 5;",
        "enum State {",
        "STATE_ON = 1;",
    ]
