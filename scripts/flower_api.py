"""What a package that has Flower's layout offers: public names and signatures, as JSON.

    python scripts/flower_api.py flwr > tests/flower_1_6_0.json            with an interpreter that has flwr==1.6.0
    python scripts/flower_api.py hedgerow.flwr

Needs nothing but the package itself. Types are left out: they are written differently for the same thing. So are methods that a
class has from another one with the same signature.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import sys

MODULES = (
    "client",
    "common",
    "server",
    "server.strategy",
    "server.client_proxy",
    "server.criterion",
    "driver",
    "flower",
)

Api = dict[str, dict[str, str]]


def api(package: str) -> Api:
    """For each module the public names with their signatures; methods are called ``Class.method``, aliases have none ("")."""
    found: Api = {}
    for module_name in MODULES:
        module = importlib.import_module(f"{package}.{module_name}")
        found[module_name] = {}
        for name in getattr(module, "__all__", None) or _classes_of(module):
            found[module_name] |= _entries(name, getattr(module, name))
    return found


def _classes_of(module: object) -> list[str]:
    own = getattr(module, "__name__", "")
    return [name for name, value in vars(module).items() if inspect.isclass(value) and value.__module__ == own]


def _entries(name: str, value: object) -> dict[str, str]:
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        return {name: "(" + ", ".join(member.name for member in value) + ")"}
    if isinstance(value, type) and getattr(value, "__module__", "") != "builtins":
        return {name: signature(value)} | _methods(name, value)
    if inspect.isroutine(value):
        return {name: signature(value)}
    if isinstance(value, int):
        return {name: f"= {value!r}"}
    return {name: ""}  # a module, or an alias of a type


def _methods(name: str, cls: type) -> dict[str, str]:
    methods = {}
    for member in sorted(dir(cls)):
        value = getattr(cls, member)
        if member.startswith("_") or not inspect.isroutine(value):
            continue
        inherited = [getattr(base, member) for base in cls.__mro__[1:] if hasattr(base, member)]
        if signature(value) not in map(signature, inherited):
            methods[f"{name}.{member}"] = signature(value)
    return methods


def signature(function: object) -> str:
    """Names, kinds and defaults of what can be given."""
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]  # whatever can be called
    bare = [p.replace(annotation=inspect.Parameter.empty, default=_plain(p.default)) for p in parameters]
    return str(inspect.Signature(bare))


class _Named:
    """Shows a default value that is a function by its name, which is the same in every process."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


def _plain(default: object) -> object:
    return _Named(default.__name__) if inspect.isfunction(default) else default


if __name__ == "__main__":
    json.dump(api(sys.argv[1]), sys.stdout, indent=1)
    print()
