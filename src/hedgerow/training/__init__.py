"""What a client's ``fit`` does for FedProx, SCAFFOLD and FedNova: small pieces for plain training loops.

The arithmetic is numpy's and knows arrays by their positions, as :class:`~hedgerow.client.NumPyClient` does. For PyTorch,
:class:`ProximalTerm` and :class:`GradientCorrection` change a module's gradients between ``backward()`` and ``step()``; PyTorch
itself is never imported here.
"""

from hedgerow.training.fednova import NormalisedSteps
from hedgerow.training.gradients import GradientCorrection, ProximalTerm, trainable_positions
from hedgerow.training.proximal import proximal_gradient, proximal_loss
from hedgerow.training.scaffold import ControlVariates

__all__ = [
    "ControlVariates",
    "GradientCorrection",
    "NormalisedSteps",
    "ProximalTerm",
    "proximal_gradient",
    "proximal_loss",
    "trainable_positions",
]
