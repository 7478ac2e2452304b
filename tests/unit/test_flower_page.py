"""The page for those who come from Flower: its tables hold all that Flower 1.6 has, and what they say of Hedgerow is true."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
from types import ModuleType
from typing import Any

import pytest

import hedgerow.strategy
from tests import flower
from tests.source_tree import ROOT, modules

PAGE = (ROOT / "docs" / "flower.md").read_text(encoding="utf-8")
FACTS = flower.facts()
ROW = re.compile(r"^\| `([\w.]+?)( ?= ?.+?|\(.*\))?` \| (same|different|absent) \| (.*?) ?\|$")
MISSING = object()


def tables() -> dict[str, dict[str, tuple[str, str, str]]]:
    """For each module and name: signature, what the page says, and why."""
    found: dict[str, dict[str, tuple[str, str, str]]] = {}
    for line in PAGE.splitlines():
        if heading := re.match(r"### `([\w.]+)`", line):
            found[heading[1]] = {}
        elif line.startswith("| `"):
            row = ROW.match(line)
            assert row, f"cannot be read: {line}"
            name, signature, word, why = row.groups()
            module = list(found)[-1]
            assert name not in found[module], f"{module}.{name} has two rows"
            found[module][name] = ((signature or "").strip(), word, why)
    return found


TABLES = tables()
ROWS = [(module, name, *row) for module, rows in TABLES.items() for name, row in rows.items()]


def found_here(module: str, name: str) -> Any:
    """What Hedgerow has of that name; MISSING for nothing."""
    value: Any = importlib.import_module(f"hedgerow.flwr.{module}")
    for part in name.split("."):
        if isinstance(value, ModuleType) and part not in value.__all__:
            return MISSING
        value = getattr(value, part, MISSING)
    return value


def takes(ours: Any, signature: str) -> bool:
    """Whether each call that Flower's signature allows is allowed with the same defaults."""
    theirs = parameters_of(signature)
    mine = inspect.signature(ours).parameters
    named = [p for p in theirs if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if any(p.name not in mine or not _as_free(mine[p.name], p) for p in named):
        return False
    positional = [p.name for p in named if p.kind is p.POSITIONAL_OR_KEYWORD]
    if [p.name for p in mine.values() if p.kind is p.POSITIONAL_OR_KEYWORD][: len(positional)] != positional:
        return False
    known = {p.name for p in named}
    return all(p.default is not p.empty or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for n, p in mine.items() if n not in known)


def _as_free(mine: inspect.Parameter, theirs: inspect.Parameter) -> bool:
    if theirs.kind is theirs.POSITIONAL_OR_KEYWORD and mine.kind is not theirs.kind:
        return False
    if theirs.default is theirs.empty:
        return True
    return bool(mine.default == theirs.default)


def parameters_of(signature: str) -> list[inspect.Parameter]:
    """The parameters that a signature's text tells of; a default that is a name is that name."""
    (function,) = ast.parse(f"def f{signature}: ...").body
    assert isinstance(function, ast.FunctionDef)
    told, kinds = function.args, inspect.Parameter
    defaults: list[ast.expr | None] = [*([None] * (len(told.args) - len(told.defaults))), *told.defaults]
    parts: list[tuple[ast.arg, ast.expr | None, Any]] = []
    parts += [(arg, default, kinds.POSITIONAL_OR_KEYWORD) for arg, default in zip(told.args, defaults, strict=True)]
    parts += [(told.vararg, None, kinds.VAR_POSITIONAL)] if told.vararg else []
    parts += [(arg, default, kinds.KEYWORD_ONLY) for arg, default in zip(told.kwonlyargs, told.kw_defaults, strict=True)]
    parts += [(told.kwarg, None, kinds.VAR_KEYWORD)] if told.kwarg else []
    return [kinds(arg.arg, kind, default=kinds.empty if default is None else _value(default)) for arg, default, kind in parts]


def _value(default: ast.expr) -> object:
    return default.id if isinstance(default, ast.Name) else ast.literal_eval(default)


def test_the_page_lists_what_flower_has() -> None:
    assert {module: set(rows) for module, rows in TABLES.items()} == {
        module: {name for name in names if not is_of_absent_class(module, name)} for module, names in FACTS.items()
    }
    for module, name, signature, _, _ in ROWS:
        assert signature == FACTS[module][name], f"{module}.{name}"


def is_of_absent_class(module: str, name: str) -> bool:
    """Methods of a class that is absent have no rows."""
    owner, dot, _ = name.partition(".")
    return bool(dot) and TABLES[module].get(owner, ("", "", ""))[1] == "absent"


@pytest.mark.parametrize(("module", "name", "signature", "word", "why"), ROWS, ids=[f"{row[0]}.{row[1]}" for row in ROWS])
def test_what_the_page_says_is_true(module: str, name: str, signature: str, word: str, why: str) -> None:
    ours = found_here(module, name)
    assert (word == "same") == (why == ""), "what is not the same is explained"
    assert (word == "absent") == (ours is MISSING), f"hedgerow.flwr.{module}.{name} is {'not ' * (ours is MISSING)}there"
    if word == "absent" or not signature:
        return
    if signature.startswith("="):
        assert repr(ours) == signature.removeprefix("= ")
    elif isinstance(ours, type) and issubclass(ours, enum.Enum):
        assert signature == "(" + ", ".join(member.name for member in ours) + ")"
        assert [member.value for member in ours] == list(range(len(ours)))
    elif word == "same":
        assert takes(ours, signature), f"Hedgerow has {inspect.signature(ours)}"
    else:
        expected = {
            "start_driver": {"server_address"},
            "Bulyan": {"first_aggregation_rule"},
            "SimpleClientManager.wait_for": {"timeout"},
        }
        assert takes(ours, without(signature, expected.get(name, set()))), f"Hedgerow has {inspect.signature(ours)}"


def without(signature: str, names: set[str]) -> str:
    """The signature without arguments of which the page says that they are different."""
    parameters = parameters_of(signature)
    assert names <= {p.name for p in parameters}
    return str(inspect.Signature([p for p in parameters if p.name not in names]))


@pytest.mark.parametrize(
    ("ours", "signature", "expected"),
    [
        (lambda a, b=1: None, "(a)", True),
        (lambda a, b=1: None, "(a, b=1)", True),
        (lambda a, b=1: None, "(a, b=2)", False),
        (lambda a, b: None, "(a)", False),
        (lambda b, a: None, "(a, b)", False),
        (lambda *, a: None, "(a)", False),
        (lambda a: None, "(*, a)", True),
        (lambda a=3: None, "(a)", True),
        (lambda *, b=1, a=2: None, "(*, a=2, b=1)", True),
        (lambda a: None, "(a, b=None)", False),
    ],
)
def test_signatures_are_compared_by_the_calls_they_take(ours: Any, signature: str, expected: bool) -> None:
    assert takes(ours, signature) is expected


def test_no_strategy_that_is_here_is_called_absent() -> None:
    here = set(hedgerow.strategy.__all__) & set(FACTS["server.strategy"])
    assert here - set(importlib.import_module("hedgerow.flwr.server.strategy").__all__) == set()


def test_nothing_is_implemented_in_the_names() -> None:
    """``hedgerow.flwr`` imports and lists; the lazy package face is all the code that there is."""
    shown = [module for module in modules() if module.name.startswith("hedgerow.flwr")]
    assert len(shown) > 10
    for module in shown:
        kinds = {type(node).__name__ for node in module.tree.body}
        allowed = {"Expr", "Import", "ImportFrom", "Assign"} | ({"If"} if module.name == "hedgerow.flwr" else set())
        assert kinds <= allowed, f"{module.place} does more than import"


def test_the_same_things_are_found_at_all_of_flowers_places() -> None:
    for path, names in {
        "common.typing": ["Parameters", "FitRes", "Scalar", "MetricsAggregationFn"],
        "common.parameter": ["bytes_to_ndarray", "ndarrays_to_parameters"],
        "common.logger": ["log", "configure"],
        "server": [
            "client_manager.SimpleClientManager",
            "history.History",
            "server.Server",
            "app.ServerConfig",
            "app.start_server",
        ],
    }.items():
        for name in names:
            module, _, last = f"hedgerow.flwr.{path}.{name}".rpartition(".")
            face = importlib.import_module(f"hedgerow.flwr.{path.split('.')[0]}")
            assert getattr(importlib.import_module(module), last) is getattr(face, last)
