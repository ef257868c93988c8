"""Documents: the same derivation in every output, whole, harmless, and never over others' files."""

from __future__ import annotations

import json
import math
import random
import re
import unicodedata
from xml.etree import ElementTree

import numpy as np
import pytest

import derive as dr
from derive.document import build_document, equation_numbers, write_document
from derive.document.html import html_text
from derive.document.markdown import markdown_text
from derive.document.plain import plain_text
from derive.document.tex import tex_text
from derive.document.tree import Display, Equation, Section
from derive.errors import DataError, MissingError
from derive.explain import explain
from derive.latex import LETTERS
from derive.messages import catalogue, languages
from derive.rules import RULES
from tests.golden_support import compare
from tests.networks import NETWORKS
from tests.programs import random_network, reached

GOLDEN = ["softmax_classifier", "strided_convolution", "recurrent"]
PLACES = re.compile(r"\{[a-z]+\}")


def derived(name: str):
    return dr.derive(NETWORKS[name]())


def equations(document) -> list[Equation]:
    found = []

    def walk(blocks):
        for block in blocks:
            if isinstance(block, Section):
                walk(block.blocks)
            elif isinstance(block, Equation):
                found.append(block)

    walk(document.sections)
    return found


def parsed(html: str) -> ElementTree.Element:
    body = html[html.index("<body>"):html.index("</html>")]
    return ElementTree.fromstring(body)


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
    ElementTree.fromstring(re.sub(r"<style>.*?</style>", "", explain(
        program, "W1")._repr_html_(), flags=re.DOTALL))
    with pytest.raises(dr.DeclarationError, match="W2"):
        explain(program, "W3")


# -- outputs ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_html_is_well_formed_and_closed_in_itself(name):
    html = html_text(build_document(derived(name), detail="full"))
    root = parsed(html)
    assert not [e for e in root.iter() if e.tag in ("script", "img", "link", "iframe", "object")]
    links = [v for e in root.iter() for k, v in e.items() if k in ("href", "src")]
    assert all(link.startswith("#") for link in links)
    assert "default-src 'none'" in html and "http-equiv=\"Content-Security-Policy\"" in html
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))


def test_names_of_users_are_harmless_everywhere(tmp_path):
    net = dr.Network(r'<script>alert("1")</script> \write18{id} $x$ & 100%')
    x, w = net.input("ŷ", "B", 3), net.parameter("损失_权重", 3)
    b, i = x.indices
    net.loss(dr.mean(x[b, i] * w[i], b, i))
    program = dr.derive(net)
    html = write_document(program, tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script" not in html
    tex = write_document(program, tmp_path / "a.tex").read_text(encoding="utf-8")
    assert r"\write18" not in tex and "损" in tex
    markdown = write_document(program, tmp_path / "a.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    json.loads(write_document(program, tmp_path / "a.ipynb").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["вес", "משקל", "größe", "θ", "ŵ_вес", "𝐖", "ひらがな"])
def test_names_in_any_script_are_shown(tmp_path, name):
    net = dr.Network("a\u202eb\x00c \U0001f642\nq")  # nothing may turn the line or break the file
    x, w = net.input("x", "B", 3), net.parameter(name, 3)
    b, i = x.indices
    net.loss(dr.mean(x[b, i] * w[i], b, i))
    program = dr.derive(net)
    letters = {unicodedata.normalize("NFKC", c) for c in name.split("_")[-1]}
    for ending in ("html", "md", "tex", "ipynb"):
        text = write_document(program, tmp_path / f"a.{ending}").read_text(encoding="utf-8")
        text = text if ending != "ipynb" else "".join(
            "".join(cell["source"]) for cell in json.loads(text)["cells"])
        assert not set("\u202e\x00") & set(text)
        assert all(c in text or LETTERS.get(c, c) in text for c in letters)
        if ending == "html":
            parsed(text)


@pytest.mark.parametrize("name", ["softmax_classifier", "recurrent", "batch_norm"])
def test_a_notebook_rebuilds_the_network_and_checks_it(tmp_path, name):
    path = write_document(derived(name), tmp_path / "a.ipynb")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert len({c["id"] for c in notebook["cells"]}) == len(notebook["cells"])
    space: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)  # what a reader would run
    assert space["report"].ok  # type: ignore[attr-defined]


def test_a_file_of_another_s_is_not_overwritten(tmp_path):
    program = derived("product")
    path = tmp_path / "mine.md"
    path.write_text("# my notes\n")
    with pytest.raises(DataError, match="was not written by chainrule"):
        write_document(program, path)
    assert path.read_text() == "# my notes\n"
    write_document(program, path, force=True)
    for ending in ("md", "tex", "html", "ipynb"):
        own = tmp_path / f"own.{ending}"
        write_document(program, own)
        write_document(program, own)  # our own: again without force


@pytest.mark.parametrize(
    ("options", "match"),
    [({"lang": "xx"}, "no document in the language"), ({"detail": "all"}, "level of detail")],
)
def test_unknown_options_are_named(tmp_path, options, match):
    with pytest.raises(dr.DeclarationError, match=match):
        write_document(derived("product"), tmp_path / "a.html", **options)


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(dr.DeclarationError, match=r"did you mean .*\.html"):
        write_document(derived("product"), tmp_path / "a.htm")


def test_without_tex_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="apt-get install texlive"):
        write_document(derived("product"), tmp_path / "a.pdf")
    assert not (tmp_path / "a.pdf").exists()


def test_kernels_can_cite_the_numbers_of_the_document():
    program = derived("softmax_classifier")
    numbers = equation_numbers(program)
    assert set(numbers) == set(program.defined)
    shown = {e.index.plain: e.number for e in equations(build_document(program))}
    assert {name: shown[str(program.defined[name])] for name in numbers} == numbers


def test_long_arrows_bend_around_other_nodes():
    net = dr.Network("residual")
    x = net.input("x", "B", 4)
    y = dr.add(x, dr.dense(dr.dense(x, 4, dr.tanh), 4))
    net.loss(dr.mean(y[tuple(y.indices)] ** 2, *y.indices))
    document = build_document(dr.derive(net))
    figure = next(s for s in document.sections if s.anchor == "graph").blocks[0]
    picture = figure.picture
    assert picture.bends[("x", y.name)]
    for arrow, points in picture.bends.items():
        for x_, y_ in points:
            for node in picture.nodes:
                left, top = picture.places[node.key]
                apart = abs(x_ - left) > picture.widths[node.key] / 2 or abs(y_ - top) > 23
                assert apart, f"{arrow} runs through {node.key}"


def picture_of(program):
    document = build_document(program)
    return next(s for s in document.sections if s.anchor == "graph").blocks[0].picture


def test_a_tensor_that_nothing_forward_reads_is_not_in_the_picture():
    """An input of a second loss, and generated helpers, are tensors without a node."""
    net = dr.Network("two losses")
    x, w = net.input("x", "B", 3), net.parameter("w", 3)
    other = net.input("other", "B")
    b, i = x.indices
    net.loss(dr.mean(dr.max(x[b, i] * w[i], i), b), "L1")
    net.loss(dr.mean(other[b] * x[b, i] * w[i], b, i), "L2")
    for loss in ("L1", "L2"):
        picture = picture_of(dr.derive(net, of=loss))
        keys = {node.key for node in picture.nodes}
        assert all(a in keys and b in keys for a, b in picture.arrows)


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


@pytest.mark.parametrize("layer", [dr.elman, dr.gru, dr.lstm])
def test_a_recurrence_has_an_arrow_that_leads_back(layer):
    net = dr.Network("recurrent")
    y = layer(net.input("x", "B", 3, 2), 4)
    net.loss(dr.mean(y[tuple(y.indices)] ** 2, *y.indices))
    picture = picture_of(dr.derive(net))
    order = {node.key: k for k, node in enumerate(picture.nodes)}
    assert any(order[a] > order[b] for a, b in picture.arrows)
    document = markdown_text(build_document(dr.derive(net)))
    assert "worked from $`0`$ to $`2`$" in document  # forward
    assert "worked from $`2`$ to $`0`$" in document  # backward, in reversed time


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


LAYERS = {
    "layer norm": (lambda x: dr.layer_norm(dr.dense(x, 4)), ("B", 6)),
    "group norm": (lambda x: dr.group_norm(x, 2), ("B", 4, 5)),
    "convolution": (lambda x: dr.max_pool(dr.conv2d(x, 3, 3, stride=2, padding=1), 2),
                    ("B", 2, 8, 8)),
    "transposed": (lambda x: dr.conv_transpose(x, 3, 3, stride=2), ("B", 2, 4, 4)),
    "upsampled": (lambda x: dr.upsample(dr.conv2d(x, 3, 3), 2, mode="bilinear"), ("B", 2, 4, 4)),
    "attention": (lambda x: dr.encoder_block(x, 2, 8, causal=True), ("B", 5, 6)),
    "lstm": (lambda x: dr.lstm(x, 4), ("B", "T", 3)),
    "reflected": (lambda x: dr.conv1d(dr.pad(x, 2, "reflect"), 3, 3), ("B", 2, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_has_its_document_in_every_output(tmp_path, name):
    build, shape = LAYERS[name]
    net = dr.Network(name)
    y = build(net.input("x", *shape))
    net.loss(dr.mean(y[tuple(y.indices)] ** 2, *y.indices))
    program = dr.derive(net)
    document = build_document(program, detail="full")
    parsed(html_text(document))
    assert "�" not in html_text(document)
    for ending in ("tex", "md", "ipynb"):
        write_document(program, tmp_path / f"a.{ending}")
    source = (tmp_path / "a.tex").read_text(encoding="utf-8")
    assert source.count("{") - source.count(r"\{") == source.count("}") - source.count(r"\}")


@pytest.mark.parametrize("seed", range(24))
def test_the_document_of_a_random_program_is_well_formed(seed):
    try:
        program = random_network(random.Random(seed).choice).program()
    except dr.ChainruleError:
        pytest.skip("the generator drew what a declaration refuses")
    if not reached(program):
        pytest.skip("the loss reaches no parameter")
    derived = dr.derive(program, reached(program), of=program.losses[0])
    document = build_document(derived, detail="full")
    parsed(html_text(document))
    shown = [e.index.plain for e in equations(document)]
    assert sorted(shown) == sorted(map(str, derived.equations))
    markdown_text(document)
    tex_text(document)
