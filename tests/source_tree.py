"""The package's source as the lints read it: every module's path, dotted name and syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "hedgerow"
GENERATED = "hedgerow.wire.proto"


@dataclass(frozen=True)
class Module:
    """One module of the package."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def place(self) -> str:
        """The path as a reader of a message knows it."""
        return str(self.path.relative_to(ROOT))


def read_module(path: Path, name: str) -> Module:
    """Parse one file."""
    text = path.read_text(encoding="utf-8")
    return Module(name, path, text, ast.parse(text, str(path)))


@cache
def modules() -> tuple[Module, ...]:
    """Every module under ``src/hedgerow`` in order of its name, without the generated protobuf code."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.stem.endswith(("_pb2", "_pb2_grpc")):
            continue
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(read_module(path, name))
    return tuple(sorted(found, key=lambda module: module.name))


def imports(module: Module, known: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, wherever the statement stands.

    ``from package import name`` counts as an import of ``package.name`` where ``known`` holds that module.
    """
    is_package = module.path.name == "__init__.py"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.name.split(".")
                above = above[: len(above) - node.level + (1 if is_package else 0)]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if inner in known else base
