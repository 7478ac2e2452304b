"""From ``module:attribute`` to something that makes clients; a refusal says what was looked for and what was found."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hedgerow.client.app import ClientApp
from hedgerow.client.client import Client, InvalidResult
from hedgerow.client.context import Context
from hedgerow.client.numpy_client import NumPyClient, describe
from hedgerow.errors import ConfigError, HedgerowError

EXPECTED = "a ClientApp, a Client or NumPyClient object, or a function that returns one"
MAX_LISTED = 20


@dataclass(frozen=True)
class ClientSource:
    """Gives the client for a task.

    Attributes:
        make: Makes or returns the client.
        suggested_name: Name for the node where the user gives none; "" if the callable has none either.
    """

    make: Callable[[Context], Client]
    suggested_name: str = ""


def load(spec: str, directory: Path) -> ClientSource:
    """Import ``module:attribute``, with ``directory`` first on the path.

    Raises:
        ConfigError: There is no such module or attribute, it fails, or it is of a type that gives no client.
    """
    module_name, colon, attribute = spec.partition(":")
    is_file = module_name.endswith(".py")
    if not colon or is_file or not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise ConfigError(f"--callable {spec!r} does not have the form module:attribute, for example client:hospital_a.")
    if not _is_folder(directory):
        raise ConfigError(f"--callable-dir {directory!s:.300} is not a folder.")
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    module = _import(module_name, spec, directory)
    with _looking_at(spec):
        found = _attribute(module, attribute, spec)
    return source(found, spec, attribute.split(".")[-1])


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, a parent that may not be read
        return False


@contextlib.contextmanager
def _looking_at(spec: str) -> Iterator[None]:
    """What is looked at inside is the site's: properties, ``__getattr__`` and signatures may fail in any way."""
    try:
        yield
    except HedgerowError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{spec} cannot be looked at:\n{user_traceback(error)}") from error


def source(found: Any, spec: str, fallback_name: str = "") -> ClientSource:
    """What makes clients from an object that a user named or passed; ``spec`` names it in messages.

    A function without parameters is called here and now, once; one with a parameter is called for every task.

    Raises:
        ConfigError: The object gives no client, or its function failed.
    """
    with _looking_at(spec):
        name = _own_name(found) or fallback_name
        if isinstance(found, Client | NumPyClient):
            client = found.to_client()
            return ClientSource(lambda context: _with_context(found, client, context), name)
        if isinstance(found, ClientApp):
            return _from_function(found.client_fn, spec, name)
        if callable(found):
            return _from_function(found, spec, name)
    raise ConfigError(f"{spec} is {describe(found)}; expected {EXPECTED}.")


def _from_function(function: Callable[..., Any], spec: str, name: str) -> ClientSource:
    required = _required_parameters(function, spec)
    if not required:
        returned = _call(function, spec)
        if not isinstance(returned, Client | NumPyClient | ClientApp):
            raise ConfigError(f"{spec}() returned {describe(returned)}; expected {EXPECTED}.")
        return source(returned, f"{spec}()", name)
    if isinstance(function, type) or len(required) > 1:
        what = "a class whose constructor" if isinstance(function, type) else "a function that"
        raise ConfigError(
            f"{spec} is {what} needs the arguments ({', '.join(p.name for p in required)}); "
            f"expected {EXPECTED}. A function may take cid (the node's name) or context."
        )
    wants_context = _wants_context(required[0])

    def make(context: Context) -> Client:
        returned = function(context if wants_context else context.node_name)
        if not isinstance(returned, Client | NumPyClient):
            raise InvalidResult(f"{spec} returned {describe(returned)}; it must return a Client or NumPyClient.")
        return _with_context(returned, returned.to_client(), context)

    return ClientSource(make, name)


def _with_context(owner: Client | NumPyClient, client: Client, context: Context) -> Client:
    owner.context = context
    return client


def _required_parameters(function: Callable[..., Any], spec: str) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{spec} is {describe(function)} whose parameters cannot be read: {error}.") from None
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p for p in parameters if p.default is inspect.Parameter.empty and p.kind not in kinds]


def _wants_context(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if annotation is Context or (isinstance(annotation, str) and annotation.split(".")[-1] == "Context"):
        return True
    return parameter.name == "context" and annotation is inspect.Parameter.empty


def _own_name(found: Any) -> str:
    name = getattr(found, "name", None)
    return name if isinstance(name, str) else ""


def _call(function: Callable[..., Any], spec: str) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{spec}() failed:\n{user_traceback(error)}") from error


def _import(module_name: str, spec: str, directory: Path) -> types.ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        parents = {module_name[:i] for i in range(len(module_name) + 1) if i == len(module_name) or module_name[i] == "."}
        if error.name not in parents:
            raise ConfigError(
                f"Importing the module {module_name} (of --callable {spec}) failed:\n{user_traceback(error)}"
            ) from error
        raise ConfigError(
            f"There is no module {error.name!r} (of --callable {spec}). Searched in {directory}, "
            f"which has {_modules(directory)}, and in the installed packages. Use --callable-dir if the module lies elsewhere."
        ) from None
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"Importing the module {module_name} (of --callable {spec}) failed:\n{user_traceback(error)}"
        ) from error


def _modules(directory: Path) -> str:
    names = sorted(p.stem if p.suffix == ".py" else p.name for p in directory.iterdir() if p.suffix == ".py" or _is_package(p))
    return f"the modules {_listed(names)}" if names else "no modules"


def _is_package(path: Path) -> bool:
    return path.is_dir() and path.name.isidentifier() and any(path.glob("*.py"))


def _attribute(module: types.ModuleType, attribute: str, spec: str) -> Any:
    owner: Any = module
    path = module.__name__
    for part in attribute.split("."):
        if not hasattr(owner, part):
            raise ConfigError(
                f"{path} ({_place(module)}) has no attribute {part!r} (of --callable {spec}). {_suggest(owner, part)}"
            )
        owner = getattr(owner, part)
        path = f"{path}.{part}"
    return owner


def _place(module: types.ModuleType) -> str:
    return str(getattr(module, "__file__", None) or "no file")


def _suggest(owner: Any, wanted: str) -> str:
    candidates = sorted(name for name, value in getattr(owner, "__dict__", {}).items() if _might_be_meant(owner, name, value))
    if not candidates:
        return f"It defines nothing that could be meant: {EXPECTED}."
    close = difflib.get_close_matches(wanted, candidates, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"It defines: {_listed(candidates)}.{hint}"


def _might_be_meant(owner: Any, name: str, value: Any) -> bool:
    """Clients, apps, and functions and classes that the module itself defines."""
    if name.startswith("_"):
        return False
    if isinstance(value, ClientApp | Client | NumPyClient):
        return True
    makes_one = inspect.isroutine(value) or (isinstance(value, type) and issubclass(value, Client | NumPyClient))
    return makes_one and getattr(value, "__module__", None) == getattr(owner, "__name__", None)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def user_traceback(error: BaseException) -> str:
    """The traceback's text without the frames of this package and of importlib above the user's own."""
    skip = (str(Path(__file__).parent), "<frozen importlib", importlib.__file__)
    tb = error.__traceback__
    while tb is not None and tb.tb_next is not None and tb.tb_frame.f_code.co_filename.startswith(skip):
        tb = tb.tb_next
    return "".join(traceback.format_exception(type(error), error, tb)).rstrip()
