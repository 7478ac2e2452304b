"""Parameters in 16-bit floats: the bits of the conversion, and what a file of them gives back."""

from __future__ import annotations

import io
import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from hedgerow.errors import ConfigError, CorruptData, InvalidArgument
from hedgerow.records import NDArray, Parameters, parameters_to_ndarrays
from hedgerow.wire import narrow, tensors

torch.set_num_threads(1)

BOTH = pytest.mark.parametrize("name", ["bfloat16", "float16"])
TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16}
BFLOAT16, FLOAT16 = narrow.DTYPES["bfloat16"], narrow.DTYPES["float16"]


def every_rounding(bits: int) -> NDArray:
    """float32 with every sign, exponent and kept digit, and of the ``bits`` that are rounded off the ties and their neighbours.

    Among them zeros, subnormals, infinities and NaN.
    """
    half = 1 << (bits - 1)
    kept = np.arange(1 << (32 - bits), dtype=np.uint32) << bits
    return np.concatenate([kept | low for low in (0, 1, half - 1, half, half + 1, 2 * half - 1)]).view(np.float32)


def by_torch(values: NDArray, name: str) -> NDArray:
    return torch.from_numpy(values).to(TORCH[name]).view(torch.int16).numpy().view(np.uint16)


def narrowed(array: NDArray, name: str) -> NDArray:
    return np.concatenate([block.copy() for block in narrow.converted("w", array, narrow.DTYPES[name])])


@pytest.mark.parametrize(("name", "bits"), [("bfloat16", 16), ("float16", 13)])
def test_float32_is_rounded_as_pytorch_rounds_it_bit_by_bit(name: str, bits: int) -> None:
    values = every_rounding(bits)
    values = values[np.isnan(values) | np.isinf(values) | np.isfinite(torch.from_numpy(values).to(TORCH[name]).float().numpy())]
    assert np.isnan(values).any()
    assert np.isinf(values).any()
    found, numbers = narrowed(values, name), ~np.isnan(values)
    np.testing.assert_array_equal(found.view(np.uint16)[numbers], by_torch(values, name)[numbers])
    assert np.isnan(found[~numbers].astype(np.float32)).all()


def test_float64_goes_to_bfloat16_as_in_pytorch_and_to_float16_with_one_rounding() -> None:
    values = np.random.default_rng(1).standard_normal(200_000) * 10.0 ** np.random.default_rng(2).integers(-7, 4, 200_000)
    np.testing.assert_array_equal(narrowed(values, "bfloat16").view(np.uint16), by_torch(values, "bfloat16"))
    np.testing.assert_array_equal(narrowed(values, "float16"), values.astype(np.float16))


@BOTH
def test_what_is_finite_is_found_as_numpy_finds_it(name: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(narrow.DTYPES[name])
    with np.errstate(invalid="ignore"):  # signalling NaN
        expected = np.isfinite(every)
    assert [narrow.is_finite(every[i : i + 1]) for i in range(0, 1 << 16, 7)] == expected[::7].tolist()
    assert narrow.is_finite(every[expected])
    assert narrow.is_finite(every[:0])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (
            "float16",
            np.float32(70000.0),
            r"'w' does not fit into float16, whose largest number is 65504: element 200000 is 70000",
        ),
        ("float16", np.float32(-65520.0), "bfloat16 has the range of float32"),
        ("bfloat16", np.finfo(np.float32).max, r"'w' does not fit into bfloat16.*element 200000"),
        ("bfloat16", 1e39, "Let such a model travel as it is"),
    ],
)
def test_a_number_that_would_become_infinite_is_an_error_that_names_the_tensor(name: str, value: Any, told: str) -> None:
    array = np.zeros(300_000, np.asarray(value).dtype)
    array[200_000] = value
    with pytest.raises(InvalidArgument, match=told):
        tensors.dumps(Parameters({"w": array}), name)


@BOTH
def test_what_was_infinite_or_no_number_before_stays_so(name: str) -> None:
    array = np.array([np.inf, -np.inf, np.nan, 1.0], np.float32)
    np.testing.assert_array_equal(tensors.view(tensors.dumps(Parameters({"w": array}), name))["w"], array)


def model() -> Parameters:
    rng = np.random.default_rng(3)
    arrays: dict[str, NDArray] = {
        "w": rng.standard_normal((300, 700)).astype(np.float32),
        "n": np.arange(5),
        "mask": np.array([True, False]),
        "d": rng.standard_normal(3),
        "half": np.ones(2, np.float16),
        "brain": np.ones(2, ml_dtypes.bfloat16),
        "c": np.ones(2, np.complex64),
        "scalar": np.array(0.1, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "tree": np.frombuffer(b'{"learner": 1}', np.uint8),
    }
    return Parameters(arrays)


CAST = {"w", "d", "scalar", "empty"}


@BOTH
def test_a_file_of_narrow_parameters_gives_the_own_dtypes_back(name: str) -> None:
    sent = model()
    data = tensors.dumps(sent, name)
    assert len(data) == tensors.nbytes(sent, name) < tensors.nbytes(sent) * 0.52
    assert len(tensors.header(sent, name)) % tensors.ALIGNMENT == 0
    found = tensors.view(data)
    assert isinstance(found, narrow.NarrowParameters)
    assert found.transport_dtype == name
    assert found.layout == sent.layout
    assert found.nbytes == sent.nbytes
    for key, array in sent.items():
        expected = array.astype(narrow.DTYPES[name]).astype(array.dtype) if key in CAST else array
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], expected)
        assert not found[key].flags.writeable
        assert found.stored(key).dtype == (narrow.DTYPES[name] if key in CAST else array.dtype)
    assert [array.dtype for array in found.arrays()] == [array.dtype for array in sent.arrays()]
    assert [array.dtype for array in parameters_to_ndarrays(found)] == [array.dtype for array in sent.arrays()]


@BOTH
@pytest.mark.parametrize(
    "array",
    [
        np.linspace(-3, 3, 2 * narrow.BLOCK, dtype=">f4"),
        np.linspace(-3, 3, 2 * narrow.BLOCK, dtype=">f8"),
        np.linspace(-3, 3, 4 * narrow.BLOCK, dtype=np.float32)[::2],
        np.linspace(-3, 3, 2 * narrow.BLOCK, dtype=np.float32).reshape(2, -1).T,
        np.linspace(-3, 3, 2 * narrow.BLOCK, dtype=np.float32).reshape(2, -1).view(np.matrix),
        np.frombuffer(bytes(1) + np.linspace(-3, 3, 9, dtype=np.float32).tobytes(), np.uint8)[1:].view(np.float32),
    ],
    ids=["big-endian", "big-endian float64", "strided", "transposed", "matrix", "unaligned"],
)
def test_arrays_of_any_kind_are_written_as_their_plain_copies(array: NDArray, name: str) -> None:
    plain = np.array(array, array.dtype.newbyteorder("="), order="C", subok=False)
    assert tensors.dumps(Parameters({"w": array}), name) == tensors.dumps(Parameters({"w": plain}), name)


@BOTH
def test_writing_in_pieces_writing_again_and_writing_as_it_was(name: str) -> None:
    sent, file = model(), io.BytesIO()
    data = tensors.dumps(sent, name)
    assert tensors.write(sent, file, name) == len(data)
    assert file.getvalue() == data
    found = tensors.view(data)
    assert tensors.dumps(found, name) == data, "what has travelled is not rounded again"
    wide = tensors.view(tensors.dumps(found))
    assert not isinstance(wide, narrow.NarrowParameters)
    for key in sent:
        np.testing.assert_array_equal(wide[key], found[key])
        assert wide[key].dtype == sent[key].dtype


def test_selected_tensors_stay_as_they_lie() -> None:
    found = tensors.view(tensors.dumps(model(), "bfloat16"))
    some = found.select(["d", "n"])
    assert isinstance(some, narrow.NarrowParameters)
    assert list(some) == ["d", "n"]
    assert some.stored("d") is found.stored("d")
    none = found.select(["n", "tree"])
    assert not isinstance(none, narrow.NarrowParameters)
    assert list(model().select(["n"])) == ["n"]


@BOTH
def test_parameters_without_such_floats_are_the_same_bytes(name: str) -> None:
    sent = model().select(["tree", "n", "half", "brain", "mask", "c"])
    assert tensors.dumps(sent, name) == tensors.dumps(sent)
    assert not isinstance(tensors.view(tensors.dumps(sent, name)), narrow.NarrowParameters)


@BOTH
def test_any_safetensors_tool_reads_the_file(name: str) -> None:
    sent = model()
    found = safetensors.torch.load(tensors.dumps(sent, name))
    assert found["w"].dtype == TORCH[name]
    assert torch.equal(found["w"], torch.from_numpy(sent["w"]).to(TORCH[name]))


@pytest.mark.parametrize("own", ["F32", "F32 F32 -", "F32 F16", "F32  -", "", "- -", "F32 F32", "- F32", "bfloat16 -", "F32 - "])
def test_metadata_that_cannot_be_are_refused(own: str) -> None:
    entries = {
        "__metadata__": {"hedgerow.own_dtypes": own},
        "w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
        "n": {"dtype": "I16", "shape": [1], "data_offsets": [2, 4]},
    }
    text = json.dumps(entries).encode()
    with pytest.raises(CorruptData, match="own_dtypes"):
        tensors.view(len(text).to_bytes(8, "little") + text + bytes(4))


def test_two_different_16_bit_floats_in_one_file_are_refused() -> None:
    entries = {
        "__metadata__": {"hedgerow.own_dtypes": "F32 F32"},
        "w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
        "v": {"dtype": "F16", "shape": [1], "data_offsets": [2, 4]},
    }
    text = json.dumps(entries).encode()
    with pytest.raises(CorruptData, match=r"bfloat16.*float16"):
        tensors.view(len(text).to_bytes(8, "little") + text + bytes(4))


def test_what_transport_dtype_may_be() -> None:
    assert [narrow.check_transport_dtype(value) for value in (None, "bfloat16", "float16")] == ["", "bfloat16", "float16"]
    for wrong in ("", "float32", "int8", "fp16", 16, torch.bfloat16, True):
        with pytest.raises(ConfigError, match=r"give 'bfloat16', 'float16', or None for the model's own dtypes"):
            narrow.check_transport_dtype(wrong)
    with pytest.raises(InvalidArgument, match="only as bfloat16 or float16"):
        tensors.dumps(model(), "int8")
