"""What stands in a document's LaTeX is read again, and means what was derived."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

import derive as dr
from derive.document.breaking import lines
from derive.document.html import ENTRIES, displayed, html_text
from derive.document.tex import tex_text
from derive.document.tree import Math
from derive.errors import ChainruleError
from derive.graph import svg_text
from derive.latex import equation_latex
from derive.layout import Setter
from derive.mathml import box_mathml, math
from derive.symbols import Symbols
from derive.tex.values import MisfitError
from tests.networks import NETWORKS
from tests.remembered import Printed, printed
from tests.reread import CHECKED, Different, Proofreader, check_all, second_outputs, verdicts

COLUMNS = dr.Style(samples="columns", layout="numerator", adjoint="delta")
PARTIAL = dr.Style(adjoint="partial", names={"c1": "b1", "h": "a_hat"}, indices={"j": "m"})


def pooled() -> dr.Network:
    net = dr.Network("convolution and a maximum over windows")
    x = net.input("x", "B", 2, 6, 6)
    y = dr.max_pool(dr.conv2d(x, 3, 3, dr.relu), 2)
    net.loss(dr.mean(y[y.indices] ** 2, *y.indices))
    return net


def deep() -> dr.Network:
    net = dr.Network("layers alike")
    h = net.input("x", "B", 3)
    for _ in range(6):
        h = dr.dense(h, 3, dr.tanh)
    net.loss(dr.squared_error(h, net.input("y", "B", 3)))
    return net


def lstm() -> dr.Network:
    net = dr.Network("lstm")
    x, t = net.input("x", "B", 3, 2), net.input("t", "B", 3, dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.lstm(x, 4), 5), t))
    return net


def attention() -> dr.Network:
    net = dr.Network("attention")
    x, t = net.input("x", "B", 3, 4), net.input("t", "B", 3, dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.multi_head_attention(x, 2, causal=True), 5), t))
    return net


MORE = {f.__name__: f for f in (pooled, deep, lstm, attention)}


def _drawn(item: Printed, page: str) -> bool:
    """Whether a page has a formula: whole, as a list in a sentence, or broken into lines."""
    box = item.math.box
    return box_mathml(box) in page or displayed(box) in page or all(
        math(line) in page for line in lines(box, ENTRIES))


@pytest.mark.parametrize("name", [*NETWORKS, *MORE])
def test_every_printed_formula_has_the_values_of_the_program(name):
    program = dr.derive((NETWORKS | MORE)[name]())
    document, found = printed(program, detail="full", optimizer=dr.adam())
    assert check_all(program, found) > 20
    file, page = tex_text(document), html_text(document)
    assert not [item.latex for item in found if item.latex not in file]
    labels = [item for item in found if item.kind == "label"]
    assert labels and not [item.latex for item in labels if svg_text(item.math.box) not in page]
    assert not [item.latex for item in found if item.kind not in ("label", "contraction")
                and not _drawn(item, page)]
    assert not [(item.latex, str(trouble)) for item, trouble in second_outputs(found) if trouble]


@pytest.mark.parametrize("style", [COLUMNS, PARTIAL], ids=["columns", "partial"])
@pytest.mark.parametrize("name", ["softmax_classifier", "sigmoid_regression"])
def test_in_a_reader_s_own_notation_too(name, style):
    program = dr.derive(NETWORKS[name]())
    known = replace(style, names={a: b for a, b in style.names.items() if a in program.tensors})
    _, found = printed(program, style=known)
    assert check_all(program, found, known) > 20


def test_a_blackboard_adds_up():
    net = dr.Network("one three one")
    x, t = net.input("x", 1), net.input("t", 1)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 3, dr.sigmoid), 1, dr.sigmoid), t))
    program = dr.derive(net)
    values = {p.name: np.linspace(-1, 1, int(np.prod([int(s) for s in p.shape]))).reshape(
        [int(s) for s in p.shape]) for p in program.given}
    _, found = printed(program, values=values)
    assert sum(item.kind == "board" for item in found) > 10
    check_all(program, found, values=values)


def test_mathml_and_svg_that_say_something_else_are_found():
    program = dr.derive(NETWORKS["softmax_classifier"]())
    _, found = printed(program)
    label = next(item for item in found if item.kind == "label")
    step = next(item for item in found if item.kind == "index form")
    with mock.patch("tests.reread.math", lambda box: "<math><mi>q</mi></math>"):
        assert all(trouble for _, trouble in second_outputs([label, step]))
    with mock.patch("tests.reread.math", lambda box: "<math><mfoo/></math>"):
        assert all(trouble for _, trouble in second_outputs([step]))


def test_a_sign_without_its_definition_is_not_read():
    program = dr.derive(NETWORKS["strided_convolution"]())
    _, found = printed(program)
    signs = [item for item in found if item.kind in ("convolution", "meaning")]
    assert {item.kind for item in signs} == {"convolution", "meaning"}
    assert not [trouble for _, trouble in verdicts(program, signs) if trouble]
    alone = [item for item in signs if item.kind == "convolution"]
    assert not [t for _, t in verdicts(program, alone) if "no definition" not in str(t)]
    wrong = [replace(item, written=item.latex.replace("r - 1", "r").replace("r + 1", "r"))
             for item in signs]
    assert all(isinstance(trouble, Different) for _, trouble in verdicts(program, wrong))


def test_derivatives_of_other_scalars_and_random_numbers_are_read():
    net = dr.Network("slope")
    x = net.input("x", "B", 1)
    b, i = x.indices
    seed = net.random("seed")
    u = dr.dense(dr.dropout(dr.dense(x, 2, dr.tanh), 0.5, seed), 1, bias=False)
    slope = net.gradient(net.define("total", (), dr.sum(u[u.indices], *u.indices)), x)
    net.loss(dr.mean(slope[b, i] ** 2, b, i))
    program = dr.derive(net)
    _, found = printed(program, detail="full")
    assert any(r"\partial\mathrm{total}" in item.latex for item in found)
    assert any("uniform" in item.latex for item in found)
    check_all(program, found)


def test_what_says_something_else_is_found():
    """Each formula in the place of another one of its kind is different, or is not read."""
    program = dr.derive(NETWORKS["softmax_classifier"]())
    _, found = printed(program, detail="full")
    reader = Proofreader(program)
    for kind in ("index form", "matrix form", "local derivative", "symbol", "shape"):
        items = {item.latex: item for item in found if item.kind == kind}
        first, *others = items.values()
        for other in others:
            with pytest.raises((Different, ChainruleError, MisfitError)):
                reader.check(replace(first, math=Math(other.math.box, "")))


def test_a_guard_that_is_no_bound_is_printed():
    """``[t ≥ 1] f[t]`` is no element outside its tensor: ∂s[t]/∂s[t-1] of an LSTM's cell."""
    net = dr.Network("guard")
    t = dr.indices("t:4")
    f = net.parameter("f", t)
    y = net.define("y", (t,), dr.where(t >= 1, f[t], 0))
    net.loss(dr.sum(y[t] ** 2, t))
    program = net.program()
    assert r"[t \geq 1]" in equation_latex(program.defined["y"], symbols=Symbols(program))


def test_the_layer_before_is_a_difference():
    assert Setter()._subscript("ℓ−1") != Setter()._subscript("ℓ")
    assert CHECKED >= {"index form", "matrix form", "step"}
