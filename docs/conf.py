"""How Sphinx builds the documentation: `make docs`. It needs no network."""

from __future__ import annotations

import posixpath
import re
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sphinx.application import Sphinx

project = "Hedgerow"
author = "The Hedgerow developers"
project_copyright = author
version = release = installed_version("hedgerow")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Hedgerow {version}"
html_copy_source = False
html_show_sphinx = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# The pages that hold a file of the repository, and what a link to another file of it becomes.
PAGES = {
    "README.md": "tutorial.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/flower.md": "flower.md",
    "docs/operations.md": "operations.md",
    "examples/hospitals/README.md": "hospitals.md",
    "examples/heart_disease/README.md": "heart_disease.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def adapt_included(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    """Fit a file of the repository into its page: the page has a title of its own, and links lead to pages."""
    del app, parent
    folder = re.search(r"(examples/\w+|benchmarks/results)/", str(path))

    def link(match: re.Match[str]) -> str:
        picture, text, target, anchor = match.groups()
        target = posixpath.normpath((folder[0] if folder else "") + target)
        if picture:
            return f"![{text}](../{target})"
        return f"[{text}]({PAGES[target]}{anchor or ''})" if target in PAGES else text

    content[0] = LINK.sub(link, re.sub(r"\A# .*\n", "", content[0]))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("include-read", adapt_included)
