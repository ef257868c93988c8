"""Whether two touches of a tensor may be of one element by two threads, as integer equations.

One equation for each dim, with the indices of one thread on the left and those of another one on
the right; what cannot be shown counts as a meeting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import sympy
from sympy import Expr, S, Symbol

from codegen.fuse import touches
from codegen.loops import Statement
from derive.nodes import Access, Index


@dataclass(frozen=True)
class Touch:
    """One read or write of an element, with what is known where it stands.

    ``turns`` are the indices that tell the threads of a block apart, ``site`` the place in the
    tree that spreads them (0: the first thread alone); None: every thread does it. ``fixed`` are
    indices that have one value for all threads of a block at that time.
    """

    access: Access
    writes: bool
    site: int | None
    turns: tuple[Index, ...]
    conditions: tuple[Expr, ...]
    fixed: frozenset[Index]
    row: Index | None = None  # the index that warps share, inside a nest of theirs
    nest: int = 0  # the number of that nest

    @property
    def outside(self) -> Touch:
        """The same, as threads of other warps see it: each row is one warp's."""
        if self.row is None:
            return self
        return replace(self, site=self.nest, turns=(self.row,))

    @property
    def inside(self) -> Touch:
        """The same among the threads of one warp, at its row."""
        return replace(self, fixed=self.fixed | {self.row} if self.row else self.fixed)


def meets(old: Touch, new: Touch) -> bool:
    """Whether two threads of a block may be at one element in these two touches."""
    if old.site == new.site == 0:
        return False  # the same thread
    if old.site is not None and old.site == new.site and len(old.turns) == len(new.turns):
        return not same_turns(old, new, tuple(zip(old.turns, new.turns, strict=True)))
    return not same_turns(old, new, ((S.Zero, S.One),))  # unless they never are at one element


def same_turns(one: Touch, other: Touch, turns: Sequence[tuple[Expr, Expr]]) -> bool:
    """Whether being at one element implies that these indices of both are equal, pair by pair."""
    fixed = one.fixed & other.fixed
    away = {s: s.renamed(f"{s.name}_other") for e in (*other.access.where, *other.conditions,
                                                     *(t for _, t in turns))
            for s in e.atoms(Index) if s not in fixed}
    theirs = [e.xreplace(away) for e in other.access.where]
    equations = []
    opaque: dict[Expr, Expr] = {}
    for mine, their in zip(one.access.where, theirs, strict=True):
        if _affine(mine) and _affine(their):
            equations.append(mine - their)
        elif their != mine:
            opaque[their] = mine
    equations += _of_conditions(one, [c.xreplace(away) for c in other.conditions], opaque)
    known = _solved(equations, away)
    if known is None:
        return True
    return all(sympy.expand((a - b.xreplace(away)).xreplace(known)) == 0 for a, b in turns)


def _affine(place: Expr) -> bool:
    return not place.has(Access, sympy.floor, sympy.Mod)


def _of_conditions(one: Touch, theirs: Sequence[Expr], opaque: Mapping[Expr, Expr]
                   ) -> Iterator[Expr]:
    """``f(place) = i`` here and ``f(place') = i'`` there: where the places are equal, i = i'."""
    for mine in one.conditions:
        for their in theirs:
            if not (isinstance(mine, sympy.Eq) and isinstance(their, sympy.Eq)):
                continue
            for a, b in (mine.args, mine.args[::-1]):
                for c, d in (their.args, their.args[::-1]):
                    if (isinstance(b, Index) and isinstance(d, Index) and not _affine(a)
                            and _replaced(c, opaque) == a):
                        yield b - d


def _replaced(expr: Expr, opaque: Mapping[Expr, Expr]) -> Expr:
    if expr in opaque:
        return opaque[expr]
    if not expr.args or isinstance(expr, Access):
        return expr
    return expr.func(*(_replaced(a, opaque) for a in expr.args), **(
        {"evaluate": False} if isinstance(expr, sympy.Mod) else {}))


def _solved(equations: Sequence[Expr], away: Mapping[Index, Index]
            ) -> dict[Symbol, Expr] | None:
    """Indices of the other thread by those of this one, as far as the equations tell; None where
    they have no solution in the indices' ranges."""
    known: dict[Symbol, Expr] = {}
    pairs = {theirs: mine for mine, theirs in away.items()}
    todo = list(equations)
    while todo:
        left: list[Expr] = []
        progress = False
        for equation in todo:
            expr = sympy.expand(equation.xreplace(known))
            low, high = _bounds(expr)
            if (low is not None and low > 0) or (high is not None and high < 0):
                return None
            if expr.is_Number:
                if expr != 0:
                    return None
                continue
            left.append(expr)
            found = _eliminated(expr, pairs)
            if found is not None:
                known = {k: sympy.expand(v.xreplace(found)) for k, v in known.items()} | found
                progress = True
        if not progress:
            return known
        todo = left
    return known


def _eliminated(expr: Expr, pairs: Mapping[Index, Index]) -> dict[Symbol, Expr] | None:
    """What ``expr = 0`` says of the indices of the other thread."""
    terms = expr.as_coefficients_dict()
    steps: dict[tuple[Index, Index], Expr] = {}
    for theirs, mine in pairs.items():
        if theirs in terms and terms.get(mine, S.Zero) == -terms[theirs]:
            steps[mine, theirs] = terms[mine]
    if not steps:
        return None
    rest = sympy.expand(expr - sum(c * (m - t) for (m, t), c in steps.items()))
    (mine, theirs), widest = max(steps.items(), key=lambda item: abs(item[1]))
    if len(steps) == 1 and rest.is_Number:
        return {theirs: mine + rest/widest}
    low, high = _bounds(sympy.expand(expr - widest * (mine - theirs)))
    # the others cannot make up for one step of the widest: i*4 + j = i'*4 + j' with j, j' < 4
    if low is not None and high is not None and -abs(widest) < low and high < abs(widest):
        return {theirs: mine}
    return None


def _bounds(expr: Expr) -> tuple[Expr | None, Expr | None]:
    """The least and the largest value of an affine expression; None where a range is no number."""
    low = high = S.Zero
    for symbol, coefficient in expr.as_coefficients_dict().items():
        if symbol == 1:
            low, high = low + coefficient, high + coefficient
        elif isinstance(symbol, Index) and symbol.size.is_Integer and coefficient.is_Number:
            ends = (S.Zero, coefficient * (symbol.size - 1))
            low, high = low + min(ends), high + max(ends)
        else:
            return None, None
    return low, high


# -- by name --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Touched:
    """The names of tensors that statements read and write."""

    read: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()

    def meets(self, other: Touched) -> bool:
        """Whether one writes what the other touches."""
        return bool(self.written & (other.read | other.written) or self.read & other.written)

    def and_(self, other: Touched) -> Touched:
        return Touched(self.read | other.read, self.written | other.written)

    def only(self, names: frozenset[str]) -> Touched:
        return Touched(self.read & names, self.written & names)


def touched(node: Statement) -> Touched:
    """What a statement and all inside it touch."""
    names = [(a.name, writes) for a, writes in touches((node,))]
    return Touched(frozenset(n for n, writes in names if not writes),
                   frozenset(n for n, writes in names if writes))
