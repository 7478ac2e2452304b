"""Memory for buffers is shared out among the transfers that run."""

from __future__ import annotations

from contextlib import ExitStack

from hedgerow.server.buffers import LARGEST_PIECE_BYTES, LEAST_PIECE_BYTES, MOST_BYTES, Buffers


def test_a_thousand_transfers_at_once_have_little_more_than_the_limit_together() -> None:
    buffers = Buffers()
    with ExitStack() as stack:
        sizes = [stack.enter_context(buffers.piece_bytes(10**9)) for _ in range(1000)]
        assert sizes[:4] == [LARGEST_PIECE_BYTES] * 4
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] == LEAST_PIECE_BYTES
        assert buffers.used == 2 * sum(sizes) <= MOST_BYTES + 2 * 1000 * LEAST_PIECE_BYTES
    assert buffers.used == 0


def test_those_who_begin_when_others_have_ended_have_large_pieces_again() -> None:
    buffers = Buffers()
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(buffers.piece_bytes(10**9))
    with buffers.piece_bytes(10**9) as size:
        assert size == LARGEST_PIECE_BYTES
