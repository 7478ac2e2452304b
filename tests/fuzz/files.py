"""Folders of files from valid ones: each case changes some files, and nothing beside the folder may change."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutation import Choices, json_text, mutated_bytes, mutated_json

Files = Mapping[str, bytes | None]
"""Contents by relative path; None for a folder."""
Change = Callable[[Choices, bytes], bytes]
"""A change that keeps what a file promises of itself, as a digest, true."""


@dataclass(frozen=True)
class Folder:
    """A case: all files of a folder; those that were changed are told."""

    files: Files
    changed: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Folder({ {name: self.files.get(name) for name in self.changed}!r})"


def read_files(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in sorted(folder.rglob("*"))}


def write_files(folder: Path, files: Files) -> None:
    """Make the folder anew with these files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def mutated_files(choices: Choices, files: Files, names: Sequence[str], sound: Mapping[str, Change]) -> Folder:
    """One to three of the named files changed, removed, made a folder, or joined by a stranger."""
    result = dict(files)
    changed = []
    for _ in range(1 + choices.below(3)):
        name = choices.of(names)
        content = result.get(name)
        changed.append(name)
        match choices.below(12):
            case 0:
                result.pop(name, None)
            case 1 if content is not None:
                result[name] = None
            case 2:
                stranger = str(Path(name).parent / choices.of(("zzz", ".hidden", "~", "a" * 200)))
                result[stranger] = None if choices.below(2) else choices.bytes()
                changed.append(stranger)
            case 3 | 4 if content is not None:
                result[name] = mutated_bytes(choices, [content])
            case _ if content is not None:
                change = next((one for ending, one in sound.items() if name.endswith(ending)), None)
                result[name] = mutated_bytes(choices, [content]) if change is None else change(choices, content)
            case _:
                pass
    return Folder(result, tuple(changed))


def changed_json(choices: Choices, content: bytes) -> bytes:
    """Another value in valid JSON."""
    try:
        return json_text(mutated_json(choices, json.loads(content))).encode()
    except (ValueError, RecursionError):
        return mutated_bytes(choices, [content])


def changed_sealed(choices: Choices, content: bytes) -> bytes:
    """Another content under a seal that fits."""
    try:
        text = json_text(mutated_json(choices, json.loads(json.loads(content)["content"])))
    except (ValueError, RecursionError, KeyError, TypeError):
        return mutated_bytes(choices, [content])
    return json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "content": text}).encode()
