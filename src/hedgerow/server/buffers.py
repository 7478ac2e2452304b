"""How much memory transfers may have for their buffers, all of them together.

One transfer is fastest with pieces of a megabyte. A thousand at once, as when a round's clients all answer in the same moment,
would need a gigabyte for that, and be no faster than with small pieces. So the more memory is in use, the smaller the pieces of
those that begin: the server's memory depends neither on the models' size nor, but for a small least piece, on how many are sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

MOST_BYTES = 64 * 1024 * 1024
LARGEST_PIECE_BYTES = 1024 * 1024
LEAST_PIECE_BYTES = 16 * 1024
_PIECES = 2
"""One fills while the other is written."""
_PART = 16


class Buffers:
    """Shares memory out; lives on one event loop.

    Attributes:
        used: Bytes that transfers have now.
    """

    def __init__(self) -> None:
        self.used = 0

    @contextlib.contextmanager
    def piece_bytes(self, wanted: int) -> Iterator[int]:
        """The length of each of the two pieces of a transfer of ``wanted`` bytes, for as long as it runs.

        >>> buffers = Buffers()
        >>> with buffers.piece_bytes(10**9) as first, buffers.piece_bytes(100) as second:
        ...     first, second, buffers.used
        (1048576, 100, 2097352)
        """
        free = (MOST_BYTES - self.used) // _PART
        size = min(wanted, max(LEAST_PIECE_BYTES, min(LARGEST_PIECE_BYTES, free)))
        self.used += _PIECES * size
        try:
            yield size
        finally:
            self.used -= _PIECES * size
