from __future__ import annotations

import io
import itertools
import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.records import NDArray, Parameters
from hedgerow.wire import tensors

EVERY_DTYPE = [
    *(np.dtype(name) for name in ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8")),
    *(
        np.dtype(getattr(ml_dtypes, name))
        for name in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
    ),
]
# What the library's numpy half knows.
LIBRARY_DTYPES = [dtype for dtype in EVERY_DTYPE if dtype.kind in "biufc" and not dtype.name.startswith(("bfloat", "float8"))]
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def arrays(draw: st.DrawFn, dtypes: list[np.dtype[Any]] = EVERY_DTYPE) -> NDArray:
    """Any bits of any dtype, NaN payloads included, in C, Fortran or strided order and either byte order."""
    dtype, shape = draw(st.sampled_from(dtypes)), draw(shapes)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8)
    array: NDArray = (raw & 1 if dtype.kind == "b" else raw).view(dtype).reshape(shape)
    match draw(st.integers(0, 3)):
        case 1:
            array = np.asfortranarray(array)
        case 2:
            array = np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
        case 3 if dtype.kind in "iufc":
            array = array.astype(dtype.newbyteorder(">"))
    return array


def parameters(dtypes: list[np.dtype[Any]] = EVERY_DTYPE) -> st.SearchStrategy[Parameters]:
    return st.dictionaries(names, arrays(dtypes), max_size=6).map(Parameters)


def little(array: NDArray) -> bytes:
    """The slow reference: element by element."""
    dtype = array.dtype.newbyteorder("<") if array.dtype.kind in "iufc" else array.dtype
    return b"".join(np.array(element, dtype).tobytes() for element in array.flat)


def assert_same(one: Parameters, two: Parameters) -> None:
    assert list(one) == list(two)
    for name in one:
        assert one[name].shape == two[name].shape
        assert one[name].dtype.newbyteorder("=") == two[name].dtype.newbyteorder("=")
        assert little(one[name]) == little(two[name])


# --- round trips ----------------------------------------------------------------------------------------------------------


@given(parameters())
def test_what_was_written_is_read_bit_by_bit_in_order(given_: Parameters) -> None:
    assert_same(tensors.view(tensors.dumps(given_)), given_)


@given(parameters())
def test_sizes_are_known_before_writing(given_: Parameters) -> None:
    data = tensors.dumps(given_)
    file = io.BytesIO()
    assert tensors.nbytes(given_) == len(data) == tensors.write(given_, file)
    assert file.getvalue() == data == b"".join(tensors.chunks(given_))
    assert len(tensors.header(given_)) % tensors.ALIGNMENT == 0


@given(parameters(LIBRARY_DTYPES))
def test_the_library_reads_what_we_write(given_: Parameters) -> None:
    read = safetensors.numpy.load(tensors.dumps(given_))
    assert set(read) == set(given_)
    for name, array in read.items():
        assert (array.shape, array.dtype) == (given_[name].shape, given_[name].dtype.newbyteorder("="))
        assert array.tobytes() == little(given_[name])


@given(st.dictionaries(names, arrays(LIBRARY_DTYPES), max_size=6))
def test_we_read_what_the_library_writes(given_: dict[str, NDArray]) -> None:
    plain = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("=")) for name, array in given_.items()}
    plain = {name: array.reshape(given_[name].shape) for name, array in plain.items()}
    read = tensors.view(safetensors.numpy.save(plain, {"format": "np", "any": "text"}))
    assert set(read) == set(plain)
    for name, array in plain.items():
        assert (read[name].shape, read[name].dtype) == (array.shape, array.dtype)
        assert read[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=str)
def test_the_library_knows_every_dtype_by_our_name(dtype: np.dtype[Any]) -> None:
    data = tensors.dumps(Parameters({"t": np.zeros((2, 3), dtype)}))
    ((name, found),) = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    assert (name, found["shape"], len(found["data"])) == ("t", [2, 3], 6 * dtype.itemsize)
    assert found["dtype"] in data[:100].decode()


@given(parameters())
@settings(max_examples=20)
def test_file_gives_the_same_as_bytes(tmp_path_factory: pytest.TempPathFactory, given_: Parameters) -> None:
    path = tmp_path_factory.mktemp("map") / "parameters.safetensors"
    with path.open("wb") as file:
        tensors.write(given_, file)
    assert_same(tensors.map_file(path), given_)


def test_mapped_arrays_outlive_the_name_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(tensors.dumps(Parameters([np.arange(5)])))
    mapped = tensors.map_file(path)
    path.unlink()
    assert mapped["000000"].tolist() == [0, 1, 2, 3, 4]


def test_order_is_kept_also_where_empty_tensors_lie_at_one_offset() -> None:
    given_ = Parameters({"z": np.zeros(0), "y": np.zeros(3), "b": np.zeros((0, 4), "i1"), "a": np.zeros(0), "c": np.zeros(())})
    assert list(tensors.view(tensors.dumps(given_))) == ["z", "y", "b", "a", "c"]


def test_nothing_at_all_is_a_file_too() -> None:
    assert len(tensors.view(tensors.dumps(Parameters({})))) == 0


def test_reading_and_writing_copy_nothing() -> None:
    array = np.arange(250_000, dtype=np.float32)
    data = tensors.dumps(Parameters({"a": array}))
    assert np.shares_memory(tensors.view(data)["a"], np.frombuffer(data, np.uint8))
    _, chunk = tensors.chunks(Parameters({"a": array}))
    assert np.shares_memory(np.frombuffer(chunk, np.uint8), array)


def test_arrays_over_writable_bytes_are_read_only_all_the_same() -> None:
    array = tensors.view(bytearray(tensors.dumps(Parameters([np.zeros(4)]))))["000000"]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_data_starts_aligned() -> None:
    data = tensors.dumps(Parameters({"w" * n: np.zeros(2, np.float32) for n in range(1, 20)}))
    assert (8 + int.from_bytes(data[:8], "little")) % 64 == 0


def test_raw_file_that_takes_few_bytes_at_once_gets_them_all() -> None:
    class Slow(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(bytes(data[:7]))

    given_ = Parameters([np.arange(100.0)])
    file = Slow()
    assert tensors.write(given_, file) == len(file.getvalue())
    assert_same(tensors.view(file.getvalue()), given_)


# --- what cannot be written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.array([None, 1], object),
        np.array(["text"]),
        np.array([b"raw"]),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "c16"),
        np.zeros(2, np.longdouble),
        np.zeros(2, [("a", "f4"), ("b", "i4")]),
        np.zeros(2, ml_dtypes.int4),
        np.ma.masked_array([1.0, 2.0], mask=[True, False]),
    ],
    ids=lambda array: str(array.dtype),
)
def test_dtype_that_cannot_be_stored_is_refused_by_name(array: NDArray) -> None:
    with pytest.raises(InvalidArgument, match=r"layer1\.weight"):
        tensors.dumps(Parameters({"fine": np.zeros(1), "layer1.weight": array}))


@pytest.mark.parametrize("name", ["__metadata__", "\ud800", "n" * 1025, "é" * 513])
def test_name_that_cannot_be_stored_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name"):
        tensors.header(Parameters({name: np.zeros(1)}))


def test_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="int"):
        tensors.header(Parameters({3: np.zeros(1)}))  # type: ignore[arg-type]


def test_too_many_tensors_or_too_long_a_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = Parameters([np.zeros(1)] * 4)
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "MAX_TENSORS", 3)
        with pytest.raises(InvalidArgument, match="4 tensors"):
            tensors.header(given_)
    monkeypatch.setattr(tensors, "MAX_HEADER_BYTES", 100)
    with pytest.raises(InvalidArgument, match="at most 100"):
        tensors.header(given_)


# --- foreign bytes --------------------------------------------------------------------------------------------------------


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(data: bytes = bytes(8), **changes: object) -> bytes:
    """A file with one tensor, "t", float32 of shape [2]."""
    return file_of({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}, data)


MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "too short for a length": b"\x10\0\0\0\0\0\0",
    "header longer than the file": (100).to_bytes(8, "little") + b"{}",
    "header of 2**64-1 bytes": b"\xff" * 8 + b"{}",
    "no header": bytes(8),
    "not JSON": file_of(b"{oops"),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "a list": file_of([1, 2]),
    "a number": file_of(3),
    "space before the object": file_of(b"   {}"),
    "two objects": file_of(b"{}{}"),
    "deeply nested list": file_of(b'{"a":' + b"[" * 100_000),
    "deeply nested object": file_of(b'{"a":' * 100_000),
    "closed deep nesting": file_of(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "entry is null": file_of({"t": None}),
    "entry is a list": file_of({"t": [1, 2, 3]}),
    "entry lacks shape": file_of({"t": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "entry has more": one(surplus=1),
    "entry key twice": file_of(b'{"t":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "name twice": file_of(
        b'{"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', bytes(2)
    ),
    "name too long": file_of({"n" * 2000: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "name is a lone surrogate": file_of(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "metadata is a text": file_of({"__metadata__": "x"}),
    "metadata holds a number": file_of({"__metadata__": {"a": 1}}),
    "unknown dtype": one(dtype="F99"),
    "dtype of numpy": one(dtype="float32"),
    "object dtype": one(dtype="O"),
    "dtype is a list": one(dtype=["F32"]),
    "dtype is null": one(dtype=None),
    "shape is a number": one(shape=2),
    "shape is an object": one(shape={"0": 2}),
    "shape holds a float": one(shape=[2.0]),
    "shape holds true": one(dtype="F64", shape=[True]),
    "shape holds a text": one(shape=["2"]),
    "negative size": one(shape=[-2]),
    "two negative sizes": one(shape=[-2, -1]),
    "shape too small": one(shape=[1]),
    "shape too big": one(shape=[3]),
    "shape beyond the file": one(shape=[2**40]),
    "shape of 2**80": one(shape=[2**80]),
    "product that overflows to 2": one(shape=[2**33 + 1, 2**31]),
    "huge but empty": one(b"", shape=[2**62, 2**62, 0], data_offsets=[0, 0]),
    "too many dimensions": one(shape=[1] * 40 + [2]),
    "integer of 5,000 digits": file_of(b'{"t":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', bytes(8)),
    "offset 1e999": file_of(b'{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,1e999]}}', bytes(8)),
    "offset NaN": file_of(b'{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,NaN]}}', bytes(8)),
    "one offset": one(data_offsets=[8]),
    "three offsets": one(data_offsets=[0, 4, 8]),
    "no offsets": one(data_offsets=[]),
    "offsets reversed": one(data_offsets=[8, 0]),
    "negative offset": one(data_offsets=[-8, 0]),
    "end beyond the data": one(data_offsets=[0, 16], shape=[4]),
    "gap before": one(bytes(12), data_offsets=[4, 12]),
    "bytes after": one(bytes(9)),
    "data cut short": one(bytes(7)),
    "tensors overlap": file_of(
        {
            "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
        },
        bytes(6),
    ),
    "tensors are the same bytes": file_of({n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in "ab"}, bytes(4)),
    "gap between": file_of(
        {
            "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
            "b": {"dtype": "U8", "shape": [2], "data_offsets": [3, 5]},
        },
        bytes(5),
    ),
    "bool that is 2": file_of({"t": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\x01\x02"),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_bytes_are_corrupt_data(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(CorruptData) as raised:
        tensors.view(data)
    assert len(str(raised.value)) < 500
    path = tmp_path / "update"
    path.write_bytes(data)
    with pytest.raises(CorruptData, match="update"):
        tensors.map_file(path)


def test_correct_file_of_the_malformed_kind_is_read() -> None:
    assert tensors.view(one())["t"].tolist() == [0.0, 0.0]
    assert tensors.view(one(shape=[1, 2, 1]))["t"].shape == (1, 2, 1)


@given(parameters(), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_damaged_file_is_corrupt_data_or_still_valid(given_: Parameters, rng: random.Random) -> None:
    data = bytearray(tensors.dumps(given_))
    for _ in range(rng.randint(1, 3)):
        where = rng.randrange(min(len(data), 400))
        match rng.randrange(4):
            case 0:
                data[where] ^= 1 << rng.randrange(8)
            case 1:
                del data[where]
            case 2:
                data.insert(where, rng.randrange(256))
            case _:
                data[where] = rng.choice(b'0123456789,:[]{}" -')
        if not data:
            break
    try:
        read = tensors.view(data)
    except CorruptData:
        return
    # What is accepted is a file of its own right: it can be written and read again.
    assert_same(tensors.view(tensors.dumps(read)), read)


@given(st.binary(max_size=300))
def test_any_bytes_are_corrupt_data_or_valid(data: bytes) -> None:
    try:
        tensors.view(data)
    except CorruptData:
        return


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_corrupt_data_or_valid(header: object) -> None:
    for value in (header, {"t": header}, {"t": {"dtype": "F32", "shape": header, "data_offsets": header}}):
        try:
            tensors.view(file_of(value, bytes(8)))
        except CorruptData:
            continue


HOSTILE: dict[str, Callable[[], bytes]] = {
    "a long header": lambda: file_of(b"{" + b" " * (tensors.MAX_HEADER_BYTES + 100) + b"}"),
    "many empty lists": lambda: file_of(b'{"a":[' + b"[]," * (tensors.MAX_HEADER_BYTES // 3 - 10) + b"0]}"),
    "many empty objects": lambda: file_of(b'{"a":[' + b"{}," * (tensors.MAX_HEADER_BYTES // 3 - 10) + b"0]}"),
    "many names": lambda: file_of({f"{n}": 0 for n in range(20_000)}),
    "many tensors": lambda: file_of(
        {f"{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(tensors.MAX_TENSORS + 2)}
    ),
    "a tensor of 4 EB": lambda: one(shape=[2**60], data_offsets=[0, 2**62]),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_header_costs_a_bounded_multiple_of_its_length(
    make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "MAX_HEADER_BYTES", 2**18)
    monkeypatch.setattr(tensors, "MAX_TENSORS", 2**11)
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(CorruptData):
            tensors.view(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * tensors.MAX_HEADER_BYTES


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tensors.map_file(tmp_path / "nothing")


def test_unaligned_tensor_is_read_right() -> None:
    given_ = Parameters({"a": np.array([1], np.uint8), "b": np.array([1.5, -2.5]), "c": np.array([3, 4], ">i4")})
    read = tensors.view(tensors.dumps(given_))
    assert (read["b"] + 1).tolist() == [2.5, -1.5]
    assert int(read["c"].sum()) == 7


@given(st.lists(st.integers(1, 5), max_size=12))
def test_a_file_that_is_written_in_pieces_is_the_same(sizes: list[int]) -> None:
    total = sum(sizes)
    arrays: dict[str, Any] = {"empty": np.zeros((3, 0), np.int8), "w": np.arange(total, dtype=np.float32), "s": np.array(3.0)}
    parameters = Parameters(arrays)
    file = io.BytesIO()
    ends = list(itertools.accumulate(sizes))
    pieces = [parameters["w"][end - size : end] for size, end in zip(sizes, ends, strict=True)]
    size = tensors.write_blocks(parameters.layout, [*pieces, parameters["s"].reshape(-1)], file)
    assert file.getvalue() == tensors.dumps(parameters)
    assert size == len(file.getvalue())


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "needs 3 more elements of float32; nothing came"),
        ([np.zeros(2, np.float32)], "needs 1 more"),
        ([np.zeros(4, np.float32)], "4 of float32 came"),
        ([np.zeros(3, np.float64)], "3 of float64 came"),
        ([np.zeros(3, np.float32), np.zeros(1, np.float32)], "more elements than"),
    ],
)
def test_pieces_that_do_not_fill_the_tensors_are_refused(blocks: list[Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        tensors.write_blocks({"w": ((3,), np.dtype(np.float32))}, blocks, io.BytesIO())
