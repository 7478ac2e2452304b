"""Finished results on disk, from before they are sent until the server says that they are safe elsewhere.

An entry is a folder named after its task. It is made under a hidden name and renamed when it is whole, so that a process that
dies at any instant leaves either a whole entry or none; a size that does not fit (power loss) makes it none as well. When the
server has taken the result, its id is noted: the result is not sent again unless that server asks, or is another one.

Files get fresh names where that is possible: to rename over an old file makes ext4 write to the disk at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf.message import DecodeError

from hedgerow.client.state_dir import StateDir, write_atomically
from hedgerow.wire.convert import check_id
from hedgerow.wire.proto import records_pb2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One finished result.

    Attributes:
        task_id: The task.
        run_id: Its run.
        label: What the log calls the task.
        reply: The reply without its parameters.
        parameters: File with the parameters, or None.
        size: Size of that file in bytes.
        upload_id: Under which the parameters are uploaded; kept, so that an upload goes on after a restart.
        accepted_by: Id of the server that has taken the result, or "".
    """

    task_id: str
    run_id: str
    label: str
    reply: records_pb2.Reply
    parameters: Path | None
    size: int
    upload_id: str
    accepted_by: str = ""


class Outbox:
    """The entries of one state directory, in memory and on disk."""

    def __init__(self, state: StateDir) -> None:
        self._state = state
        self._folder = state.path / "outbox"
        self._entries: dict[str, Entry] = {}
        for folder in sorted(self._folder.iterdir()):
            entry = None if folder.name.startswith(".") else _read(folder)
            if entry is None:
                log.warning("Removed a half-written result from the outbox: %s", folder.name, extra={"action": "outbox_repaired"})
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
            else:
                self._keep_state(entry)
                self._entries[entry.task_id] = entry

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, task_id: str) -> Entry | None:
        """The entry of a task, if there is one."""
        return self._entries.get(task_id)

    def put(
        self, task_id: str, run_id: str, label: str, reply: records_pb2.Reply, parameters: Path | None, state: Path | None
    ) -> Entry:
        """Keep a result. The files of its parameters and of the run's new state are moved, not copied.

        Raises:
            InvalidArgument: An id is malformed, and might name something outside of the outbox.
            OSError: The disk is full or broken; nothing is kept then.
        """
        check_id("task_id", task_id)
        check_id("run_id", run_id)
        hidden, folder = self._folder / f".{task_id}", self._folder / task_id
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        size = parameters.stat().st_size if parameters is not None else 0
        entry = Entry(task_id, run_id, label, reply, folder / "parameters" if parameters else None, size, secrets.token_hex(16))
        # What needs space comes first: a full disk must leave the files where they were, for another try.
        (hidden / "reply").write_bytes(reply.SerializeToString())
        (hidden / "entry.json").write_bytes(_description(entry))
        if state is not None:
            state.rename(hidden / "state")
        if parameters is not None:
            parameters.rename(hidden / "parameters")
        if folder.exists():  # a failure takes the place of a result that the server refuses
            shutil.rmtree(folder)
        hidden.rename(folder)
        self._keep_state(entry)
        self._entries[task_id] = entry
        return entry

    def accepted(self, task_id: str, server_id: str) -> None:
        """The server has taken the result."""
        entry = self._entries.get(task_id)
        if entry is not None and entry.accepted_by != server_id:
            self._entries[task_id] = replace(entry, accepted_by=server_id)
            (self._folder / task_id / "accepted").write_text(server_id)

    def send_again(self, task_id: str) -> None:
        """The server has asked for a task again whose result it had: send everything anew, also the parameters."""
        entry = self._entries.get(task_id)
        if entry is not None:
            (self._folder / task_id / "accepted").unlink(missing_ok=True)
            self._entries[task_id] = replace(entry, accepted_by="", upload_id=secrets.token_hex(16))
            write_atomically(self._folder / task_id / "entry.json", _description(self._entries[task_id]))

    def remove(self, task_id: str) -> None:
        """The result is safe elsewhere, or of no use to anybody."""
        if self._entries.pop(task_id, None) is not None:
            # Renamed first, so that a death in the middle leaves nothing that looks whole.
            hidden = self._folder / f".{task_id}"
            (self._folder / task_id).rename(hidden)
            shutil.rmtree(hidden)

    def _keep_state(self, entry: Entry) -> None:
        """The rename of the entry was the moment at which the run's state changed; now it gets its own name."""
        state = self._folder / entry.task_id / "state"
        if state.is_file():
            self._state.run_state_path(entry.run_id).unlink(missing_ok=True)
            state.rename(self._state.run_state_path(entry.run_id))


def _description(entry: Entry) -> bytes:
    body = entry.reply.SerializeToString()
    stored = {
        "run_id": entry.run_id,
        "label": entry.label,
        "parameters_size": entry.size if entry.parameters else None,
        "upload_id": entry.upload_id,
        "reply_sha256": hashlib.sha256(body).hexdigest(),
    }
    return json.dumps(stored).encode()


def _read(folder: Path) -> Entry | None:
    """The entry in a folder; None if it is not whole."""
    try:
        stored = json.loads((folder / "entry.json").read_bytes())
        body = (folder / "reply").read_bytes()
        size = stored["parameters_size"]
        accepted = folder / "accepted"
        parameters = None if size is None else folder / "parameters"
        if hashlib.sha256(body).hexdigest() != stored["reply_sha256"]:
            return None
        if parameters is not None and not (parameters.is_file() and parameters.stat().st_size == size):
            return None
        return Entry(
            check_id("task_id", folder.name),
            check_id("run_id", stored["run_id"]),
            str(stored["label"]),
            records_pb2.Reply.FromString(body),
            parameters,
            size or 0,
            check_id("upload_id", stored["upload_id"]),
            accepted.read_text() if accepted.exists() else "",
        )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DecodeError):
        return None
