"""The page of identities: what is derived is what the Matrix Cookbook has, in matrix form."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


def _page():
    spec = importlib.util.spec_from_file_location("identities", DOCS / "identities.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["identities"] = module
    spec.loader.exec_module(module)
    return module


page = _page()


@pytest.mark.parametrize("identity", page.IDENTITIES, ids=lambda one: str(one.number))
def test_what_is_derived_is_the_cookbook_s(identity):
    found, right = page.sides(identity)
    assert np.abs(found).max() > 0
    np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-9)


def test_the_page_shows_each_in_matrix_form(tmp_path):
    text = page.write_identities(tmp_path).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "$" in line]
    assert len(rows) == len(page.IDENTITIES)
    assert r"\mathbf{B}^{\top}\,\mathbf{x} + \mathbf{B}\,\mathbf{x}" in text  # 81
    assert not [line for line in rows if r"\sum" in line]
