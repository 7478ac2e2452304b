"""For PyTorch: what is added to a module's gradients between ``loss.backward()`` and ``optimizer.step()``.

Tensors are made by the module's own parameters (``new_tensor``), on their device and in their dtype, so that nothing here imports
PyTorch. Arrays are known by their positions in the module's state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray


class Module(Protocol):
    """What is used of a ``torch.nn.Module``."""

    @property
    def state_dict(self) -> Callable[..., Mapping[str, Any]]:
        """The tensors that travel, in their order."""

    @property
    def named_parameters(self) -> Callable[..., Iterable[tuple[str, Any]]]:
        """Those of them that an optimiser moves."""


def trainable_positions(model: Module) -> list[int]:
    """The positions, in the module's state dict, of the tensors that gradients move."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return [position for position, name in enumerate(model.state_dict()) if name in names]


class GradientCorrection:
    """Adds the same arrays to a module's gradients whenever it is called: SCAFFOLD's ``c - c_i``.

    ::

        variates = ControlVariates(parameters, config, self.context.state)
        load_parameters(model, variates.model)
        correct = GradientCorrection(model, variates.corrections)
        for x, y in batches:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            correct()
            optimizer.step()
        trained = parameters_of(model).arrays()
        positions = trainable_positions(model)
        return variates.finish(trained, steps=len(batches), learning_rate=lr, trainable=positions), len(data), {}

    Args:
        model: A ``torch.nn.Module``.
        corrections: One for each tensor of its state dict, in that order.

    Raises:
        InvalidArgument: Their number is another.
    """

    def __init__(self, model: Module, corrections: Sequence[NDArray | float]) -> None:
        names = list(model.state_dict())
        if len(names) != len(corrections):
            raise InvalidArgument(f"There are {len(corrections)} corrections for the {len(names)} tensors of the module.")
        by_name = dict(zip(names, corrections, strict=True))
        self._pairs = [(p, _like(p, by_name[name])) for name, p in model.named_parameters() if p.requires_grad]

    def __call__(self) -> None:
        """Correct the gradients that ``backward()`` has left; a parameter without one gets the correction alone."""
        for parameter, correction in self._pairs:
            _add(parameter, correction)


class ProximalTerm:
    """Adds FedProx's ``μ (w - w^t)`` to a module's gradients whenever it is called.

    ::

        hold = ProximalTerm(model, config["proximal_mu"])  # after the parameters were loaded: they are w^t
        for x, y in batches:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            hold()
            optimizer.step()

    Args:
        model: A ``torch.nn.Module`` with the parameters w^t.
        mu: μ.
    """

    def __init__(self, model: Module, mu: float) -> None:
        self._mu = mu
        self._pairs = [(p, p.detach().clone()) for _, p in model.named_parameters() if p.requires_grad]

    def __call__(self) -> None:
        """Add the term to the gradients that ``backward()`` has left."""
        for parameter, start in self._pairs:
            _add(parameter, (parameter.detach() - start) * self._mu)


def _add(parameter: Any, addition: Any) -> None:
    if parameter.grad is None:
        parameter.grad = addition.clone()
    else:
        parameter.grad.add_(addition)


def _like(parameter: Any, value: NDArray | float) -> Any:
    """A tensor beside the parameter: same device, dtype and shape."""
    return parameter.detach().new_tensor(np.broadcast_to(np.asarray(value), tuple(parameter.shape)).copy())
