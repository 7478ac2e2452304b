"""The loader of the site's callable: any spec, any module's text, any object.

What must hold: a source of clients, or ConfigError; making a client gives one, or InvalidResult, or what the site's own code
raises; nothing is imported that the spec does not name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hedgerow.client import loader
from hedgerow.client.app import ClientApp
from hedgerow.client.client import Client
from hedgerow.client.context import Context
from hedgerow.client.numpy_client import NumPyClient
from hedgerow.errors import ConfigError
from tests.fuzz.mutation import TEXTS, Choices, mutated_bytes, mutated_text
from tests.fuzz.parser import Parser

MODULE = "fuzzed_site"
TEXT = b'''from hedgerow import ClientApp, NumPyClient


class Site(NumPyClient):
    """A site."""

    name = "site"

    def fit(self, parameters, config):
        return [], 1, {}


client = Site()
app = ClientApp(lambda context: client)
NAME, NUMBER = "text", 5


def make(cid):
    return client


def nothing():
    return None
'''
STATEMENTS = (
    *(b"raise SystemExit(3)\n", b"raise ValueError('x' * 100)\n", b"import no_such_module\n", b"import fuzzed_site\n"),
    *(
        b"def __getattr__(name):\n    raise RuntimeError(name)\n",
        b"client.name = 5\n",
        b"1 / 0\n",
        b"# -*- coding: no-such -*-\n",
    ),
    *(
        b"class Odd:\n    @property\n    def x(self):\n        raise KeyError('x')\nodd = Odd()\n",
        b"\0",
        b"\xff\xfe",
        b"\t  \n",
        b"(" * 200,
    ),
    *(
        b"Site.name = property(lambda self: 1 / 0)\n",
        b"async def later(cid):\n    pass\n",
        b"__spec__ = None\n",
        b"__name__ = 5\n",
    ),
)
SPECS = (
    *("client", "Site", "app", "make", "nothing", "NAME", "NUMBER"),
    *("NAME.upper", "NUMBER.real.x", "odd.x", "odd", "later", "no"),
    *("client.fit", "Site.fit", "client.context", "Site.__class__", "client.__dict__", "make.__code__.co_code"),
)
WHOLE_SPECS = tuple(f"{MODULE}:{name}" for name in SPECS)
SPEC_TEXTS = (
    *TEXTS,
    ":",
    "::",
    ".py:",
    "fuzzed_site.inner:x",
    "fuzzed_site.py:client",
    "..fuzzed_site:client",
    "class:for",
    "١:x",
)


class Lying:
    """Says that it is a Client."""

    __class__ = Client  # type: ignore[assignment]


class Raising:
    """Whatever is asked of it fails."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __call__(self) -> None:
        raise RecursionError


class OddSignature:
    """Has a signature of another type."""

    __signature__ = 5

    def __call__(self) -> None:
        return None


OBJECTS: tuple[Any, ...] = (
    *(
        Client(),
        NumPyClient(),
        Client,
        NumPyClient,
        ClientApp,
        Lying(),
        Raising(),
        OddSignature(),
        None,
        5,
        "x",
        [],
        {},
        print,
        dict.get,
    ),
    *(
        lambda: None,
        lambda: Client(),
        lambda: 1 / 0,
        lambda: sys.exit(3),
        lambda: Raising(),
        lambda: Lying(),
        lambda: lambda: Client(),
    ),
    *(
        lambda cid: Client(),
        lambda context: NumPyClient(),
        lambda cid: 5,
        lambda cid: Raising(),
        lambda cid: Lying(),
        lambda a, b: 5,
    ),
    *(
        lambda *a, **k: Client(),
        lambda x=1: Client(),
        lambda *, context: Client(),
        ClientApp(lambda context: Client()),
        type,
        object(),
    ),
)


@dataclass(frozen=True)
class Case:
    """A spec and the text of the module that it may name, or an object by its number."""

    spec: str = ""
    text: bytes = TEXT
    directory: str = "."
    number: int | None = None


def make(choices: Choices) -> Case:
    """One part of a valid call changed."""
    match choices.below(4):
        case 0:
            return Case(number=choices.below(len(OBJECTS)))
        case 1:
            directory = choices.of((".", ".", "no", "file", "a" * 300, "a/../.", "\0"))
            return Case(mutated_text(choices, WHOLE_SPECS, SPEC_TEXTS), directory=directory)
        case _:
            text = TEXT
            for _ in range(choices.below(3)):
                text = text + choices.of(STATEMENTS) if choices.below(2) else choices.of(STATEMENTS) + text
            if choices.below(2):
                text = mutated_bytes(choices, [text], STATEMENTS)
            return Case(choices.of(WHOLE_SPECS), text)


def _load(case: Case, folder: Path) -> None:
    (folder / f"{MODULE}.py").write_bytes(case.text)
    importlib.invalidate_caches()
    before = set(sys.modules)
    try:
        found = loader.load(case.spec, folder / case.directory)
        assert isinstance(found, loader.ClientSource)
        assert isinstance(found.suggested_name, str)
    finally:
        for name in set(sys.modules) - before:
            assert name.split(".")[0] == case.spec.partition(":")[0].split(".")[0], f"{name} was imported"
            del sys.modules[name]


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[Case], None]]:
    (folder / "file").write_bytes(b"")
    path, writes = list(sys.path), sys.dont_write_bytecode

    def check(case: Case) -> None:
        try:
            if case.number is None:
                _load(case, folder)
                return
            source = loader.source(OBJECTS[case.number], "spec")
            try:
                client = source.make(Context("node", "run0000000000001"))
            except Exception:  # noqa: BLE001 (InvalidResult, or what the site's own code raises)
                return
            assert isinstance(client, Client)
        except ConfigError as error:
            assert len(str(error)) < 50_000
        finally:
            sys.path[:] = path

    sys.dont_write_bytecode = True
    try:
        yield check
    finally:
        sys.dont_write_bytecode = writes


PARSER = Parser("loader", ("hedgerow.client.loader",), make, _open)
