"""Who may import whom. The table is the one of ARCHITECTURE.md."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

from tests.source_tree import GENERATED, PACKAGE, ROOT, Module, imports, modules

# From the bottom up. A unit is a module or a package of hedgerow; it may import its own layer and those below it.
LAYERS: dict[str, tuple[str, ...]] = {
    "values": ("errors", "records"),
    "pure": ("task_states", "sampling", "wire.narrow", "wire.tensors", "aggregation"),
    "strategy": ("strategy", "training"),
    "seams": (
        "clock",
        "copies",
        "waits",
        "logs",
        "security",
        "certificates",
        "authority",
        "audit",
        "store",
        "wire",  # the package's own __init__
        "wire.convert",
        "wire.status",
        "wire.channel",
        "wire.blob_http",
        "wire.transfer",
        "wire.proto",
    ),
    "processes": ("server", "client", "driver", "operate"),
    "programs": ("classic", "cli", "testing", "flwr", "hedgerow"),
    "frameworks": ("frameworks",),  # last, so that nothing imports it
}
# Units of this layer never import one another.
APART = "processes"
PURE_LAYERS = ("values", "pure", "strategy", "frameworks")
# Nothing that waits, tells the time, talks to somebody or starts something; files are handed in.
FORBIDDEN_IN_PURE = frozenset(
    [
        "aiohttp",
        "asyncio",
        "concurrent",
        "datetime",
        "ftplib",
        "google",
        "grpc",
        "http",
        "multiprocessing",
        "queue",
        "sched",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "socketserver",
        "sqlalchemy",
        "sqlite3",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
        "urllib",
    ]
)
# One seam each: what may be imported in these units alone.
HOMES: dict[str, tuple[str, ...]] = {
    "sqlalchemy": ("store",),
    "sqlite3": ("store",),
    "aiohttp": ("server",),
    "prometheus_client": ("server",),
    "grpc": ("wire.channel", "wire.status", "server", "client", "driver", "operate"),
    "cryptography": ("certificates", "authority", "server"),
    "grpc_health": ("server",),
    "grpc_reflection": ("server",),
    "tensorboardX": ("driver",),
    "google": ("wire.convert", "client"),
    "platformdirs": ("server", "client", "driver", "cli"),
    "sklearn": ("frameworks",),
    "torch": ("frameworks",),
    "xgboost": ("frameworks",),
    GENERATED: ("wire.convert", "wire.proto", "store", "server", "client", "driver", "operate"),
}
# User code brings these; importing the package must not.
NEVER = frozenset({"dill", "cloudpickle", "flwr", "hydra", "joblib", "matplotlib", "pickle", "requests"})


def unit_of(name: str) -> str | None:
    """The unit that a module of hedgerow belongs to; None where the table does not know it."""
    if name == "hedgerow":
        return "hedgerow"
    inner = name.removeprefix("hedgerow.")
    units = {unit for layer in LAYERS.values() for unit in layer}
    parts = inner.split(".")
    for length in range(len(parts), 0, -1):
        unit = ".".join(parts[:length])
        if unit == "wire" and inner != "wire":
            return None  # a module of wire is placed one by one
        if unit in units:
            return unit
    return None


def layer_of(unit: str) -> int:
    """The unit's place, counted from the bottom."""
    return next(i for i, units in enumerate(LAYERS.values()) if unit in units)


def within(name: str, package: str) -> bool:
    """Whether a dotted name is the package or lies in it."""
    return name == package or name.startswith(package + ".")


def violations(module: Module, known: frozenset[str]) -> list[str]:
    """What a module imports and may not."""
    unit = unit_of(module.name)
    if unit is None:
        return [f"{module.place}: the table of layers in tests/unit/test_layers.py does not know this module"]
    layer = layer_of(unit)
    pure = list(LAYERS)[layer] in PURE_LAYERS
    found = []
    for line, name in imports(module, known):
        where = f"{module.place}:{line}: {unit} imports {name}"
        if within(name, "hedgerow"):
            found += [f"{where}: {why}" for why in _refused_inside(unit, layer, name, known)]
        elif pure and name.split(".")[0] in FORBIDDEN_IN_PURE:
            found.append(f"{where}: a pure module does no I/O, waits for nothing and does not know the time")
        if name.split(".")[0] in NEVER:
            found.append(f"{where}: the package never imports that")
        for package, homes in HOMES.items():
            if within(name, package) and unit not in homes:
                found.append(f"{where}: only {', '.join(homes)} may import {package}")
    return found


def _refused_inside(unit: str, layer: int, name: str, known: frozenset[str]) -> list[str]:
    """Why a unit may not import a module of hedgerow; empty when it may."""
    generated = within(name, GENERATED)
    if name not in known and not generated:
        return ["there is no such module"]
    target = "wire.proto" if generated else unit_of(name)
    if target is None or target == unit:
        return []  # a module without a layer is reported by itself
    if name == "hedgerow" and unit != "hedgerow":
        return ["the package's face is for users; import the module that owns the name"]
    if layer_of(target) > layer:
        return ["that is a higher layer"]
    if layer_of(target) == layer and list(LAYERS)[layer] == APART:
        return ["server, client and driver never import one another"]
    return []


def known_modules() -> frozenset[str]:
    """Dotted names of the package's modules."""
    return frozenset(module.name for module in modules())


def test_every_import_respects_the_layers() -> None:
    known = known_modules()
    assert len(known) > 10, "the lint must see the package"
    found = [line for module in modules() for line in violations(module, known)]
    assert not found, "\n" + "\n".join(found)


def test_the_table_is_the_one_that_newcomers_read() -> None:
    rows = re.findall(r"^\| (\w+) \| (`[^|]+) \|", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
    told = {layer: set(re.findall(r"`([\w.]+)`", units)) for layer, units in rows if layer in LAYERS}
    # Left out there: the face and the package's own __init__ have no backticks of their own, generated code is told elsewhere.
    untold = {"hedgerow", "wire", "wire.proto", "testing", "flwr"}
    assert {layer: units - untold for layer, units in told.items()} == {
        layer: set(units) - untold for layer, units in LAYERS.items()
    }


def test_no_module_imports_itself_in_a_circle() -> None:
    known = known_modules()
    graph = {module.name: _imported_at_start(module, known) for module in modules()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            pytest.fail("a circle of imports: " + " -> ".join([*path[path.index(name) :], name]))
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def _imported_at_start(module: Module, known: frozenset[str]) -> set[str]:
    """Modules of hedgerow that are imported when this one is; not those under TYPE_CHECKING or inside a function."""
    body: list[ast.stmt] = [node for node in module.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    top = Module(module.name, module.path, "", ast.Module(body, []))
    return {name for _, name in imports(top, known) if name in known and name != module.name}


def test_pure_modules_use_no_global_random_state() -> None:
    found = []
    for module in modules():
        unit = unit_of(module.name)
        if unit is None or list(LAYERS)[layer_of(unit)] not in PURE_LAYERS:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                source, name = ast.unparse(node.func.value), node.func.attr
                if source in {"random", "np.random", "numpy.random"} and name not in {"Random", "default_rng", "Generator"}:
                    found.append(f"{module.place}:{node.lineno}: {source}.{name}: the random generator is handed in")
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("hedgerow.server.fleet", "from hedgerow.client.session import Session", "never import one another"),
        ("hedgerow.driver.driver", "import hedgerow.server.fleet", "never import one another"),
        ("hedgerow.client.link", "def f():\n    from hedgerow.driver import driver", "never import one another"),
        ("hedgerow.records", "from hedgerow import waits", "higher layer"),
        ("hedgerow.strategy.fedavg", "from hedgerow.store.store import Store", "higher layer"),
        ("hedgerow.store.store", "from ..server import fleet", "higher layer"),
        ("hedgerow.wire.tensors", "import threading", "pure module"),
        ("hedgerow.aggregation.mean", "import concurrent.futures", "pure module"),
        ("hedgerow.task_states", "from time import time", "pure module"),
        ("hedgerow.client.link", "from hedgerow import NumPyClient", "for users"),
        ("hedgerow.cli.server", "import sqlalchemy", "only store"),
        ("hedgerow.cli.server", "from hedgerow.wire.proto import fleet_pb2", "may import hedgerow.wire.proto"),
        ("hedgerow.client.worker", "import pickle", "never imports that"),
        ("hedgerow.client.perform", "def f():\n    import torch", "only frameworks"),
        ("hedgerow.client.numpy_client", "from hedgerow.frameworks.torch import parameters_of", "higher layer"),
        ("hedgerow.driver.server", "from hedgerow.nowhere import x", "no such module"),
        ("hedgerow.wire.sockets", "import math", "does not know this module"),
        (
            "hedgerow.sampling",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hedgerow.driver.driver import Driver",
            "higher layer",
        ),
    ],
)
def test_a_forbidden_import_is_found(name: str, source: str, expected: str) -> None:
    known = known_modules() | {
        "hedgerow.client.session",
        "hedgerow.driver.driver",
        "hedgerow.server.fleet",
        "hedgerow.store.store",
    }
    (found,) = violations(_snippet(name, source), known)
    assert expected in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("hedgerow.server.fleet", "from hedgerow.wire.proto import fleet_pb2_grpc\nfrom hedgerow import errors\nimport asyncio"),
        ("hedgerow.cli.server", "from hedgerow.server.service import Service\nfrom hedgerow import logs"),
        ("hedgerow.strategy.fedavg", "from hedgerow.aggregation import mean\nimport numpy as np"),
        ("hedgerow", "from hedgerow.driver import start_driver\nfrom hedgerow.client import Client"),
        ("hedgerow.store.writer", "from . import schema\nimport sqlalchemy as sa\nimport threading"),
    ],
)
def test_an_allowed_import_is_left_alone(name: str, source: str) -> None:
    known = known_modules() | {"hedgerow.server.service", "hedgerow.aggregation.mean", "hedgerow.store.schema"}
    assert violations(_snippet(name, source), known) == []


def _snippet(name: str, source: str) -> Module:
    path = PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py")
    if name == "hedgerow":
        path = PACKAGE / "__init__.py"
    return Module(name, Path(path), source, ast.parse(textwrap.dedent(source)))
