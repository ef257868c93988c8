"""Sphinx: the guide, the gallery of derivations, and the API, all made from what is there.

python -m sphinx -W docs out/docs        (needs the extra: pip install '.[docs]')
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import derive  # noqa: E402

project = "chainrule"
release = version = derive.__version__
author = copyright = "the chainrule authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "chainrule"
html_extra_path = ["_gallery"]
exclude_patterns = ["_gallery", "_build"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing",  # pages written for the repository's own browser
    "toc.not_included",
]
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
napoleon_google_docstring = True
python_maximum_signature_line_length = 88
nitpicky = False


def setup(app: Any) -> None:
    """Write the gallery's documents and the pages of the API before anything is read."""
    from api import write_pages
    from gallery import write_gallery
    from identities import write_identities

    write_gallery(HERE)
    write_identities(HERE)
    write_pages(HERE)
    app.connect("autodoc-process-docstring", escape_bars)


def escape_bars(app: Any, what: str, name: str, thing: object, options: object,
                lines: list[str]) -> None:
    """``|y - t|`` in a docstring is an absolute value and no substitution."""
    lines[:] = [line if "``" in line else line.replace("|", "\\|") for line in lines]
