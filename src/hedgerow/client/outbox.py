"""Finished results on disk, from before they are sent until the server says that they are safe elsewhere.

::

    <task>              the entry: what it is, and the reply with parameters that are small
    <task>.parameters   parameters that are not
    <task>.state        the run's new state, until it has its own name
    <task>.accepted     id of the server that has the parameters

An entry is written under a hidden name and renamed when everything else of it is in its place: that rename is the moment at which
the result, and the run's new state, are there. A process that dies at any instant leaves either a whole entry or none; a digest
or a size that does not fit (power loss) makes it none as well. A small result is one file, which its digest makes whole or none
without a rename: a folder for each would cost more than everything else that happens to it.

Files get fresh names where that is possible: to rename over an old file makes ext4 write to the disk at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf.message import DecodeError

from hedgerow.client.state_dir import StateDir, write_atomically
from hedgerow.copies import copied
from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.wire.convert import check_id
from hedgerow.wire.proto import records_pb2, worker_pb2

log = logging.getLogger(__name__)

_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class About:
    """Which task a result is of.

    Attributes:
        task_id: The task.
        run_id: Its run.
        kind: Its kind.
        round: Its round.
        driver: The driver that the work is for, as the server named it.
    """

    task_id: str
    run_id: str
    kind: str
    round: int
    driver: str

    @property
    def label(self) -> str:
        """What the log calls the task."""
        return f"{self.kind} task (round {self.round}, run {self.run_id[:8]})"


@dataclass(frozen=True)
class Entry:
    """One finished result.

    Attributes:
        about: The task.
        reply: The reply; small parameters are in it.
        parameters: File with parameters that are not small, or None.
        size: Size of that file in bytes.
        upload_id: Under which the parameters are uploaded; kept, so that an upload goes on after a restart.
        accepted_by: Id of the server that has taken the result, or "". A restart forgets it for a result without such a file,
            which costs no more than sending a message twice.
    """

    about: About
    reply: records_pb2.Reply
    parameters: Path | None
    size: int
    upload_id: str
    accepted_by: str = ""

    @property
    def task_id(self) -> str:
        """The task."""
        return self.about.task_id

    @property
    def run_id(self) -> str:
        """Its run."""
        return self.about.run_id

    @property
    def label(self) -> str:
        """What the log calls the task."""
        return self.about.label


class Outbox:
    """The entries of one state directory, in memory and on disk."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._folder = state.path / "outbox"
        self._entries: dict[str, Entry] = {}
        for path in sorted(self._folder.iterdir()):  # an entry comes before its other files
            task_id, dot, _ = path.name.partition(".")
            if path.is_dir():
                log.warning("Removed a folder from the outbox: %s", path.name, extra={"action": "outbox_repaired"})
                shutil.rmtree(path)
                continue
            if not dot:
                entry = _read(path)
                if entry is not None:
                    self._keep_state(entry)
                    self._entries[task_id] = entry
                    continue
            if task_id not in self._entries:
                log.warning("Removed a half-written result from the outbox: %s", path.name, extra={"action": "outbox_repaired"})
                path.unlink()
            elif self._entries[task_id].parameters is None:
                path.unlink(missing_ok=True)  # of a result that had to give way to a failure

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, task_id: str) -> Entry | None:
        """The entry of a task, if there is one."""
        return self._entries.get(task_id)

    def put(self, about: About, reply: records_pb2.Reply, parameters: Path | None, state: Path | None) -> Entry:
        """Keep a result. The files of its parameters and of the run's new state are moved, not copied.

        Raises:
            InvalidArgument: An id is malformed, and might name something outside of the outbox.
            OSError: The disk is full or broken. Calling again with the same arguments goes on where this one failed.
            CorruptData: A file that is to be moved is not there.
        """
        task_id = check_id("task_id", about.task_id)
        check_id("run_id", about.run_id)
        entry = self._entries.get(task_id)
        if entry is None or entry.reply != reply:  # else an earlier call has got that far
            entry = Entry(about, reply, None, 0, secrets.token_hex(16))
            entry = self._entries[task_id] = self._write(entry, parameters, state)
        self._keep_state(entry)
        return entry

    def _write(self, entry: Entry, parameters: Path | None, state: Path | None) -> Entry:
        """Bring an entry to the disk, whole or not at all. It may take the place of a result that the server refuses."""
        path = self._folder / entry.task_id
        moves = []
        for source, name in ((parameters, "parameters"), (state, "state")):
            if source is not None:
                target = path.with_name(f"{path.name}.{name}")
                # A try that failed may have moved some files: they are where they belong.
                here = source if source.exists() else target
                if not here.exists():
                    raise CorruptData(f"The file {source} of the result of the {entry.label} is not there any longer.")
                moves.append((here, target))
        if parameters is not None:
            here, target = moves[0]
            entry = replace(entry, parameters=target, size=here.stat().st_size)
        sealed = _sealed(entry)
        copied("result to the outbox", len(sealed))
        if not moves and _write_whole(path, sealed):
            return entry
        hidden = self._folder / f".{path.name}"
        hidden.write_bytes(sealed)  # what needs space comes first
        for here, target in moves:
            if here != target:
                here.rename(target)
        hidden.rename(path)
        if entry.parameters is None:
            self._drop_files(entry)
        return entry

    def accepted(self, task_id: str, server_id: str) -> None:
        """The server has taken the result. Where the disk is full the next start does not know that, and sends it again."""
        entry = self._entries.get(task_id)
        if entry is not None and entry.accepted_by != server_id:
            self._entries[task_id] = replace(entry, accepted_by=server_id)
            if entry.parameters is not None:
                with _tolerated(f"the server has the result of the {entry.label}"):
                    self._mark(task_id).write_text(server_id)

    def send_again(self, task_id: str) -> None:
        """The server has asked for a task again whose result it had: send everything anew, also the parameters."""
        entry = self._entries.get(task_id)
        if entry is not None:
            self._entries[task_id] = replace(entry, accepted_by="", upload_id=secrets.token_hex(16))
            with _tolerated(f"the result of the {entry.label} is to be sent again"):
                self._mark(task_id).unlink(missing_ok=True)
                write_atomically(self._folder / task_id, _sealed(self._entries[task_id]))

    def to_file(self, entry: Entry) -> Entry:
        """Put parameters that are in the reply into a file of their own, as if they were not small."""
        reply = records_pb2.Reply()
        reply.CopyFrom(entry.reply)
        inline = reply.parameters.inline
        reply.ClearField("parameters")
        path = self._folder / f"{entry.task_id}.parameters"
        write_atomically(path, inline)
        changed = self._entries[entry.task_id] = replace(entry, reply=reply, parameters=path, size=len(inline))
        write_atomically(self._folder / entry.task_id, _sealed(changed))
        return changed

    def remove(self, task_id: str) -> None:
        """The result is safe elsewhere, or of no use to anybody."""
        entry = self._entries.pop(task_id, None)
        if entry is not None:
            with _tolerated(f"the result of the {entry.label} may go"):
                # The entry first, so that a death in the middle leaves nothing that looks whole.
                (self._folder / task_id).unlink(missing_ok=True)
                if entry.parameters is not None:
                    self._drop_files(entry)

    def _drop_files(self, entry: Entry) -> None:
        with _tolerated(f"the files of the {entry.label} may go"):
            (self._folder / f"{entry.task_id}.parameters").unlink(missing_ok=True)
            self._mark(entry.task_id).unlink(missing_ok=True)

    def _mark(self, task_id: str) -> Path:
        return self._folder / f"{task_id}.accepted"

    def _keep_state(self, entry: Entry) -> None:
        """The rename of the entry was the moment at which the run's state changed; now it gets its own name."""
        state = self._folder / f"{entry.task_id}.state"
        if state.exists():
            self._state.run_state_path(entry.run_id).unlink(missing_ok=True)
            state.rename(self._state.run_state_path(entry.run_id))


@contextlib.contextmanager
def _tolerated(what: str) -> Iterator[None]:
    """A note on the disk without which nothing is lost: some of the work may be done again after a restart."""
    try:
        yield
    except OSError as error:
        log.warning("Cannot note on the disk that %s: %s", what, error, extra={"action": "outbox_not_noted"})


def _write_whole(path: Path, data: bytes) -> bool:
    """Write a file that says itself whether it is whole; False where there is one already, which must not be torn."""
    try:
        file = path.open("xb", buffering=0)
    except FileExistsError:
        return False
    try:
        with file:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _sealed(entry: Entry) -> bytes:
    """The entry's file: a digest, then the message."""
    size = None if entry.parameters is None else entry.size
    about = entry.about
    kept = worker_pb2.KeptResult(
        run_id=about.run_id,
        kind=about.kind,
        round=about.round,
        driver=about.driver,
        reply=entry.reply,
        upload_id=entry.upload_id,
        parameters_size=size,
    )
    body = kept.SerializeToString()
    return hashlib.sha256(body).digest() + body


def _read(path: Path) -> Entry | None:
    """The entry in a file; None if it is not whole."""
    data = path.read_bytes()
    body = data[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != data[:_DIGEST_BYTES]:
        return None
    try:
        kept = worker_pb2.KeptResult.FromString(body)
        check_id("task_id", path.name)
        check_id("run_id", kept.run_id)
        check_id("upload_id", kept.upload_id)
    except (DecodeError, InvalidArgument):
        return None
    parameters, size, mark = None, 0, path.with_name(f"{path.name}.accepted")
    if kept.HasField("parameters_size"):
        parameters, size = path.with_name(f"{path.name}.parameters"), kept.parameters_size
        if not parameters.is_file() or parameters.stat().st_size != size:
            return None
    accepted_by = mark.read_text(errors="replace") if mark.is_file() else ""
    about = About(path.name, kept.run_id, kept.kind, kept.round, kept.driver)
    return Entry(about, kept.reply, parameters, size, kept.upload_id, accepted_by)
