"""Constructors that hand arguments on show them, too."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Init = TypeVar("Init", bound=Callable[..., None])


def with_arguments_of(parent: type, *, without: tuple[str, ...] = ()) -> Callable[[Init], Init]:
    """Mark an ``__init__`` that hands its ``**kwargs`` on to a parent's.

    What ``help`` and ``inspect.signature`` tell is then all that can be given, its own arguments first.

    Args:
        parent: Whose ``__init__`` gets the rest.
        without: Arguments of the parent that must not be given.
    """

    def mark(init: Init) -> Init:
        own = inspect.signature(init)
        inherited = inspect.signature(parent.__init__).parameters  # type: ignore[misc]  # any __init__ will do
        named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        rest = [p for name, p in inherited.items() if name not in own.parameters and name not in without]
        marked: Any = init
        marked.__signature__ = own.replace(parameters=[*named, *rest])
        return init

    return mark
