"""Documents in every output: whole, harmless, and never over others' files."""

from __future__ import annotations

import json
import random
import re
import unicodedata

import pytest

import derive as dr
from derive.document import build_document, write_document
from derive.document.html import html_text
from derive.document.markdown import markdown_text
from derive.document.tex import tex_text
from derive.document.tree import Section
from derive.errors import DataError, MissingError
from derive.latex import LETTERS
from tests.documents import derived, equations, parsed
from tests.networks import NETWORKS
from tests.programs import random_network, reached


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


@pytest.mark.parametrize("name", NETWORKS)
def test_a_summary_is_whole_in_every_output_and_no_heading_stands_alone(name):
    document = build_document(derived(name), detail="summary")
    for write in (html_text, markdown_text, tex_text):
        assert write(document)
    parts = [s for section in document.sections for s in (section, *section.blocks)
             if isinstance(s, Section)]
    assert not [part.anchor for part in parts if not part.blocks]
    html = html_text(document)
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(re.findall(r' id="([^"]+)"', html))


def test_scores_whose_classes_are_not_the_last_dim_have_a_document():
    net = dr.Network("classes first")
    z, t = net.parameter("z", 3, 5), net.input("t", 5, dtype=int)
    k, b = z.indices
    net.loss(dr.mean(dr.logsumexp(z[k, b], k) - z[t[b], b], b))
    assert html_text(build_document(dr.derive(net)))


def test_a_long_list_in_a_sentence_may_end_a_line_behind_its_commas():
    """On a phone: nothing in a formula of a sentence can be broken."""
    html = html_text(build_document(derived("strided_convolution")))
    sentences = [p for p in parsed(html).iter("p") if "Solved for" in "".join(p.itertext())]
    shown = [math for p in sentences for math in p.iter("math")]
    assert max(len("".join(math.itertext())) for math in shown) < 30
    assert any("".join(math.itertext()).endswith(",") for math in shown)


def mean_of_products() -> dr.Program:
    net = dr.Network("words as operators")
    w = net.parameter("W", 3, 4)
    i, j = w.indices
    net.loss(dr.sum(dr.logsumexp(w[i, j], j) * dr.max(w[i, j], j), i))
    return net.program()


@pytest.mark.parametrize("name", [*NETWORKS, "words"])
def test_markdown_is_what_github_draws(name):
    """It refuses some commands of LaTeX, ends a row of a table at every bar, and takes a formula
    in a sentence only where no letter or digit touches it."""
    program = dr.derive(NETWORKS[name]() if name in NETWORKS else mean_of_products())
    text = markdown_text(build_document(program, detail="full", check=True))
    assert r"\operatorname" not in text and r"\label" not in text and r"\ref" not in text
    assert not re.findall(r"\w\$`|`\$\w", text)
    formulas = re.findall(r"\$`([^`]*)`\$", text)
    blocks = re.findall(r"^(?:> )?```math\n(.*?)\n(?:> )?```$", text, re.MULTILINE | re.DOTALL)
    assert len(formulas) == text.count("$`") and len(blocks) == text.count("```math")
    assert not [f for f in (*formulas, *blocks) if "\n" in f.removeprefix("> ") or not f.strip()]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    tables = "\n".join(line if line.startswith("|") else "" for line in text.splitlines())
    assert rows and "|" not in "".join(re.findall(r"\$`([^`]*)`\$", tables))
    for table in re.split(r"\n\n+", tables.strip()):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    anchors = set(re.findall(r'<a id="([^"]+)"></a>', text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


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


def test_a_notebook_has_its_formulas_as_jupyter_reads_them(tmp_path):
    path = write_document(derived("softmax_classifier"), tmp_path / "a.ipynb")
    cells = ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
             if c["cell_type"] == "markdown"]
    assert not [cell for cell in cells if "```math" in cell or "$`" in cell]
    framed = next(cell for cell in cells if "> $$" in cell)  # the gradients, first of all
    assert framed.count("> $$\n> ") == 8 and r"\frac{\partial L}{\partial W_{1;ij}}" in framed
    assert all(cell.count("$$") % 2 == 0 for cell in cells)


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
