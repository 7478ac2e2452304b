from __future__ import annotations

import io
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.aggregation import weighted_mean
from hedgerow.errors import InvalidArgument
from hedgerow.frameworks.torch import load_parameters, parameters_of, state_dict_of
from hedgerow.records import NDArray, Parameters
from hedgerow.wire import tensors

# PyTorch's dtype, the array's, and how many bytes an element has.
DTYPES: list[tuple[torch.dtype, Any]] = [
    (torch.bool, np.bool_),
    (torch.uint8, np.uint8),
    (torch.int8, np.int8),
    (torch.int16, np.int16),
    (torch.uint16, np.uint16),
    (torch.int32, np.int32),
    (torch.int64, np.int64),
    (torch.float16, np.float16),
    (torch.bfloat16, ml_dtypes.bfloat16),
    (torch.float32, np.float32),
    (torch.float64, np.float64),
    (torch.complex64, np.complex64),
    (torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
    (torch.float8_e5m2, ml_dtypes.float8_e5m2),
]


class Sample(torch.nn.Module):
    """A little of everything that a state dict may hold."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.transposed = torch.nn.Parameter(torch.randn(3, 4, generator=generator).t())
        self.brain = torch.nn.Parameter(torch.randn(2, 3, generator=generator).to(torch.bfloat16))
        self.scale = torch.nn.Parameter(torch.randn((), generator=generator).to(torch.bfloat16))
        self.norm = torch.nn.BatchNorm1d(3)
        self.norm.num_batches_tracked = torch.tensor(seed)
        self.register_buffer("empty", torch.zeros(0, 3))


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal shapes, dtypes and bits; NaN is equal to itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    left, right = (bytes(tensor.clone(memory_format=torch.contiguous_format).untyped_storage()) for tensor in (one, other))
    return left == right


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Any bits of any dtype; contiguous, transposed, strided, expanded."""
    state = {}
    for name in draw(st.lists(st.text("abc.", min_size=1), max_size=4, unique=True)):
        dtype, numpy_dtype = draw(st.sampled_from(DTYPES))
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        count = int(np.prod(shape)) * np.dtype(numpy_dtype).itemsize
        raw = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8).copy()
        flat = torch.from_numpy(raw & 1 if dtype is torch.bool else raw)
        tensor = (flat.view(dtype) if flat.numel() else torch.empty(0, dtype=dtype)).reshape(shape)
        match draw(st.integers(0, 3)):
            case 1 if tensor.ndim > 1:
                tensor = tensor.transpose(0, -1)
            case 2 if tensor.ndim:
                tensor = torch.stack([tensor, tensor], dim=-1)[..., 0]
            case 3:
                tensor = tensor.expand(2, *tensor.shape)
        state[name] = tensor
    return state


@given(state_dicts())
def test_a_state_dict_comes_back_with_its_bits_after_the_wire(state: dict[str, torch.Tensor]) -> None:
    parameters = parameters_of(state)
    file = io.BytesIO()
    tensors.write(parameters, file)
    back = state_dict_of(tensors.view(file.getvalue()))
    assert list(back) == list(state)
    assert [name for name in state if not same_bits(back[name], state[name])] == []


@pytest.mark.parametrize(("dtype", "expected"), DTYPES)
def test_a_dtype_stays_what_it_is(dtype: torch.dtype, expected: Any) -> None:
    assert parameters_of({"x": torch.zeros(3).to(dtype)})["x"].dtype == np.dtype(expected)
    assert state_dict_of(Parameters({"x": np.zeros(3, expected)}))["x"].dtype == dtype


@pytest.mark.parametrize("value", [1.0, -2.5, 3.140625, float("inf"), float("nan"), 1e-40])
def test_bfloat16_is_read_as_the_numbers_that_it_holds(value: float) -> None:
    array = parameters_of({"x": torch.tensor([value], dtype=torch.bfloat16)})["x"]
    np.testing.assert_array_equal(array.astype(np.float32), torch.tensor([value]).to(torch.bfloat16).float().numpy())


def test_parameters_are_the_callers_own() -> None:
    model = torch.nn.Linear(2, 1)
    before = parameters_of(model)
    weight = before["weight"].copy()
    with torch.no_grad():
        model.weight.add_(1.0)
    np.testing.assert_array_equal(before["weight"], weight)
    before["weight"][:] = 7.0
    assert not torch.any(model.weight == 7.0)


@pytest.mark.parametrize("as_list", [False, True])
def test_a_model_takes_over_what_another_one_has(as_list: bool) -> None:
    model, other = Sample(1), Sample(2)
    parameters = parameters_of(other)
    load_parameters(model, parameters.arrays() if as_list else parameters)
    for name, value in other.state_dict().items():
        assert same_bits(model.state_dict()[name], value), name
    assert model.norm.num_batches_tracked == 2


def test_names_decide_and_not_the_order() -> None:
    model, other = Sample(1), Sample(2)
    parameters = parameters_of(other)
    load_parameters(model, Parameters({name: parameters[name] for name in reversed(list(parameters))}))
    assert same_bits(model.transposed, other.transposed)


def test_read_only_arrays_are_loaded_and_left_alone() -> None:
    model, array = torch.nn.Linear(2, 1, bias=False), np.ones((1, 2), np.float32)
    array.setflags(write=False)
    load_parameters(model, [array])
    with torch.no_grad():
        model.weight.add_(1.0)
    np.testing.assert_array_equal(array, np.ones((1, 2)))


def test_arrays_of_another_width_and_byte_order_are_converted() -> None:
    model = torch.nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    load_parameters(model, [np.array([[1.5, -2.0]], ">f8")])
    assert model.weight.dtype is torch.bfloat16
    assert model.weight.tolist() == [[1.5, -2.0]]


def test_a_mean_of_models_is_a_model() -> None:
    models = [Sample(seed) for seed in (2, 4)]
    result = Sample(9)
    load_parameters(result, weighted_mean((parameters_of(model), 1) for model in models))
    assert result.norm.num_batches_tracked == 3
    assert torch.allclose(result.transposed, (models[0].transposed + models[1].transposed) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {name: p[name] for name in list(p)[1:]}, "Missing: 'weight'; not known to the model: none"),
        (lambda p: {"more": np.zeros(1), **p}, "Missing: none; not known to the model: 'more'"),
        (lambda p: {f"{i:06d}": a for i, a in enumerate(p.arrays())}, r"in their order as a list: parameters\.arrays\(\)"),
        (lambda p: {**p, "bias": np.zeros((2, 1), np.float32)}, r"'bias' has the shape \(2, 1\), in the model \(1,\)"),
        (lambda p: {**p, "bias": np.zeros(1, "m8[s]")}, "no tensors of the dtype timedelta64.* 'bias'"),
    ],
)
def test_parameters_of_another_model_change_nothing(change: Any, message: str) -> None:
    model = torch.nn.Linear(2, 1)
    before = parameters_of(model)
    with pytest.raises(InvalidArgument, match=message):
        load_parameters(model, Parameters(change(parameters_of(torch.nn.Linear(2, 1)))))
    for name, array in parameters_of(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_list_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="There are 1 arrays for the 2 tensors of the model"):
        load_parameters(torch.nn.Linear(2, 1), [np.zeros((1, 2), np.float32)])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "'x' of the state dict is a int"),
        (torch.eye(2).to_sparse(), r"'x' \(torch.float32, torch.sparse_coo\) cannot be read"),
        (torch.empty(2, device="meta"), "'x' .* cannot be read as an array"),
    ],
)
def test_what_is_no_dense_tensor_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parameters_of({"x": value})


def test_tied_weights_stay_tied() -> None:
    first, second = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    arrays: list[NDArray] = [np.eye(2, dtype=np.float32)] * 2
    load_parameters(torch.nn.Sequential(first, second), arrays)
    assert second.weight is first.weight
    assert first.weight.tolist() == [[1.0, 0.0], [0.0, 1.0]]
