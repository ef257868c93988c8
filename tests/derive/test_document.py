"""Documents: what they say, in which order, in the reader's notation and language."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

import derive as dr
from derive.document import build_document, equation_numbers, write_document
from derive.document.html import html_text
from derive.document.markdown import markdown_text
from derive.document.plain import plain_text
from derive.document.tex import tex_text
from derive.document.tree import Display, Section
from derive.errors import DataError
from derive.explain import explain
from derive.messages import catalogue, languages
from derive.rules import RULES
from tests.documents import derived, equations, parsed
from tests.golden_support import compare
from tests.networks import NETWORKS

GOLDEN = ["softmax_classifier", "strided_convolution", "recurrent"]
PLACES = re.compile(r"\{[a-z]+\}")


# -- golden files ---------------------------------------------------------------------------------
@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("ending", ["md", "tex", "html"])
def test_the_document_is_the_golden_one(request, tmp_path, name, ending):
    path = write_document(derived(name), tmp_path / f"{name}.{ending}")
    text = path.read_text(encoding="utf-8")
    if ending == "html":  # without the style sheet, which changes for other reasons
        text = re.sub(r"<style>.*?</style>", "<style></style>", text, flags=re.DOTALL)
        text = text.replace("><", ">\n<")
    compare(request, f"{name}.{ending}", text)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_lines_are_the_golden_ones(request, name):
    compare(request, f"{name}.txt", str(derived(name)) + "\n")


# -- content ----------------------------------------------------------------------------------
def test_the_gradients_come_first_and_are_the_derived_ones():
    program = derived("softmax_classifier")
    first = build_document(program).sections[0]
    boxed = first.blocks[1]
    assert [e.index.plain for e in boxed.equations] == [
        str(program[name]) for name in program.gradients]


def test_sections_stand_in_their_order():
    document = build_document(derived("softmax_classifier"), check=True, kernel="def f(): ...",
                              optimizer=dr.adam())
    assert [s.anchor for s in document.sections] == [
        "result", "notation", "conventions", "graph", "forward", "backward", "check", "stability",
        "optimizer", "cost", "kernel", "rules"]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("detail", ["summary", "standard", "full"])
def test_every_equation_of_the_program_stands_in_its_document(name, detail):
    program = derived(name)
    document = build_document(program, detail=detail)
    shown = [e.index.plain for e in equations(document)]
    assert sorted(shown) == sorted(map(str, program.equations))
    numbers = [e.number for e in equations(document)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_softmax_with_cross_entropy_is_shown_step_by_step():
    html = html_text(build_document(derived("softmax_classifier")))
    text = " ".join("".join(parsed(html).itertext()).split())
    for words in ("derivative of log-sum-exp", "The contributions of all places add up to",
                  "common factors in front"):
        assert words in text


def twice_derived() -> dict[str, dr.Program]:
    def net() -> dr.Network:
        net = dr.Network("twice")
        x, t = net.input("x", "B", 3), net.input("t", "B", dtype=int)
        net.loss(dr.cross_entropy(dr.dense(dr.dense(x, 2, dr.tanh), 4), t))
        return net

    return {"Hessian": dr.hessian(net(), "W2"), "Jacobian": dr.jacobian(net(), "z2", "x"),
            "product": dr.hessian_vector(net(), "W1")}


@pytest.mark.parametrize("kind, symbols", [
    ("Hessian", [r"\frac{\partial^{2}L}{\partial W_{2;lm}\,\partial W_{2;jk}}",
                 r"\frac{\partial L}{\partial W_{2;jk}}"]),
    ("Jacobian", [r"\frac{\partial z_{2;lm}}{\partial x_{bi}}"]),
    ("product", [r"\frac{\partial\mathrm{along}_{v}}{\partial W_{1;ij}}",
                 r"\frac{\partial L}{\partial W_{1;ij}}"]),
])
def test_derivatives_of_derivatives_are_named_as_such(kind, symbols, tmp_path):
    program = twice_derived()[kind]
    program.document(tmp_path / "d.md")
    text = (tmp_path / "d.md").read_text(encoding="utf-8")
    for symbol in symbols:
        assert symbol in text, symbol
    program.document(tmp_path / "d.html", lang="zh")
    program.document(tmp_path / "d.tex", detail="full")


def test_every_rule_that_is_recorded_is_in_the_catalogue_and_the_appendix():
    for name in NETWORKS:
        program = derived(name)
        for step in program.steps:
            assert step.rule in RULES or step.rule.split(":")[0] in RULES, step.rule
    appendix = html_text(build_document(derived("maximum")))
    targets = set(re.findall(r'href="#([^"]+)"', appendix))
    anchors = set(re.findall(r'id="([^"]+)"', appendix))
    assert targets <= anchors


@pytest.mark.parametrize("lang", languages())
def test_a_language_is_complete(lang):
    english, other = catalogue("en"), catalogue(lang)
    assert set(english) == set(other)
    for key, text in english.items():
        places = [re.sub(r"\$[^$]*\$", "", t) for t in (text, other[key])]
        assert len({frozenset(PLACES.findall(p)) for p in places}) == 1, key
    for key in RULES:
        rule = RULES[key]
        assert rule.title(lang) and rule.says(lang) and rule.proof(lang)
    for name in ("softmax_classifier", "maximum", "recurrent"):
        parsed(html_text(build_document(derived(name), lang=lang, detail="full")))


def test_layers_alike_are_told_once():
    def deep(layers: int):
        net = dr.Network("deep")
        x, y = net.input("x", "B", 8), net.input("y", "B", 8)
        for _ in range(layers):
            x = dr.dense(x, 8, dr.tanh)
        net.loss(dr.squared_error(x, y))
        return build_document(dr.derive(net))

    small, large = equations(deep(10)), equations(deep(40))
    assert len(small) == len(large)
    assert "ℓ" in html_text(deep(10))
    short = equations(deep(3))
    assert len(short) == 3 * 2 + 1 + 3 * 4  # forward, loss; adjoints of h, z, W, c


def test_values_are_worked_with_numbers():
    net = dr.Network("one three one")
    x, t = net.input("x", 1), net.input("t", 1)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 3, dr.sigmoid), 1, dr.sigmoid), t))
    program = dr.derive(net)
    rng = np.random.default_rng(0)
    values = {p.name: rng.normal(size=[int(s) for s in p.shape]) for p in program.given}
    document = build_document(program, values=values)
    numbers = next(s for s in document.sections if s.anchor == "numbers")
    lines = [made.plain for part in numbers.blocks if isinstance(part, Section)
             for block in part.blocks if isinstance(block, Display) for _, made in block.lines]
    total = sum(int(np.prod([int(s) for s in eq.tensor.shape])) for eq in program.equations)
    assert len(lines) == total
    for line in lines:  # what stands between the last two equals signs has the value behind it
        *_, worked, value = line.replace("−", "-").split(" = ")
        if "[" not in worked:
            found = eval(worked, {"sigmoid": lambda v: 1 / (1 + math.exp(-v))})
            assert found == pytest.approx(float(value), rel=1e-3), line
    html = html_text(document)
    assert html.count('<mrow class="forward">') > 30 < html.count('<mrow class="backward">')
    assert tex_text(document).count(r"\textcolor{backward}") > 30
    assert r"\textcolor{red}" in markdown_text(document)
    large = derived("softmax_classifier")
    values = {p.name: np.zeros([3 if s.is_Symbol else int(s) for s in p.shape], dtype=int)
              for p in large.given}
    build_document(large, values=values)
    values |= {"x": np.zeros((20, 3)), "t": np.zeros(20, dtype=int)}
    with pytest.raises(DataError, match="'x' has 60 values"):
        build_document(large, values=values)


def test_explain_tells_one_gradient():
    program = derived("softmax_classifier")
    told = str(explain(program, "W2"))
    assert str(program["W2"]) in told and str(program["W1"]) not in told
    assert "h.T @ _d_z" in told
    with pytest.raises(dr.DeclarationError, match="W2"):
        explain(program, "W3")


def test_an_explanation_in_a_notebook_leaves_the_page_and_other_cells_alone():
    shown = explain(derived("softmax_classifier"), "W1")._repr_html_()
    style = re.search(r"<style>(.*?)</style>", shown, re.DOTALL)[1]
    assert style.startswith(".derivation {") and style.count("{") == style.count("}")
    assert not re.search(r"^\s*(html|body|:root|@page)", style, re.MULTILINE)
    ElementTree.fromstring(shown.replace(f"<style>{style}</style>", ""))
    anchors = re.findall(r' id="([^"]+)"', shown)
    assert ">Derivative of log-sum-exp. " in shown  # begins a sentence, with a link or without
    assert anchors and all(anchor.startswith("explain-W1-") for anchor in anchors)
    assert set(re.findall(r'href="#([^"]+)"', shown)) <= set(anchors)


def test_kernels_can_cite_the_numbers_of_the_document():
    program = derived("softmax_classifier")
    numbers = equation_numbers(program)
    assert set(numbers) == set(program.defined)
    shown = {e.index.plain: e.number for e in equations(build_document(program))}
    assert {name: shown[str(program.defined[name])] for name in numbers} == numbers


def test_an_adjoint_that_nothing_needs_is_not_told():
    """A recurrence from which no gradient goes on: its adjoint was begun and dropped."""
    net = dr.Network("stopped")
    t, b = dr.indices("t:3 b:2")
    w = net.parameter("w", b)
    h = net.declare("h", t, b, initial=0)
    net.define(h, (t, b), dr.tanh(h[t - 1, b] / 2 + dr.stopped(w[b])))
    net.loss(dr.sum(h[t, b] ** 2, t, b) + dr.sum(w[b] ** 2, b))
    html = html_text(build_document(dr.derive(net)))
    assert 'id="adjoint-w"' in html and 'id="adjoint-h"' not in html


def test_the_reader_s_settings_are_kept_throughout():
    program = derived("softmax_classifier")
    style = dr.Style(names={"h": "y_hat"}, indices={"b": "n"}, layout="numerator",
                     samples="columns", adjoint="delta")
    text = markdown_text(build_document(program, style=style))
    assert r"\hat{\mathbf{y}}" in text and r"\hat{y}_{nj}" in text
    assert "the samples of a batch are the columns" in text and "numerator layout" in text
    assert r"\delta_{z;nk}" in text and r"\bar{z}" not in text
    assert r"\mathbf{z} = \mathbf{W}_{2}^{\top}\,\hat{\mathbf{y}}" in text


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"layout": "numerater"}, "did you mean 'numerator'"), ({"samples": "row"}, "rows"),
     ({"adjoint": "hat"}, "bar or delta"), ({"names": {"h": r"\write18"}}, "name of a symbol")],
)
def test_a_setting_that_is_none_is_refused(settings, match):
    with pytest.raises(dr.DeclarationError, match=match):
        dr.Style(**settings)


def test_a_setting_for_a_name_that_is_not_there_is_refused():
    program = derived("softmax_classifier")
    for style in (dr.Style(names={"hh": "a"}), dr.Style(indices={"q": "n"})):
        with pytest.raises(dr.ChainruleError, match="is not declared"):
            build_document(program, style=style)


def test_a_document_tells_how_gradients_flow():
    net = dr.Network("deep")
    h = net.input("x", "B", 16)
    for _ in range(8):
        h = dr.dense(h, 16, dr.sigmoid)
    net.loss(dr.squared_error(h, net.input("t", "B", 16)))
    document = build_document(dr.derive(net), flow=True)
    section = next(s for s in document.sections if s.anchor == "flow")
    assert "vanishes" in plain_text(section)
    for lang in languages():
        parsed(html_text(build_document(dr.derive(net), flow=True, lang=lang)))
