"""The blob port over sockets, the gRPC handlers around a store, and folders, on mutated input; ``make fuzz`` tries more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.parser import CASES_IN_CI, try_parser
from tests.fuzz.table import INTEGRATION, parser


@pytest.mark.parametrize("name", INTEGRATION)
def test_a_parser_survives_anything(name: str, tmp_path: Path) -> None:
    tally = try_parser(parser(name), tmp_path, CASES_IN_CI, first_seed=1)
    if tally.findings:
        raise tally.findings[0]
    assert tally.cases >= CASES_IN_CI
