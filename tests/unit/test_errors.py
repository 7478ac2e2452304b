from __future__ import annotations

import inspect
import re

import pytest

from hedgerow import errors
from hedgerow.errors import HedgerowError

ALL = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, HedgerowError)]


@pytest.mark.parametrize("cls", ALL)
def test_docstring_is_the_message_when_none_is_given(cls: type[HedgerowError]) -> None:
    assert str(cls()).endswith(".")
    assert str(cls()) in (cls.__doc__ or "")


@pytest.mark.parametrize("cls", ALL)
def test_given_message_is_the_message_also_when_it_is_empty(cls: type[HedgerowError]) -> None:
    assert str(cls("what was wrong")) == "what was wrong"
    assert str(cls("")) == ""


def test_tree_in_the_docstring_names_every_error_under_its_parent() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"^    ([│├└─ ]*)([A-Z]\w+)\b", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {cls.__name__: cls.__bases__[0].__name__ for cls in ALL}


@pytest.mark.parametrize(("cls", "builtin"), [(errors.InvalidArgument, ValueError), (errors.WaitTimeout, TimeoutError)])
def test_errors_that_are_builtins_too_are_caught_as_such(cls: type[HedgerowError], builtin: type[Exception]) -> None:
    assert issubclass(cls, builtin)


def test_failed_task_keeps_where_and_why() -> None:
    error = errors.TaskFailed("x", node="a", kind="fit", reason="user_error", traceback="Traceback …")
    assert (error.node, error.kind, error.reason, error.traceback) == ("a", "fit", "user_error", "Traceback …")
    assert (errors.TaskFailed().node, errors.TaskFailed().reason) == ("", "")
