"""Parameters as safetensors bytes, and back: on buffers and files that are handed in, without copying and without pickle.

The format: eight bytes that hold the header's length (little-endian), the header (a JSON object: name → dtype, shape and
offsets), then the tensors' raw little-endian data without gaps. Names keep their order: the order of the data is the order of
the parameters. The header is padded so that the data starts at a multiple of 64 bytes; a tensor whose neighbours have another
item size may still lie unaligned, which numpy handles.

Parameters whose tensors travel in a 16-bit float (:mod:`hedgerow.wire.narrow`) say in the file's metadata which dtypes are the
tensors' own: :func:`view` gives them as they were, and converts what is looked at.

Owned here: the table of dtypes, the limits, and every check on foreign bytes. What :func:`view` accepts is safe to use; it
refuses the rest with :class:`CorruptData` before it allocates anything that the bytes ask for. What is not checked here is
meaning: non-finite values, expected names and shapes.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.records import Layout, NDArray, Parameters
from hedgerow.wire import narrow

MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_TENSORS = 32_768
MAX_NAME_BYTES = 1024
MAX_DIMENSIONS = 32
ALIGNMENT = 64

_METADATA = "__metadata__"
_OWN_DTYPES = "hedgerow.own_dtypes"
"""In the metadata: for each tensor, in the order of the data, its own dtype, or "-" where it travels as it is."""
_MAX_BYTES = 2**62
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Buffer = bytes | bytearray | memoryview | mmap.mmap


def header(parameters: Parameters, transport_dtype: str = "") -> bytes:
    """The bytes that precede the data: length, JSON header, padding.

    Args:
        parameters: The tensors.
        transport_dtype: The 16-bit float in which float32 and float64 are written; "" for their own dtypes.

    Raises:
        InvalidArgument: A name or dtype cannot be stored, or a limit is exceeded; the message names the tensor.
    """
    for name in parameters:
        if isinstance(parameters.stored(name), np.ma.MaskedArray):
            raise InvalidArgument(f"The tensor {_short(name)} is a masked array; fill it first (array.filled(...)).")
    return header_of(parameters.layout, transport_dtype)


def header_of(layout: Layout, transport_dtype: str = "") -> bytes:
    """The same for tensors that need not be there yet.

    Raises:
        InvalidArgument: As for :func:`header`.
    """
    if len(layout) > MAX_TENSORS:
        raise InvalidArgument(f"{len(layout)} tensors are too many; at most {MAX_TENSORS} can be stored.")
    written = narrow.narrowed(layout, transport_dtype)
    entries: dict[str, dict[str, object]] = {}
    own_dtypes: list[str] = []
    offset = 0
    for name, (shape, own) in layout.items():
        dtype = written[name][1]
        _check_name(name)
        own_dtypes.append("-" if dtype == own else _dtype_name(name, shape, own))
        dtype_name = _dtype_name(name, shape, dtype)
        end = offset + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": dtype_name, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    if set(own_dtypes) - {"-"}:
        entries = {_METADATA: {_OWN_DTYPES: " ".join(own_dtypes)}, **entries}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise InvalidArgument(
            f"The names and shapes need {len(text):,} bytes of header; at most {MAX_HEADER_BYTES:,} are allowed."
        )
    return len(text).to_bytes(8, "little") + text


def chunks(parameters: Parameters, transport_dtype: str = "") -> Iterator[memoryview]:
    """The whole file piece by piece: the header, then the bytes of each tensor (a view, where it is C-contiguous).

    Tensors that change their dtype come in blocks, of which each is overwritten by the next one.

    Args:
        parameters: The tensors.
        transport_dtype: As for :func:`header`.

    Raises:
        InvalidArgument: As for :func:`header`; before the first piece. Or a value becomes infinite in the 16-bit float.
    """
    yield memoryview(header(parameters, transport_dtype))
    for name, (_, dtype) in narrow.narrowed(parameters.layout, transport_dtype).items():
        stored = parameters.stored(name)
        if not stored.size:
            continue
        if stored.dtype == dtype:
            yield _raw(stored)
        else:
            yield from map(_raw, narrow.converted(name, stored, dtype))


def dumps(parameters: Parameters, transport_dtype: str = "") -> bytes:
    """The whole file as bytes (for small parameters).

    >>> dict(view(dumps(Parameters({"bias": np.arange(3, dtype=np.int16)}))))
    {'bias': array([0, 1, 2], dtype=int16)}

    Raises:
        InvalidArgument: As for :func:`chunks`.
    """
    whole = bytearray()
    for chunk in chunks(parameters, transport_dtype):
        whole += chunk
    return bytes(whole)


def nbytes(parameters: Parameters, transport_dtype: str = "") -> int:
    """Size of the whole file in bytes, header included.

    Raises:
        InvalidArgument: As for :func:`header`.
    """
    written = narrow.narrowed(parameters.layout, transport_dtype)
    data = sum(math.prod(shape) * dtype.itemsize for shape, dtype in written.values())
    return len(header(parameters, transport_dtype)) + data


def write(parameters: Parameters, file: BinaryIO, transport_dtype: str = "") -> int:
    """Write the whole file, and return its size in bytes.

    Raises:
        InvalidArgument: As for :func:`header`; nothing is written then. Or a value becomes infinite in the 16-bit float.
    """
    return sum(_write_all(chunk, file) for chunk in chunks(parameters, transport_dtype))


def write_blocks(layout: Layout, blocks: Iterable[NDArray], file: BinaryIO) -> int:
    """Write a file whose tensors come in pieces, and return its size in bytes.

    Args:
        layout: Names, shapes and dtypes.
        blocks: The tensors' elements in C order, one tensor after the other, as one-dimensional arrays of the tensor's dtype that
            fill all tensors exactly; a block may be changed when the next one is asked for.
        file: Where they go.

    Raises:
        InvalidArgument: As for :func:`header`; nothing is written then. Or the blocks do not fill the tensors.
    """
    size = _write_all(memoryview(header_of(layout)), file)
    following = iter(blocks)
    for name, (shape, dtype) in layout.items():
        left = math.prod(shape)
        while left:
            block = next(following, None)
            if block is None or block.dtype != dtype or not 0 < block.size <= left:
                found = "nothing" if block is None else f"{block.size} of {block.dtype}"
                raise InvalidArgument(f"The tensor {_short(name)} needs {left} more elements of {dtype}; {found} came.")
            size += _write_all(_raw(block), file)
            left -= block.size
    if next(following, None) is not None:
        raise InvalidArgument("There are more elements than the tensors have.")
    return size


def view(buffer: Buffer) -> Parameters:
    """Read-only arrays over the buffer; nothing is copied, and the arrays keep the buffer alive.

    What travelled in a 16-bit float are :class:`hedgerow.wire.narrow.NarrowParameters`.

    Raises:
        CorruptData: The bytes are not a safetensors file of a kind that :func:`header` could have described.
    """
    data = memoryview(buffer).cast("B")
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or start > len(data):
        raise CorruptData(f"{len(data)} bytes are too few for the header of a safetensors file, which should end at {start}.")
    entries, own_dtypes = _parse_header(data[8:start])
    body = data[start:].toreadonly()
    arrays: dict[str, NDArray] = {}
    position = 0
    spans = [(*_offsets(name, entry), name, entry) for name, entry in entries]
    for begin, end, name, entry in sorted(spans, key=lambda span: span[:2]):
        if begin != position or end > len(body):
            raise CorruptData(
                f"Tensor {_short(name)} lies at {begin}-{end} of {len(body)}, the one before it ends at {position}."
            )
        arrays[name] = _array(name, entry, body[begin:end])
        position = end
    if position != len(body):
        raise CorruptData(f"The tensors end at {position}, the data at {len(body)}.")
    return Parameters(arrays) if own_dtypes is None else narrow.NarrowParameters(arrays, _own_dtypes(arrays, own_dtypes))


def map_file(path: Path) -> Parameters:
    """Read-only arrays over a memory map of the file, which must not be truncated or overwritten while they are in use.

    Raises:
        CorruptData: As for :func:`view`; the message names the file.
        OSError: The file cannot be opened or mapped.
    """
    with path.open("rb") as file:
        try:
            if file.seek(0, 2) == 0:
                raise CorruptData("The file is empty.")
            return view(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except CorruptData as error:
            raise CorruptData(f"{path} holds no parameters: {error}") from None


# --- writing --------------------------------------------------------------------------------------------------------------


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise InvalidArgument(f"The tensor name {name!r} has the type {type(name).__name__}; names are str.")
    problem = _name_problem(name)
    if problem:
        raise InvalidArgument(f"The tensor name {_short(name)} {problem}.")


def _name_problem(name: str) -> str | None:
    """What is wrong with a name, for both directions."""
    if name == _METADATA:
        return "is reserved by the file format"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "holds a lone surrogate and is no Unicode text"
    return f"has {size} bytes, more than {MAX_NAME_BYTES}" if size > MAX_NAME_BYTES else None


def _write_all(chunk: memoryview, file: BinaryIO) -> int:
    size = len(chunk)
    while chunk:  # a raw file writes at most 2 GB at once
        chunk = chunk[file.write(chunk) :]
    return size


def _dtype_name(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidArgument(f"The tensor {_short(name)} has {len(shape)} dimensions, more than {MAX_DIMENSIONS}.")
    found = _NAMES.get(dtype.newbyteorder("="))
    if found is None:
        raise InvalidArgument(
            f"The tensor {_short(name)} has the dtype {dtype}, which cannot be stored. Convert it to one of: "
            f"{', '.join(str(dtype) for dtype in _NAMES)}."
        )
    return found


def _raw(array: NDArray) -> memoryview:
    """The array's little-endian bytes in C order."""
    array = np.asarray(array)
    if array.dtype.kind in "iufc":
        array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


# --- reading foreign bytes ------------------------------------------------------------------------------------------------


def _parse_header(text: memoryview) -> tuple[list[tuple[str, dict[str, object]]], str | None]:
    """Names and entries in the header's order, the names checked, the entries being objects with the right keys.

    And what the metadata say of the tensors' own dtypes, or None.
    """
    if len(text) > MAX_HEADER_BYTES:
        raise CorruptData(f"The header has {len(text):,} bytes; at most {MAX_HEADER_BYTES:,} are allowed.")
    if not text or text[0] != ord("{"):
        raise CorruptData("The header does not start with '{'.")
    try:
        # Pairs, not a dict: a name that comes twice must not hide the first one's data.
        parsed: object = json.loads(str(text, "utf-8"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise CorruptData(f"The header is no JSON: {type(error).__name__}: {error}") from None
    assert isinstance(parsed, _Pairs)  # it starts with "{"
    if len(parsed) > MAX_TENSORS + 1:
        raise CorruptData(f"The header lists {len(parsed)} tensors; at most {MAX_TENSORS} are allowed.")
    names = {name for name, _ in parsed}
    if len(names) != len(parsed):
        raise CorruptData("The header lists a tensor name twice.")
    metadata = {key: text for name, value in parsed if name == _METADATA for key, text in _metadata(value)}
    return [(name, _entry(name, value)) for name, value in parsed if name != _METADATA], metadata.get(_OWN_DTYPES)


class _Pairs(list[tuple[str, object]]):
    """A JSON object as it came; told from a JSON array by its type."""

    __slots__ = ()


def _metadata(value: object) -> Iterator[tuple[str, str]]:
    for key, text in value if isinstance(value, _Pairs) else [("", value)]:
        if not isinstance(text, str) or not isinstance(value, _Pairs):
            raise CorruptData(f"{_METADATA} is not an object of strings.")
        yield key, text


def _own_dtypes(arrays: dict[str, NDArray], text: str) -> dict[str, np.dtype[Any]]:
    """The own dtypes of the tensors that travelled in another one: float32 or float64, in one and the same 16-bit float."""
    words = text.split(" ")
    if len(words) != len(arrays) or not set(words) <= {"F32", "F64", "-"}:
        raise CorruptData(f"{_OWN_DTYPES} does not say F32, F64 or - for each of {len(arrays)} tensors: {text[:80]!a}.")
    own = {name: _DTYPES[word] for name, word in zip(arrays, words, strict=True) if word != "-"}
    found = {arrays[name].dtype for name in own}
    if len(found) != 1 or not found <= set(narrow.DTYPES.values()):
        raise CorruptData(f"{_OWN_DTYPES} names tensors of {sorted(map(str, found))}; they all travel in one 16-bit float.")
    return own


def _entry(name: str, value: object) -> dict[str, object]:
    problem = _name_problem(name)
    if problem:
        raise CorruptData(f"The tensor name {_short(name)} {problem}.")
    if not (isinstance(value, _Pairs) and len(value) == 3 and {key for key, _ in value} == _ENTRY_KEYS):
        raise CorruptData(f"Tensor {_short(name)} is not described by dtype, shape and data_offsets.")
    return dict(value)


def _naturals(name: str, entry: dict[str, object], key: str, max_length: int) -> list[int]:
    """A list of non-negative integers of a sane size."""
    value = entry[key]
    if isinstance(value, _Pairs) or not isinstance(value, list) or len(value) > max_length:
        raise CorruptData(f"Tensor {_short(name)}: {key} is not a list of at most {max_length} integers.")
    for number in value:
        if type(number) is not int or not 0 <= number <= _MAX_BYTES:
            raise CorruptData(f"Tensor {_short(name)}: {key} holds {str(number)[:40]}, which is no sane size.")
    return value


def _offsets(name: str, entry: dict[str, object]) -> tuple[int, int]:
    match _naturals(name, entry, "data_offsets", 2):
        case [begin, end] if begin <= end:
            return begin, end
        case other:
            raise CorruptData(f"Tensor {_short(name)}: data_offsets {other} is not a begin and an end.")


def _array(name: str, entry: dict[str, object], data: memoryview) -> NDArray:
    dtype_name = entry["dtype"]
    dtype = _DTYPES.get(dtype_name) if isinstance(dtype_name, str) else None
    if dtype is None:
        raise CorruptData(f"Tensor {_short(name)} has the dtype {str(dtype_name)[:40]}, which is not supported.")
    shape = _naturals(name, entry, "shape", MAX_DIMENSIONS)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise CorruptData(f"Tensor {_short(name)} of shape {shape} and dtype {dtype} does not fill its {len(data)} bytes.")
    if math.prod(size for size in shape if size) * dtype.itemsize > _MAX_BYTES:
        raise CorruptData(f"Tensor {_short(name)} has the shape {shape}, which is too big even for an empty tensor.")
    if dtype.kind in "iufc":
        dtype = dtype.newbyteorder("<")
    array: NDArray = np.frombuffer(data, np.uint8).view(dtype).reshape(shape)
    if dtype.kind == "b" and len(data) and int(np.frombuffer(data, np.uint8).max()) > 1:
        raise CorruptData(f"Tensor {_short(name)} of dtype bool holds bytes other than 0 and 1.")
    return array


def _short(name: str) -> str:
    return ascii(name if len(name) <= 80 else name[:77] + "…")
