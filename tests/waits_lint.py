"""A lint: every wait goes through ``hedgerow.waits`` or has a limit of its own.

What it refuses:

- ``time.sleep``, ``asyncio.sleep`` (but not ``asyncio.sleep(0)``), ``asyncio.wait_for``, ``asyncio.timeout``: ``waits.pause``,
  ``waits.pause_thread`` and ``waits.wait`` do the same and say why.
- Functions that may block for ever without a timeout: ``asyncio.wait``, ``subprocess.run``, ``urlopen``, ...
- Methods named ``wait``, ``get``, ``join``, ``result``, ``acquire``, ``communicate`` and their kin that are called without a
  limit. They may stand as the first argument of ``waits.wait(...)``, which brings the limit. ``result`` and ``exception``
  of a future are fine where the same function asks whether that future is ``done()`` or ``cancelled()``.
- Such a method handed to a thread (``to_thread(queue.get)``), and sockets that are told to block for ever.

A wait that is meant to last for ever has a ``Limit`` whose seconds are None, so that it says so.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

OWNER = "hedgerow.waits"
# Refused wherever the name is used.
REFUSED = {
    "time.sleep": "waits.pause_thread",
    "asyncio.sleep": "waits.pause",
    "asyncio.wait_for": "waits.wait",
    "asyncio.timeout": "waits.wait",
    "asyncio.timeout_at": "waits.wait",
    "signal.pause": "waits.wait",
    "signal.sigwait": "waits.wait",
    "signal.sigwaitinfo": "waits.wait",
}
# Functions, and the number of positional arguments from which on the timeout is among them (0: by keyword only).
NEED_TIMEOUT = {
    "asyncio.wait": 0,
    "asyncio.as_completed": 0,
    "concurrent.futures.wait": 2,
    "concurrent.futures.as_completed": 2,
    "subprocess.run": 0,
    "subprocess.call": 0,
    "subprocess.check_call": 0,
    "subprocess.check_output": 0,
    "select.select": 4,
    "socket.create_connection": 2,
    "urllib.request.urlopen": 3,
    "http.client.HTTPConnection": 3,
    "http.client.HTTPSConnection": 3,
}
# Methods, and the number of positional arguments from which on the limit is among them.
METHODS = {
    "wait": 1,
    "wait_for": 2,
    "wait_for_termination": 1,
    "get": 1,
    "join": 1,
    "result": 1,
    "exception": 1,
    "acquire": 1,
    "communicate": 2,
}
# The result of a future that is done already does not wait.
OF_A_DONE_FUTURE = frozenset({"result", "exception"})
THREADS = frozenset({"to_thread", "run_in_executor", "submit"})


def unlimited_waits(source: str) -> list[str]:
    """What the lint refuses in a module's source, each as ``line: what``."""
    tree = ast.parse(source)
    names = _imported_names(tree)
    limited = {id(argument) for call in _calls(tree) if (argument := _limited_by_waits(call, names)) is not None}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found: list[tuple[int, str]] = []
    yields = {id(call.func) for call in _calls(tree) if _dotted(call.func, names) == "asyncio.sleep" and _is_zero(call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = _dotted(node, names)
            if name in REFUSED and id(node) not in yields:
                found.append((node.lineno, f"{name}: use {REFUSED[name]}"))
        if isinstance(node, ast.Call):
            if id(node) not in limited:
                found += [(node.lineno, text) for text in _unlimited_call(node, names, functions)]
            found += [(node.lineno, text) for text in _handed_to_a_thread(node)]
    return [f"{line}: {text}" for line, text in sorted(set(found))]


def _unlimited_call(
    call: ast.Call, names: dict[str, str], functions: list[ast.FunctionDef | ast.AsyncFunctionDef]
) -> Iterator[str]:
    name = _dotted(call.func, names)
    if name is not None and name.startswith(OWNER + "."):
        return
    if name in NEED_TIMEOUT:
        if not _has_limit(call, NEED_TIMEOUT[name]):
            yield f"{name}() without a timeout"
        return
    if not isinstance(call.func, ast.Attribute):
        return
    method, text = call.func.attr, ast.unparse(call.func)
    if method in METHODS and not _method_has_limit(call, method):
        if method not in OF_A_DONE_FUTURE or not _known_to_be_done(call, call.func.value, functions):
            yield f"{text}() without a limit"
    elif method == "select" and not call.args and not call.keywords and "selectors" in names.values():
        yield f"{text}() without a limit"
    elif (method == "settimeout" and _is_constant(call.args, None)) or (
        method == "setblocking" and _is_constant(call.args, True)
    ):
        yield f"{text}({ast.unparse(call.args[0])}) lets a socket block for ever"


def _method_has_limit(call: ast.Call, method: str) -> bool:
    if _keyword(call, "blocking") is False or _keyword(call, "block") is False:
        return True
    if method in {"get", "acquire"} and _is_constant(call.args, True):
        return False  # get(True) and acquire(True) block
    return _has_limit(call, METHODS[method])


def _has_limit(call: ast.Call, from_positional: int) -> bool:
    """Whether a call has a timeout that is not the constant None."""
    for keyword in call.keywords:
        if keyword.arg == "timeout" or keyword.arg is None:
            return not (isinstance(keyword.value, ast.Constant) and keyword.value.value is None)
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return True
    if not from_positional or len(call.args) < from_positional:
        return False
    limit = call.args[from_positional - 1]
    return not (isinstance(limit, ast.Constant) and limit.value is None)


def _known_to_be_done(call: ast.Call, future: ast.expr, functions: list[ast.FunctionDef | ast.AsyncFunctionDef]) -> bool:
    """Whether a function around the call asks if the same future is done or cancelled."""
    asked = {f"{ast.unparse(future)}.{question}" for question in ("done", "cancelled")}
    for function in functions:
        inner = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        if any(node is call for node in inner) and any(ast.unparse(node.func) in asked for node in inner):
            return True
    return False


def _handed_to_a_thread(call: ast.Call) -> Iterator[str]:
    if isinstance(call.func, ast.Attribute | ast.Name):
        called = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
        if called in THREADS:
            for position, argument in enumerate(call.args):
                if isinstance(argument, ast.Attribute) and argument.attr in METHODS and position == len(call.args) - 1:
                    yield f"{ast.unparse(argument)} in a thread without a limit"


def _limited_by_waits(call: ast.Call, names: dict[str, str]) -> ast.expr | None:
    """The first argument of a call of ``waits.wait``."""
    return call.args[0] if _dotted(call.func, names) == f"{OWNER}.wait" and call.args else None


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """Local name to dotted name, of everything that the module imports."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    """The dotted name of an imported thing, or None."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value, names)
        return f"{base}.{node.attr}" if base else None
    return None


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _keyword(call: ast.Call, name: str) -> object:
    """The value of a keyword argument that is a constant."""
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def _is_constant(arguments: list[ast.expr], value: object) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], ast.Constant) and arguments[0].value is value


def _is_zero(call: ast.Call) -> bool:
    return len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
