""":class:`ClientApp`: a client function under a name that a console command can be pointed at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from hedgerow.client.client import Client
from hedgerow.client.numpy_client import NumPyClient
from hedgerow.errors import InvalidArgument

ClientFn: TypeAlias = Callable[[str], Client | NumPyClient]
"""Makes a client; its argument is the node's name."""


class ClientApp:
    """Makes a client for every task.

    Args:
        client_fn: Takes ``cid`` (a str: the node's name) or ``context`` (a :class:`~hedgerow.client.context.Context`) and returns
            a ``Client`` or ``NumPyClient``. Without a parameter it is called once, when the worker starts.
        name: The node's name where none is given on the command line.

    Raises:
        InvalidArgument: ``client_fn`` cannot be called.
    """

    def __init__(self, client_fn: Callable[..., Any], *, name: str | None = None) -> None:
        if not callable(client_fn):
            raise InvalidArgument(
                f"client_fn must be a function that returns a client; it is a {type(client_fn).__name__}. "
                "Wrap an object that exists already: client_fn=lambda: client."
            )
        self.client_fn = client_fn
        self.name = name


Flower = ClientApp
"""The name of :class:`ClientApp` in the classic documentation."""
