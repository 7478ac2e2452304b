"""Hostile inputs from valid ones: bytes, JSON and protobuf messages, changed in a few places.

Everything is decided by a :class:`Choices`, which reads the bytes that hypothesis draws: one draw for each case is fast enough
for many thousand cases, and shrinking the bytes towards zeros makes the case simpler.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

T = TypeVar("T")

INTEGERS = (
    *(0, 1, -1, 2, 7, 8, 63, 64, 65, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1),
    *(2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**31), -(2**63), -(2**63) - 1),
)
FLOATS = (0.0, -0.0, 1.5, math.nan, math.inf, -math.inf, 1e308, 5e-324, -1.0)
TEXTS = (
    *(
        "",
        " ",
        "\0",
        "a",
        "0",
        "-1",
        "nan",
        "null",
        "true",
        "1e999",
        "0x10",
        "١٢٣",
        "²",
        "é",
        "ｏｓ",
        "𝔘𝔫",
        "\u202e\u200b",
        "\ufeff",
    ),
    *(
        ".",
        "..",
        "/",
        "../../../victim",
        "/../../../victim",
        "..%2f..%2fvictim",
        "/etc/passwd",
        "~root",
        "C:\\victim",
        "a/b",
        "a\0b",
    ),
    *(
        "__metadata__",
        "__class__",
        "__import__('os')",
        "{0.__class__}",
        "%s%n",
        "'; DROP TABLE runs; --",
        "<script>",
        "\r\nX: y\r\n",
    ),
    *("a" * 7, "a" * 8, "a" * 64, "a" * 65, "a" * 129, "a" * 2001, "é" * 5000, "0" * 32, "f" * 64, "[" * 3000, "9" * 5000),
)
WORDS = (
    *(
        b"\0",
        b"\xff",
        b"\xff" * 8,
        b"\0" * 8,
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b":",
        b"/",
        b"..",
        b"../",
        b"%2e%2e%2f",
        b"%00",
        b"?",
        b"#",
    ),
    *(b"{", b"}", b"[", b"]", b'"', b",", b"{}", b"[]", b"null"),
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"99999999999999999999"),
    *(b"[" * 3000, b"a" * 300, b"9" * 5000, b"\xed\xa0\x80", b"\xc3\x28", b"\xef\xbb\xbf", b"\\ud800", b"\\u0000"),
)


MAX_VALUE_BYTES = 3 * 1024 * 1024
"""Of a list or of a value in a message: with all its changes it stays about as small as one that gRPC lets through."""
_DEEP, _DEPTH = "<deep>", 20_000


class Choices:
    """Decisions read from bytes; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def _byte(self) -> int:
        value = self._data[self._position] if self._position < len(self._data) else 0
        self._position += 1
        return value

    def below(self, count: int) -> int:
        """A number from 0 to ``count - 1``; 0 where there is none."""
        if count <= 1:
            return 0
        value = 0
        for _ in range((count - 1).bit_length() // 8 + 1):
            value = value << 8 | self._byte()
        return value % count

    def of(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def chance(self, one_in: int) -> bool:
        """True once in so many times; not for zeros."""
        return self.below(one_in) == one_in - 1

    def text(self) -> str:
        """A text that something might not like."""
        return self.of(TEXTS)

    def integer(self) -> int:
        """A number that something might not like."""
        return self.of(INTEGERS) + self.of((0, 0, 1, -1))

    def bytes(self) -> bytes:
        """Bytes that something might not like."""
        return self.of(WORDS) if self.below(2) else bytes(self._byte() for _ in range(self.below(12)))


def mutated_bytes(choices: Choices, seeds: Sequence[bytes], words: Sequence[bytes] = WORDS) -> bytes:
    """One of the seeds with up to five changes."""
    data = bytearray(choices.of(seeds))
    for _ in range(choices.below(6)):
        start = choices.below(len(data) + 1)
        end = min(len(data), start + choices.below(17))
        match choices.below(11):
            case 0:
                if start < len(data):
                    data[start] ^= 1 << choices.below(8)
            case 1:
                if start < len(data):
                    data[start] = choices.below(256)
            case 2:
                del data[start:]
            case 3:
                del data[start:end]
            case 4:
                data[start:start] = choices.of(words)
            case 5:
                data[start:end] = choices.of(words)
            case 6:
                data[start:start] = data[start:end] * choices.of((1, 2, 30))
            case 7:  # splice
                other = choices.of(seeds)
                data[start:] = other[choices.below(len(other) + 1) :]
            case 8:  # a length field
                width = choices.of((1, 2, 4, 8))
                order = "little" if choices.below(2) else "big"
                data[start : start + width] = (choices.integer() % 256**width).to_bytes(width, order)
            case 9:
                data[:] = data[start:]
            case _:
                data[start:end] = choices.bytes()
    return bytes(data)


def mutated_text(choices: Choices, seeds: Sequence[str], words: Sequence[str] = TEXTS) -> str:
    """One of the seeds with up to four changes."""
    text = choices.of(seeds)
    for _ in range(choices.below(5)):
        start = choices.below(len(text) + 1)
        end = min(len(text), start + choices.below(9))
        match choices.below(6):
            case 0:
                text = text[:start] + chr(choices.below(0xD800)) + text[end:]
            case 1:
                text = text[:start] + text[end:]
            case 2:
                text = text[:start] + choices.of(words) + text[start:]
            case 3:
                text = text[:start] + choices.of(words) + text[end:]
            case 4:
                text = text[:start] + text[start:end] * 3 + text[end:]
            case _:
                text = choices.of(words)
    return text


# --- JSON -----------------------------------------------------------------------------------------------------------------


def hostile_json(choices: Choices) -> Any:
    """A small value of any type."""
    match choices.below(9):
        case 0:
            return None
        case 1:
            return choices.of((True, False))
        case 2 | 3:
            return choices.integer()
        case 4:
            return choices.of(FLOATS)
        case 5 | 6:
            return choices.text()
        case 7:
            return [choices.integer() for _ in range(choices.below(4))]
        case _:
            return {choices.text(): choices.integer() for _ in range(choices.below(3))}


def json_text(value: Any) -> str:
    """The value as JSON; where :func:`mutated_json` put something deep, deeper than Python's own writer can."""
    return json.dumps(value).replace(f'"{_DEEP}"', "[" * _DEPTH + "]" * _DEPTH)


def mutated_json(choices: Choices, seed: Any) -> Any:
    """The value with one to four changes somewhere inside."""
    holder = [copy.deepcopy(seed)]
    for _ in range(1 + choices.below(4)):
        _change_json(choices, holder)
    return holder[0]


def _change_json(choices: Choices, holder: list[Any]) -> None:
    places: list[tuple[Any, Any]] = [(holder, 0)]
    for owner, key in places:
        value = owner[key]
        if isinstance(value, dict):
            places += [(value, inner) for inner in value]
        elif isinstance(value, list):
            places += [(value, inner) for inner in range(len(value))]
    owner, key = choices.of(places)
    others = [inner for place, inner in places]
    match choices.below(6):
        case 0 | 1:
            owner[key] = hostile_json(choices)
        case 2 if owner is not holder:
            del owner[key]
        case 3 if isinstance(owner, dict):
            owner[str(choices.of((choices.text(), choices.of(others))))] = owner[key]
        case 3 | 4 if isinstance(owner, list) and owner is not holder:
            owner.insert(key, copy.deepcopy(owner[key]))
        case 4:
            place, inner = choices.of(places)
            owner[key] = copy.deepcopy(place[inner])
        case _:
            owner[key] = choices.of(([owner[key]], {"": owner[key]}, [[owner[key]]], _DEEP))


# --- protobuf -------------------------------------------------------------------------------------------------------------

_INTEGER_RANGES = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_SINT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
}
M = TypeVar("M", bound=Message)


def mutated_message(choices: Choices, seed: M, texts: Sequence[str] = TEXTS) -> M:
    """A copy of the message with up to four changes in its fields, and sometimes in its bytes."""
    message = type(seed)()
    message.CopyFrom(seed)
    for _ in range(choices.below(5)):
        _change_message(choices, message, texts)
    if choices.chance(6):
        try:
            fresh = type(seed)()
            fresh.ParseFromString(mutated_bytes(choices, [message.SerializeToString()]))
            return fresh
        except DecodeError:
            return message  # gRPC itself refuses such bytes
    return message


def _parts(message: Message) -> list[Message]:
    """The message and all messages inside it."""
    found = [message]
    for part in found:
        for field, value in part.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                found += list(value) if field.is_repeated else [value]
    return found


def _change_message(choices: Choices, message: Message, texts: Sequence[str]) -> None:
    part = choices.of(_parts(message))
    fields: list[Any] = list(part.DESCRIPTOR.fields)  # descriptors of either implementation
    if not fields:
        return
    field = choices.of(fields)
    if choices.chance(5):
        part.ClearField(field.name)
    elif field.is_repeated:
        _change_repeated(choices, getattr(part, field.name), field, texts)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(part, field.name).SetInParent()
    else:
        setattr(part, field.name, _hostile_value(choices, field, texts))


def _change_repeated(choices: Choices, values: Any, field: FieldDescriptor, texts: Sequence[str]) -> None:
    if len(values) and choices.chance(4):
        del values[choices.below(len(values))]
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if len(values) and choices.below(2):
            one = copy.deepcopy(choices.of(values))
            values.extend([one] * min(choices.of((1, 1, 1, 2, 5000)), MAX_VALUE_BYTES // (one.ByteSize() + 1)))
        else:
            values.add()
    else:
        value = _hostile_value(choices, field, texts)
        length = len(value) if isinstance(value, str | bytes) else 1
        values.extend([value] * min(choices.of((1, 1, 1, 2, 10_001)), MAX_VALUE_BYTES // (length + 1)))


def _hostile_value(choices: Choices, field: FieldDescriptor, texts: Sequence[str]) -> Any:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return choices.of(texts)
        case FieldDescriptor.TYPE_BYTES:
            piece = choices.bytes()
            return piece * min(choices.of((1, 1, 1, 20_000)), MAX_VALUE_BYTES // (len(piece) + 1))
        case FieldDescriptor.TYPE_BOOL:
            return choices.of((True, False))
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return choices.of(FLOATS)
        case FieldDescriptor.TYPE_ENUM:
            return choices.of((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1000, -1))
        case _:
            low, high = _INTEGER_RANGES[field.type]
            return min(max(choices.integer(), low), high)
