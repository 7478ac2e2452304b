"""Parameters as arrays and as bytes."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.records import (
    NDArray,
    NDArrays,
    Parameters,
    bytes_to_ndarray,
    ndarray_to_bytes,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)

DTYPES = st.sampled_from([np.dtype(code) for code in ("?", "i1", "u1", ">i4", "i8", "u8", "f2", "f4", "f8", "c8")])
ARRAYS = DTYPES.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))


def same(one: NDArray, other: NDArray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(ARRAYS)
def test_an_array_is_the_same_after_it_was_bytes(array: NDArray) -> None:
    assert same(bytes_to_ndarray(ndarray_to_bytes(array)), array)


@given(st.lists(ARRAYS, max_size=3))
def test_parameters_are_the_same_after_they_were_tensors(arrays: NDArrays) -> None:
    parameters = Parameters(arrays)
    again = Parameters(tensors=parameters.tensors, tensor_type=parameters.tensor_type)
    assert list(again) == list(parameters)
    assert all(map(same, again.arrays(), arrays))


@given(st.lists(st.binary(max_size=20) | ARRAYS.map(ndarray_to_bytes), max_size=3))
def test_tensors_are_the_bytes_that_were_given(tensors: list[bytes]) -> None:
    given_as_bytes = Parameters(tensors=tensors, tensor_type="").tensors
    for one, other in zip(given_as_bytes, tensors, strict=True):
        # A vector of uint8 in npy format comes back as what it holds.
        assert other in (one, ndarray_to_bytes(np.frombuffer(one, np.uint8)))


@pytest.mark.parametrize("tail", [b"more", b""])
def test_what_only_begins_like_npy_is_kept_as_it_is(tail: bytes) -> None:
    odd = ndarray_to_bytes(np.ones(3)) + tail if tail else ndarray_to_bytes(np.ones(3))[:-1]
    assert Parameters([odd]).tensors == [odd]


def test_what_is_no_array_is_refused() -> None:
    whole = ndarray_to_bytes(np.ones(3))
    for wrong in (b"", b"{}", whole[:7], whole[:-1], whole + b"x"):
        with pytest.raises(CorruptData, match="npy format"):
            bytes_to_ndarray(wrong)
    with pytest.raises(CorruptData, match=r"[Pp]ickle|object"):
        bytes_to_ndarray(whole.replace(b"'<f8'", b"'|O'  "[:5]))
    for dtype in (object, ml_dtypes.bfloat16):
        with pytest.raises(InvalidArgument, match="no npy format"):
            ndarray_to_bytes(np.zeros(2, dtype))


def test_arrays_and_parameters_are_copied_between_one_another() -> None:
    array = np.zeros(3)
    array.flags.writeable = False
    parameters = ndarrays_to_parameters([array])
    assert not np.shares_memory(parameters["000000"], array)
    (copied,) = parameters_to_ndarrays(Parameters([array]))
    copied += 1
    assert not array.any()
    assert np.shares_memory(Parameters([array])["000000"], array)


def test_bfloat16_is_kept_by_copies() -> None:
    (copied,) = parameters_to_ndarrays(ndarrays_to_parameters([np.ones(2, ml_dtypes.bfloat16)]))
    assert copied.dtype == ml_dtypes.bfloat16


def test_empty_parameters_are_made_as_in_flower() -> None:
    empty = Parameters(tensors=[], tensor_type="")
    assert (len(empty), empty.tensors, parameters_to_ndarrays(empty)) == (0, [], [])
    assert len(copy.deepcopy(Parameters([np.ones(2)]))) == 1
