"""Guards out of innermost loops: tree → tree with the same results, for compilers to vectorise.

Three rewritings, inside out. A loop over few values whose body asks which value it is becomes one
body for each (the gates of a cell, the parts of a concatenation). A guard that does not depend on
the innermost index goes around its loop. A guard that bounds the innermost index becomes the
bounds of its loop (the border of a convolution).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import sympy
from sympy import Expr, Integer, S

from codegen.contraction import conjuncts, limits
from codegen.loops import (
    HI,
    LO,
    If,
    Let,
    Loop,
    Matrix,
    Product,
    Statement,
    Store,
    Window,
    expressions,
    statements,
)
from derive.nodes import Access, Index, IntegerAccess, Select, accesses

UNROLLED = 8  # values of an index up to which a loop over it may become one body for each
UNSWITCHED = 2  # guards that go around one loop: each doubles the code


def sharpen(body: Iterable[Statement]) -> tuple[Statement, ...]:
    """The statements with guards moved out of innermost loops."""
    out: list[Statement] = []
    for node in body:
        out += _sharpened(node)
    return _pruned(out)


def _pruned(body: Iterable[Statement]) -> tuple[Statement, ...]:
    """Without loops and branches that do nothing: a guard that is decided may leave such."""
    out: list[Statement] = []
    for node in body:
        if isinstance(node, Loop):
            node = replace(node, body=_pruned(node.body))
            out += [node] if node.body else []
        elif isinstance(node, If):
            yes, no = _pruned(node.yes), _pruned(node.no)
            if yes:
                out.append(replace(node, yes=yes, no=no))
            elif no:
                out.append(If(sympy.Not(node.condition), no))
        else:
            out.append(node)
    return tuple(out)


def _sharpened(node: Statement) -> tuple[Statement, ...]:
    if isinstance(node, If):
        return (replace(node, yes=sharpen(node.yes), no=sharpen(node.no)),)
    if not isinstance(node, Loop):
        return (node,)
    values = _values(node)
    if values is not None:
        return sharpen(s for v in values for s in substitute(node.body, {node.index: v}))
    if any(isinstance(inner, Loop | Product) for inner in statements(node.body)):
        inner = sharpen(node.body)
        return (replace(node, body=inner),)
    return _unswitched(_strip(node), UNSWITCHED)


def _strip(loop: Loop) -> Loop:
    """A loop whose index is divided by a constant, in steps of that constant."""
    quotients = {f for node in statements(loop.body) for e in expressions(node)
                 for f in e.atoms(sympy.floor) if loop.index in f.free_symbols}
    steps = {sympy.denom(f.args[0].coeff(loop.index)) for f in quotients}
    if len(steps) != 1 or loop.start != 0 or loop.down or loop.stop != loop.index.size:
        return loop
    (step,) = steps
    if not (loop.stop.is_Integer and 1 < step <= UNROLLED and loop.stop % step == 0):
        return loop
    outer = Index(loop.index.name, loop.stop / step)
    body = tuple(s for n in range(int(step))
                 for s in substitute(loop.body, {loop.index: step * outer + n}))
    return Loop(outer, S.Zero, outer.size, _values_first(body))


def _values_first(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """All values before the first is stored, where no store feeds another: the compiler cannot
    see that the tensors read are not the one that is written."""
    stores = [s for s in body if isinstance(s, Store) and s.op == "="]
    written = {s.target.name for s in stores}
    if len(stores) < len(body) or any(a.name in written for s in stores
                                      for a in accesses(s.value)):
        return body
    names = [sympy.Symbol(f"_t{n}", extended_real=True) for n in range(len(stores))]
    lets = [Let(name, s.value) for name, s in zip(names, stores, strict=True)]
    return (*lets, *(replace(s, value=name) for name, s in zip(names, stores, strict=True)))


# -- one body for each value ----------------------------------------------------------------------
def _values(node: Loop) -> list[Integer] | None:
    """The values of a loop that is better written out: few of them, told apart by its body."""
    if node.down or not (node.start.is_Integer and node.stop.is_Integer):
        return None
    if int(node.stop - node.start) > UNROLLED:
        return None
    told = any(isinstance(c, sympy.Eq) and node.index in c.args
               and (set(c.args) - {node.index}).pop().is_Integer
               for inner in statements(node.body) for e in expressions(inner)
               for c in e.atoms(sympy.Eq))
    return [Integer(v) for v in range(int(node.start), int(node.stop))] if told else None


def substitute(node: Any, mapping: dict[Expr, Expr]) -> Any:
    """A tree with expressions replaced; branches that are decided by it are taken."""
    if isinstance(node, tuple):
        out: list[Statement] = []
        for inner in node:
            changed = substitute(inner, mapping)
            if isinstance(changed, If) and changed.condition in (S.true, S.false):
                out += changed.yes if changed.condition == S.true else changed.no
            else:
                out.append(changed)
        return tuple(out)
    if isinstance(node, Loop | Let | Store | If | Product):
        changes: dict[str, Any] = {}
        for field in fields(node):
            value = getattr(node, field.name)
            if field.name == "places":
                changes[field.name] = tuple(a.xreplace(mapping) for a in value)
            elif isinstance(value, tuple | Matrix | Window):
                changes[field.name] = substitute(value, mapping)
            elif hasattr(value, "xreplace"):
                changes[field.name] = value.xreplace(mapping)
        return replace(node, **changes)
    if isinstance(node, Matrix | Window):
        return replace(node, **{f.name: getattr(node, f.name).xreplace(mapping)
                                for f in fields(node)
                                if hasattr(getattr(node, f.name), "xreplace")})
    return node


# -- guards around the innermost loop -------------------------------------------------------------
def _unswitched(loop: Loop, left: int) -> tuple[Statement, ...]:
    conditions = [c for c in _conditions(loop) if loop.index not in c.free_symbols]
    if conditions and left:
        condition = min(conditions, key=str)
        sides = [_unswitched(replace(loop, body=_decided(loop.body, condition, value)), left - 1)
                 for value in (S.true, S.false)]
        return (If(condition, *sides),)
    return _bounded(loop)


def _conditions(loop: Loop) -> list[Expr]:
    """Comparisons of indices alone that the body asks for."""
    found: dict[Expr, None] = {}
    for node in statements(loop.body):
        guards = [s.condition for e in expressions(node) for s in e.atoms(Select)]
        if isinstance(node, If):
            guards.append(node.condition)
        for guard in guards:
            for atom in guard.atoms(sympy.core.relational.Relational):
                if not atom.has(Access) and atom.atoms(Index) and not _locals(atom):
                    found[atom] = None
    return list(found)


def _locals(expr: Expr) -> bool:
    """Whether scalars that are computed on the way enter."""
    return any(not isinstance(s, Index) and not s.is_positive and s not in (LO, HI)
               for s in expr.free_symbols)


def _decided(body: tuple[Statement, ...], condition: Expr, value: Expr) -> tuple[Statement, ...]:
    other = sympy.Not(condition)
    return substitute(body, {condition: value, other: sympy.Not(value)})


# -- guards as bounds of the innermost loop -------------------------------------------------------
def _bounded(loop: Loop) -> tuple[Statement, ...]:
    """A loop around one guarded statement, over the values that the guard lets through."""
    if loop.down or len(loop.body) != 1:
        return (loop,)
    (node,) = loop.body
    before: tuple[Statement, ...] = ()
    if isinstance(node, Store) and isinstance(node.value, Select) and node.value.no == 0:
        if node.op not in ("=", "+=") or isinstance(node.target, IntegerAccess):
            return (loop,)
        if node.op == "=":
            before = (replace(loop, body=(replace(node, value=S.Zero),)),)
        node = If(node.value.condition, (replace(node, value=node.value.yes),))
    if not isinstance(node, If) or node.no:
        return (loop,)
    start, stop = loop.start, loop.stop
    rest: list[Expr] = []
    for condition in conjuncts(node.condition):
        limit = limits(condition, loop.index)
        if limit is None or condition.has(Access):
            rest.append(condition)
            continue
        if limit[0] is not None:
            start = sympy.Max(start, limit[0])
        if limit[1] is not None:
            stop = sympy.Min(stop, limit[1])
    if (start, stop) == (loop.start, loop.stop):
        return (loop,)
    inner = (If(sympy.And(*rest), node.yes),) if rest else node.yes
    return (*before, replace(loop, start=start, stop=stop, body=inner))
