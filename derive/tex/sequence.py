"""Factors side by side: which of them are functions of the next one, and what is multiplied how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import sympy

from derive.nodes import Index, Select
from derive.tex import tree as t
from derive.tex.big import big_values
from derive.tex.calls import call
from derive.tex.names import DIFFERENTIALS, items, node_key
from derive.tex.products import Operand, fitting, joined
from derive.tex.symbols import ones, tensor_values
from derive.tex.values import (
    UNKNOWN,
    MisfitError,
    Value,
)

if TYPE_CHECKING:
    from derive.tex.terms import Reader

Pieces = Sequence[t.Node | t.Op]


def sequence_values(reader: Reader, pieces: Pieces, place: int) -> list[Value]:
    """All readings of a sequence of factors.

    Raises:
        MisfitError: there is none.
    """
    if not pieces:
        raise MisfitError("nothing stands here", "an expression", at=place)
    for n, piece in enumerate(pieces):
        if isinstance(piece, t.Word) and piece.text.strip() == "mod" and 0 < n < len(pieces) - 1:
            sides = [sequence_values(reader, p, place) for p in (pieces[:n], pieces[n + 1:])]
            return reader.each(lambda a, b: Value(sympy.Mod(a.body, b.body)), place, *sides)
    return fitting(reader, [partial(joined, reader, operands)
                             for operands in _operands(reader, pieces, 0, "")])


# -- which factor is what -------------------------------------------------------------------------
def _operands(reader: Reader, pieces: Pieces, n: int, op: str) -> list[list[Operand]]:
    if n == len(pieces):
        if op:
            last = pieces[-1]
            raise MisfitError("nothing follows the operator", "a factor", at=last.at)
        return [[]]
    piece = pieces[n]
    if isinstance(piece, t.Op):
        if op or n == 0:
            raise MisfitError("an operator without a factor before it", "a factor", at=piece.at)
        return _operands(reader, pieces, n + 1, piece.text)
    found: list[list[Operand]] = []
    trouble: MisfitError | None = None
    for option in _options(reader, pieces, n):
        try:
            operand, after = option()
            operand = replace(operand, op=op)
            found += [[operand, *rest] for rest in _operands(reader, pieces, after, "")]
        except MisfitError as misfit:
            misfit.at = piece.at if misfit.at is None else misfit.at
            trouble = trouble or misfit
    if found:
        return found
    assert trouble is not None
    raise trouble


Option = Callable[[], tuple[Operand, int]]


def _options(reader: Reader, pieces: Pieces, n: int) -> list[Option]:
    """What a factor may be: a sum over the rest, a function of the next, an adjoint, itself."""
    piece = pieces[n]
    assert not isinstance(piece, t.Op)
    base = piece.base if isinstance(piece, t.Scripted) else piece
    if isinstance(base, t.Mark):
        return [lambda: _marked(reader, pieces, n, piece, base)]
    name = reader.function(piece)
    if name is not None:
        options: list[Option] = [lambda: _function(reader, name, pieces, n)]
        if reader.lookup(node_key(base) or "") or node_key(base) in reader.letters:
            behind = pieces[n + 1] if n + 1 < len(pieces) else None
            own: Option = lambda: (_itself(reader, piece), n + 1)  # noqa: E731
            called = isinstance(behind, t.Group) and behind.kind in "([{"
            return [own, *options] if called else [own]
        return options
    if isinstance(piece, t.Sym) and piece.letter in DIFFERENTIALS and not piece.accents \
            and not reader.lookup(piece.letter) and n + 1 < len(pieces) \
            and isinstance(pieces[n + 1], t.Sym | t.Scripted | t.Word):
        return [lambda: (_adjoint(reader, pieces[n + 1]), n + 2)]
    return [lambda: (_itself(reader, piece), n + 1)]


def _itself(reader: Reader, piece: t.Node) -> Operand:
    values = tuple(reader.values(piece))
    number = isinstance(piece, t.Num | t.Group) or all(
        not v.axes and not v.body.atoms(sympy.Function) and v.body.is_Symbol
        and not isinstance(v.body, Index) for v in values)
    guard = isinstance(piece, t.Group) and piece.kind in "[(" and all(
        isinstance(v.body, Select) and v.body.yes == 1 and v.body.no == 0 for v in values)
    return Operand("", values, piece.at, number, guard)


def _marked(reader: Reader, pieces: Pieces, n: int, piece: t.Node, mark: t.Mark
            ) -> tuple[Operand, int]:
    below = piece if isinstance(piece, t.Scripted) else None
    if mark.kind == "BIG" or (mark.text in ("max", "min") and below is not None and below.subs):
        if below is None:
            raise MisfitError("no index stands below this sign", r"\sum_{i}", at=piece.at)
        return Operand("", tuple(big_values(reader, below, pieces[n + 1:])), piece.at), len(pieces)
    if mark.kind == "FUNC":
        name = reader.function(piece)
        if name is None:
            raise MisfitError(f"{mark.text} is not read", "an elementary function", at=piece.at)
        return _function(reader, name, pieces, n)
    if mark.kind == "ONE":
        return _ones(reader, pieces, n, piece)
    if mark.kind == "PARTIAL":
        return _inline(reader, pieces, n)
    if mark.kind == "NABLA":
        return _nabla(reader, pieces, n, piece)
    raise MisfitError(f"{mark.text} has no value here", "a factor", at=piece.at)


def _ones(reader: Reader, pieces: Pieces, n: int, piece: t.Node) -> tuple[Operand, int]:
    """The column of ones, or an indicator with its condition behind or below it."""
    behind = pieces[n + 1] if n + 1 < len(pieces) else None
    if isinstance(piece, t.Scripted) and piece.subs:
        sub = piece.subs[0]
        inner = sub.body if isinstance(sub, t.Group) else sub
        if isinstance(inner, t.Relation | t.Junction):
            values = reader.values(t.Group("[", inner, piece.at))
            return Operand("", tuple(values), piece.at, guard=True), n + 1
    if isinstance(piece, t.Mark) and isinstance(behind, t.Group):
        inside = behind.body
        if isinstance(inside, t.Relation | t.Junction | t.Listed):
            return Operand("", tuple(reader.values(behind)), piece.at, guard=True), n + 2
    return Operand("", tuple(ones(reader, piece)), piece.at), n + 1


def _inline(reader: Reader, pieces: Pieces, n: int) -> tuple[Operand, int]:
    """``∂L/∂W`` on one line."""
    if len(pieces) - n >= 5:
        _, above, slash, sign, below = pieces[n : n + 5]
        if isinstance(slash, t.Op) and slash.text == "/" and isinstance(sign, t.Mark) \
                and not isinstance(above, t.Op) and not isinstance(below, t.Op):
            place = pieces[n].at
            made = t.Frac(t.Seq((pieces[n], above), place), t.Seq((sign, below), place), place)
            return Operand("", tuple(reader.values(made)), place), n + 5
    raise MisfitError("∂ stands alone", r"\frac{\partial L}{\partial W}", at=pieces[n].at)


def _nabla(reader: Reader, pieces: Pieces, n: int, piece: t.Node) -> tuple[Operand, int]:
    """``∇_W L``."""
    behind = pieces[n + 1] if n + 1 < len(pieces) else None
    if not isinstance(piece, t.Scripted) or not piece.subs or behind is None \
            or isinstance(behind, t.Op) or node_key(behind) not in reader.names.losses:
        raise MisfitError("∇ is read with what it differentiates by, and the loss behind it",
                          r"\nabla_W L", at=piece.at)
    name, rest = reader.subject(piece.subs[0])
    rest = [*rest, *(i for k, s in enumerate(piece.subs[1:]) for i in items(s, -k - 1))]
    values = tensor_values(reader, reader.adjoint(name, piece.at), rest)
    return Operand("", tuple(values), piece.at), n + 2


def _adjoint(reader: Reader, piece: t.Node | t.Op) -> Operand:
    """``dW``: the adjoint of W."""
    from derive.tex.symbols import above, parts

    assert not isinstance(piece, t.Op)
    base, subs, sups, primes = parts(piece)
    name, rest = reader.subject(t.Scripted(base, subs, tuple(
        s for s in sups if not any(r.turned for r in above((s,)))), 0, piece.at))
    values = tensor_values(reader, reader.adjoint(name, piece.at), rest)
    readings = above(sups)
    turned = [r for r in readings if r.turned] if sups else []
    if bool(turned) != bool(primes % 2):
        from derive.tex.values import transposed

        values = [transposed(v) for v in values]
    return Operand("", tuple(values), piece.at)


def _function(reader: Reader, name: str, pieces: Pieces, n: int) -> tuple[Operand, int]:
    """A function of what follows: of a group in parentheses, or of the one factor that is left."""
    piece = pieces[n]
    assert not isinstance(piece, t.Op)
    scripts = piece if isinstance(piece, t.Scripted) else t.Scripted(piece, (), (), 0, piece.at)
    if n + 1 >= len(pieces) or isinstance(pieces[n + 1], t.Op):
        raise MisfitError(f"{name} has no argument", f"{name}(…)", at=piece.at)
    behind = pieces[n + 1]
    assert not isinstance(behind, t.Op)
    group = behind.base if isinstance(behind, t.Scripted) else behind
    if isinstance(group, t.Group) and group.kind in "([{\\{":
        nodes = group.body.parts if isinstance(group.body, t.Listed) else (group.body,)
        values = _applied(reader, name, scripts, nodes)
        if isinstance(behind, t.Scripted):
            values = reader.scripted(values, behind.subs, behind.sups, behind.primes, behind.at)
        return Operand("", tuple(values), piece.at), n + 2
    rest = pieces[n + 1:]
    big = isinstance(group, t.Mark) and group.kind == "BIG"
    stop = next((k for k, p in enumerate(rest) if isinstance(p, t.Op)), len(rest))
    if not big and stop != 1:
        raise MisfitError(f"{name} of the next factor, or of all that follows?",
                          f"{name}(…) with parentheses", at=piece.at)
    node: t.Node = behind if not big else t.Seq(tuple(rest), behind.at)
    values = _applied(reader, name, scripts, (node,))
    return Operand("", tuple(values), piece.at), len(pieces) if big else n + 2


def _applied(reader: Reader, name: str, scripts: t.Scripted, nodes: Sequence[t.Node]
             ) -> list[Value]:
    wanted = reader.labels_wanted
    reader.labels_wanted = wanted or name == "onehot"
    try:
        args = [reader.values(node) for node in nodes]
    finally:
        reader.labels_wanted = wanted
    over: Index | None = None
    settings: list[list[Value]] = []
    for n, sub in enumerate(scripts.subs):
        letter = node_key(sub)
        if name in ("softmax", "logsumexp") and letter in reader.letters:
            over = Index(str(letter), UNKNOWN)
        else:
            settings += [reader.values(i.node) for i in items(sub, n)]
    values = reader.each(lambda *a: _called(reader, name, a, scripts.primes, over),
                         scripts.at, *args, *settings)
    if name == "onehot" and reader.layout.samples == "columns":
        values = [replace(v, axes=v.axes[::-1]) for v in values]
    out = []
    from derive.tex.symbols import above

    for value in values:
        for reading in above(scripts.sups):
            if reading.power is not None and not reading.turned and not reading.found:
                powers = reader.values(reading.power)
                if any(p.body == -1 for p in powers):
                    raise MisfitError(f"{name}^{{-1}} is an inverse or a quotient",
                                      "a fraction, or the function's own name", at=scripts.at)
                out += [value.with_body(value.body**p.body) for p in powers]
            elif not scripts.sups:
                out.append(value)
    return out


def _called(reader: Reader, name: str, args: Sequence[Value], primes: int, over: Index | None
            ) -> Value:
    if over is not None:
        sized = [s for s in args[0].body.free_symbols
                 if isinstance(s, Index) and s.name == over.name and s.size != UNKNOWN]
        if len(sized) != 1:
            raise MisfitError(f"index {over} does not occur in the argument of {name}")
        over = sized[0]
    return call(name, list(args), primes, reader.batch, over)
