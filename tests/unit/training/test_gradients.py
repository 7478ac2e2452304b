"""Gradients of PyTorch modules: corrections and the proximal term, against optimisers that step by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow.aggregation import control
from hedgerow.errors import InvalidArgument
from hedgerow.records import Parameters
from hedgerow.training import ControlVariates, GradientCorrection, ProximalTerm, proximal_loss, trainable_positions


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)
        self.last = nn.Linear(3, 2)
        self.unused = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.frozen(self.norm(x)))


def arrays(model: nn.Module) -> list[Any]:
    return [tensor.detach().clone().float().numpy() for tensor in model.state_dict().values()]


def test_positions_are_those_of_what_gradients_move() -> None:
    names = list(Net().state_dict())
    assert [names[p] for p in trainable_positions(Net())] == [
        "norm.weight",
        "norm.bias",
        "last.weight",
        "last.bias",
        "unused.weight",
        "unused.bias",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_corrections_are_added_to_the_gradients(dtype: torch.dtype) -> None:
    model = Net().to(dtype)
    corrections: list[Any] = [np.full(t.shape, float(i), np.float32) for i, t in enumerate(model.state_dict().values())]
    correct = GradientCorrection(model, corrections)
    model(torch.randn(5, 3, dtype=dtype)).square().sum().backward()
    before = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    correct()
    for position, name in enumerate(model.state_dict()):
        parameter = dict(model.named_parameters()).get(name)
        if parameter is None or not parameter.requires_grad:
            continue
        old = before[name]
        assert parameter.grad is not None
        assert parameter.grad.dtype == dtype
        expected = torch.full_like(parameter, position) + (0 if old is None else old)
        torch.testing.assert_close(parameter.grad, expected)
    assert model.frozen.weight.grad is None


def test_number_that_stands_for_no_correction_is_taken() -> None:
    model = nn.Linear(2, 1)
    GradientCorrection(model, [0.0, np.ones(1)])()
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[0.0, 0.0]]


def test_wrong_number_of_corrections_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="1 corrections for the 2 tensors"):
        GradientCorrection(nn.Linear(2, 1), [np.zeros((1, 2))])


def test_proximal_term_is_the_gradient_of_its_loss() -> None:
    model, twin = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    twin.load_state_dict(model.state_dict())
    start = [p.detach().clone() for p in twin.parameters()]
    hold = ProximalTerm(model, 0.7)
    x = torch.randn(5, 3).double()
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (model, twin)]
    for _ in range(4):
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(x).square().mean().backward()
        hold()
        term = sum(((p - s) ** 2).sum() for p, s in zip(twin.parameters(), start, strict=True))
        (twin(x).square().mean() + 0.7 / 2 * term).backward()
        for optimizer in optimizers:
            optimizer.step()
    for found, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
    assert proximal_loss(arrays(model), [s.numpy() for s in start], 0.7) > 0


def test_training_with_pytorch_is_training_with_numpy() -> None:
    model = nn.Linear(3, 1).double()
    sent = Parameters({name: tensor.numpy().copy() for name, tensor in model.state_dict().items()})
    c = Parameters({name: np.full(array.shape, 0.3) for name, array in sent.items()})
    settings: Any = {"scaffold_tensors": 2, "scaffold_round": 1, "scaffold_folded": 0}
    x, y = torch.randn(8, 3).double(), torch.randn(8, 1).double()

    by_torch = ControlVariates(control.attach(sent, c), settings, {})
    correct = GradientCorrection(model, by_torch.corrections)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        correct()
        optimizer.step()
    trained = [tensor.numpy() for tensor in model.state_dict().values()]
    found = by_torch.finish(trained, steps=5, learning_rate=0.1, trainable=trainable_positions(model))

    by_numpy = ControlVariates(control.attach(sent, c), settings, {})
    w, b = (array.copy() for array in by_numpy.model)
    for _ in range(5):
        error = 2 / 8 * (x.numpy() @ w.T + b - y.numpy())
        w, b = w - 0.1 * (error.T @ x.numpy() + by_numpy.corrections[0]), b - 0.1 * (error.sum(0) + by_numpy.corrections[1])
    for one, other in zip(found, by_numpy.finish([w, b], steps=5, learning_rate=0.1), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
