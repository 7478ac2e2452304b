"""The federation that is attacked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.attacks.federation import Federation, federation


@pytest.fixture
async def attacked(tmp_path: Path) -> AsyncIterator[Federation]:
    async with federation(tmp_path) as made:
        yield made
