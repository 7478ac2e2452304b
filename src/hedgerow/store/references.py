"""Which blobs are in use, and who may name them: statements on one connection, inside the caller's transaction.

A blob stays while a round of a run that goes on uses it, or while a peer that uploaded it has not named it yet (it is *held*).
Taking a reference and giving up the hold happen in one transaction, so that nothing can be collected in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, exists, insert, select, update

from hedgerow.errors import InvalidArgument, PermissionDenied
from hedgerow.records import Blob
from hedgerow.security import Identity
from hedgerow.store import quotas, schema

DIGESTS_A_STATEMENT = 5_000
_BLOBS, _OWNERS, _REFS = schema.blobs.c, schema.blob_owners.c, schema.blob_refs.c
_USED_UNTIL = select(_REFS.digest).where(_REFS.run_id == bindparam("run"), _REFS.round <= bindparam("last")).distinct()
_MINE = (_OWNERS.digest == bindparam("is"), _OWNERS.who == bindparam("whose"))
_OWNS = select(_OWNERS.who).where(*_MINE)
_LET_GO = update(schema.blob_owners).where(*_MINE).values(held_since=None)
# Bytes that are lost must be uploaded again to be named.
_SIZE_HERE = select(_BLOBS.size).where(_BLOBS.digest == bindparam("is"), _BLOBS.bytes == 0)
_OF_RUN = (_REFS.digest == bindparam("is"), _REFS.run_id == bindparam("of_run"))
_USED_BY_RUN = select(_REFS.digest).where(*_OF_RUN).limit(1)
_USED = select(_REFS.digest).where(*_OF_RUN, _REFS.round == bindparam("in_round"))
_ADD_USE = insert(schema.blob_refs)
"""Statements of every round and every result are built once."""


@dataclass(frozen=True, slots=True)
class Use:
    """What uses a blob."""

    run_id: str
    round: int


def owner(who: Identity) -> str:
    """A peer as uploads and signed URLs name it: ``"role/id"``."""
    return f"{who.role}/{who.id}"


def take(connection: Connection, who: str, blob: Blob, use: Use) -> None:
    """A task or a reply of ``who`` names the blob.

    Raises:
        PermissionDenied: ``who`` did not upload it, and it is not of this run.
        InvalidArgument: It has another size.
    """
    names = {"is": blob.digest, "whose": who, "of_run": use.run_id, "in_round": use.round}
    owns = connection.execute(_OWNS, names).first() is not None
    of_run = False
    if not owns and who.startswith("driver/"):
        of_run = is_of_run(connection, use.run_id, blob.digest)
    size = connection.execute(_SIZE_HERE, names).scalar_one_or_none()
    if size is None or not (owns or of_run):
        raise PermissionDenied(f"{who} may not name the blob {blob.digest}: it is not here, or another peer's. Upload it first.")
    if size != blob.size:
        raise InvalidArgument(f"The blob {blob.digest} has {size} bytes, not {blob.size}.")
    if connection.execute(_USED, names).first() is None:
        connection.execute(_ADD_USE, {"digest": blob.digest, "run_id": use.run_id, "round": use.round})
    if owns:
        connection.execute(_LET_GO, names)


def named_again(connection: Connection, who: str, digest: str, run_id: str) -> None:
    """``who`` names a blob once more that a round of the run uses: it need not be held, too."""
    if is_of_run(connection, run_id, digest):
        connection.execute(_LET_GO, {"is": digest, "whose": who})


def is_of_run(connection: Connection, run_id: str, digest: str) -> bool:
    """Whether a round of the run that is not released uses the blob."""
    return connection.execute(_USED_BY_RUN, {"is": digest, "of_run": run_id}).first() is not None


def drop(connection: Connection, run_id: str, round: int, keep: frozenset[str]) -> list[str]:
    """This round and all before it use no blob any longer, except those to keep; the files to unlink."""
    used = (_REFS.run_id == run_id, _REFS.round <= round)
    found = connection.execute(_USED_UNTIL, {"run": run_id, "last": round}).scalars()
    digests = [digest for digest in found if digest not in keep]
    for some in _portions(digests):
        connection.execute(delete(schema.blob_refs).where(*used, _REFS.digest.in_(some)))
    return forget_unused(connection, digests)


def give_up_holds(connection: Connection, held_before: float) -> list[str]:
    """Peers that uploaded before that time and never named the blob do not hold it any longer; digests that may be unused."""
    old = _OWNERS.held_since < held_before
    digests = list(connection.execute(select(_OWNERS.digest).where(old).distinct()).scalars())
    connection.execute(update(schema.blob_owners).where(old).values(held_since=None))
    return digests


def forget_unused(connection: Connection, digests: Iterable[str]) -> list[str]:
    """Delete the rows of those blobs that nothing uses and nobody holds; the files to unlink."""
    files: list[str] = []
    for some in _portions(digests):
        unused = select(_BLOBS.digest, _BLOBS.file).where(
            _BLOBS.digest.in_(some),
            ~exists().where(_REFS.digest == _BLOBS.digest),
            ~exists().where(_OWNERS.digest == _BLOBS.digest, _OWNERS.held_since.is_not(None)),
        )
        rows = connection.execute(unused.order_by(_BLOBS.file)).all()
        gone = [row.digest for row in rows]
        if gone:
            # An upload whose blob is gone is no longer done: whoever asks for it again sends it again.
            quotas.forget_uploads(connection, schema.uploads.c.digest.in_(gone))
            connection.execute(delete(schema.blob_owners).where(_OWNERS.digest.in_(gone)))
            connection.execute(delete(schema.blobs).where(_BLOBS.digest.in_(gone)))
        files += [row.file for row in rows]
    return files


def _portions(digests: Iterable[str]) -> Iterable[list[str]]:
    every = sorted(set(digests))
    return (every[start : start + DIGESTS_A_STATEMENT] for start in range(0, len(every), DIGESTS_A_STATEMENT))
