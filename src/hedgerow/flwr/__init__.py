"""Flower 1.6's public names: ``import hedgerow.flwr as fl`` in place of ``import flwr as fl``.

Nothing is implemented here: each name is Hedgerow's own, found where a program that was written for Flower looks for it. Which
are the same, different or absent stands in ``docs/flower.md``. The parts are loaded when they are first used, so that a client
does not pay for the server's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hedgerow.flwr import client, common, driver, flower, server

__all__ = ["client", "common", "driver", "flower", "server"]


if not TYPE_CHECKING:  # or the type checker would believe in every name

    def __getattr__(name: str) -> object:
        """Load a part."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(f"{__name__}.{name}")
