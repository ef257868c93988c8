"""Looking for softmax between products: program → program, each sweep's equations together.

Which tensors are wide, which equations sum them, and which of these can be computed in one sweep
over tiles (tiles.py): all in terms of the indices of the softmax, to which every equation is
renamed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sympy
from sympy import Expr, Mul, S, Symbol

from codegen.block_weights import ROOM
from codegen.contraction import factor_and_sum, factors_of, guarded
from codegen.recompute import copy_of
from codegen.tiles import Sweep, Wanted, product_of, product_terms, shared_tiles
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    LogSumExpOver,
    Reduction,
    Select,
    SumOver,
    accesses,
    alpha_rename,
    bound_indices,
    fresh,
    rename,
)
from derive.program import Equation, Program, Tensor

TILE = (64, 256)  # rows and columns: what belongs to a tile stays in the second-level cache
WORTH = 1 << 18  # elements of a wide tensor, for one row of the batch, from which on it is tiled
# the same on a device: the rows and columns of a tile are what a block has threads for
DEVICE_TILES, DEVICE_WORTH = ((64, 32), (32, 32), (16, 32)), 1 << 16
STAGED = 16*(68 + 36)  # numbers in shared memory that a product of tiles is staged through
UNKNOWN = 512  # what a length is taken for that is known at run time only


def tiled(program: Program, batch: Symbol | None, wanted: Collection[str], choice: Wanted = None,
          device: bool = False) -> tuple[Program, tuple[Sweep, ...]]:
    """The program with each softmax between products as sweeps, where that pays.

    Args:
        wanted: tensors that are looked at when all is done.
        choice: the rows and columns of a tile, wherever it can be done; None or True: chosen by
            size; False: nowhere.
        device: tiles lie in the shared memory of a GPU, and are as large as it has room for.
    """
    sweeps: list[Sweep] = []
    if batch is None or choice is False:
        return program, ()
    recurrent = {eq.name for g in program.groups if g.recurrent for eq in g.equations}
    for eq in program.equations:
        if eq.name in wanted or eq.name in recurrent:
            continue
        sizes = DEVICE_TILES if device else (TILE,)
        worth = DEVICE_WORTH if device else WORTH
        if isinstance(choice, tuple):
            sizes, worth = (choice,), 0
        if elements(eq.indices) < worth:
            continue
        found = _Softmax(program, batch, {*wanted, *recurrent}, sizes, device).sweeps(eq)
        if found is not None:
            program, made = found
            sweeps += made
    return program, tuple(sweeps)


def elements(indices: Sequence[Index]) -> int:
    """Of one row of the batch; a length that is known at run time only counts as `UNKNOWN`."""
    total = 1
    for index in indices[1:]:
        total *= int(index.size) if index.size.is_Integer else UNKNOWN
    return total


@dataclass
class _Softmax:
    """Looks for what belongs to one softmax; gives up (None) where something does not fit."""

    program: Program
    batch: Symbol
    kept: Collection[str]
    sizes: tuple[tuple[int, int], ...]
    device: bool = False
    own: tuple[Index, ...] = ()
    row: Index = field(init=False)
    column: Index = field(init=False)
    order: dict[str, tuple[Index, ...]] = field(default_factory=dict)  # of wide tensors' dims

    def sweeps(self, soft: Equation) -> tuple[Program, list[Sweep]] | None:
        ahead = self.forward(soft)
        if ahead is None:
            return None
        program, log = self.program, ahead[-1]
        after = _downstream(program, log)
        outs = [e for e in self.readers([soft.name]) if self.is_out(e, {soft.name}, self.column)
                and not any(r in after for r in e.reads if r != soft.name)]
        if not outs or not self.fits([*ahead, *(e.name for e in outs), soft.name]):
            return None
        first = {*ahead, soft.name, *(e.name for e in outs)}
        behind = self.backward(soft, outs, first)
        if behind is None:
            return None
        changed, later = behind
        wide = [n for n in self.order if n in first]
        again = {n: copy_of(n, program) for n in wide}
        groups = [[self.canonical(program.defined[n]) for n in _ordered(program, first)]]
        if later:
            copies = [replace(self.canonical(program.defined[n]), tensor=again[n])
                      for n in _ordered(program, wide)]
            groups.append([_reading(e, again) for e in (*copies, *(
                self.canonical(changed.get(n, program.defined[n]))
                for n in _ordered(program, later)))])
            self.order |= {again[n].name: self.order[n] for n in wide}
        return _reordered(program, changed, groups, self)

    # -- which equations ------------------------------------------------------------------------
    def forward(self, soft: Equation) -> list[str] | None:
        """What the softmax is computed from, in a sweep with it: the wide tensors, then the
        logsumexp; sets the row and the column."""
        body = soft.body
        condition, inner = (body.condition, body.yes) if isinstance(body, Select) and \
            body.no == 0 else (S.true, body)
        if not isinstance(inner, sympy.exp):
            return None
        found = [(a, self.program.defined[a.name]) for a in accesses(inner.args[0])
                 if a.name in self.program.defined and isinstance(
                     self.program.defined[a.name].body, LogSumExpOver)]
        if len(found) != 1 or found[0][1].name in self.kept:
            return None
        access, log = found[0]
        column = [i for i in soft.indices if i not in access.where]
        if len(column) != 1 or len(log.body.bound) != 1 or \
                set(access.where) != set(soft.indices) - set(column):
            return None
        score = inner.args[0] + access
        want = Select(condition, score, S.NegativeInfinity)
        have = rename(log.body.body, {log.body.bound[0]: column[0],
                                      **dict(zip(log.indices, access.where, strict=True))})
        if have != want or accesses(condition) != [
                a for a in accesses(condition) if isinstance(a, IntegerAccess)]:
            return None
        self.own, self.column = soft.indices, column[0]
        self.order = {soft.name: soft.indices}
        rows: set[Index] = set()
        todo = [a for a in accesses(score) if self.is_wide(a)]
        names: list[str] = []
        while todo:
            one = todo.pop()
            if one.name in names:
                continue
            names.append(one.name)
            self.order[one.name] = tuple(one.where)  # type: ignore[arg-type]
            eq = self.canonical(self.program.defined[one.name])
            made = product_terms(eq, ())
            product = product_of(eq.body)
            if product is not None and made is not None:
                _, _, left, right = product
                rows |= {i for a, other in ((left, right), (right, left))
                         if self.column in other.where
                         for i in a.where if i in self.own and i not in other.where}
            elif eq.body.has(Reduction):
                return None
            else:
                todo += [a for a in accesses(eq.body) if self.is_wide(a)]
        if len(rows) != 1:
            return None
        self.row = rows.pop()
        if self.own[0].size != self.batch or self.own[0] in (self.row, self.column):
            return None
        return [*_ordered(self.program, names), log.name]

    def backward(self, soft: Equation, outs: Sequence[Equation], first: set[str]
                 ) -> tuple[dict[str, Equation], set[str]] | None:
        """The other readers of what is wide: equations that are changed, and the names of those
        of the second sweep."""
        changed: dict[str, Equation] = {}
        later: set[str] = set()
        todo = [e for e in self.readers([n for n in self.order if n in first])
                if e.name not in first]
        while todo:
            eq = changed.get(todo[-1].name, todo[-1])
            todo.pop()
            if eq.name in later or not any(r in self.order for r in eq.reads):
                continue
            exchanged = self.exchanged(eq, soft, outs)
            if exchanged is not None:
                changed[eq.name] = exchanged
                continue
            if eq.name in self.kept:
                if not self.is_out(eq, set(self.order)):
                    return None
                later.add(eq.name)
                continue
            if self.is_out(eq, set(self.order)):
                later.add(eq.name)
                continue
            new = self.elementwise(eq)
            if new is None:
                return None
            later |= {eq.name, *new}
            todo += self.readers([eq.name, *new])
        wide = [n for n in later if n in self.order]
        reads = {e.name for e in self.readers(wide) if e.name not in changed}
        return (changed, later) if reads <= later and self.fits(later) else None

    def readers(self, names: Iterable[str]) -> list[Equation]:
        wanted = set(names)
        return [e for e in self.program.equations if wanted & set(e.reads)]

    def is_wide(self, access: Access) -> bool:
        """Whether an access is of an intermediate with row, column and all the rest."""
        return (access.name in self.program.defined and access.name not in self.kept
                and set(access.where) == set(self.own) and len(access.where) == len(self.own))

    def elementwise(self, eq: Equation) -> list[str] | None:
        """Further wide tensors that an equation of the same indices reads, itself noted as wide."""
        mapping = self.mapping(eq)
        if mapping is None or eq.body.has(Reduction):
            return None
        places = tuple(mapping.get(i) for i in eq.indices)
        if set(places) != set(self.own):
            return None
        self.order[eq.name] = places  # type: ignore[assignment]
        new: list[str] = []
        renamed = self.canonical(eq)
        for access in accesses(renamed.body):
            if access.name in self.order:
                if access.where != self.order[access.name]:
                    return None
            elif self.is_wide(access):
                self.order[access.name] = tuple(access.where)  # type: ignore[arg-type]
                if not self.makes_tile(self.canonical(self.program.defined[access.name])):
                    return None
                new.append(access.name)
        return new

    def makes_tile(self, eq: Equation) -> bool:
        """Whether an equation is a product of what has the row and what has the column."""
        found = product_of(eq.body)
        if found is None:
            return False
        left, right = (set(a.where) for a in found[2:])
        own = {self.row in left, self.row in right}, {self.column in left, self.column in right}
        return own == ({True, False}, {True, False}) and (self.row in left) != (self.column in left)

    def is_out(self, eq: Equation, wide: set[str], over: Index | None = None) -> bool:
        """Whether an equation sums products of wide tensors over the column (or the row)."""
        if self.mapping(eq) is None:
            return False
        renamed = self.canonical(eq)
        found = product_terms(renamed, wide)
        if found is None or not found[0]:
            return False
        for _, index, left, right in found[0]:
            kept = self.column if index == self.row else self.row
            outer = set(self.own) - {self.row, self.column}
            if index not in ((self.row, self.column) if over is None else (over,)):
                return False
            if left.where != self.order[left.name] or kept in right.where:
                return False
            free = set(renamed.indices) - outer - {kept}
            if len(free) != 1 or not outer | {kept} <= set(renamed.indices):
                return False
            if set(right.where) != {*outer, index, *free}:
                return False
        return True

    def exchanged(self, eq: Equation, soft: Equation, outs: Sequence[Equation]
                  ) -> Equation | None:
        """``n * sum over u of ( p * sum over a of ( g*v ) )`` by the result ``sum of p*v``."""
        whole = factor_and_sum(eq.body)
        if whole is None or len(whole[1].bound) != 1 or soft.name not in eq.reads:
            return None
        factor, node = whole
        guard, inner = S.true, guarded(node.body)
        if isinstance(inner, Select) and inner.no == 0:
            guard, inner = inner.condition, inner.yes
        found, mapping = factors_of(inner), self.mapping(eq)
        if found is None or mapping is None or factor.has(Access):
            return None
        number, one, two = found
        weight, other = (one, two) if one.name == soft.name else (two, one)
        own = soft.body.condition if isinstance(soft.body, Select) else S.true
        if other.name not in self.program.defined or weight.name != soft.name or (guard != S.true \
                and guard.xreplace(mapping) != own):
            return None
        if not self.is_wide(other.xreplace(mapping)) or self.row not in {
                mapping.get(i) for i in eq.indices}:
            return None
        made = _at(self.program.defined[other.name], other.xreplace(mapping))
        product = product_of(made.body)
        for out in outs:
            terms = product_terms(self.canonical(out), {soft.name})
            if product is None or terms is None or len(terms[0]) != 1 or terms[1] != 0:
                continue
            scale, summed, left, right = product
            slope, value = (left, right) if self.column in right.where else (right, left)
            feature = [i for i in self.canonical(out).indices if i not in self.own]
            if len(feature) != 1 or terms[0][0][3].xreplace({feature[0]: summed}) != value:
                continue
            result = self.canonical(out).target.xreplace({feature[0]: summed})
            whole = factor * number * scale / terms[0][0][0]
            back = {v: k for k, v in mapping.items() if k in eq.indices}
            body = whole * SumOver(slope * result, summed)
            return replace(eq, body=alpha_rename(rename(body, back), {i.name for i in eq.indices}))
        return None

    # -- common indices -------------------------------------------------------------------------
    def mapping(self, eq: Equation) -> dict[Index, Expr] | None:
        """The indices of an equation that are those of the softmax, by the wide tensors in it."""
        found: dict[Index, Expr] = {}
        for access in (*accesses(eq.body), eq.target):
            for place, index in zip(access.where, self.order.get(access.name, ())):
                if not isinstance(place, Index) or found.setdefault(place, index) != index:
                    return None
        return found if len(set(found.values())) == len(found) else None

    def canonical(self, eq: Equation) -> Equation:
        """An equation in the indices of the softmax, its other indices apart from these."""
        mapping = dict(self.mapping(eq) or {})
        if isinstance(eq.body, LogSumExpOver):
            mapping[eq.body.bound[0]] = self.column
        taken = {i.name for i in self.own}
        for other in dict.fromkeys((*eq.indices, *bound_indices(eq.body))):
            if other not in mapping:
                mapping[other] = fresh(other, taken)
                taken.add(mapping[other].name)  # type: ignore[union-attr]
        return replace(eq, body=rename(eq.body, mapping),
                       indices=tuple(mapping[i] for i in eq.indices))  # type: ignore[misc]

    def fits(self, names: Iterable[str]) -> bool:
        """Whether equations keep to their row of the batch, each at the softmax's index."""
        shapes = {n: t.shape for n, t in self.program.tensors.items()}
        for name in names:
            eq = self.canonical(self.program.defined[name])
            places = [(e, s) for a in (*accesses(eq.body), eq.target)
                      for e, s in zip(a.where, shapes[a.name], strict=True)]
            if any((s == self.batch) != (e == self.own[0]) for e, s in places):
                return False
        return True


def _at(eq: Equation, target: Access) -> Equation:
    """An equation as it defines one access."""
    mapping: dict[Index, Expr] = dict(zip(eq.indices, target.where, strict=True))
    taken = {str(s) for s in target.free_symbols}
    for other in bound_indices(eq.body):
        mapping[other] = fresh(other, taken)
        taken.add(mapping[other].name)  # type: ignore[union-attr]
    return replace(eq, body=rename(eq.body, mapping), indices=tuple(target.where))  # type: ignore


def _ordered(program: Program, names: Collection[str]) -> list[str]:
    return [eq.name for eq in program.equations if eq.name in names]


def _downstream(program: Program, name: str) -> set[str]:
    """What depends on a tensor."""
    found = {name}
    for eq in program.equations:
        if found & set(eq.reads):
            found.add(eq.name)
    return found


def _reading(eq: Equation, other: Mapping[str, Tensor]) -> Equation:
    """An equation that reads copies."""
    swaps = {a: other[a.name].at(*a.where) for a in accesses(eq.body) if a.name in other}
    return replace(eq, body=eq.body.xreplace(swaps))


def _reordered(program: Program, changed: Mapping[str, Equation],
               groups: Sequence[Sequence[Equation]], found: _Softmax
               ) -> tuple[Program, list[Sweep]] | None:
    """The program with each sweep's equations together, behind all that they read."""
    of = {eq.name: n for n, group in enumerate(groups) for eq in group}
    units: list[list[Equation]] = [list(group) for group in groups]
    units += [[changed.get(eq.name, eq)] for eq in program.equations if eq.name not in of]
    place = {eq.name: n for n, eq in enumerate(program.equations)}
    units.sort(key=lambda unit: max(place.get(eq.name, -1) for eq in unit))
    done = {t.name for t in program.given}
    made: list[Equation] = []
    while units:
        ready = next((u for u in units
                      if {r for eq in u for r in eq.reads} - {eq.name for eq in u} <= done), None)
        if ready is None:
            return None
        units.remove(ready)
        made += ready
        done |= {eq.name for eq in ready}
    tensors = {**program.tensors, **{eq.name: eq.tensor for eq in made}}
    outer = tuple(i for i in found.own if i not in (found.row, found.column))
    sweeps = []
    for group in groups:
        fitting = [s for s in (Sweep(tuple(group), outer, found.row, found.column,
                                     shared_tiles(group, found.order), size, found.device)
                               for size in found.sizes) if not found.device or _fits(s)]
        if not fitting:
            return None
        sweeps.append(fitting[0])
    return replace(program, tensors=tensors, equations=tuple(made)), sweeps


def _fits(sweep: Sweep) -> bool:
    """Whether the tiles of a sweep fit the shared memory of a block."""
    tiles = {tile: Mul(*sweep.shapes[tile]) for tile in sweep.tiles.values()}
    return bool(sum(tiles.values()) <= ROOM + 512 - STAGED)
