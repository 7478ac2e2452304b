"""From ``module:attribute`` to a source of clients: what is accepted, and what a refusal says."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hedgerow.client import Context
from hedgerow.client.client import Client, InvalidResult
from hedgerow.client.loader import ClientSource, load
from hedgerow.client.numpy_client import NumPyAdapter
from hedgerow.errors import ConfigError

Load = Callable[..., ClientSource]
CONTEXT = Context("site", "run")
_numbers = itertools.count()


@pytest.fixture
def load_text(tmp_path: Path) -> Iterator[Load]:
    """Load an attribute of a module with this text; every module has a name of its own."""
    path_before, modules_before = list(sys.path), set(sys.modules)

    def load_it(text: str, attribute: str = "it") -> ClientSource:
        name = f"site_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text("import hedgerow.client as hc\n" + textwrap.dedent(text))
        return load(f"{name}:{attribute}", tmp_path)

    yield load_it
    sys.path[:] = path_before
    for name in set(sys.modules) - modules_before:
        if name.startswith("site_"):
            del sys.modules[name]


def refusal(load_text: Load, text: str, attribute: str = "it") -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(text, attribute)
    return str(caught.value)


def test_a_numpy_client_object_is_adapted(load_text: Load) -> None:
    source = load_text("it = hc.NumPyClient()")
    assert isinstance(source.make(CONTEXT), NumPyAdapter)


def test_a_client_object_is_used_as_it_is(load_text: Load) -> None:
    source = load_text("it = hc.Client()")
    assert source.make(CONTEXT) is source.make(CONTEXT)
    assert type(source.make(CONTEXT)) is Client


def test_the_attributes_own_name_is_suggested(load_text: Load) -> None:
    assert load_text("hospital_a = hc.Client()", "hospital_a").suggested_name == "hospital_a"


def test_a_name_attribute_goes_before_the_attributes_own_name(load_text: Load) -> None:
    assert load_text("it = hc.Client()\nit.name = 'Saint Mary'").suggested_name == "Saint Mary"


def test_a_function_without_parameters_is_called_once_at_the_start(load_text: Load) -> None:
    source = load_text("""
        calls = []
        def it():
            calls.append(1)
            client = hc.NumPyClient()
            client.calls = calls
            return client
    """)
    made = [source.make(CONTEXT) for _ in range(3)]
    assert isinstance(made[0], NumPyAdapter)
    assert getattr(made[0].numpy_client, "calls", None) == [1]


def test_a_client_function_with_cid_is_given_the_nodes_name_for_every_task(load_text: Load) -> None:
    source = load_text("""
        seen = []
        def it(cid: str):
            seen.append(cid)
            client = hc.Client()
            client.seen = list(seen)
            return client
    """)
    source.make(CONTEXT)
    assert getattr(source.make(CONTEXT), "seen", None) == ["site", "site"]


@pytest.mark.parametrize("head", ["context", "c: hc.Context", "whatever: 'Context'"])
def test_a_client_function_may_take_the_context(load_text: Load, head: str) -> None:
    source = load_text(f"""
        def it({head}):
            client = hc.Client()
            client.got = {head.split(":")[0]}
            return client
    """)
    assert getattr(source.make(CONTEXT), "got", None) is CONTEXT


def test_a_client_app_makes_clients_from_its_function(load_text: Load) -> None:
    source = load_text("it = hc.Flower(client_fn=lambda cid: hc.NumPyClient(), name='north')")
    assert isinstance(source.make(CONTEXT), NumPyAdapter)
    assert source.suggested_name == "north"


def test_a_class_without_constructor_arguments_is_a_function_returning_a_client(load_text: Load) -> None:
    assert isinstance(load_text("class it(hc.NumPyClient): pass").make(CONTEXT), NumPyAdapter)


def test_the_context_is_set_on_the_users_own_object(load_text: Load) -> None:
    client = load_text("it = hc.NumPyClient()").make(CONTEXT)
    assert isinstance(client, NumPyAdapter)
    assert client.numpy_client.context is CONTEXT


def test_a_client_function_that_returns_something_else_is_an_invalid_result(load_text: Load) -> None:
    with pytest.raises(InvalidResult, match="returned None; it must return a Client or NumPyClient"):
        load_text("def it(cid): pass").make(CONTEXT)


def test_a_missing_module_is_named_with_the_folder_and_its_modules(tmp_path: Path) -> None:
    (tmp_path / "klient.py").touch()
    with pytest.raises(ConfigError) as caught:
        load("client_of_nobody:it", tmp_path)
    message = str(caught.value)
    assert "no module 'client_of_nobody'" in message
    assert str(tmp_path) in message
    assert "the modules klient" in message


def test_a_module_missing_inside_the_users_module_shows_the_users_line(load_text: Load) -> None:
    message = refusal(load_text, "import package_of_nobody\nit = hc.Client()")
    assert "import package_of_nobody" in message
    assert "ModuleNotFoundError" in message
    assert "importlib" not in message


def test_a_missing_attribute_lists_those_that_could_be_meant(load_text: Load) -> None:
    message = refusal(
        load_text, "import os\nhospital_a = hc.Client()\nnumber = 3\ndef make(): pass\n_hidden = hc.Client()", "hospital_b"
    )
    assert "no attribute 'hospital_b'" in message
    assert "It defines: hospital_a, make. Did you mean hospital_a?" in message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("it = 3", "the int 3"),
        ("it = None", "None"),
        ("import os as it", "builtins.module"),
        ("it = {}", "a dict of 0"),
    ],
)
def test_a_wrong_type_is_named(load_text: Load, text: str, found: str) -> None:
    message = refusal(load_text, text)
    assert found in message
    assert "expected a ClientApp, a Client or NumPyClient object, or a function" in message


def test_a_function_returning_a_wrong_type_is_named(load_text: Load) -> None:
    assert "() returned the str 'x'" in refusal(load_text, "def it(): return 'x'")


def test_a_class_that_needs_arguments_is_refused_with_their_names(load_text: Load) -> None:
    message = refusal(load_text, "class it(hc.Client):\n    def __init__(self, data, rate): pass")
    assert "constructor needs the arguments (data, rate)" in message


def test_a_function_that_needs_two_arguments_is_refused(load_text: Load) -> None:
    assert "needs the arguments (a, b)" in refusal(load_text, "def it(a, b): pass")


def test_a_function_that_fails_shows_its_traceback(load_text: Load) -> None:
    message = refusal(load_text, "def it():\n    raise OSError('no data here')")
    assert "OSError: no data here" in message
    assert "line 3, in it" in message


@pytest.mark.parametrize("spec", ["client", "client:", ":it", "client.py:it", "a-b:it", "client:it()"])
def test_a_malformed_callable_is_refused(spec: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="module:attribute"):
        load(spec, tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        load("client:it", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "attribute", "told"),
    [
        ("number = 5", "number.real.nothing", "has no attribute 'nothing'"),
        ("def __getattr__(name):\n    raise RuntimeError('not ' + name)", "it", "RuntimeError: not it"),
        ("class Odd:\n    @property\n    def x(self):\n        raise KeyError('x')\nit = Odd()", "it.x", "KeyError: 'x'"),
        ("class Odd:\n    @property\n    def name(self):\n        return 1 / 0\nit = Odd()", "it", "ZeroDivisionError"),
        ("class Odd:\n    __class__ = hc.Client\nit = Odd()", "it", "has no attribute 'to_client'"),
    ],
)
def test_an_object_that_cannot_be_looked_at_is_refused(load_text: Load, text: str, attribute: str, told: str) -> None:
    assert told in refusal(load_text, text, attribute)


def test_a_folder_with_a_name_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        load("client:it", tmp_path / ("a" * 300))
