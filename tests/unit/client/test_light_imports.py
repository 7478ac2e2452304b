"""A worker must start fast, and the link must not carry what only the server needs."""

from __future__ import annotations

import subprocess
import sys

import pytest


def imported(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("hedgerow", {"grpc", "sqlalchemy", "aiohttp", "torch", "sklearn", "xgboost"}),
        ("hedgerow.frameworks", {"torch", "sklearn", "xgboost"}),
        ("hedgerow.client.worker", {"grpc", "sqlalchemy", "aiohttp", "torch", "blake3"}),
        ("hedgerow.client", {"grpc", "sqlalchemy", "aiohttp", "torch", "blake3"}),
        ("hedgerow.flwr.client, hedgerow.flwr.common", {"grpc", "sqlalchemy", "aiohttp", "torch", "blake3"}),
        ("hedgerow.client.launch", {"sqlalchemy", "aiohttp", "torch", "prometheus_client"}),
    ],
)
def test_importing_loads_nothing_heavy(module: str, unwanted: set[str]) -> None:
    assert not imported(module) & unwanted
