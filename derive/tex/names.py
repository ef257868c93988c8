r"""Symbols as they are written ↔ names as they are declared.

``W1``, ``W_1``, ``W^{(1)}`` and ``\mathbf{W}_1`` are one symbol: a letter with accents and items
behind it. Which of the items are part of the name, and which are indices, the declared names say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
from sympy import Expr

from derive.errors import nearest
from derive.functions import REGISTRY
from derive.nodes import Access, Select, walk
from derive.orientation import Orientation
from derive.program import Program, Tensor
from derive.symbols import Symbol, Symbols, symbol_of_name
from derive.tex import tree as t
from derive.tex.grammar import parse
from derive.tex.source import Source

MAX_ITEMS = 6  # sub- and superscripts of one symbol
FUNCTIONS = {
    "σ": "sigmoid", "sigmoid": "sigmoid", "logistic": "sigmoid", "relu": "relu", "ReLU": "relu",
    "step": "step", "sign": "sign", "sgn": "sign", "abs": "absolute", "lrelu": "leaky_relu",
    "LeakyReLU": "leaky_relu", "elu": "elu", "ELU": "elu", "softplus": "softplus",
    "gelu": "gelu", "GELU": "gelu", "silu": "silu", "SiLU": "silu", "swish": "silu",
    "sg": "stop_gradient", "exp": "exp", "log": "log", "tanh": "tanh", "sinh": "sinh",
    "cosh": "cosh", "sin": "sin", "cos": "cos", "tan": "tan", "erf": "erf", "erfc": "erfc",
    "sqrt": "sqrt", "softmax": "softmax", "logsumexp": "logsumexp", "diag": "diag",
    "Diag": "diag", "tr": "tr", "Tr": "tr", "trace": "tr", "max": "max", "min": "min",
    "rowmax": "rowmax", "rowmin": "rowmin", "rowsum": "rowsum", "onehot": "onehot", "norm": "norm",
    "rot": "rot180", "rot180": "rot180", "flip": "rot180",
    "atan": "atan", "arctan": "atan", "log1p": "log1p", "expm1": "expm1", "uniform": "uniform",
    **{name: name for name in REGISTRY},
}  # fmt: skip


# -- keys -----------------------------------------------------------------------------------------
def key(letter: str, accents: Sequence[str] = (), subs: Sequence[str] = (), primes: int = 0) -> str:
    """A symbol as one text."""
    return (letter + "".join(f"~{a}" for a in accents)
            + (f"_{{{','.join(subs)}}}" if subs else "") + "'" * primes)


def symbol_key(symbol: Symbol) -> str:
    subs = [symbol_key(s) if isinstance(s, Symbol) else s for s in symbol.subs]
    own = key(symbol.letter, symbol.accents, subs, symbol.primes)
    return own if symbol.loss is None else quotient_key(symbol_key(symbol.loss), own)


def quotient_key(above: str, below: str) -> str:
    """A derivative ∂above/∂below as one text."""
    return f"∂{above}/∂{below}"


@dataclass(frozen=True)
class Item:
    """Something at a symbol that may be part of its name or an index: ``text`` as part of a
    name (None: it can be none), ``group``: items of one group may be letters of one word.
    ``behind``: whether a semicolon stands before it, so that it is an index (True), or after it,
    so that it is part of the name (False)."""

    node: t.Node
    text: str | None
    group: int
    behind: bool | None = None


DIFFERENTIALS = ("d", "δ")  # dW and δh: the adjoints of W and h


def items(node: t.Node, group: int) -> list[Item]:
    """What stands in a subscript: by commas, or letter by letter."""
    if isinstance(node, t.Listed):
        cut = node.signs.index(";") if ";" in node.signs else None
        return [replace(i, behind=i.behind if cut is None else n > cut)
                for n, part in enumerate(node.parts) for i in items(part, 100 * group + n)]
    if isinstance(node, t.Seq) and _is_row(node):
        return [i for piece in node.pieces if not isinstance(piece, t.Op)
                for i in items(piece, group)]
    if isinstance(node, t.Group) and node.kind in "([{" and not isinstance(node.body, t.Listed):
        return [Item(i.node, i.text, group) for i in items(node.body, group)]
    numbered = isinstance(node, t.Word) and not node.accents and node.text[-1:].isdigit()
    return [Item(node, node.text if numbered else node_key(node), group)]  # type: ignore[union-attr]


def _is_row(node: t.Seq) -> bool:
    """Letters side by side, each a symbol of its own; ``2p`` is a product."""
    first = node.pieces[0]
    return all(isinstance(p, t.Sym | t.Scripted | t.Num | t.Word) for p in node.pieces) and not (
        isinstance(first, t.Num) and any(isinstance(p, t.Sym) for p in node.pieces))


def node_key(node: t.Node) -> str | None:
    """A symbol with all that stands at it as its name."""
    if isinstance(node, t.Sym):
        return key(node.letter, node.accents)
    if isinstance(node, t.Word):
        return key(symbol_of_name(node.text).letter if node.text.isidentifier() else node.text,
                   node.accents)
    if isinstance(node, t.Num):
        return node.text
    if isinstance(node, t.Mark) and node.kind == "FUNC":
        return node.text
    if isinstance(node, t.Sum | t.Seq):
        return _layer_key(node)
    if not isinstance(node, t.Scripted) or not isinstance(node.base, t.Sym | t.Word):
        return None
    found = [i for n, part in enumerate((*node.sups, *node.subs)) for i in items(part, n + 1)]
    texts = [i.text for i in found]
    base = node_key(node.base)
    if base is None or any(text is None for text in texts):
        return None
    return base + key("", (), [x for x in texts if x], node.primes)


def named(base: t.Node, names: Sequence[str], primes: int = 0) -> str:
    """The key of a symbol with these parts of a name at it."""
    return (node_key(base) or "") + key("", (), names, primes)


def _layer_key(node: t.Sum | t.Seq) -> str | None:
    """``ℓ−1`` in the name of what belongs to the layer before; ``2ℓ−1``, where a layer has two."""
    (_, first), *rest = node.terms if isinstance(node, t.Sum) else ((False, node),)
    factor, *letter = first.pieces if isinstance(first, t.Seq) else (None, first)
    if factor is not None and not isinstance(factor, t.Num):
        return None
    if len(letter) != 1 or not isinstance(letter[0], t.Sym) or letter[0].letter != "ℓ":
        return None
    key = f"{factor.text if factor else ''}ℓ"
    if not rest:
        return key
    (negative, number), *more = rest
    if more or not isinstance(number, t.Num):
        return None
    return f"{key}{'−' if negative else '+'}{number.text}"


def splits(found: Sequence[Item]) -> Iterator[tuple[tuple[str, ...], tuple[Item, ...]]]:
    """Every way to read items as parts of the name, first, and indices, then."""
    for count in range(min(len(found), MAX_ITEMS) + 1):
        if any(i.text is None for i in found[:count]):
            return
        if any(i.behind for i in found[:count]) or any(i.behind is False for i in found[count:]):
            continue
        for parts in _words(found[:count]):
            yield parts, tuple(found[count:])


def ways(found: Sequence[Item], known: Callable[[tuple[str, ...]], bool], letters: set[str]
         ) -> list[tuple[tuple[str, ...], tuple[Item, ...]]]:
    """`splits`; but what does not end in one of the ``letters`` that are indices, and is a name as
    it stands, is that name, and not an element of something else."""
    every = list(splits(found))
    last = found[-1].text if found else None
    exact = [way for way in every if last is not None and last not in letters
             and not way[1] and known(way[0])]
    return exact or every


def _words(found: Sequence[Item]) -> Iterator[tuple[str, ...]]:
    """Neighbours of one group as one word, or each on its own."""
    if not found:
        yield ()
        return
    for count in range(1, len(found) + 1):
        if found[count - 1].group != found[0].group:
            return
        if count > 1 and not (found[count - 1].text or "").isalnum():
            return
        word = "".join(i.text or "" for i in found[:count])
        for rest in _words(found[count:]):
            yield (word, *rest)


# -- what a symbol may be -------------------------------------------------------------------------
@dataclass(frozen=True)
class Entry:
    """A tensor that a symbol stands for.

    ``of``: what it is the adjoint of, if it is one (``adjoint``). ``declared``: its shape is the
    network's, so that a layout may turn it; else a line defines it, and ``row`` says that what is
    left of it behind its letters is a row.
    """

    tensor: Tensor
    of: Tensor | None = None
    row: bool = False
    declared: bool = True

    @property
    def adjoint(self) -> bool:
        return self.of is not None


@dataclass(frozen=True)
class Layout:
    """How a writer's matrices lie beside what is declared.

    ``samples``: the samples of a batch are the "rows" or the "columns" of a matrix; ``weights``:
    a matrix of parameters is meant "as declared" or "transposed"; ``gradients``: in the shape of
    what it is the gradient of ("denominator") or transposed ("numerator"); ``vectors``: a vector
    is a "column" or a "row".
    """

    samples: str = "rows"
    weights: str = "as declared"
    gradients: str = "denominator"
    vectors: str = "column"

    def __str__(self) -> str:
        return (f"samples are {self.samples}, weights {self.weights}, gradients in {self.gradients}"
                f" layout, vectors are {self.vectors}s")


@dataclass
class Names:
    """What the symbols of a derivation stand for: what is declared, and what its lines define."""

    program: Program
    entries: dict[str, Entry] = field(default_factory=dict)
    sizes: dict[str, Expr] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    adjoints: dict[str, Entry] = field(default_factory=dict)  # by the name of the tensor
    labels: dict[str, str] = field(default_factory=dict)  # a symbol meant as onehot(labels)
    losses: set[str] = field(default_factory=set)
    named_adjoints: dict[str, str] = field(default_factory=dict)  # a symbol for ∂L/∂(a tensor)

    def orientation(self, layout: Layout) -> Orientation:
        from derive.document.forms import batch_size

        return Orientation(self.program.tensors, batch_size(self.program),
                           layout.samples == "columns")

    def first_value(self, name: str) -> Expr | None:
        """What a recurrence reads before its first step: as the network's own equations say."""
        for eq in self.program.equations:
            for node in walk(eq.body):
                if isinstance(node, Select) and isinstance(node.yes, Access) \
                        and node.yes.name == name and isinstance(node.no, Access) \
                        and len(node.no.where) < len(node.yes.where):
                    return node.no
        return None

    def known(self) -> list[str]:
        return [*self.entries, *self.sizes]

    def nearest(self, text: str) -> str | None:
        return nearest(text, self.known())


def declared_names(program: Program, symbols: Symbols, plain: Sequence[str] = ()) -> Names:
    """The names of a program: by the symbols that documents print, and by plain names."""
    names = Names(program)
    for name, tensor in program.tensors.items():
        names.entries.setdefault(symbol_key(symbols.tensor(name)), Entry(tensor))
    for name in plain:
        names.entries[symbol_key(symbol_of_name(name))] = Entry(program.tensors[name])
    names.sizes = {symbol_key(symbols.size(str(s))): s for s in program.sizes}
    for name in program.losses:
        names.losses |= {symbol_key(symbol_of_name(name))}
    return names


def renamed(names: Names, given: Mapping[str, Any]) -> None:
    r"""Adds a reader's own names: ``{r"\phi": "tanh", "N": "B", "K": 10, "y": "onehot(t)"}``.

    Raises:
        LatexError: a name that is no symbol, or that stands for nothing that is declared.
    """
    for text, meant in given.items():
        source = Source(str(text), "names").checked()
        if not str(text).strip():
            source.fail(0, "a name is empty", "a symbol such as X or W^{(1)}")
        symbol = node_key(parse(source, [(0, len(source.text))]))
        if symbol is None:
            source.fail(0, "this is no symbol", "a letter or a word with its sub- and superscripts")
        _rename(names, source, symbol, meant)


def _rename(names: Names, source: Source, symbol: str, meant: Any) -> None:
    tensors = names.program.tensors
    sizes = {str(s): s for s in names.program.sizes}
    word = str(meant)
    if isinstance(meant, int):
        names.sizes[symbol] = sympy.Integer(meant)
    elif word in tensors:
        names.entries[symbol] = Entry(tensors[word])
        if word in names.program.losses:
            names.losses.add(symbol)
    elif word in sizes:
        names.sizes[symbol] = sizes[word]
    elif word in FUNCTIONS:
        names.functions[symbol] = FUNCTIONS[word]
    elif word.startswith("onehot(") and word[7:-1] in tensors:
        names.labels[symbol] = word[7:-1]
    elif word.startswith("d_") and word[2:] in tensors:
        names.named_adjoints[symbol] = word[2:]
    else:
        known = [*tensors, *sizes, *FUNCTIONS, *(f"d_{n}" for n in tensors)]
        guess = nearest(word, [k for k in known if not k.startswith(("_", "d__"))])
        source.fail(0, f"{symbol} stands for {word!r}, which is not declared",
                    "a tensor, d_NAME for its adjoint, a size, a function, or onehot(LABELS)",
                    f"did you mean {guess!r}?" if guess else None)


