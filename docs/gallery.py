"""The gallery: the derivation of every example, and of the networks that texts compare.

python docs/gallery.py        writes docs/_gallery
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import derive as dr
from derive.document import write_document

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"


@dataclass(frozen=True)
class Entry:
    """A document of the gallery: a file name, what it shows, its network and its settings."""

    name: str
    says: str
    network: Callable[[], dr.Network]
    options: dict[str, Any] = field(default_factory=dict)
    endings: tuple[str, ...] = ("html",)


def two_layers() -> dr.Network:
    """A softmax classifier with one hidden layer: the network of the README."""
    net = dr.Network("two layers")
    b, i, j, k = dr.indices("b:B i:64 j:32 k:10")
    x, t = net.input("x", b, i), net.input("t", b, dtype=int)
    W1, c1 = net.parameter("W1", i, j), net.parameter("c1", j)
    W2, c2 = net.parameter("W2", j, k), net.parameter("c2", k)
    h = net.define("h", (b, j), dr.relu(dr.sum(x[b, i] * W1[i, j], i) + c1[j]))
    z = net.define("z", (b, k), dr.sum(h[b, j] * W2[j, k], j) + c2[k])
    net.loss(dr.mean(dr.logsumexp(z[b, k], k) - z[b, t[b]], b))
    return net


def batch_norm() -> dr.Network:
    """Batch normalisation between two layers."""
    net = dr.Network("batch normalisation")
    x, t = net.input("x", "B", 64), net.input("t", "B", dtype=int)
    h = dr.relu(dr.batch_norm(dr.dense(x, 32)))
    net.loss(dr.cross_entropy(dr.dense(h, 10), t))
    return net


def lstm() -> dr.Network:
    """A long short-term memory that labels every step."""
    net = dr.Network("LSTM")
    b, t, j = dr.indices("b:B t:20 j:8")
    x, y = net.input("x", b, t, j), net.input("y", b, t, dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.lstm(x, 16), 5), y))
    return net


def attention() -> dr.Network:
    """Causal attention with two heads."""
    net = dr.Network("attention")
    x, t = net.input("x", "B", 10, 16), net.input("t", "B", 10, dtype=int)
    net.loss(dr.cross_entropy(dr.dense(dr.multi_head_attention(x, 2, causal=True), 5), t))
    return net


def deep() -> dr.Network:
    """A hundred layers, derived once."""
    net = dr.Network("a hundred layers")
    x, y = net.input("x", "B", 32), net.input("y", "B", 32)
    h = x
    for _ in range(100):
        h = dr.dense(h, 32, dr.tanh)
    net.loss(dr.squared_error(h, y))
    return net


def one_three_one() -> dr.Network:
    """One input, three sigmoid units, one output: small enough to work with numbers."""
    net = dr.Network("1-3-1")
    x, t = net.input("x", 1), net.input("t", 1)
    net.loss(dr.squared_error(dr.dense(dr.dense(x, 3, dr.sigmoid), 1, dr.sigmoid), t))
    return net


NUMBERS = {"x": [1.5], "t": [0.75], "W1": [[0.5, -0.3, 0.8]], "c1": [0.1, 0.2, -0.1],
           "W2": [[0.7], [-0.4], [0.3]], "c2": [0.05]}
COLUMNS = dr.Style(samples="columns", layout="numerator", adjoint="delta",
                   names={"h": "a", "c1": "b1", "c2": "b2"})
ENTRIES = [
    Entry("two_layers", "A softmax classifier with one hidden layer, in every output",
          two_layers, {"check": True, "optimizer": dr.adam()}, ("html", "tex", "md", "ipynb")),
    Entry("two_layers_columns", "The same in another notation: samples as columns, numerator "
          "layout, δ for adjoints", two_layers, {"style": COLUMNS}),
    Entry("two_layers_zh", "The same in Chinese", two_layers, {"lang": "zh"}),
    Entry("one_three_one", "A scalar network worked with numbers", one_three_one,
          {"values": NUMBERS, "detail": "full"}),
    Entry("batch_norm", "Batch normalisation", batch_norm),
    Entry("lstm", "A long short-term memory, with how its gradients flow", lstm, {"flow": True}),
    Entry("attention", "Causal attention with two heads", attention),
    Entry("deep", "A hundred layers, derived once for layer ℓ", deep),
]


def _adapted(module: Any) -> list[dr.Network]:
    """The encoder's first block with low-rank updates, as the example trains it."""
    lora = dr.lora("Wq*", "Wv*", rank=4)
    return [dr.adapt(module.network(blocks=1), lora, train=["head", "shift"])]


def _of_article(module: Any) -> list[Callable[[], dr.Network]]:
    """Both files of the article's example know its four networks: each shows two."""
    return list(dict.fromkeys(mistake.network for mistake in module.MISTAKES))


#: the networks of examples that make theirs in functions; the cart and pole has none
_MADE: dict[str, Callable[[Any], list[Any]]] = {
    "cart_pole": lambda module: [],
    "finetune_minilm": _adapted,
    "resnet_block": lambda module: [module.network()],
    "vanishing": lambda module: list(module.variants().values()),
    "main": lambda module: [make() for make in _of_article(module)[:2]],
    "mistakes": lambda module: [make() for make in _of_article(module)[2:]],
    "depth": lambda module: [module.network(20)],
}


def scripts() -> list[Path]:
    """The examples, by name."""
    return sorted(EXAMPLES.glob("**/*.py"))


def example(path: Path) -> list[Any]:
    """The networks of an example: its ``net``, or those that its functions make."""
    spec = importlib.util.spec_from_file_location(f"_example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))  # one example reads another
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return _MADE[path.stem](module) if path.stem in _MADE else [module.net]


def derivations(path: Path) -> list[tuple[str, dr.Program]]:
    """The derived programs of an example: one for each loss of each network, with a name."""
    found = [(net, loss) for net in example(path) for loss in net.program().losses]
    stem = path.stem if path.stem != "main" else path.parent.name
    return [(stem if len(found) == 1 else f"{stem}_{n + 1}", dr.derive(net, of=loss))
            for n, (net, loss) in enumerate(found)]


def write_gallery(folder: Path) -> list[Path]:
    """Every document into ``_gallery``, and the page that lists them; returns the documents."""
    out = folder / "_gallery"
    out.mkdir(exist_ok=True)
    written: list[Path] = []
    lines = ["# Gallery", "Each page is what `d.document(…)` writes, as it comes.", ""]
    for entry in ENTRIES:
        program = dr.derive(entry.network())
        paths = [write_document(program, out / f"{entry.name}.{ending}", force=True,
                                **entry.options) for ending in entry.endings]
        lines.append(f"- {entry.says}: " + ", ".join(_link(p) for p in paths))
        written += paths
    lines += ["", "## The examples", ""]
    for path in scripts():
        made = [write_document(program, out / f"{name}.html", force=True)
                for name, program in derivations(path)]
        written += made
        if made:
            lines.append(f"- `examples/{path.relative_to(EXAMPLES)}`: "
                         + ", ".join(map(_link, made)))
    (folder / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return written


def _link(path: Path) -> str:
    return f'<a href="{path.name}">{path.name}</a>'


if __name__ == "__main__":
    print(*write_gallery(HERE), sep="\n")
