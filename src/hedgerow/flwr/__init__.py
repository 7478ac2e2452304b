"""Flower 1.6's public names: ``import hedgerow.flwr as fl`` in place of ``import flwr as fl``.

Nothing is implemented here: each name is Hedgerow's own, found where a program that was written for Flower looks for it. Which are
the same, different or absent stands in ``docs/flower.md``.
"""

from hedgerow.flwr import client, common, driver, flower, server

__all__ = ["client", "common", "driver", "flower", "server"]
