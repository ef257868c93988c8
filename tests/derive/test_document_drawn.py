"""Documents as they are drawn: by a real TeX and a real browser."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import derive as dr
from derive.document import write_document
from tests.networks import NETWORKS
from tests.programs import random_network, reached

DRAWN = ["softmax_classifier", "strided_convolution", "recurrent", "batch_norm", "maximum"]
_BAD = re.compile(r"^!|Overfull|undefined|multiply defined|Missing character", re.MULTILINE)

tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


def pdflatex(path: Path) -> str:
    """Two runs; the log of the last."""
    for _ in range(2):
        done = subprocess.run(
            ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", path.name],
            cwd=path.parent, capture_output=True, timeout=120, check=False,
            env={**os.environ, "openin_any": "p", "openout_any": "p", "max_print_line": "1000"},
        )
    return done.stdout.decode(errors="replace")


@tex
@pytest.mark.parametrize("name", DRAWN)
def test_latex_compiles_without_warnings_that_matter(tmp_path, name):
    program = dr.derive(NETWORKS[name]())
    path = write_document(program, tmp_path / "a.tex", detail="full", check=False,
                          kernel="def f(x):  # 50% of $x_1$ & \\more\n    return x ** 2\n")
    log = pdflatex(path)
    assert path.with_suffix(".pdf").exists(), log[-3000:]
    assert not faults(log)


def faults(log: str) -> list[str]:
    """What TeX complained of; two points too wide cannot be seen."""
    found = [line for line in log.splitlines() if _BAD.search(line)]
    wide = re.compile(r"Overfull \\hbox \(([\d.]+)pt")
    return [line for line in found if not (m := wide.search(line)) or float(m[1]) > 2]


@tex
@pytest.mark.parametrize("seed", [100, 5001, 5063])
def test_the_latex_of_a_random_program_compiles_and_no_formula_is_wider_than_the_line(
        tmp_path, seed):
    program = random_network(random.Random(seed).choice).program()
    if not reached(program):
        pytest.skip("the loss reaches no parameter")
    style = dr.Style(samples=("rows", "columns")[seed % 2], layout=("numerator", "denominator")[
        seed % 2])
    derived = dr.derive(program, reached(program), of=program.losses[0])
    log = pdflatex(write_document(derived, tmp_path / "a.tex", detail="full", style=style))
    assert (tmp_path / "a.pdf").exists() and not faults(log)


@tex
def test_a_network_with_its_numbers_compiles(tmp_path):
    net = dr.Network("one three one")
    x, t = net.input("x", 1), net.input("t", 1)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 3, dr.sigmoid), 1, dr.sigmoid), t))
    program = dr.derive(net)
    values = {p.name: np.linspace(-1, 1, int(np.prod([int(s) for s in p.shape]))).reshape(
        [int(s) for s in p.shape]) for p in program.given}
    log = pdflatex(write_document(program, tmp_path / "a.tex", values=values))
    assert not [line for line in log.splitlines() if _BAD.search(line)]


@tex
def test_long_names_in_a_table_stay_in_their_columns(tmp_path):
    net = dr.Network("long names")
    x, w = net.input("x", "B", 64), net.parameter("running_variance_of_layer12", 64)
    b, i = x.indices
    net.loss(dr.mean(dr.log(dr.sum(dr.exp(x[b, i] * w[i]), i)), b))
    assert not faults(pdflatex(write_document(dr.derive(net), tmp_path / "a.tex")))


@tex
def test_latex_compiles_without_hyperref(tmp_path):
    path = write_document(dr.derive(NETWORKS["maximum"]()), tmp_path / "a.tex")
    source = path.read_text(encoding="utf-8")
    path.write_text(source.replace("{hyperref.sty}", "{no-such-file.sty}"), encoding="utf-8")
    log = pdflatex(path)
    assert path.with_suffix(".pdf").exists(), log[-3000:]
    assert "!" not in re.findall(r"^!", log, re.MULTILINE)


@tex
def test_a_pdf_is_written(tmp_path):
    path = write_document(dr.derive(NETWORKS["product"]()), tmp_path / "a.pdf")
    content = path.read_bytes()
    assert content.startswith(b"%PDF") and b"%%EOF" in content[-1024:]


@pytest.mark.skipif(shutil.which("xelatex") is None, reason="no xelatex on this machine")
def test_a_pdf_in_chinese_is_written_and_reads_as_chinese(tmp_path):
    path = write_document(dr.derive(NETWORKS["product"]()), tmp_path / "a.pdf", lang="zh")
    content = path.read_bytes()
    assert content.startswith(b"%PDF") and b"%%EOF" in content[-1024:]
    if (reader := shutil.which("pdftotext")) is not None:
        words = subprocess.run([reader, str(path), "-"], capture_output=True, check=True).stdout
        assert "的梯度推导" in words.decode()


@pytest.mark.parametrize("lang", [pytest.param("en", marks=tex), "zh"])
def test_a_letter_that_no_font_has_is_said_and_not_left_out(tmp_path, lang):
    if lang == "zh" and shutil.which("xelatex") is None:
        pytest.skip("no xelatex on this machine")
    net = dr.Network("weight")
    w = net.parameter("\u05de\u05e9", 3)
    net.loss(dr.sum(w[w.indices] ** 2, *w.indices))
    with pytest.raises(dr.ChainruleError, match=r"(?s)fonts have no '\u05de'.*dr[.]Style"):
        write_document(dr.derive(net), tmp_path / "a.pdf", lang=lang)
    assert not (tmp_path / "a.pdf").exists()


@browser
def test_a_browser_draws_the_formulas(tmp_path):
    """Headless Chromium prints the page after its layout; nothing may be missing in it."""
    path = write_document(dr.derive(NETWORKS["softmax_classifier"]()), tmp_path / "a.html")
    picture = tmp_path / "a.png"
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,2400",
         f"--screenshot={picture}", path.as_uri()],
        capture_output=True, timeout=120, check=False,
    )
    assert picture.exists(), done.stderr.decode(errors="replace")[-2000:]
    image = pytest.importorskip("matplotlib.image").imread(picture)
    dark = (image[:, :, :3].mean(axis=2) < 0.6).mean()
    assert image.shape[:2] == (2400, 1000)
    assert 0.005 < dark < 0.2, "an empty page, or one without its style"
