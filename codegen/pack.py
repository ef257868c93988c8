"""Products over windows → plain products: program → program with the same values.

``y[b,o,p] = sum over c, r of ( x[b,c,p+r-1] * K[o,c,r] )`` is no matrix product, because p and r
meet in one dim. Two rewritings make one of it, each with one tensor more:

- *patches*: ``P[b,c,r,p] = x[b,c,p+r-1]`` (0 outside), and the product reads P (im2col);
- *partial sums*: where some summed index is in no window, the product over it comes first,
  ``Q[b,o,r,p] = sum over c of ( x[b,c,p] * K[o,c,r] )``, and the windows are summed over Q
  (col2im, which is what a convolution's adjoint with respect to its input becomes).

What takes fewer operations, the new tensor's own included, is chosen. Convolution has no case of
its own here: any equation of this form, with any stride, dilation or reversal, is treated alike, in
one dim or several.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import sympy
from sympy import Add, Expr

from codegen.contraction import (
    conjuncts,
    contraction,
    count,
    factor_and_sum,
    factors_of,
    guarded,
)
from codegen.fetched import windowed
from codegen.packed import packed_name
from codegen.rates import RATES, Rates, Ways
from codegen.windows import Choice, Window, direct_choice
from codegen.winograd import winograd_choice
from derive.nodes import Access, Index, Select, SumOver, accesses, alpha_rename, fresh
from derive.program import Equation, Program, Tensor

REUSE = 4  # products that each packed element takes part in, from which on packing pays


class Packing:
    """Rewrites the equations of one program; tensors that are equal are packed once. What a
    ``device`` takes as a product whose factors are windows stays as it is."""

    def __init__(self, program: Program, ways: Ways = "auto", rates: Rates = RATES,
                 device: bool = False) -> None:
        self.program, self.ways, self.rates, self.device = program, ways, rates, device
        self.shapes = {n: t.shape for n, t in program.tensors.items()}
        self.known: dict[Hashable, Tensor] = {}
        self.equations: list[Equation] = []
        self.chosen: dict[str, str] = {}  # by equation
        self.possible: dict[str, frozenset[str]] = {}

    def run(self) -> Program:
        recurrent = {eq.name for g in self.program.groups if g.recurrent for eq in g.equations}
        for eq in self.program.equations:
            self.equations.append(eq if eq.name in recurrent else self.equation(eq))
        tensors = {**self.program.tensors, **{eq.name: eq.tensor for eq in self.equations}}
        return replace(self.program, tensors=tensors, equations=tuple(self.equations))

    def equation(self, eq: Equation) -> Equation:
        body = alpha_rename(guarded(eq.body), {i.name for i in eq.indices})
        terms = Add.make_args(body)
        packed = [self.term(eq, t) for t in terms]
        return eq if packed == list(terms) else replace(eq, body=Add(*packed))

    def term(self, eq: Equation, term: Expr) -> Expr:
        window = _window(term)
        if window is None or self.is_product_as_it_is(eq, term) or (
                self.device and self.is_windowed(eq, window, term)):
            return term
        choices = self.choices(eq, window)
        self.possible[eq.name] = frozenset(c.way for c in choices)
        wanted = self.ways if isinstance(self.ways, str) else dict(self.ways).get(eq.name, "auto")
        forced = [c for c in choices if c.way == wanted]
        choices = forced if forced or wanted == "product" else choices
        if not choices:
            return term
        chosen = min(choices, key=lambda c: c.cost)
        self.chosen[eq.name] = chosen.way
        for key, made in chosen.made:
            self.known[key] = made.tensor
            self.equations.append(made)
            self.shapes[made.name] = made.tensor.shape
        return chosen.body

    def choices(self, eq: Equation, window: Window) -> list[Choice]:
        """All ways to compute a term."""
        made = [self.patches(eq, window), self.partial(eq, window)]
        if not self.device:
            made += [direct_choice(self, eq, window), winograd_choice(self, eq, window)]
        return [c for c in made if c is not None]

    def name(self, stem: str, eq: Equation) -> str:
        return packed_name(stem, eq.name, self.shapes)

    def patches(self, eq: Equation, w: Window) -> Choice | None:
        indices = _patch_order(w.windowed)
        if count(own_indices(w.other) - set(indices)) < REUSE:
            return None
        if any(not c.atoms(Index) <= set(indices) for c in w.conditions):
            return None
        body = Select(sympy.And(*w.conditions), w.windowed, 0)
        tensor, made = self.packed("patches", eq, indices, body)
        sum_ = SumOver(tensor.at(*indices) * w.other, *w.bound)
        if not self.is_product(eq, w.factor, sum_, tensor):
            return None
        return self.choice("product", eq, made, w.factor * sum_,
                           self.rates.patch*sum(count(m.indices) for _, m in made))

    def packed(self, stem: str, eq: Equation, indices: tuple[Index, ...], body: Expr
               ) -> tuple[Tensor, tuple[tuple[Hashable, Equation], ...]]:
        """A tensor of such elements: the one that is there, or one of a new equation."""
        places = {i: Index(f"_{n}", i.size) for n, i in enumerate(indices)}
        key = (body.xreplace(places), tuple(i.size for i in indices))
        if key in self.known:
            return self.known[key], ()
        tensor = Tensor(self.name(stem, eq), indices, origin=("packed", eq.name))
        return tensor, ((key, Equation(tensor, indices, body, eq.why)),)

    def choice(self, way: str, eq: Equation, made: tuple[tuple[Hashable, Equation], ...],
               body: Expr, moved: float, rate: float = 1.0) -> Choice:
        """A way whose sum of products takes the share ``rate`` of what the machine can do, and what
        it moves beside it so many nanoseconds."""
        readers = [m for _, m in made if m.body.has(SumOver)] or [replace(eq, body=body)]
        summed = {i for s in readers[0].body.atoms(SumOver) for i in s.bound}
        work = count({*readers[0].indices, *summed})
        each = self.rates.direct if way == "direct" else self.rates.product
        return Choice(way, made, body, moved + work*each/rate)

    def partial(self, eq: Equation, w: Window) -> Choice | None:
        plain = {e for e in w.windowed.where if isinstance(e, Index)}
        windows = {i for e in w.windowed.where if e not in plain for i in e.atoms(Index)}
        windows |= {i for c in w.conditions for i in c.atoms(Index)}
        inner = tuple(i for i in w.bound if i not in windows and i in own_indices(w.other))
        outer = tuple(i for i in w.bound if i not in inner)
        if not inner or not set(inner) <= plain or count(inner) < REUSE:
            return None
        taken = {i.name for i in (*eq.indices, *w.bound)}
        own = self.program.tensors[w.windowed.name].indices
        kept, new, places = [], [], []
        for index, e in zip(own, w.windowed.where, strict=True):
            if e in plain:
                kept += [e] if e not in inner else []
                places.append(e)
            else:
                new.append(fresh(index, taken))
                taken.add(new[-1].name)
                places.append(new[-1])
        rest = [i for i in w.other.where if i not in inner and i not in kept]
        indices = (*kept, *rest, *new)
        tensor = Tensor(self.name("partial", eq), indices, origin=("packed", eq.name))
        sum_ = SumOver(w.windowed.func(w.windowed.name, *places) * w.other, *inner)
        made = Equation(tensor, indices, sum_, eq.why)
        if not self.is_product(made, sympy.S.One, sum_, tensor):
            return None
        moved = iter(e for e in w.windowed.where if e not in plain)
        at = tensor.at(*kept, *rest, *moved)
        value: Expr = Select(sympy.And(*w.conditions), at, 0)
        return self.choice("product", eq, ((tensor, made),),
                           w.factor * (SumOver(value, *outer) if outer else value),
                           self.rates.partial*count(indices))

    def is_product_as_it_is(self, eq: Equation, term: Expr) -> bool:
        """Whether a term whose places are shifted only is a product already."""
        found = factor_and_sum(term)
        return found is not None and contraction(eq.target, *found, self.shapes, None) is not None

    def is_windowed(self, eq: Equation, window: Window, term: Expr) -> bool:
        """Whether a GPU's tiles fetch a term's elements as they are."""
        found = factor_and_sum(term)
        return found is not None and windowed(
            eq.target, window.factor, found[1], self.shapes) is not None

    def is_product(self, eq: Equation, factor: Expr, node: SumOver, tensor: Tensor) -> bool:
        shapes = {**self.shapes, tensor.name: tensor.shape}
        return contraction(eq.target, factor, node, shapes, None) is not None


def pack(program: Program, ways: Ways = "auto", rates: Rates = RATES, device: bool = False
         ) -> Program:
    """The program with products over windows as products of packed tensors, or as sums that a nest
    of loops takes as they are.

    Args:
        ways: one of `WAYS` for all equations, or pairs of an equation's name and a way; for "auto",
            and where another than "product" cannot be done, what should take the least time.
        rates: what this machine takes for each element.
        device: for a GPU: products alone, where its tiles do not fetch windows themselves.
    """
    return Packing(program, ways, rates, device).run()


def _window(term: Expr) -> Window | None:
    """The parts of a term in which exactly one of two factors has a dim with several indices."""
    whole = factor_and_sum(term)
    if whole is None or all(isinstance(e, Index) for a in accesses(whole[1]) for e in a.where):
        return None
    factor, node = whole
    body = node.body
    conditions: tuple[Expr, ...] = ()
    if isinstance(body, Select) and body.no == 0:
        body, conditions = body.yes, conjuncts(body.condition)
    if isinstance(body, Select) and body.no == 0:
        body, conditions = body.yes, (*conditions, *conjuncts(body.condition))
    found = factors_of(body)
    if found is None or factor.has(Access) or any(c.has(Access) for c in conditions):
        return None
    number, one, two = found
    windows = [a for a in (one, two) if any(not isinstance(e, Index) for e in a.where)]
    if len(windows) != 1 or any(e.has(Access) for e in windows[0].where):
        return None
    other = two if windows[0] is one else one
    bare = [e for e in windows[0].where if isinstance(e, Index)]
    moved = [i for e in windows[0].where if not isinstance(e, Index) for i in e.atoms(Index)]
    if len({*bare, *moved}) != len(bare) + len(moved):  # an index in two dims
        return None
    return Window(factor * number, node.bound, conditions, windows[0], other)


def own_indices(access: Access) -> set[Index]:
    return {i for e in access.where for i in e.atoms(Index)}


def _patch_order(access: Access) -> tuple[Index, ...]:
    """Plain indices, then those of each window but the largest, then the largest: so that what is
    summed together, and what is not, lies together in memory."""
    plain, taps, positions = [], [], []
    for e in access.where:
        if isinstance(e, Index):
            plain.append(e)
            continue
        inside = sorted(e.atoms(Index), key=lambda i: (not i.size.is_Integer, count([i]), i.name))
        taps += inside[:-1]
        positions += inside[-1:]
    return (*plain, *taps, *positions)
