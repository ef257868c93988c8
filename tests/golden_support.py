"""Golden files: what is printed must equal a file in ``tests/golden``, which people read in diffs.

``pytest --update-golden`` writes them anew; look at the diff before it is committed.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "golden"


def compare(request: pytest.FixtureRequest, name: str, text: str) -> None:
    """Compare ``text`` with the golden file ``name``, or write it where that was asked for."""
    path = FOLDER / name
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    assert path.exists(), f"{name} is not there yet: run pytest --update-golden"
    known = path.read_text(encoding="utf-8")
    if text != known:
        diff = difflib.unified_diff(known.splitlines(), text.splitlines(), name, "now", n=1,
                                    lineterm="")
        pytest.fail("\n".join([*list(diff)[:60], "pytest --update-golden writes it anew"]))
