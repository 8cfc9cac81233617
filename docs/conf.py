"""Sphinx configuration; the command line's and the specs' pages are made here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from refresh_reference import write_reference  # noqa: E402

from hwsim.version import __version__  # noqa: E402

project = "hwsim"
author = "the hwsim authors"
copyright = author  # noqa: A001
release = version = __version__
extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon",
]  # fmt: skip
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Files beside the docs are linked as they are; attributes share names.
suppress_warnings = ["myst.xref_missing", "ref.python"]
nitpicky = True
# Types in docstrings are words ("dict of str to float"), not references.
nitpick_ignore_regex = [("py:(class|exc|obj)", ".*")]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True
html_theme = "furo"
html_title = f"hwsim {__version__}"


def setup(app: Any) -> None:
    """Make the pages that follow from code before anything is read."""
    app.connect("builder-inited", lambda _: write_reference(ROOT / "reference"))
