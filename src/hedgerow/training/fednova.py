"""FedNova at the client: how much of a gradient went into the local model (Wang et al. 2020)."""

from __future__ import annotations

from hedgerow.errors import InvalidArgument
from hedgerow.records import Metrics
from hedgerow.strategy.fednova import NORM


class NormalisedSteps:
    """Counts local steps, and the L1 norm of the coefficients a with which their gradients add up.

    For plain SGD the norm is the number of steps. With heavy-ball momentum ρ (``v ← ρ v + g``, ``x ← x - η v``) the gradient of
    a step goes on working in later ones; with a proximal term μ a part ``η μ`` of the way is taken back in each step. The
    learning rate η is the same in all steps, and at all clients.

    Args:
        momentum: ρ, at least 0 and less than 1.
        proximal: ``η μ``, at least 0 and less than 1.

    Raises:
        InvalidArgument: A value is out of its range.

    ::

        steps = NormalisedSteps(momentum=0.9)
        for x, y in batches:
            ...
            optimizer.step()
            steps.count()
        return arrays, len(data), {"loss": loss, **steps.metrics()}

    >>> steps = NormalisedSteps(momentum=0.5)
    >>> steps.count(3)
    >>> steps.norm  # a = (1 + 1/2 + 1/4, 1 + 1/2, 1)
    4.25
    """

    def __init__(self, *, momentum: float = 0.0, proximal: float = 0.0) -> None:
        if not 0 <= momentum < 1 or not 0 <= proximal < 1:
            raise InvalidArgument(f"momentum is {momentum} and proximal {proximal}; both must be at least 0 and less than 1.")
        self.steps = 0
        self.norm = 0.0
        self._momentum = momentum
        self._proximal = proximal
        # The coefficient of a gradient of 1 in one step alone, and the velocity that it leaves, so many steps later.
        self._moved = 0.0
        self._velocity = 1.0

    def count(self, steps: int = 1) -> None:
        """So many steps were taken."""
        for _ in range(steps):
            # One step more: the coefficients of all gradients so far move on by one, and the oldest gets a new value.
            self._moved += self._velocity
            self._velocity = self._momentum * self._velocity - self._proximal * self._moved
            self.norm += abs(self._moved)
        self.steps += steps

    def metrics(self) -> Metrics:
        """What :class:`~hedgerow.strategy.FedNova` looks for among the metrics of ``fit``."""
        return {NORM: self.norm}
