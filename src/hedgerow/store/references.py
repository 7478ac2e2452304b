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
"""Asked in every round: built once."""


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
    is_owner = select(_OWNERS.who).where(_OWNERS.digest == blob.digest, _OWNERS.who == who)
    owns = connection.execute(is_owner).first() is not None
    of_run = False
    if not owns and who.startswith("driver/"):
        of_run = is_of_run(connection, use.run_id, blob.digest)
    here = (_BLOBS.digest == blob.digest, _BLOBS.bytes == 0)  # bytes that are lost must be uploaded again to be named
    size = connection.execute(select(_BLOBS.size).where(*here)).scalar_one_or_none()
    if size is None or not (owns or of_run):
        raise PermissionDenied(f"{who} may not name the blob {blob.digest}: it is not here, or another peer's. Upload it first.")
    if size != blob.size:
        raise InvalidArgument(f"The blob {blob.digest} has {size} bytes, not {blob.size}.")
    used = select(_REFS.digest).where(_REFS.digest == blob.digest, _REFS.run_id == use.run_id, _REFS.round == use.round)
    if connection.execute(used).first() is None:
        connection.execute(insert(schema.blob_refs).values(digest=blob.digest, run_id=use.run_id, round=use.round))
    if owns:
        mine = (_OWNERS.digest == blob.digest, _OWNERS.who == who)
        connection.execute(update(schema.blob_owners).where(*mine).values(held_since=None))


def named_again(connection: Connection, who: str, digest: str, run_id: str) -> None:
    """``who`` names a blob once more that a round of the run uses: it need not be held, too."""
    if is_of_run(connection, run_id, digest):
        mine = (_OWNERS.digest == digest, _OWNERS.who == who)
        connection.execute(update(schema.blob_owners).where(*mine).values(held_since=None))


def is_of_run(connection: Connection, run_id: str, digest: str) -> bool:
    """Whether a round of the run that is not released uses the blob."""
    which = select(_REFS.digest).where(_REFS.digest == digest, _REFS.run_id == run_id).limit(1)
    return connection.execute(which).first() is not None


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
