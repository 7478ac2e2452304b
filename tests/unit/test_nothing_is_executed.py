"""Nothing that came over the wire is ever executed: what would be needed for that is not in the package.

Messages, parameters and blobs are data. The one place that imports what a text names is the callable loader, and its text is the
command line's. What a client does with hostile messages is tried in ``tests/integration/attacks/test_code.py``.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator

import pytest

from tests.source_tree import Module, imports, modules

# What makes code, or objects of any class, out of bytes or texts.
MAKERS = frozenset(
    [
        "code",
        "codeop",
        "cloudpickle",
        "dill",
        "imp",
        "jsonpickle",
        "marshal",
        "pickle",
        "pickletools",
        "runpy",
        "shelve",
    ]
)
CALLS = frozenset(
    {"eval", "exec", "compile", "__import__", "breakpoint", "globals", "locals"}
    | {"np.load", "numpy.load", "torch.load", "joblib.load", "os.system", "os.popen", "ctypes.CDLL", "yaml.load"}
    | {"operator.attrgetter", "operator.methodcaller", "attrgetter", "methodcaller", "pkgutil.resolve_name"}
)
LOADER = "hedgerow.client.loader"
FACES = ("hedgerow", "hedgerow.flwr")  # load their own modules when a user first names something of them
# Who starts processes: with commands that are their own command line's.
STARTS_PROCESSES = frozenset({"hedgerow.client.start", "hedgerow.client.worker_process", "hedgerow.testing.processes"})
# Where an attribute is found by a name that is no constant: the loader, and the client's method of the task's kind, which is
# looked for among the four kinds first.
BY_NAME = {LOADER: 1, "hedgerow.client.perform": 2}
EXEMPT = {("hedgerow.client.worker", "ctypes.CDLL"), ("hedgerow", "globals")}  # the C library's prctl(); the face


def executing(module: Module) -> Iterator[str]:
    """Places that could make code of data, or take a name from it."""
    for line, name in imports(module, frozenset()):
        root = name.split(".")[0]
        if root in MAKERS or (root == "importlib" and name != "importlib.metadata" and module.name not in (LOADER, *FACES)):
            yield f"{module.place}:{line}: imports {name}"
        if root in ("subprocess", "multiprocessing", "pty") and module.name not in STARTS_PROCESSES:
            yield f"{module.place}:{line}: imports {name}"
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if (called in CALLS or called.startswith(("os.exec", "os.spawn"))) and (module.name, called) not in EXEMPT:
            yield f"{module.place}:{node.lineno}: calls {called}"
        for keyword in node.keywords:
            allows = not isinstance(keyword.value, ast.Constant) or bool(keyword.value.value)
            if (keyword.arg == "allow_pickle" and allows) or (keyword.arg == "shell" and allows):
                yield f"{module.place}:{node.lineno}: {ast.unparse(keyword)}"


def by_name(module: Module) -> list[int]:
    """Lines that get or set an attribute whose name is no constant."""
    return [
        node.lineno
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "object.__setattr__", "delattr")
        if not isinstance(node.args[1], ast.Constant)
    ]


def test_nothing_in_the_package_makes_code_of_data() -> None:
    found = [place for module in modules() for place in executing(module)]
    assert not found, "\n".join(found)


def test_what_reads_messages_takes_no_attributes_by_names_from_them() -> None:
    reading = [module for module in modules() if module.name.startswith(("hedgerow.client", "hedgerow.wire"))]
    assert len(reading) > 20
    found = {module.name: len(lines) for module in reading if (lines := by_name(module))}
    assert found == BY_NAME


def test_the_loader_is_given_the_command_line_alone() -> None:
    callers = [
        f"{module.name}: {ast.unparse(node)}"
        for module in modules()
        if module.name not in FACES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("load", "loader.load", "importlib.import_module")
    ]
    assert callers == [
        "hedgerow.client.loader: importlib.import_module(module_name)",
        "hedgerow.client.worker: load(args.callable, args.callable_dir)",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "import shelve",
        "import importlib",
        "from importlib import import_module",
        "import importlib.util",
        "import subprocess",
        "eval(message.kind)",
        "exec(text)",
        "compile(text, 'x', 'exec')",
        "__import__(name)",
        "np.load(file)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "read_array(file, allow_pickle=trust)",
        "globals()[message.kind]()",
        "os.system(command)",
        "os.execv(path, [])",
        "run(command, shell=True)",
        "def f():\n    import runpy",
    ],
)
def test_what_would_execute_is_found(text: str) -> None:
    assert list(executing(made_of(text)))


@pytest.mark.parametrize("text", ["getattr(client, message.kind)()", "setattr(client, name, value)"])
def test_a_name_from_a_message_is_found(text: str) -> None:
    assert by_name(made_of(text))


@pytest.mark.parametrize(
    "text", ["import importlib.metadata", "re.compile('a')", "getattr(error, 'silent_s', 0)", "read_array(f, allow_pickle=False)"]
)
def test_what_does_not_execute_is_left_alone(text: str) -> None:
    module = made_of(text)
    assert (list(executing(module)), by_name(module)) == ([], [])


def made_of(text: str) -> Module:
    """A module of the client with this text."""
    real = next(module for module in modules() if module.name == "hedgerow.client.jobs")
    text = textwrap.dedent(text)
    return Module(real.name, real.path, text, ast.parse(text))
