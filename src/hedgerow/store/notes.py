"""What a transaction has to tell once it is committed: results, so that who watches their run need not read them.

Statements note it at their connection; the writer takes the notes when the commit is on the disk, and drops those of a change
that was undone.
"""

from __future__ import annotations

from typing import TypeAlias

from sqlalchemy import Connection

from hedgerow.records import TaskResult

Note: TypeAlias = tuple[str, TaskResult | None]
"""A run, and its result; None for results that are to be read from the store."""
_NOTES = "hedgerow_notes"


def _notes(connection: Connection) -> list[Note]:
    notes: list[Note] = connection.info.setdefault(_NOTES, [])
    return notes


def note(connection: Connection, run_id: str, result: TaskResult | None) -> None:
    """Tell this when the transaction is committed."""
    _notes(connection).append((run_id, result))


def count(connection: Connection) -> int:
    """How much there is to tell so far."""
    return len(_notes(connection))


def undo(connection: Connection, kept: int) -> None:
    """Tell only the first so many: what came after them was undone."""
    del _notes(connection)[kept:]


def take(connection: Connection) -> list[Note]:
    """What there is to tell, in the order in which it was noted; nothing is left."""
    notes = list(_notes(connection))
    undo(connection, 0)
    return notes
