"""The server's optimisers: one step from the parameters that were sent, by way of the clients' mean.

``x`` is what was sent, ``mean`` what came back, ``Δ = mean - x``. A rule says what becomes of ``x`` and of the optimiser's own
tensors (velocity, moments). Owned here: the rules and the walk over the tensors, block by block. Arithmetic is done in float64
and each tensor rounded once. Nothing is changed in place, so that a step whose round turns out not to count is forgotten by
dropping it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hedgerow.aggregation import blocks
from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters

BLOCK = 32_768
"""Elements a block: a rule holds up to eight blocks of float64, 2 MiB."""


class Rule(Protocol):
    """An optimiser's arithmetic."""

    def start(self) -> dict[str, float]:
        """The names of the optimiser's tensors, and what fills them before the first step."""

    def step(self, x: NDArray, mean: NDArray, state: Sequence[NDArray]) -> None:
        """Replace, in place, ``x`` by the new parameters and ``state`` by the new state; all are flat float64 of one size."""


@dataclass(frozen=True, slots=True)
class Momentum:
    """``v ← β v + (x - mean)``, ``x ← x - lr v`` (Hsu, Qi and Brown 2019). With lr = 1 and β = 0 the new ``x`` is the mean."""

    lr: float
    beta: float

    def start(self) -> dict[str, float]:
        """The velocity v is zero."""
        return {"velocity": 0.0}

    def step(self, x: NDArray, mean: NDArray, state: Sequence[NDArray]) -> None:
        """One step."""
        (velocity,) = state
        np.multiply(velocity, self.beta, out=velocity)
        pushed = velocity * self.lr
        np.add(velocity, x - mean, out=velocity)
        # (1 - lr) x + lr mean - lr β v, and not x - lr (x - mean): the mean must come out with all its digits when lr is 1.
        np.multiply(x, 1.0 - self.lr, out=x)
        np.add(x, mean * self.lr, out=x)
        np.subtract(x, pushed, out=x)


@dataclass(frozen=True, slots=True)
class Part:
    """``x ← x + part (mean - x)``: a part of the way, without any state."""

    part: float

    def start(self) -> dict[str, float]:
        """There is no state."""
        return {}

    def step(self, x: NDArray, mean: NDArray, state: Sequence[NDArray]) -> None:
        """One step."""
        np.multiply(x, 1.0 - self.part, out=x)
        np.add(x, mean * self.part, out=x)


@dataclass(frozen=True, slots=True)
class Descent:
    """``m ← β₁ m + (1 - β₁) Δ``, ``x ← x + η m``: the plain server step of Reddi et al. 2020."""

    eta: float
    beta_1: float

    def start(self) -> dict[str, float]:
        """The moment m is zero."""
        return {"m": 0.0}

    def step(self, x: NDArray, mean: NDArray, state: Sequence[NDArray]) -> None:
        """One step."""
        (m,) = state
        _average(m, self.beta_1, mean - x)
        np.add(x, m * self.eta, out=x)


@dataclass(frozen=True, slots=True)
class Adaptive:
    """``m ← β₁ m + (1 - β₁) Δ``, ``x ← x + η m / (√v + τ)``; a subclass says what v becomes.

    Reddi et al. 2020, algorithm 2. As there, v is τ² before the first step, and there is no bias correction.
    """

    eta: float
    beta_1: float
    beta_2: float
    tau: float

    def start(self) -> dict[str, float]:
        """The first moment m is zero, the second moment v is τ²."""
        return {"m": 0.0, "v": self.tau**2}

    def step(self, x: NDArray, mean: NDArray, state: Sequence[NDArray]) -> None:
        """One step."""
        m, v = state
        delta = mean - x
        _average(m, self.beta_1, delta)
        self.scale(v, np.square(delta, out=delta))
        divisor = np.sqrt(v)
        np.add(divisor, self.tau, out=divisor)
        np.add(x, self.eta * m / divisor, out=x)

    def scale(self, v: NDArray, square: NDArray) -> None:
        """Replace v, in place, by the new one."""
        raise NotImplementedError


class Adagrad(Adaptive):
    """``v ← v + Δ²``. β₂ is not used."""

    def scale(self, v: NDArray, square: NDArray) -> None:
        """Replace v."""
        np.add(v, square, out=v)


class Adam(Adaptive):
    """``v ← β₂ v + (1 - β₂) Δ²``."""

    def scale(self, v: NDArray, square: NDArray) -> None:
        """Replace v."""
        _average(v, self.beta_2, square)


class Yogi(Adaptive):
    """``v ← v - (1 - β₂) Δ² sign(v - Δ²)``."""

    def scale(self, v: NDArray, square: NDArray) -> None:
        """Replace v."""
        np.subtract(v, (1.0 - self.beta_2) * square * np.sign(v - square), out=v)


@dataclass(frozen=True, slots=True)
class ServerStep:
    """New parameters, and the optimiser's tensors that belong to them, by name."""

    parameters: Parameters
    state: dict[str, Parameters]


def server_step(rule: Rule, x: Parameters, mean: Parameters, state: Mapping[str, Parameters] | None) -> ServerStep:
    """One step of an optimiser from ``x``.

    Args:
        rule: The optimiser.
        x: The parameters that were sent out. Tensors of integers and bools do not move: they become the mean's, rounded.
        mean: The clients' mean, of the same names and shapes, of any dtypes.
        state: What the last step gave; None before the first one.

    Returns:
        Parameters of ``x``'s dtypes; state tensors of float32 for tensors of up to 32 bits, else as wide as the tensor.

    Raises:
        InvalidArgument: Names or shapes differ, or the state is not this rule's.

    >>> step = server_step(Momentum(lr=1.0, beta=0.5), Parameters([np.array([1.0])]), Parameters([np.array([3.0])]), None)
    >>> step.parameters.arrays(), step.state["velocity"].arrays()
    ([array([3.])], [array([-2.])])
    """
    blocks.check_like(mean, blocks.shapes_of(x), "the parameters that were sent have")
    start = rule.start()
    moving = {name: array for name, array in x.items() if blocks.moves(array)}
    if state is not None:
        if list(state) != list(start):
            raise InvalidArgument(f"The optimiser's state holds {list(state)}, not {list(start)}.")
        for tensors in state.values():
            blocks.check_like(tensors, blocks.shapes_of(Parameters(moving)), "the parameters that move have")
    parameters: dict[str, NDArray] = {}
    new: dict[str, dict[str, NDArray]] = {key: {} for key in start}
    for name, array in x.items():
        if name not in moving:
            parameters |= blocks.cast(Parameters({name: mean[name]}), {name: array.dtype})
            continue
        parameters[name] = np.empty(array.shape, array.dtype)
        for tensors_out in new.values():
            tensors_out[name] = np.empty(array.shape, _state_dtype(array))
        olds = [tensors[name] for tensors in state.values()] if state is not None else list(start.values())
        _walk(rule, (array, mean[name], *olds), (parameters[name], *(tensors_out[name] for tensors_out in new.values())))
    return ServerStep(Parameters(parameters), {key: Parameters(tensors) for key, tensors in new.items()})


def _walk(rule: Rule, sources: Sequence[NDArray | float], targets: Sequence[NDArray]) -> None:
    """Step through one tensor. Sources are x, the mean and the state (a number fills); targets the new x and the new state."""
    flat_sources = [blocks.reals(s) if isinstance(s, np.ndarray) else s for s in sources]
    flat_targets = [blocks.reals(target) for target in targets]
    total = flat_targets[0].size
    buffers = [np.empty(min(BLOCK, total)) for _ in sources]
    for begin in range(0, total, BLOCK):
        part = slice(begin, begin + BLOCK)
        size = min(BLOCK, total - begin)
        x, mean, *state = (
            blocks.load(source[part] if isinstance(source, np.ndarray) else np.full(size, source), buffer)
            for source, buffer in zip(flat_sources, buffers, strict=True)
        )
        rule.step(x, mean, state)
        for values, target in zip((x, *state), flat_targets, strict=True):
            blocks.store(values, target[part])


def _average(moment: NDArray, beta: float, values: NDArray) -> None:
    """``moment ← β moment + (1 - β) values``, in place."""
    np.multiply(moment, beta, out=moment)
    np.add(moment, (1.0 - beta) * values, out=moment)


def _state_dtype(array: NDArray) -> np.dtype[Any]:
    return np.dtype(np.float32) if array.dtype.kind == "V" or array.dtype.itemsize < 4 else array.dtype
