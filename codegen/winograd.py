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
to the input) have the kernel the other way round. Where the positions are summed (the adjoint with
respect to the kernel), the same matrices, transposed, give 3×3 results of sixteen products over
tiles of the other factor (D, with zeros where the last tiles reach beyond it):

    W[b,m,n,s,t,o]  = sum over d, e of ( A(d,m)*A(e,n) * D[b,2*s+d,2*t+e,o] )
    S[c,m,n,o]      = sum over b, s, t of ( V[b,m,n,s,t,c] * W[b,m,n,s,t,o] )
    T[c,u,r,o]      = sum over m, n of ( G(m,u)*G(n,r) * S[c,m,n,o] )
    dK[o,c,u,r]     = T[c,u,r,o]
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sympy
from sympy import Expr, Integer, Mod, Rational, S

from codegen.contraction import contraction, count
from codegen.direct import LANES
from codegen.shares import OFTEN
from codegen.windows import Choice, Window, bounds_alone
from derive.nodes import Access, Index, Select, SumOver, fresh
from derive.program import Equation, Tensor

if TYPE_CHECKING:
    from codegen.pack import Packing

Matrix = Sequence[Sequence[Expr | int]]
HALF = Rational(1, 2)
INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL = ((1, 0, 0), (HALF, HALF, HALF), (HALF, -HALF, HALF), (0, 0, 1))
OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))
CALL = 30.0  # nanoseconds of a product beside its multiplications
STEP, SIZE = 2, 4  # of the results that a tile has along a dim, of the elements that it reads


def entry(matrix: Matrix, row: Expr, column: Expr) -> Expr:
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
    """One of the two dims that windows move in: where in the windowed tensor's dims it stands, the
    index of the results' positions, that of the kernel, and the place where the first tile begins.
    """

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
    """What a term is a sum over: two sides, the plain indices that both results (or adjoints) and
    the windowed tensor have (``batch``), the windowed tensor's others (``channels``), and the
    results' (or adjoints') others."""

    sides: tuple[Side, Side]
    batch: tuple[Index, ...]
    channels: tuple[Index, ...]
    outs: tuple[Index, ...]


def winograd_choice(packing: Packing, eq: Equation, w: Window) -> Choice | None:
    """The sum by transformed tiles, or None where it is none over windows of 3×3 with steps of 1,
    or no product over channels is left."""
    found = _results(packing, eq, w)
    if found is not None:
        return _Results(packing, eq, w, found).choice()
    found = _kernels(packing, eq, w)
    return None if found is None else _Kernels(packing, eq, w, found).choice()


def _results(packing: Packing, eq: Equation, w: Window) -> Tiling | None:
    """A term whose taps and channels are summed: results, or the adjoint of an input."""
    sides, plain = _sides(packing, w, eq.indices, w.bound)
    if sides is None:
        return None
    taps, positions = ({getattr(s, n) for s in sides} for n in ("tap", "position"))
    channels = tuple(i for i in plain if i in w.bound)
    batch = tuple(i for i in plain if i not in w.bound)
    outs = tuple(i for i in w.other.where if i not in w.bound)
    fits = (set(w.bound) == {*taps, *channels} == set(w.other.where) - set(outs)
            and set(eq.indices) == {*batch, *outs, *positions}
            and len(eq.indices) == len(batch) + len(outs) + 2)
    return _numbered(Tiling(sides, batch, channels, outs)) if fits else None


def _kernels(packing: Packing, eq: Equation, w: Window) -> Tiling | None:
    """A term whose positions and batch are summed, in tiles enough for threads to add up shares:
    the adjoint of a kernel."""
    sides, plain = _sides(packing, w, w.bound, eq.indices)
    if sides is None or sides[0].tiles*sides[1].tiles < OFTEN:
        return None
    taps, positions = ({getattr(s, n) for s in sides} for n in ("tap", "position"))
    batch = tuple(i for i in plain if i in w.bound)
    channels = tuple(i for i in plain if i not in w.bound)
    outs = tuple(i for i in w.other.where if i not in w.bound)
    fits = (bool(batch) and set(w.bound) == {*positions, *batch} == set(w.other.where) - set(outs)
            and set(eq.indices) == {*channels, *outs, *taps}
            and len(eq.indices) == len(channels) + len(outs) + 2)
    return _numbered(Tiling(sides, batch, channels, outs)) if fits else None


def _numbered(tiling: Tiling) -> Tiling | None:
    """A tiling with channels, all of sizes that are numbers."""
    own = (*tiling.channels, *tiling.outs)
    fits = tiling.channels and tiling.outs and all(i.size.is_Integer for i in own)
    return tiling if fits else None


def _sides(packing: Packing, w: Window, positions: Sequence[Index], taps: Sequence[Index]
           ) -> tuple[tuple[Side, Side] | None, list[Index]]:
    """The two sides (None: there are not just two), and the plain indices."""
    shape = packing.shapes[w.windowed.name]
    plain = [e for e in w.windowed.where if isinstance(e, Index)]
    sides = [side for dim, e in enumerate(w.windowed.where)
             if (side := _side(dim, e, positions, taps)) and shape[dim].is_Integer]
    places = w.other.where
    if (len(sides) != 2 or len(plain) + 2 != len(w.windowed.where)
            or sides[0].tap == sides[1].tap or not bounds_alone(w, shape)
            or not all(isinstance(e, Index) for e in places) or len(set(places)) < len(places)):
        return None, plain
    return (sides[0], sides[1]), plain


def _side(dim: int, place: Expr, positions: Sequence[Index], taps: Sequence[Index]) -> Side | None:
    """A window's place ``p + u + k`` or ``p - u + k``, where u is one of three taps."""
    indices = place.atoms(Index)
    position = [i for i in indices if i in positions and place.diff(i) == 1]
    tap = [i for i in indices if i in taps and i.size == 3 and place.diff(i) in (1, -1)]
    if len(indices) != 2 or len(position) != 1 or len(tap) != 1 or not position[0].size.is_Integer:
        return None
    backwards = place.diff(tap[0]) == -1
    start = place.xreplace({position[0]: S.Zero, tap[0]: Integer(2 if backwards else 0)})
    return Side(dim, position[0], tap[0], backwards, int(start)) if start.is_Integer else None


class _Tiles:
    """The equations of one term: what results and the adjoint of a kernel have in common."""

    def __init__(self, packing: Packing, eq: Equation, w: Window, tiling: Tiling) -> None:
        self.packing, self.eq, self.w, self.t = packing, eq, w, tiling
        self.taken = {i.name for i in (*eq.indices, *w.bound)}
        self.made: list[tuple[Hashable, Equation]] = []
        self.across = [self.index(n, SIZE) for n in "mn"]
        self.tiles = [self.index(n, s.tiles) for n, s in zip("st", tiling.sides, strict=True)]
        self.places = (*tiling.batch, *self.across, *self.tiles)

    def index(self, name: str, size: int) -> Index:
        made = fresh(Index(name, Integer(size)), self.taken)
        self.taken.add(made.name)
        return made

    def define(self, stem: str, indices: Sequence[Index], body: Expr, copy: bool = False
               ) -> Tensor:
        """A tensor of such elements: one of a new equation, or (a ``copy``) the one that is there.
        What is larger than a copy is made again: stored for all rows it would cost more."""
        if copy:
            tensor, made = self.packing.packed(stem, self.eq, tuple(indices), body)
            self.made += made
        else:
            tensor = Tensor(self.packing.name(stem, self.eq), tuple(indices),
                            origin=("packed", self.eq.name))
            self.made.append((tensor, Equation(tensor, tensor.indices, body, self.eq.why)))
        return tensor

    def bordered(self, stem: str, access: Access, dims: Sequence[int], starts: Sequence[int],
                 extent: int, last: Sequence[Index]) -> Tensor:
        """A factor with channels last, as far as tiles of that extent reach, zeros outside."""
        own = self.packing.program.tensors[access.name].indices
        shape, where = self.packing.shapes[access.name], list(access.where)
        places: list[Index] = []
        inside: list[Expr] = []
        for dim, start, side in zip(dims, starts, self.t.sides, strict=True):
            places.append(self.index(own[dim].name, STEP*side.tiles + extent - STEP))
            where[dim] = places[-1] + start
            inside += [sympy.Ge(where[dim], 0)] if start < 0 else []
            inside += [sympy.Lt(where[dim], shape[dim])] if (
                places[-1].size + start > shape[dim]) else []
        body = Select(sympy.And(*inside), access.func(access.name, *where), 0)
        return self.define(stem, (*self.t.batch, *places, *last), body, copy=True)

    def spread(self, stem: str, matrix: Matrix, across: bool, tensor: Tensor,
               last: Sequence[Index]) -> Tensor:
        """Tiles of such a copy, transformed: by the matrix's rows, or (``across``) columns."""
        extent = len(matrix) if across else len(matrix[0])
        (m, n), (s, t) = self.across, self.tiles
        i, j = (self.index(x, extent) for x in ("de" if across else "ij"))
        weights = (entry(matrix, i, m)*entry(matrix, j, n) if across
                   else entry(matrix, m, i)*entry(matrix, n, j))
        there = tensor.at(*self.t.batch, STEP*s + i, STEP*t + j, *last)
        return self.define(stem, (*self.places, *last), SumOver(weights*there, i, j))

    def input(self) -> Tensor:
        """The windowed tensor's tiles, transformed."""
        sides, channels = self.t.sides, self.t.channels
        bordered = self.bordered("border", self.w.windowed, [s.dim for s in sides],
                                 [s.start for s in sides], SIZE, channels)
        return self.spread("tiles", INPUT, False, bordered, channels)

    def weights(self) -> Expr:
        """What the kernel's element (u, r) counts in the transformed one's (m, n)."""
        (m, n), (one, two) = self.across, self.t.sides
        return entry(KERNEL, m, one.turned)*entry(KERNEL, n, two.turned)

    def is_product(self, target: Tensor, node: SumOver, *read: Tensor) -> bool:
        shapes = {t.name: t.shape for t in (target, *read)}
        return contraction(target.at(*target.indices), S.One, node, shapes, None) is not None

    def cost(self, copied: int) -> float:
        """Nanoseconds: tiles transformed, multiplied and transformed back, the copies (of the
        equation's own elements ``copied``), calls of products, and the kernel, once."""
        rates, t = self.packing.rates, self.t
        tiles = SIZE*SIZE*count([*t.batch, *self.tiles])
        inputs, columns = tiles*count(t.channels), count(t.outs)
        copied += sum(count(eq.indices) for _, eq in self.made if not eq.body.has(SumOver))
        kernel = SIZE*SIZE*count([*t.channels, *t.outs])
        rate = columns/(-(-columns//LANES)*LANES)
        return (rates.transform*(inputs + tiles*columns + kernel) + rates.border*copied
                + rates.product*inputs*columns/rate + CALL*SIZE*SIZE*count(t.batch))


class _Results(_Tiles):
    """Results, or the adjoint of an input."""

    def choice(self) -> Choice | None:
        batch, channels, outs = self.t.batch, self.t.channels, self.t.outs
        tiles, kernel = self.input(), self.kernel()
        sum_ = SumOver(tiles.at(*self.places, *channels)
                       * kernel.at(*self.across, *channels, *outs), *channels)
        products = self.define("products", (*self.places, *outs), sum_)
        if not self.is_product(products, sum_, tiles, kernel):
            return None
        (s, t), (m, n) = self.tiles, self.across
        d, e = (self.index(x, STEP) for x in "de")
        results = self.define("results", (*batch, s, d, t, e, *outs), SumOver(
            entry(OUTPUT, d, m)*entry(OUTPUT, e, n)*products.at(*self.places, *outs), m, n))
        p, q = (side.position for side in self.t.sides)
        there = results.at(*batch, sympy.floor(p/STEP), Mod(p, STEP), sympy.floor(q/STEP),
                           Mod(q, STEP), *outs)
        return Choice("winograd", tuple(self.made), self.w.factor*there,
                      self.cost(count(self.eq.indices)))

    def kernel(self) -> Tensor:
        """The other factor, transformed; it is the same in every row."""
        one, two = self.t.sides
        order = (*self.t.channels, one.tap, two.tap, *self.t.outs)
        turned = self.w.other if self.w.other.where == order else self.define(
            "turned", order, self.w.other, copy=True).at(*order)
        return self.define("kernel", (*self.across, *self.t.channels, *self.t.outs),
                           SumOver(self.weights()*turned, one.tap, two.tap))


class _Kernels(_Tiles):
    """The adjoint of a kernel."""

    def choice(self) -> Choice | None:
        channels, outs = self.t.channels, self.t.outs
        places = [self.w.other.where.index(s.position) for s in self.t.sides]
        tiles = self.input()
        bordered = self.bordered("aligned", self.w.other, places, (0, 0), STEP, outs)
        others = self.spread("others", OUTPUT, True, bordered, outs)
        sum_ = SumOver(tiles.at(*self.places, *channels)*others.at(*self.places, *outs),
                       *self.t.batch, *self.tiles)
        products = self.define("products", (*channels, *self.across, *outs), sum_)
        if not self.is_product(products, sum_, tiles, others):
            return None
        taps = [s.tap for s in self.t.sides]
        total = self.define("sum", (*channels, *taps, *outs), SumOver(
            self.weights()*products.at(*channels, *self.across, *outs), *self.across))
        return Choice("winograd", tuple(self.made),
                      self.w.factor*total.at(*channels, *taps, *outs), self.cost(0))
