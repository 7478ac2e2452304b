"""Files that are whole or not there, whatever happens to the process or the machine.

A file is written under a hidden name, brought to the disk, and renamed; the rename is brought to the disk as well. A small file
of JSON carries a digest of its content (it is *sealed*), so that damage is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import blake3

from hedgerow.errors import CorruptData

Json: TypeAlias = Any
"""What :mod:`json` reads and writes."""
T = TypeVar("T")

_READ_BYTES = 1024 * 1024
# What reading a value of another shape than was written raises.
_MISFITS = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
_NO_FILE = (IsADirectoryError, NotADirectoryError)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, chunks: Iterable[bytes | memoryview], mode: int = 0o644) -> tuple[int, str]:
    """Write a file that is not there yet and bring its bytes to the disk; returns its size and its BLAKE3-256."""
    digest, size = blake3.blake3(), 0
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            while chunk:  # a file takes at most 2 GB at once
                chunk = chunk[file.write(chunk) :]
        file.flush()
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def link_new(path: Path, source: Path) -> tuple[int, str]:
    """Give a file another name and bring its bytes to the disk; returns its size and its BLAKE3-256.

    Raises:
        OSError: The file system has no second names, or is another one.
    """
    os.link(source, path)
    digest = blake3.blake3()
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        for chunk in _blocks(file):
            digest.update(chunk)
        return file.tell(), digest.hexdigest()


def rename(hidden: Path, path: Path) -> None:
    """The moment at which something is there: a name changes, and stays changed."""
    hidden.rename(path)
    sync_folder(path.parent)


def hidden_name(path: Path) -> Path:
    """A fresh name beside the path; what has such a name is not whole and may be removed."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def seal(content: Json) -> bytes:
    """A JSON content and its digest, as the bytes of a file."""
    text = json.dumps(content, separators=(",", ":"))
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "content": text}).encode() + b"\n"


def write_sealed(path: Path, content: Json, mode: int = 0o644, *, sync_name: bool = True) -> None:
    """Write or replace a sealed file; without ``sync_name`` the machine's death may take it back, whole."""
    hidden = hidden_name(path)
    write_new(hidden, [seal(content)], mode)
    if sync_name:
        rename(hidden, path)
    else:
        hidden.rename(path)


def read_sealed(path: Path) -> Json:
    """The content of a sealed file.

    Raises:
        CorruptData: It is damaged.
        FileNotFoundError: It is not there.
    """
    try:
        outer = json.loads(path.read_bytes())
        text = outer["content"]
        if hashlib.sha256(text.encode()).hexdigest() == outer["sha256"]:
            return json.loads(text)
    except (*_MISFITS, *_NO_FILE):
        pass
    raise CorruptData(f"{path} is damaged: its content does not fit its digest. Restore it from a copy, or start a new run.")


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """What is taken out of the file's content inside may not be there or be of another type: the seal is no secret.

    Raises:
        CorruptData: It was not.
    """
    try:
        yield
    except _MISFITS as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise CorruptData(
            f"{path} does not hold what it should ({reason}). Restore it from a copy, or start a new run."
        ) from error


def of_type(value: Json, kind: type[T]) -> T:
    """The value, where it is of exactly this type (True is no int) and, as a number, not negative.

    Raises:
        TypeError: It is not.
    """
    if type(value) is not kind or (isinstance(value, int) and value < 0):
        raise TypeError(f"{value!r:.80} instead of {kind.__name__}")
    return value


def check_file(path: Path, size: int, blake3_256: str) -> None:
    """See whether a file has this size and digest.

    Raises:
        CorruptData: It has not, or is not there.
    """
    digest = blake3.blake3()
    try:
        with path.open("rb", buffering=0) as file:
            found = os.fstat(file.fileno()).st_size
            for chunk in _blocks(file) if found == size else ():
                digest.update(chunk)
    except (FileNotFoundError, *_NO_FILE):
        raise CorruptData(f"{path} is missing. Restore it from a copy, or start a new run.") from None
    if found != size or digest.hexdigest() != blake3_256:
        raise CorruptData(f"{path} is damaged ({found:,} of {size:,} bytes). Restore it from a copy, or start a new run.")


def _blocks(file: FileIO) -> Iterator[memoryview]:
    """What is in a file, piece by piece; each piece lies where the one before it was."""
    block = memoryview(bytearray(_READ_BYTES))
    while count := file.readinto(block):
        yield block[:count]
