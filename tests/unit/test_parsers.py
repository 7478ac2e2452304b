"""Parsers that need neither network nor database, on mutated input; ``make fuzz`` tries many more cases, and counts branches."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.parser import CASES_IN_CI, try_parser
from tests.fuzz.table import UNIT, parser


@pytest.mark.parametrize("name", UNIT)
def test_a_parser_survives_anything(name: str, tmp_path: Path) -> None:
    tally = try_parser(parser(name), tmp_path, CASES_IN_CI, first_seed=1)
    if tally.findings:
        raise tally.findings[0]
    assert tally.cases >= CASES_IN_CI
