"""Uploads, and blobs by digest: statements on one connection, inside the caller's transaction. The bytes are elsewhere."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select, update

from hedgerow.errors import AlreadyExists, CorruptData, InvalidArgument, NotFound, PermissionDenied
from hedgerow.records import Blob
from hedgerow.security import Identity, Role
from hedgerow.store import lost_blobs, quotas, references, schema
from hedgerow.store.changes import Upload
from hedgerow.store.nodes import check_node
from hedgerow.store.references import owner
from hedgerow.store.runs import find_run, open_run, own_run
from hedgerow.store.schema import Row
from hedgerow.task_states import TaskState

MAX_BYTES = 2**63 - 1
_UPLOADS, _BLOBS, _OWNERS, _TASKS = schema.uploads.c, schema.blobs.c, schema.blob_owners.c, schema.tasks.c
# Naming every state lets the index find the run among all tasks that the node ever had.
_TAKES_PART = (
    select(_TASKS.position)
    .where(_TASKS.node_id == bindparam("node"), _TASKS.state.in_([state.value for state in TaskState]))
    .where(_TASKS.run_id == bindparam("run"))
    .limit(1)
)
# Statements that run for each transfer are built once.
_UPLOAD = select(schema.uploads).where(_UPLOADS.upload_id == bindparam("id"))
_ANNOUNCE = insert(schema.uploads)
_FINISH = update(schema.uploads).where(_UPLOADS.upload_id == bindparam("id")).values(digest=bindparam("is"))
_BLOB = select(schema.blobs).where(_BLOBS.digest == bindparam("is"))
_ADD_BLOB = insert(schema.blobs)
_HOLD = (
    update(schema.blob_owners)
    .where(_OWNERS.digest == bindparam("is"), _OWNERS.who == bindparam("whose"))
    .values(held_since=bindparam("since"))
)
_OWN = insert(schema.blob_owners)
_NAMED = select(_TASKS.node_id, _TASKS.digest).where(_TASKS.task_id == bindparam("id"))


def start_upload(connection: Connection, who: Identity, asked: Upload, run_id: str, limits: quotas.Quotas, now: float) -> Upload:
    """See :meth:`hedgerow.store.store.Store.start_upload`."""
    if not 0 <= asked.size <= MAX_BYTES:
        raise InvalidArgument(f"The upload {asked.upload_id} cannot have {asked.size} bytes.")
    if who.role is Role.DRIVER:
        run = open_run(connection, who, run_id)
    else:
        check_node(connection, who)
        run = find_run(connection, run_id)  # also when it is over: the client learns that when it hands in the result
    row = _find(connection, asked.upload_id)
    if row is None:
        if who.role is not Role.DRIVER and connection.execute(_TAKES_PART, {"node": who.id, "run": run_id}).first() is None:
            raise NotFound(f"The node {who.id} has no task of the run {run_id}. Drop its result.")
        limits.check_upload(run, asked.size)
        quotas.hold(connection, run_id, asked.size)
        new = {"upload_id": asked.upload_id, "who": asked.who, "size": asked.size, "run_id": run_id, "asked_at": now}
        connection.execute(_ANNOUNCE, new)
        return asked
    if row.who != asked.who:
        raise AlreadyExists(f"The upload id {asked.upload_id} is taken by another peer. Choose another.")
    if row.size != asked.size:
        raise AlreadyExists(f"The upload {asked.upload_id} was announced with {row.size} bytes, not {asked.size}.")
    connection.execute(update(schema.uploads).where(_UPLOADS.upload_id == asked.upload_id).values(asked_at=now))
    if row.digest is not None:
        _hold(connection, row.digest, row.who, now)
    return _upload(row)


def get_upload(connection: Connection, upload_id: str, who: str) -> Upload:
    """See :meth:`hedgerow.store.store.Store.get_upload`."""
    row = _find(connection, upload_id)
    if row is None:
        raise NotFound(f"There is no upload {upload_id}. Announce it first.")
    if row.who != who:
        raise PermissionDenied(f"The upload {upload_id} is another peer's.")
    return _upload(row)


def finish_upload(connection: Connection, upload_id: str, digest: str, now: float) -> str | None:
    """See :meth:`hedgerow.store.store.Store.finish_upload`."""
    row = _find(connection, upload_id)
    if row is None:
        raise NotFound(f"There is no upload {upload_id}. Announce it first.")
    if row.digest not in (None, digest):
        raise CorruptData(f"The upload {upload_id} was finished with the digest {row.digest}, not {digest}.")
    blob = connection.execute(_BLOB, {"is": digest}).one_or_none()
    if blob is None:
        connection.execute(_ADD_BLOB, {"digest": digest, "size": row.size, "file": upload_id})
    elif blob.size != row.size:
        raise CorruptData(f"The blob {digest} has {blob.size} bytes, the upload {upload_id} has {row.size}.")
    elif blob.bytes != lost_blobs.Bytes.HERE:
        again = {"file": upload_id, "bytes": lost_blobs.Bytes.HERE.value}
        connection.execute(update(schema.blobs).where(_BLOBS.digest == digest).values(again))
        blob = None  # its own file is the blob's now
    connection.execute(_FINISH, {"id": upload_id, "is": digest})
    if row.digest is None:
        _hold(connection, digest, row.who, now)
    return upload_id if blob is not None and blob.file != upload_id else None


def _hold(connection: Connection, digest: str, who: str, now: float) -> None:
    """``who`` has these bytes and may name them; they stay until it does, or until the hold is given up."""
    if connection.execute(_HOLD, {"is": digest, "whose": who, "since": now}).rowcount == 0:
        connection.execute(_OWN, {"digest": digest, "who": who, "held_since": now})


def blob_file(connection: Connection, digest: str) -> tuple[str, int]:
    """See :meth:`hedgerow.store.store.Store.blob_file`."""
    row = connection.execute(_BLOB, {"is": digest}).one_or_none()
    if row is None:
        raise NotFound(f"There is no blob {digest}. It was released, or never uploaded.")
    lost_blobs.check_here(row)
    return row.file, row.size


def blob_for_client(connection: Connection, node_id: str, task_id: str, digest: str) -> Blob:
    """See :meth:`hedgerow.store.store.Store.blob_for_client`."""
    task = connection.execute(_NAMED, {"id": task_id}).one_or_none()
    if task is None or task.node_id != node_id or task.digest != digest:
        raise PermissionDenied(f"No task {task_id} of the node {node_id} names the blob {digest}.")
    return Blob(digest, blob_file(connection, digest)[1])


def blob_for_driver(connection: Connection, who: Identity, run_id: str, digest: str) -> Blob:
    """See :meth:`hedgerow.store.store.Store.blob_for_driver`."""
    own_run(connection, who, run_id)
    mine = select(_OWNERS.who).where(_OWNERS.digest == digest, _OWNERS.who == owner(who))
    if not (references.is_of_run(connection, run_id, digest) or connection.execute(mine).first() is not None):
        raise PermissionDenied(f"The blob {digest} is neither of the run {run_id} nor uploaded by its driver, or was released.")
    return Blob(digest, blob_file(connection, digest)[1])


def collect_blobs(connection: Connection, unused_before: float) -> list[str]:
    """See :meth:`hedgerow.store.store.Store.collect_blobs`."""
    old = (_UPLOADS.digest.is_(None), _UPLOADS.asked_at < unused_before)
    files = quotas.forget_uploads(connection, *old)
    return files + references.forget_unused(connection, references.give_up_holds(connection, unused_before))


def live_files(connection: Connection) -> set[str]:
    """See :meth:`hedgerow.store.store.Store.live_files`."""
    unfinished = connection.execute(select(_UPLOADS.upload_id).where(_UPLOADS.digest.is_(None))).scalars()
    return set(unfinished) | set(connection.execute(select(_BLOBS.file)).scalars())


def _find(connection: Connection, upload_id: str) -> Row | None:
    return connection.execute(_UPLOAD, {"id": upload_id}).one_or_none()


def _upload(row: Row) -> Upload:
    return Upload(row.upload_id, row.who, row.size, None if row.digest is None else Blob(row.digest, row.size))
