"""Whether the server takes new work. A server that is stopping does not; what is in flight may end."""

from __future__ import annotations

from hedgerow.errors import Unavailable


class Gate:
    """Open until :meth:`close`. Read from the server's loop and from the blob port's."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        """Take no new work from now on."""
        self.closed = True

    def check(self) -> None:
        """Let new work in.

        Raises:
            Unavailable: The server is stopping.
        """
        if self.closed:
            raise Unavailable("The server is stopping and takes no new work. Come back when it is there again.")
