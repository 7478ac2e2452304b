"""The page on strategies: every strategy has a row, and every row is true."""

from __future__ import annotations

import re

import pytest

from tests.source_tree import ROOT
from tests.unit.strategy.test_conformance import NAMES, make

PAGE = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("`"): cells
    for line in PAGE.splitlines()
    if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 6 and cells[0].startswith("`")
}


def test_every_strategy_has_a_row() -> None:
    assert set(ROWS) == set(NAMES)


@pytest.mark.parametrize("name", ROWS)
def test_row_names_the_strategys_state_and_its_tests(name: str) -> None:
    _, paper, state, memory, fold, tested = ROWS[name]
    assert re.search(r"(19|20)\d\d", paper)
    assert memory
    assert fold
    strategy = make(name)
    assert re.findall(r"`(\w+)`", state) == list(strategy.state_dict())
    files = re.findall(r"`(tests/[\w/]+\.py)`", tested)
    assert files
    assert [path for path in files if not (ROOT / path).exists()] == []
    assert any(
        re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8"))
        for path in [*files, "tests/unit/strategy/test_fedavg.py"]
    )
