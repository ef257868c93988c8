"""Sums over windows of 3×3 as sixteen products over channels: Winograd's F(2×2, 3×3).

A tile of 2×2 results reads 4×4 elements, and takes 16 products instead of 36 (S. Winograd,
Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, Fast algorithms for convolutional
neural networks, CVPR 2016). With channels last and zeros around (X), of which the tiles s, t begin
at every second place:

    V[b,m,n,s,t,c]  = sum over i, j of ( B(m,i)*B(n,j) * X[b,2*s+i,2*t+j,c] )
    U[m,n,c,o]      = sum over u, r of ( G(m,u)*G(n,r) * K[o,c,u,r] )
    M[b,m,n,s,t,o]  = sum over c of ( V[b,m,n,s,t,c] * U[m,n,c,o] )
    Y[b,s,d,t,e,o]  = sum over m, n of ( A(d,m)*A(e,n) * M[b,m,n,s,t,o] )
    y[b,o,p,q]      = Y[b,p//2,p%2,q//2,q%2,o]

B, G and A are expressions of their indices. Windows that move backwards (the adjoint with respect
to the input) have the kernel the other way round.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy
from sympy import Expr, Integer, Mod, Rational, S

from codegen.contraction import contraction, count
from codegen.direct import LANES
from codegen.windows import Choice, Window, bounds_alone
from derive.nodes import Index, Select, SumOver, fresh
from derive.program import Equation, Tensor

if TYPE_CHECKING:
    from codegen.pack import Packing

HALF = Rational(1, 2)
INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL = ((1, 0, 0), (HALF, HALF, HALF), (HALF, -HALF, HALF), (0, 0, 1))
OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))
CALL = 30.0  # nanoseconds of a product beside its multiplications
STEP, SIZE = 2, 4  # of the results that a tile has along a dim, of the elements that it reads


def entry(matrix: Sequence[Sequence[Expr | int]], row: Expr, column: Expr) -> Expr:
    """A matrix's element as an expression of the indices of its row and its column."""

    def line(numbers: Sequence[Expr | int]) -> Expr:
        usual = max(numbers, key=lambda n: (numbers.count(n), n == 0))
        value = sympy.sympify(usual)
        for place, number in reversed(list(enumerate(numbers))):
            if number != usual:
                value = Select(sympy.Eq(column, place), number, value)
        return value

    *lines, value = map(line, matrix)
    for place, each in reversed(list(enumerate(lines))):
        value = Select(sympy.Eq(row, place), each, value)
    return value


@dataclass(frozen=True)
class Side:
    """One of the two dims that windows move in: where in a tensor's dims it stands, the results'
    index, the kernel's, and the place at which the first tile begins."""

    dim: int
    position: Index
    tap: Index
    backwards: bool
    start: int

    @property
    def tiles(self) -> int:
        return -(-int(self.position.size)//STEP)

    @property
    def turned(self) -> Expr:
        """The tap that stands where forward ones would have this one's index."""
        return 2 - self.tap if self.backwards else self.tap


@dataclass(frozen=True)
class Tiling:
    """What a term is a sum over: two sides, the plain indices of the windowed tensor that stay
    (``batch``), those that are summed (``channels``), and those of the other factor alone."""

    sides: tuple[Side, Side]
    batch: tuple[Index, ...]
    channels: tuple[Index, ...]
    outs: tuple[Index, ...]


def winograd_choice(packing: Packing, eq: Equation, w: Window) -> Choice | None:
    """The sum by transformed tiles, or None where it is none over windows of 3×3 with steps of 1,
    or no product over channels is left."""
    found = _tiling(packing, eq, w)
    return None if found is None else _Rewriting(packing, eq, w, found).choice()


def _tiling(packing: Packing, eq: Equation, w: Window) -> Tiling | None:
    shape = packing.shapes[w.windowed.name]
    sides = [side for dim, e in enumerate(w.windowed.where) if (side := _side(dim, e, eq, w))]
    plain = [e for e in w.windowed.where if isinstance(e, Index)]
    places = w.other.where
    if (len(sides) != 2 or len(plain) + 2 != len(w.windowed.where) or not bounds_alone(w, shape)
            or not all(isinstance(e, Index) for e in places) or len(set(places)) < len(places)):
        return None
    known = (sides[0], sides[1])
    taps = {s.tap for s in known}
    channels = tuple(i for i in plain if i in w.bound)
    batch = tuple(i for i in plain if i not in w.bound)
    outs = tuple(i for i in places if i not in w.bound)
    positions = {s.position for s in known}
    fits = (len(taps) == 2 and bool(channels) and bool(outs)
            and set(w.bound) == {*taps, *channels} == set(places) - set(outs)
            and set(eq.indices) == {*batch, *outs, *positions}
            and len(eq.indices) == len(batch) + len(outs) + 2
            and all(i.size.is_Integer for i in (*channels, *outs))
            and all(shape[s.dim].is_Integer for s in known))
    return Tiling(known, batch, channels, outs) if fits else None


def _side(dim: int, place: Expr, eq: Equation, w: Window) -> Side | None:
    """A window's place ``p + u + k`` or ``p - u + k``, where u is one of three taps."""
    indices = place.atoms(Index)
    position = [i for i in indices if i in eq.indices and place.diff(i) == 1]
    tap = [i for i in indices if i in w.bound and i.size == 3 and place.diff(i) in (1, -1)]
    if len(indices) != 2 or len(position) != 1 or len(tap) != 1 or not position[0].size.is_Integer:
        return None
    backwards = place.diff(tap[0]) == -1
    start = place.xreplace({position[0]: S.Zero, tap[0]: Integer(2 if backwards else 0)})
    return Side(dim, position[0], tap[0], backwards, int(start)) if start.is_Integer else None


class _Rewriting:
    """The equations of one term: one method for each."""

    def __init__(self, packing: Packing, eq: Equation, w: Window, tiling: Tiling) -> None:
        self.packing, self.eq, self.w, self.t = packing, eq, w, tiling
        self.taken = {i.name for i in (*eq.indices, *w.bound)}
        self.made: list[tuple[Hashable, Equation]] = []
        self.across = [self.index(n, SIZE) for n in "mn"]
        self.tiles = [self.index(n, s.tiles) for n, s in zip("st", tiling.sides, strict=True)]

    def index(self, name: str, size: int) -> Index:
        made = fresh(Index(name, Integer(size)), self.taken)
        self.taken.add(made.name)
        return made

    def define(self, stem: str, indices: Sequence[Index], body: Expr) -> Tensor:
        """A tensor of such elements: the one that is there, or one of a new equation."""
        tensor, made = self.packing.packed(stem, self.eq, tuple(indices), body)
        self.made += made
        return tensor

    def choice(self) -> Choice | None:
        batch, channels, outs = self.t.batch, self.t.channels, self.t.outs
        tiles, kernel = self.transformed(self.bordered()), self.kernel()
        places = (*batch, *self.across, *self.tiles)
        sum_ = SumOver(tiles.at(*places, *channels)*kernel.at(*self.across, *channels, *outs),
                       *channels)
        products = self.define("products", (*places, *outs), sum_)
        shapes = {t.name: t.shape for t in (tiles, kernel, products)}
        if contraction(products.at(*places, *outs), S.One, sum_, shapes, None) is None:
            return None
        parts = [self.index(n, STEP) for n in "de"]
        (s, t), (d, e), (m, n) = self.tiles, parts, self.across
        results = self.define("results", (*batch, s, d, t, e, *outs), SumOver(
            entry(OUTPUT, d, m)*entry(OUTPUT, e, n)*products.at(*places, *outs), m, n))
        p, q = (side.position for side in self.t.sides)
        there = results.at(*batch, sympy.floor(p/STEP), Mod(p, STEP), sympy.floor(q/STEP),
                           Mod(q, STEP), *outs)
        return Choice("winograd", tuple(self.made), self.w.factor*there, self.cost())

    def bordered(self) -> Tensor:
        """The windowed tensor with channels last, as far as tiles reach, zeros outside."""
        access, at = self.w.windowed, dict[int, Expr]()
        own = self.packing.program.tensors[access.name].indices
        places, inside = [], []
        for side in self.t.sides:
            size = self.packing.shapes[access.name][side.dim]
            moved = self.index(own[side.dim].name, STEP*side.tiles + SIZE - STEP)
            place = at[side.dim] = moved + side.start
            places.append(moved)
            inside += [sympy.Ge(place, 0)] if side.start < 0 else []
            inside += [sympy.Lt(place, size)] if moved.size + side.start > size else []
        moved = access.func(access.name, *(at.get(k, e) for k, e in enumerate(access.where)))
        return self.define("border", (*self.t.batch, *places, *self.t.channels),
                           Select(sympy.And(*inside), moved, 0))

    def transformed(self, bordered: Tensor) -> Tensor:
        (m, n), (s, t) = self.across, self.tiles
        i, j = self.index("i", SIZE), self.index("j", SIZE)
        there = bordered.at(*self.t.batch, STEP*s + i, STEP*t + j, *self.t.channels)
        return self.define("tiles", (*self.t.batch, m, n, s, t, *self.t.channels),
                           SumOver(entry(INPUT, m, i)*entry(INPUT, n, j)*there, i, j))

    def kernel(self) -> Tensor:
        """The other factor, transformed; it is the same in every row."""
        (m, n), (one, two) = self.across, self.t.sides
        channels, outs = self.t.channels, self.t.outs
        order = (*channels, one.tap, two.tap, *outs)
        turned = self.w.other if self.w.other.where == order else self.define(
            "turned", order, self.w.other).at(*order)
        weights = entry(KERNEL, m, one.turned)*entry(KERNEL, n, two.turned)
        return self.define("kernel", (m, n, *channels, *outs),
                           SumOver(weights*turned, one.tap, two.tap))

    def cost(self) -> float:
        """Nanoseconds: tiles transformed, multiplied and transformed back, the copies with and
        without a border, calls of products, and the kernel, once."""
        rates, t = self.packing.rates, self.t
        tiles = SIZE*SIZE*count([*t.batch, *self.tiles])
        inputs, outputs = tiles*count(t.channels), tiles*count(t.outs)
        copied = sum(count(eq.indices) for _, eq in self.made if not eq.body.has(SumOver))
        weights = SIZE*SIZE*count([*t.channels, *t.outs])
        columns = count(t.outs)
        rate = columns/(-(-columns//LANES)*LANES)
        return (rates.transform*(inputs + outputs + weights)
                + rates.border*(copied + count(self.eq.indices))
                + rates.product*inputs*columns/rate + CALL*SIZE*SIZE*count(t.batch))
