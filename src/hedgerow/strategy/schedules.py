"""Numbers that change from round to round, and configs made of them.

::

    FedAvg(on_fit_config_fn=config(lr=cosine(0.1, 0.001, rounds=50), epochs=piecewise({1: 1, 20: 2}), batch_size=32))

A schedule is a function of the round, which counts from 1, and of nothing else; so a run that is taken up again goes on with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

from hedgerow.errors import InvalidArgument
from hedgerow.records import Config, Scalar

Schedule: TypeAlias = Callable[[int], Scalar]


def config(**entries: Scalar | Schedule) -> Callable[[int], Config]:
    """A config whose entries may be schedules, for ``on_fit_config_fn`` and ``on_evaluate_config_fn``.

    >>> config(lr=exponential(0.1, decay=0.5), epochs=2)(3)
    {'lr': 0.025, 'epochs': 2}
    """

    def made(server_round: int) -> Config:
        return {name: entry(server_round) if callable(entry) else entry for name, entry in entries.items()}

    return made


def piecewise(values: Mapping[int, Scalar]) -> Schedule:
    """From each round that is named on, its value.

    Args:
        values: Rounds and values; round 1 must be among them.

    Raises:
        InvalidArgument: Round 1 is missing.

    >>> [piecewise({1: 0.1, 3: 0.01})(server_round) for server_round in (1, 2, 3, 9)]
    [0.1, 0.1, 0.01, 0.01]
    """
    if 1 not in values:
        raise InvalidArgument(f"The rounds are {sorted(values)}; say what holds from round 1 on.")
    ordered = sorted(values.items())
    return lambda server_round: [value for start, value in ordered if start <= max(1, server_round)][-1]


def exponential(initial: float, *, decay: float, least: float = 0.0) -> Callable[[int], float]:
    """``initial decay^(r - 1)``, but not less than ``least``.

    Raises:
        InvalidArgument: The decay is not more than 0.

    >>> [exponential(0.8, decay=0.5, least=0.3)(server_round) for server_round in (1, 2, 3)]
    [0.8, 0.4, 0.3]
    """
    if not decay > 0:
        raise InvalidArgument(f"decay is {decay}; it must be more than 0.")
    return lambda server_round: max(least, initial * decay ** (max(1, server_round) - 1))


def cosine(initial: float, final: float, *, rounds: int) -> Callable[[int], float]:
    """Half a cosine from ``initial`` in round 1 to ``final`` in round ``rounds``, and ``final`` after it.

    Loshchilov and Hutter 2016, "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5, without restarts.

    Raises:
        InvalidArgument: There are fewer than two rounds.

    >>> [round(cosine(1.0, 0.0, rounds=5)(server_round), 3) for server_round in (1, 2, 3, 5, 8)]
    [1.0, 0.854, 0.5, 0.0, 0.0]
    """
    if rounds < 2:
        raise InvalidArgument(f"rounds is {rounds}; it takes two at least.")

    def value(server_round: int) -> float:
        way = min(max(server_round, 1), rounds) - 1
        return final + (initial - final) * (1 + math.cos(math.pi * way / (rounds - 1))) / 2

    return value
