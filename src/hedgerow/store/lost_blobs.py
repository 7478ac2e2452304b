"""Blobs whose files did not survive a power loss: statements on one connection, inside the caller's transaction.

A blob's row stays, so that everything that refers to it stays true, and says how the bytes stand. The bytes of a result are
*awaited* while its node may still have them in its outbox: when it connects it is asked for them, and an upload with the same
digest ends the matter. They are *gone* when the node is lost or comes without them; those that a driver had sent are at once.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from sqlalchemy import Connection, select, update

from hedgerow.errors import NotFound, Unavailable
from hedgerow.records import Instruction, NodeState, Task
from hedgerow.store import quotas, schema
from hedgerow.store.schema import Row
from hedgerow.wire.proto import records_pb2

_BLOBS, _RESULTS, _NODES, _TASKS = schema.blobs.c, schema.results.c, schema.nodes.c, schema.tasks.c


class Bytes(int, Enum):
    """How the bytes of a blob stand."""

    HERE = 0
    AWAITED = 1
    GONE = 2


_AWAITED = select(_BLOBS.digest).where(_BLOBS.bytes == Bytes.AWAITED.value)


def blob_files(connection: Connection) -> dict[str, int]:
    """See :meth:`hedgerow.store.store.Store.blob_files`."""
    rows = connection.execute(select(_BLOBS.file, _BLOBS.size).where(_BLOBS.bytes == Bytes.HERE.value))
    return {row.file: row.size for row in rows}


def mark(connection: Connection, files: Collection[str]) -> tuple[int, int]:
    """See :meth:`hedgerow.store.store.Store.mark_lost_blobs`."""
    digests = {row.digest for row in connection.execute(select(_BLOBS.digest, _BLOBS.file)) if row.file in files}
    awaited = {digest for digest, row in _makers(connection, digests) if row.node_state != NodeState.LOST}
    for digest in digests:
        _set(connection, digest, Bytes.AWAITED if digest in awaited else Bytes.GONE)
        # An upload whose bytes are lost is not done: whoever asks for it again sends them again.
        quotas.forget_uploads(connection, schema.uploads.c.digest == digest)
    return len(awaited), len(digests) - len(awaited)


def ask_again(connection: Connection, node_id: str, finished: Collection[str]) -> list[Task]:
    """Of the results of a node whose bytes are awaited: tasks to send it, so that it sends those again that it has.

    Their instructions are empty: the node answers from its outbox. What it does not have is gone.
    """
    awaited = set(connection.execute(_AWAITED).scalars())
    if not awaited:
        return []
    ask: list[Task] = []
    had, not_had = set[str](), set[str]()
    for digest, row in _makers(connection, awaited):
        if row.node_id == node_id and row.task_id not in finished:
            not_had.add(digest)
            continue
        had.add(digest)
        if row.node_id == node_id:
            ask.append(Task(row.task_id, row.run_id, node_id, row.round, row.sequence, 0, Instruction(row.kind)))
    for digest in not_had - had:
        _set(connection, digest, Bytes.GONE)
    return ask


def check_here(row: Row) -> None:
    """See that a blob's bytes are here.

    Raises:
        Unavailable: They are awaited.
        NotFound: They are gone.
    """
    if row.bytes == Bytes.AWAITED:
        raise Unavailable(f"The server has lost the bytes of blob {row.digest}; the node that made them is asked for them again.")
    if row.bytes == Bytes.GONE:
        raise NotFound(f"The server has lost the bytes of blob {row.digest}, and nobody has them any longer.")


def _makers(connection: Connection, digests: Collection[str]) -> list[tuple[str, Row]]:
    """Results that name one of the blobs and may still be in their nodes' outboxes, with digest."""
    if not digests:
        return []
    kept = (
        select(schema.results, _TASKS.sequence, _NODES.state.label("node_state"))
        .join(schema.tasks, _TASKS.task_id == _RESULTS.task_id)
        .join(schema.nodes, _NODES.node_id == _RESULTS.node_id)
        .where(_RESULTS.released.is_(False))
    )
    found = []
    for row in connection.execute(kept):
        digest = records_pb2.Reply.FromString(row.reply).parameters.blob.digest
        if digest in digests:
            found.append((digest, row))
    return found


def _set(connection: Connection, digest: str, how: Bytes) -> None:
    connection.execute(update(schema.blobs).where(_BLOBS.digest == digest).values(bytes=how.value))
