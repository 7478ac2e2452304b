"""The reader of tensors: what it accepts could have been written, and lies inside the bytes that were given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from hedgerow.errors import CorruptData
from hedgerow.records import NDArray, Parameters
from hedgerow.wire import tensors
from tests.fuzz.mutation import WORDS, Choices, json_text, mutated_bytes, mutated_json
from tests.fuzz.parser import Parser

_VALUES: tuple[dict[str, NDArray], ...] = (
    {},
    {"a": np.arange(6, dtype=np.float32).reshape(2, 3)},
    {
        "w": np.ones((3, 2), np.float64),
        "b": np.zeros(0, np.int8),
        "flag": np.array([True, False]),
        "é": np.array(1j, np.complex64),
    },
    {"bf": np.ones(4, ml_dtypes.bfloat16), "f8": np.ones(3, ml_dtypes.float8_e4m3fn), "u": np.arange(2, dtype=np.uint64)},
)
SEEDS = [tensors.dumps(Parameters(values)) for values in _VALUES]
SEEDS += [tensors.dumps(Parameters(_VALUES[2]), form) for form in ("bfloat16", "float16")]
_WITH_METADATA = json.dumps(
    {
        "__metadata__": {"made": "by hand"},
        "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
        "b": {"dtype": "U8", "shape": [0, 3], "data_offsets": [2, 2]},
    }
).encode()
SEEDS.append(len(_WITH_METADATA).to_bytes(8, "little") + _WITH_METADATA + b"\0\1")
NAMES = (
    b"BOOL",
    b"F64",
    b"BF16",
    b"F8_E8M0",
    b'"shape":[',
    b'"data_offsets":[',
    b'"__metadata__":{"a":"b"},',
    b'"__metadata__":{"hedgerow.own_dtypes":"F32 -"},',
    b"F64 - - -",
    b"4611686018427387904",
)


@dataclass(frozen=True)
class Case:
    """Bytes, and whether they are read from a file."""

    data: bytes
    in_file: bool


def make(choices: Choices) -> Case:
    """Bytes changed anywhere, or a header changed as JSON before bytes that are whole."""
    in_file = choices.chance(8)
    if choices.below(2):
        return Case(mutated_bytes(choices, SEEDS, WORDS + NAMES), in_file)
    seed = choices.of(SEEDS)
    start = 8 + int.from_bytes(seed[:8], "little")
    entries: Any = mutated_json(choices, json.loads(seed[8:start]))
    text = json_text(entries).encode()
    if choices.chance(4):
        text = mutated_bytes(choices, [text], WORDS + NAMES)
    length = choices.integer() % 2**64 if choices.chance(6) else len(text)
    return Case(length.to_bytes(8, "little") + text + seed[start:], in_file)


def check(case: Case, path: Path) -> None:
    """What is accepted is safe and could have been written."""
    try:
        if case.in_file:
            path.write_bytes(case.data)
            found = tensors.map_file(path)
        else:
            found = tensors.view(case.data)
    except CorruptData as error:
        assert len(str(error)) < 2000, "a message that repeats what came without a bound"
        return
    assert found.nbytes <= len(case.data)
    assert not any(array.flags.writeable for array in found.values())
    again = tensors.view(tensors.dumps(found))
    assert list(again) == list(found)
    for name, array in found.items():
        assert (array.dtype, array.shape) == (again[name].dtype, again[name].shape)
        assert array.tobytes() == again[name].tobytes()


@contextmanager
def _open(folder: Path) -> Iterator[Callable[[Case], None]]:
    yield lambda case: check(case, folder / "parameters")


PARSER = Parser("tensors", ("hedgerow.wire.tensors",), make, _open)
