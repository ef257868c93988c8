"""Sums over windows as they are, for a nest of loops with constant bounds (direct.py).

Such a nest asks no guard, so what a window reads beyond a tensor's end is put around a copy of it:

    X[b,c,y,x] = x[b,c,y-1,x-1] inside, else 0
    y[b,o,p,q] = sum over c, u, r of ( X[b,c,p+u,q+r] * K[o,c,u,r] )

which is the tensor once, not once for each place of the kernel as its patches are. Where the
windows' positions are summed (the gradient of a kernel), vectors run along a dim of the other
factor, which is copied with that dim last, as it is in the sum's own tensor:

    D[b,p,q,o]  = dy[b,o,p,q]
    T[c,u,r,o]  = sum over b, p, q of ( D[b,p,q,o] * X[b,c,p+u,q+r] )
    dK[o,c,u,r] = T[c,u,r,o]
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy
from sympy import Expr, Integer

from codegen.blend import extent
from codegen.contraction import count
from codegen.direct import Direct, direct
from derive.nodes import Access, Index, Select, SumOver, fresh
from derive.program import Equation, Tensor

if TYPE_CHECKING:
    from codegen.pack import Packing

Made = tuple[tuple[Hashable, Equation], ...]


@dataclass(frozen=True)
class Choice:
    """One way to compute a term: the equations of its further tensors (with keys by which equal
    ones are found again), the term, and how many nanoseconds it should take."""

    way: str
    made: Made
    body: Expr
    cost: float


@dataclass(frozen=True)
class Window:
    """A term ``factor * sum over bound of [conditions] number * windowed * other``."""

    factor: Expr
    bound: tuple[Index, ...]
    conditions: tuple[Expr, ...]
    windowed: Access
    other: Access


def direct_choice(packing: Packing, eq: Equation, w: Window) -> Choice | None:
    """The sum as a nest of loops, or None where that cannot be."""
    bordered = _bordered(packing, eq, w)
    if bordered is None:
        return None
    access, made = bordered
    shapes = {**packing.shapes, **{m.name: m.tensor.shape for _, m in made}}
    sum_ = SumOver(access * w.other, *w.bound)
    found = direct(eq.target, w.factor, sum_, shapes)
    ways = [_turned(packing, eq, w, access, made, shapes)]
    if found is not None:
        ways.append(_weighed(packing, eq, made, w.factor * sum_, found))
    return min((way for way in ways if way), key=lambda way: way.cost, default=None)


def _turned(packing: Packing, eq: Equation, w: Window, access: Access, made: Made,
            shapes: dict[str, tuple[Expr, ...]]) -> Choice | None:
    """The same with the other factor's own index last, in it and in a target of its own."""
    free, places = list(eq.indices), w.other.where
    if not all(isinstance(e, Index) for e in places) or not set(places) <= {*free, *w.bound}:
        return None
    own = [i for i in free if i in places and not access.has(i)]
    if not own or len(set(places)) < len(places):
        return None
    last = own[-1]
    other = w.other
    if places[-1] != last:
        order = (*(e for e in places if e != last), last)
        turned, new = packing.packed("turned", eq, order, w.other)
        other, made = turned.at(*order), (*made, *new)
        shapes = {**shapes, turned.name: turned.shape}
    indices = (*(i for i in free if i != last), last)
    tensor = Tensor(packing.name("sum", eq), indices, origin=("packed", eq.name))
    sum_ = SumOver(access * other, *w.bound)
    found = direct(tensor.at(*indices), sympy.S.One, sum_, {**shapes, tensor.name: tensor.shape})
    if found is None:
        return None
    new = ((tensor, Equation(tensor, indices, sum_, eq.why)),)
    return _weighed(packing, eq, (*made, *new), w.factor * tensor.at(*indices), found)


def _weighed(packing: Packing, eq: Equation, made: Made, body: Expr, found: Direct) -> Choice:
    moved = sum(count(m.indices) for _, m in made)
    return packing.choice("direct", eq, made, body, packing.rates.border*moved, found.rate)


def _bordered(packing: Packing, eq: Equation, w: Window) -> tuple[Access, Made] | None:
    """The windowed tensor where every place of a window is there: a copy with a border, or the
    tensor itself where no window leaves it."""
    shape = packing.shapes[w.windowed.name]
    ends = [None if isinstance(e, Index) else _ends(e, size)
            for e, size in zip(w.windowed.where, shape, strict=True)]
    if not bounds_alone(w, shape) or any(
            e is None and not isinstance(p, Index)
            for e, p in zip(ends, w.windowed.where, strict=True)):
        return None
    if not w.conditions:
        return w.windowed, ()
    taken = {i.name for i in (*eq.indices, *w.bound)}
    indices: list[Index] = []
    inside: list[Expr] = []
    places: list[Expr] = []
    at: list[Expr] = []
    own = packing.program.tensors[w.windowed.name].indices
    for e, end, size, index in zip(w.windowed.where, ends, shape, own, strict=True):
        if end is None:
            assert isinstance(e, Index)
            indices.append(e)
            places.append(e)
            at.append(e)
            continue
        low, high = end
        new = fresh(Index(index.name, Integer(high - low + 1)), taken)
        taken.add(new.name)
        indices.append(new)
        places.append(new + low)
        at.append(e - low)
        inside += [sympy.Ge(new + low, 0)] if low < 0 else []
        inside += [sympy.Lt(new + low, size)] if high >= size else []
    body = Select(sympy.And(*inside), w.windowed.func(w.windowed.name, *places), 0)
    tensor, made = packing.packed("border", eq, tuple(indices), body)
    return tensor.at(*at), made


def _ends(place: Expr, size: Expr) -> tuple[int, int] | None:
    """The least and the largest value of a place that moves by whole numbers."""
    indices = place.atoms(Index)
    steps = [place.diff(i) for i in indices]
    found = extent(sympy.expand(place)) if all(s.is_Integer for s in steps) else None
    if found is None or not size.is_Integer or not all(e.is_Integer for e in found):
        return None
    return int(found[0]), int(found[1])


def bounds_alone(w: Window, shape: Iterable[Expr]) -> bool:
    """Whether the conditions say no more than that the places are there."""
    known = set()
    for place, size in zip(w.windowed.where, shape, strict=True):
        known |= {sympy.expand(place), sympy.expand(size - 1 - place)}
    return all(_least(c) in known for c in w.conditions)


def _least(condition: Expr) -> Expr | None:
    """What must be 0 at least, for a comparison of whole numbers."""
    if not isinstance(condition, sympy.Ge | sympy.Gt | sympy.Le | sympy.Lt):
        return None
    left, right = condition.args
    above = isinstance(condition, sympy.Ge | sympy.Gt)
    strict = isinstance(condition, sympy.Gt | sympy.Lt)
    return sympy.expand((left - right if above else right - left) - (1 if strict else 0))
