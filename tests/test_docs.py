"""The documentation holds: its Python runs page by page, and Sphinx builds it without a warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# what a page takes as given
NETWORK = """
import derive as dr
net = dr.Network("given")
x, t = net.input("x", "B", 8), net.input("t", "B", dtype=int)
net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 8, dr.tanh), 3), t))
"""
GIVEN = {"flow": NETWORK, "CONTRIBUTING": NETWORK + "import codegen\n"}
PAGES = [
    page for page in (ROOT / "CONTRIBUTING.md", *sorted([*DOCS.glob("*.md"),
                                                        *DOCS.glob("howto/*.md")]))
    if "```python\n" in page.read_text(encoding="utf-8")
]


def code(page: Path) -> str:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return GIVEN.get(page.stem, "") + "\n".join(blocks)


def run(tmp_path: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True,
                          check=False, env=dict(os.environ))


def test_the_guide_and_the_how_tos_are_there():
    names = {page.stem for page in PAGES}
    assert {"guide", "documents", "add_a_layer", "verify_a_gradient", "emit_and_train"} <= names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(tmp_path, page):
    script = tmp_path / "page.py"
    script.write_text(code(page), encoding="utf-8")
    done = run(tmp_path, str(script))
    assert done.returncode == 0, done.stderr[-2000:]


def test_sphinx_builds_the_documentation_without_a_warning(tmp_path):
    for module in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(module)
    done = run(tmp_path, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS),
               str(tmp_path / "html"))
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "html" / "gallery.html").read_text(encoding="utf-8")
    shown = set(re.findall(r'href="([\w.]+\.(?:html|tex|md|ipynb))"', page))
    examples = {p.stem if p.stem != "main" else p.parent.name
                for p in (ROOT / "examples").glob("**/*.py")}
    for stem in examples - {"cart_pole"}:  # a document for each loss of each example's networks
        assert any(name.startswith(stem) for name in shown), stem
    for name in shown:
        assert (tmp_path / "html" / name).exists(), name
    api = (tmp_path / "html" / "_api" / "derive.html").read_text(encoding="utf-8")
    assert "derive.lstm" in api and "derive.verify" in api
