"""The tables, their version, and how a database is opened.

SQLite now, in write-ahead mode with every commit on disk; the statements elsewhere are portable. A database of another version,
or a file that is no database of Hedgerow, is refused and left as it is.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    create_engine,
    event,
    exc,
    func,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from hedgerow.errors import ConfigError
from hedgerow.records import NodeState

VERSION = 6
MIN_SQLITE = (3, 35, 0)
"""The first that can answer with the rows that a statement has changed."""
LOCK_TIMEOUT_S = 5.0
"""How long a statement waits for another process's lock on the database."""

RESTORED_AT, NEVER_STARTED = "restored_at", "never"
"""In a backup: when a server was first started on it."""

Row: TypeAlias = "sqlalchemy.Row[*tuple[Any, ...]]"
"""What a statement gives: columns by name."""

metadata = MetaData()
_Big = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only in a column of the type INTEGER

meta = Table("meta", metadata, Column("key", String(32), primary_key=True), Column("value", Text, nullable=False))

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", String(64), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("secret_hash", String(64), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("version", BigInteger, nullable=False, unique=True),
    Column("epoch", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("away_since", Double),
    Column("transport_dtypes", Text, nullable=False, default=""),  # 16-bit floats that its client knows, between spaces
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("seed", String(20), nullable=False),  # 64 bits without a sign: more than the database's integers hold
    Column("owner_id", String(64), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    Column("certificate", Text, nullable=False, default=""),  # of the driver that opened it; "": it showed none
    Column("state", String(16), nullable=False, index=True),
    Column("message", Text, nullable=False, default=""),
    Column("created_at", Double, nullable=False, index=True),
    Column("ended_at", Double),
    Column("last_seen", Double, nullable=False),
    Column("watched", Boolean, nullable=False),
    Column("acknowledged_round", BigInteger, nullable=False, default=-1),  # this one and all before it; -1: none
    Column("held_blobs", BigInteger, nullable=False, default=0),  # its rows in ``uploads``
    Column("held_bytes", BigInteger, nullable=False, default=0),  # the sum of their sizes
)

tasks = Table(
    "tasks",
    metadata,
    Column("position", _Big, primary_key=True, autoincrement=True),  # the order in which tasks were pushed
    Column("task_id", String(64), nullable=False, unique=True),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("node_id", String(64), nullable=False),  # no foreign key: a driver may name a node that is not here
    Column("round", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("digest", String(64)),  # of the blob that the instruction names
    Column("body", LargeBinary),  # the task, serialised; dropped when the task is final
    Column("created_at", Double, nullable=False),
    Column("sent_at", Double),
    Column("ended_at", Double),
    Index("tasks_by_node", "node_id", "state", "run_id"),
    Index("tasks_by_run", "run_id", "state"),
    Index("tasks_by_phase", "run_id", "round", "kind", "node_id"),
    Index("tasks_by_state", "state", "sent_at"),
    sqlite_autoincrement=True,
)

# To how many nodes that were not lost the driver has given tasks of one kind in one round.
phases = Table(
    "phases",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("round", BigInteger, primary_key=True),
    Column("kind", String(64), primary_key=True),
    Column("sites", BigInteger, nullable=False),
)

results = Table(
    "results",
    metadata,
    Column("cursor", _Big, primary_key=True, autoincrement=True),
    Column("task_id", ForeignKey("tasks.task_id"), nullable=False, unique=True),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("node_id", String(64), nullable=False),
    Column("round", BigInteger, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reply", LargeBinary, nullable=False),  # serialised, without inline parameters
    Column("inline", LargeBinary),  # inline parameters; dropped when the round is acknowledged
    Column("released", Boolean, nullable=False),  # the client need not keep it
    Index("results_by_run", "run_id", "cursor"),
    Index("results_to_release", "run_id", "released", "round"),
    sqlite_autoincrement=True,
)

uploads = Table(
    "uploads",
    metadata,
    Column("upload_id", String(64), primary_key=True),  # also the file's name
    Column("who", String(80), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("run_id", ForeignKey("runs.run_id"), nullable=False),
    Column("digest", String(64), index=True),  # when it is complete
    Column("asked_at", Double, nullable=False),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("file", String(64), nullable=False, unique=True),
    Column("bytes", Integer, nullable=False, default=0),  # how they stand: lost_blobs.Bytes
    Index("blobs_by_bytes", "bytes"),
)

# Who uploaded a blob and may name it. ``held_since`` keeps a blob that was uploaded and not yet named by a task or a reply.
blob_owners = Table(
    "blob_owners",
    metadata,
    Column("digest", ForeignKey("blobs.digest"), primary_key=True),
    Column("who", String(80), primary_key=True),
    Column("held_since", Double),
)

# Which rounds use a blob. A blob without references, and not held, may go.
blob_refs = Table(
    "blob_refs",
    metadata,
    Column("digest", ForeignKey("blobs.digest"), primary_key=True),
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("round", BigInteger, primary_key=True),
    Index("blob_refs_by_run", "run_id", "round"),
)


# What came of each node in a round: one line of JSON, as the driver said it when it acknowledged the round.
manifests = Table(
    "manifests",
    metadata,
    Column("run_id", ForeignKey("runs.run_id"), primary_key=True),
    Column("round", BigInteger, primary_key=True),
    Column("line", Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a database says about itself."""

    server_id: str
    url_key: bytes
    restored_at: float | None = None


def open_database(url: str, now: float) -> tuple[Engine, Engine, Found]:
    """Open a database, making it when it is not there. Nodes that were online are away since ``now``; nobody watches a run.

    Returns:
        An engine for the writer, one for the reader, and what the database says about itself.

    Raises:
        ConfigError: It cannot be opened, or is of another version, or is not Hedgerow's; or Python's SQLite is too old.
    """
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise ConfigError(
            f"This Python has SQLite {sqlite3.sqlite_version}; the server needs {'.'.join(map(str, MIN_SQLITE))} or newer. "
            "Use a Python that comes with it."
        )
    path = _path_of(url)
    with contextlib.suppress(OSError):  # it is there, or what opens it says why not
        # It holds updates and the key of signed URLs, in whatever folder. SQLite gives its journal the same mode.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    writing = _engine(url, "BEGIN IMMEDIATE")
    try:
        with writing.connect() as connection, connection.begin():
            found = _check(connection, path, now)
            _settle(connection, now)
    except ConfigError:
        writing.dispose()
        raise
    except exc.DBAPIError as error:
        writing.dispose()
        raise ConfigError(_refusal(path, error)) from error
    return writing, _engine(url, "BEGIN"), found


def _path_of(url: str) -> Path:
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise ConfigError(f"{url!r} is not a database URL. Write sqlite:////absolute/path/hedgerow.sqlite3.") from None
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise ConfigError(f"The database {parsed.render_as_string()} cannot be used: it must be an SQLite file.")
    path = Path(str(parsed.database))
    if not path.parent.is_dir():
        raise ConfigError(f"The folder {path.parent} of the database {path.name} does not exist. Create it or choose another.")
    return path


def _refusal(path: Path, error: exc.DBAPIError) -> str:
    name = getattr(error.orig, "sqlite_errorname", "")
    if name == "SQLITE_NOTADB":
        return f"{path} is not a database. Move it away, or choose another file with --database."
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return f"The database {path} cannot be opened for writing ({error.orig}). Mend its permissions, or choose another."
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"The database {path} is locked by another process. End that one first."
    if name == "SQLITE_FULL":
        return f"The disk of the database {path} is full. Free some space."
    return f"The database {path} cannot be opened: {error.orig} ({name})."


def _engine(url: str, begin: str) -> Engine:
    """An engine of one connection, used by one thread at a time."""
    engine = create_engine(
        url, poolclass=NullPool, connect_args={"timeout": LOCK_TIMEOUT_S, "check_same_thread": False, "cached_statements": 512}
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        assert isinstance(connection, sqlite3.Connection)
        connection.isolation_level = None  # transactions begin where we say so
        # The writer's connection is the first on a new file and must be: two that switch to WAL at once fail with "locked".
        connection.execute("PRAGMA journal_mode=WAL").close()
        connection.execute("PRAGMA synchronous=FULL").close()
        connection.execute("PRAGMA foreign_keys=ON").close()

    @event.listens_for(engine, "begin")
    def _began(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _check(connection: Connection, path: Path, now: float) -> Found:
    names = inspect(connection).get_table_names()
    if not names:
        metadata.create_all(connection, checkfirst=False)
        found = {"schema_version": str(VERSION), "server_id": secrets.token_hex(16), "url_key": secrets.token_hex(32)}
        connection.execute(insert(meta), [{"key": key, "value": value} for key, value in found.items()])
    elif "meta" not in names:
        raise ConfigError(f"{path} is a database, but not one of Hedgerow's. Choose another file with --database.")
    else:
        found = {row.key: row.value for row in connection.execute(select(meta))}
    version = found.get("schema_version", "unknown")
    if version != str(VERSION):
        raise ConfigError(
            f"The database {path} has the schema version {version}, this program needs {VERSION}. "
            "Use the program that made it, or move the file away to start anew."
        )
    restored_at = found.get(RESTORED_AT)
    if restored_at == NEVER_STARTED:
        restored_at = repr(now)
        connection.execute(update(meta).where(meta.c.key == RESTORED_AT).values(value=restored_at))
    return Found(found["server_id"], bytes.fromhex(found["url_key"]), None if restored_at is None else float(restored_at))


def _settle(connection: Connection, now: float) -> None:
    """No session and no watching driver outlives the server's process."""
    version = connection.execute(select(func.coalesce(func.max(nodes.c.version), 0))).scalar_one()
    online = connection.execute(select(nodes.c.node_id).where(nodes.c.state == NodeState.ONLINE.value)).scalars().all()
    if online:
        gone = update(nodes).where(nodes.c.node_id == bindparam("id")).values(state=NodeState.AWAY.value, away_since=now)
        versions = [{"id": node_id, "next": version + step} for step, node_id in enumerate(online, 1)]
        connection.execute(gone.values(version=bindparam("next")), versions)
    connection.execute(update(runs).values(watched=False).where(runs.c.watched))
