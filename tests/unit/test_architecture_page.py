"""ARCHITECTURE.md names files; a newcomer must find them."""

from __future__ import annotations

import re

from tests.source_tree import ROOT


def test_every_file_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`([\w/*.]+\.(?:py|proto))`", (ROOT / "ARCHITECTURE.md").read_text()))
    assert len(named) > 15, "the page must name files"
    missing = [name for name in sorted(named) if not [*ROOT.glob(name), *(ROOT / "src" / "hedgerow").glob(name)]]
    assert not missing, missing
