"""The page about limits says what the code does."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from hedgerow.server.options import ServerOptions
from hedgerow.waits import Limit
from tests.source_tree import ROOT

PAGE = ROOT / "docs" / "security_testing.md"
UNITS = {"": 1, "s": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def rows() -> Iterator[list[str]]:
    for line in PAGE.read_text().split("## Limits")[1].splitlines():
        if line.startswith("| ") and not line.startswith(("| limit |", "| ---")):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def actual(name: str) -> float:
    owner, _, field = name.rpartition(".")
    if owner == "ServerOptions":
        return float(getattr(ServerOptions(insecure=True), field))
    value: Any = getattr(importlib.import_module(f"hedgerow.{owner}"), field)
    seconds: Any = value.seconds if isinstance(value, Limit) else value
    return float(seconds)


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row[0])
def test_limit_is_what_the_page_says_and_has_a_test(row: list[str]) -> None:
    _, default, name, beyond, tested = row
    assert beyond
    path = tested.strip("`")
    assert any((ROOT / "tests" / tier / path).is_file() for tier in ("integration", "."))
    if name:
        number = re.fullmatch(r"([\d,]+) ?(\w*)", default)
        assert number, default
        assert actual(name.strip("`")) == float(number[1].replace(",", "")) * UNITS[number[2]]


def test_every_limit_that_an_operator_can_set_is_on_the_page() -> None:
    told = {row[2].strip("`").removeprefix("ServerOptions.") for row in rows()}
    assert {name for name in ServerOptions.__dataclass_fields__ if name.startswith(("max_", "inline_"))} - told == {"max_task_s"}
