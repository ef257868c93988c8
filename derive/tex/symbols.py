"""Symbols with sub- and superscripts → values: whole arrays, slices, elements, adjoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import TYPE_CHECKING

import sympy
from sympy import Expr, S

from derive.nodes import Index, Select
from derive.tex import tree as t
from derive.tex.names import Entry, Item, items, key, named, node_key, ways
from derive.tex.values import (
    UNKNOWN,
    Axis,
    MisfitError,
    Value,
    array,
    fresh,
    is_condition,
    transposed,
)

if TYPE_CHECKING:
    from derive.tex.terms import Reader

_CONSTANTS = {"e": sympy.E, "π": sympy.pi}


@dataclass(frozen=True)
class Above:
    """One reading of what stands above a symbol: items of its name or its indices, a power,
    whether it is transposed."""

    found: tuple[Item, ...] = ()
    power: t.Node | None = None
    turned: bool = False


def above(sups: Sequence[t.Node]) -> list[Above]:
    """The readings of superscripts: (1) and [l] are items, ⊤ transposes, what is left is a power
    or an item."""
    readings = [Above()]
    for n, sup in enumerate(sups):
        readings = [new for old in readings for new in _above(old, sup, n + 1)]
    return readings


def _above(old: Above, sup: t.Node, group: int) -> Iterator[Above]:
    pieces = list(sup.pieces) if isinstance(sup, t.Seq) else [sup]
    turned = bool(pieces) and isinstance(pieces[-1], t.Mark) and pieces[-1].kind == "TOP"
    letter = bool(pieces) and isinstance(pieces[-1], t.Sym) and pieces[-1].letter == "T" \
        and not pieces[-1].accents
    for drop in ([1] if turned else [1, 0] if letter else [0]):
        left = pieces[: len(pieces) - drop]
        was = old.turned != bool(drop)
        if not left:
            yield Above(old.found, old.power, was)
            continue
        if all(isinstance(p, t.Group) and p.kind in "([" for p in left):
            found = tuple(i for p in left for i in items(p, group))  # type: ignore[arg-type]
            yield Above((*old.found, *found), old.power, was)
            continue
        rest = sup if not drop else t.Seq(tuple(left), sup.at) if len(left) > 1 else left[0]
        assert not isinstance(rest, t.Op)
        if old.power is None:
            yield Above(old.found, rest, was)
        if not isinstance(left[0], t.Op):
            found = tuple(items(rest, group))
            if isinstance(rest, t.Num):  # W^2 is a square or has its name, and is no element
                found = tuple(replace(i, behind=False) for i in found)
            yield Above((*old.found, *found), old.power, was)


def parts(node: t.Node) -> tuple[t.Node, tuple[t.Node, ...], tuple[t.Node, ...], int]:
    """A symbol's base, sub- and superscripts and primes."""
    if isinstance(node, t.Scripted):
        return node.base, node.subs, node.sups, node.primes
    return node, (), (), 0


def symbol_values(reader: Reader, node: t.Node) -> list[Value]:
    """All readings of a symbol.

    Raises:
        MisfitError: there is none; says the nearest name.
    """
    base, subs, sups, primes = parts(node)
    below = [i for n, sub in enumerate(subs) for i in items(sub, -n - 1)]
    found: list[Value] = []
    trouble: MisfitError | None = None
    for reading in above(sups):
        try:
            for value in _bare(reader, base, [*reading.found, *below], primes, reading.turned):
                found += reader.powers(value, reading.power) if reading.power else [value]
        except MisfitError as misfit:
            misfit.at = node.at if misfit.at is None else misfit.at
            trouble = _clearer(trouble, misfit)
    if found:
        return reader.distinct(found)
    assert trouble is not None
    raise trouble


def _clearer(old: MisfitError | None, new: MisfitError) -> MisfitError:
    """Of two troubles the one that tells more: a misfit, rather than an unknown name."""
    return new if old is None or (isinstance(old, UnknownNameError)
                                  and not isinstance(new, UnknownNameError)) else old


class UnknownNameError(MisfitError):
    """A symbol that nothing declares or defines."""


def _bare(reader: Reader, base: t.Node, found: list[Item], primes: int, turned: bool
          ) -> list[Value]:
    """The readings of a symbol with items, transposed or not, without its power."""
    letter = node_key(base)
    assert letter is not None
    whole = node_key(t.Scripted(base, (), (), primes, base.at)) if not found else None
    if whole in reader.letters:  # the nearest meaning of a bare letter
        return [Value(Index(whole, UNKNOWN) + reader.base)]
    values: list[Value] = []
    trouble: MisfitError | None = None
    split = ways(found, lambda n: bool(reader.lookup(named(base, n, primes))), reader.letters)
    for names, indices in split:
        for used in dict.fromkeys((primes, 0)):
            entries = reader.lookup(named(base, names, used))
            for entry in entries if used or not values else ():
                try:
                    values += _oriented(reader, entry, indices, primes - used, turned)
                except MisfitError as misfit:
                    trouble = trouble or misfit
    for names, indices in split if not values and trouble is None else ():  # δ^{(1)}_j is no δ_{1j}
        try:
            values = values or _other(reader, base, names, indices, primes, turned)
        except MisfitError as misfit:
            trouble = trouble or misfit
    if values:
        return values
    raise trouble or unknown(reader, base, found, primes)


def _oriented(reader: Reader, entry: Entry, found: Sequence[Item], primes: int, turned: bool
              ) -> list[Value]:
    """A tensor as it stands, or its transpose: ``W^\\top_{ij}`` is the element ``W_{ji}``.

    Raises:
        MisfitError: a prime that is no transpose stands at it.
    """
    flip = turned != bool(primes)
    if primes > 1 or (primes and entry.tensor.rank == 0):
        raise no_transpose(entry.tensor.name, primes)
    if flip and len(found) == entry.tensor.rank > 1:
        return tensor_values(reader, entry, [*found[:-2], found[-1], found[-2]])
    values = tensor_values(reader, entry, found)
    if primes and any(not v.axes for v in values):
        raise no_transpose(f"an element of {entry.tensor.name}", primes)
    return [transposed(v) for v in values] if flip else values


def no_transpose(what: str, primes: int) -> MisfitError:
    if primes > 1:
        return MisfitError(f"{what} with {primes} primes is not declared",
                           "one prime at a matrix is its transpose, f'(…) a derivative")
    return MisfitError(f"a prime at {what}, a scalar, is no transpose",
                       "f'(…) for a derivative, or a line that defines the name with its prime")


def unknown(reader: Reader, base: t.Node, found: Sequence[Item], primes: int = 0) -> MisfitError:
    text = (node_key(base) or "") + key("", (), [i.text or "…" for i in found], primes)
    stem = node_key(base) or ""
    shown = shown_key(text)
    if stem == "prod":
        return UnknownNameError("prod hides which factor is transposed, and their order",
                                "the product written out; a step that has none is left out",
                                at=base.at)
    known = [k for k in reader.names.known() if not k.startswith("∂")]
    guess = reader.names.nearest(text) or reader.names.nearest(stem)
    plain = sorted(map(shown_key, known))[:24]
    if len(stem) == 1 and not found and stem.isalpha() and reader.letters and guess is None:
        return UnknownNameError(f"{shown} is neither declared nor an index here",
                                "one of " + ", ".join(plain), at=base.at)
    return UnknownNameError(
        f"{shown} is not declared", "one of " + ", ".join(plain),
        (f"did you mean {shown_key(guess)}? Other names: " if guess else "")
        + f'names={{r"{shown}": …}}, or a line that defines it', at=base.at)


def shown_key(text: str) -> str:
    """A key as a reader knows it: y~hat_{1} as \\hat{y}_{1}."""
    stem, brace, rest = text.partition("_{")
    letter, *accents = stem.split("~")
    for accent in accents:
        letter = rf"\{accent}{{{letter}}}"
    return letter + (("_{" + rest) if brace else "")


# -- tensors --------------------------------------------------------------------------------------
def tensor_values(reader: Reader, entry: Entry, found: Sequence[Item]) -> list[Value]:
    """A tensor with indices: an element, a slice, or the whole.

    Raises:
        MisfitError: it has fewer dims, or an index does not fit.
    """
    indices = entry.tensor.indices
    if len(found) > len(indices):
        raise MisfitError(
            f"{entry.tensor.name} has {len(indices)} dims, and {len(found)} indices here",
            "(" + ", ".join(str(i.size) for i in indices) + ")", at=found[0].node.at)
    values = []
    every = _dims(entry, found)
    if any(map(_is_whole, found)):  # A_{:,j}
        if len(found) < len(indices):
            raise MisfitError(f"a colon stands at {entry.tensor.name}, and {len(found)} of its "
                              f"{len(indices)} dims", "all dims where one is a colon",
                              at=found[0].node.at)
        every = [tuple(k for k, item in enumerate(found) if not _is_whole(item))]
        found = [item for item in found if not _is_whole(item)]
    choices = [index_readings(reader, item) for item in found]
    for dims in every:
        for chosen in product(*choices):
            values.append(_access(reader, entry, dims, chosen))
    return values


def _is_whole(item: Item) -> bool:
    return isinstance(item.node, t.Mark) and item.node.kind == "ALL"


def index_readings(reader: Reader, item: Item) -> list[Expr]:
    """What stands as an index, counted from 0."""
    values = [v for v in reader.values(item.node) if not v.axes]
    if not values:
        raise MisfitError("an array stands as an index", "a letter, a number or a label",
                          at=item.node.at)
    return [sympy.expand(v.body - reader.base) for v in values if not is_condition(v.body)]


def _dims(entry: Entry, found: Sequence[Item]) -> list[tuple[int, ...]]:
    """Which dims a few indices are meant for: those whose declared letters they are, else all
    that come in question."""
    indices = entry.tensor.indices
    if len(found) == len(indices) or not found:
        return [tuple(range(len(found)))]
    if not entry.declared:
        return [tuple(range(len(found)))]
    called = [i.name for i in indices]
    texts = [_letter(item.node) for item in found]
    named = [called.index(x) for x in texts if x in called]
    if len(named) == len(found) and named == sorted(set(named)):
        return [tuple(named)]
    return list(combinations(range(len(indices)), len(found)))


def _letter(node: t.Node) -> str | None:
    """The letter of an index expression: of t-1 it is t."""
    if isinstance(node, t.Sum):
        letters = [x for _, term in node.terms if (x := _letter(term)) is not None]
        return letters[0] if len(letters) == 1 else None
    return node_key(node) if isinstance(node, t.Sym) else None


def _access(reader: Reader, entry: Entry, dims: tuple[int, ...], chosen: Sequence[Expr]) -> Value:
    tensor = entry.tensor
    where: list[Expr] = [S.Zero] * tensor.rank
    for dim, expr in zip(dims, chosen, strict=True):
        size = tensor.indices[dim].size
        if isinstance(expr, Index):
            if expr.size not in (UNKNOWN, size) and size != UNKNOWN:
                raise MisfitError(f"index {expr} ranges over {expr.size}, and {tensor.name} has "
                                  f"{size} there")
            expr = Index(expr.name, size)
        elif expr.is_Integer and size.is_Integer and not 0 <= expr < size:
            raise MisfitError(f"{expr + reader.base} lies outside of {tensor.name}",
                              f"{reader.base} … {size - 1 + reader.base}")
        where[dim] = expr
    rest = [d for d in range(tensor.rank) if d not in dims]
    axes = [fresh(tensor.indices[d].size) for d in rest]
    for dim, axis in zip(rest, axes, strict=True):
        where[dim] = axis
    body = tensor.at(*where)
    if tensor.dtype == "int" and axes and not reader.labels_wanted:
        raise MisfitError(
            f"{tensor.name} holds labels (numbers of classes), not the entries of an array",
            mend=rf"\operatorname{{onehot}}({tensor.name}), or [k = {tensor.name}_b] with indices")
    return array(body, _placed(reader, entry, rest, axes))


def _placed(reader: Reader, entry: Entry, rest: list[int], axes: list[Index]) -> tuple[Axis, ...]:
    if len(axes) == 1:
        row = entry.row if not entry.declared else (reader.layout.vectors == "row") != (
            entry.tensor.dtype != "int" and turned(reader, entry, rest[0]))
        return (None, axes[0]) if row else (axes[0], None)
    if len(axes) == 2 and entry.declared and turned(reader, entry, rest[0]):
        return axes[1], axes[0]
    return tuple(axes)


def turned(reader: Reader, entry: Entry, first: int) -> bool:
    """Whether a symbol means the transpose of what is declared."""
    of = entry.of or entry.tensor
    layout = reader.layout
    columns = layout.samples == "columns" and of.indices[first].size == reader.batch
    weights = layout.weights == "transposed" and of.role == "parameter" and of.rank == 2
    return (columns != weights) != (layout.gradients == "numerator" and entry.adjoint)


# -- other meanings -------------------------------------------------------------------------------
def _other(reader: Reader, base: t.Node, names: Sequence[str], indices: Sequence[Item],
           primes: int, turned: bool) -> list[Value]:
    """What a symbol may mean that is no tensor."""
    symbol = named(base, names, primes)
    if symbol in reader.names.labels:
        return [_indexed(reader, transposed(v) if turned else v, indices)
                for v in reader.onehot(reader.names.labels[symbol])]
    stem = adjoint_stem(reader, base, names)
    if stem is not None:
        return _oriented(reader, reader.adjoint(stem, base.at), indices, primes, turned)
    return [transposed(v) if turned else v
            for v in _named_otherwise(reader, base, names, indices, primes)]


def _named_otherwise(reader: Reader, base: t.Node, names: Sequence[str],
                     indices: Sequence[Item], primes: int) -> list[Value]:
    symbol = named(base, names, primes)
    if names and not isinstance(base, t.Sym):
        return []
    if not indices and not names and not primes:
        return _plain(reader, symbol, base)
    if symbol == "δ" and len(indices) == 2 and not primes:
        try:
            a, b = (index_readings(reader, i)[0] for i in indices)
        except MisfitError:  # a letter is no index: it may be a part of the name
            return []
        return [Value(Select(sympy.Eq(a, b), S.One))]
    if symbol in ("I", "ONE") and len(indices) <= 1:
        return _sized(reader, symbol, indices)
    return []


def _plain(reader: Reader, symbol: str, base: t.Node) -> list[Value]:
    size = reader.size(symbol)
    if size is not None:
        return [Value(size)]
    if symbol in _CONSTANTS:
        return [Value(_CONSTANTS[symbol])]
    if symbol == "I":
        return _sized(reader, symbol, ())
    return []


def _sized(reader: Reader, symbol: str, indices: Sequence[Item]) -> list[Value]:
    """The identity and the column of ones, of a size that is given or found."""
    size: Expr = UNKNOWN
    if indices:
        size = index_readings(reader, indices[0])[0] + reader.base
    row, col = fresh(size), fresh(size)
    if symbol == "I":
        return [Value(Select(sympy.Eq(row, col), S.One), (row, col))]
    return [Value(S.One, (row, None))]


def ones(reader: Reader, node: t.Node) -> list[Value]:
    r"""``\mathbf{1}``, ``\mathbf{1}_N``, ``\mathbf{1}^\top``; with a condition the indicator."""
    _, subs, sups, primes = parts(node)
    found = [i for n, sub in enumerate(subs) for i in items(sub, n)]
    if len(found) > 1:
        raise MisfitError(r"\mathbf{1} has one size", at=node.at)
    (value,) = _sized(reader, "ONE", found)
    readings = above(sups)
    if any(r.power is not None or r.found for r in readings[:1]):
        raise MisfitError(r"\mathbf{1} has no power", at=node.at)
    turned_ = readings[0].turned != bool(primes % 2)
    return [transposed(value) if turned_ else value]


def _indexed(reader: Reader, value: Value, indices: Sequence[Item]) -> Value:
    from derive.tex.values import at

    return at(value, tuple(index_readings(reader, i)[0] for i in indices)) if indices else value


def adjoint_stem(reader: Reader, base: t.Node, names: Sequence[str]) -> str | None:
    """The tensor whose adjoint ``\\bar{…}`` or ``\\delta_{…}`` is."""
    if isinstance(base, t.Sym | t.Word) and base.accents and base.accents[-1] == "bar":
        plain = t.Sym(base.letter, base.at, base.accents[:-1]) if isinstance(base, t.Sym) \
            else t.Word(base.text, base.at, base.accents[:-1])
        return reader.target(named(plain, names))
    if isinstance(base, t.Sym) and base.letter == "δ" and not base.accents and names:
        return reader.target(names[0] + key("", (), names[1:])) if not names[0].isdigit() else None
    return None

