"""A proof, launch by launch, that no two threads meet at an element of a tensor.

    Launch → tuple of Conflict (none: proved)

The tree of what each thread does (`codegen.threads`) is walked in order. Every touch of a tensor
that the launch writes is compared with those before it that no barrier has cut off, and, across
blocks and grid threads, with all: that two touches are of one element is a system of equations over
the integers, one for each dim, with the indices of one thread on the left and those of another one
on the right. A pair is proved harmless where the system has no solution, or where every solution
has both threads the same (`same_turns`). What cannot be proved is a conflict: the answer errs on
the safe side. Loops are walked twice, so that what a turn leaves open meets the next one.

Shared memory is touched by three functions of the template alone, whose index maps depend on
nothing but the thread: tests run them with the real number of threads. That different tensors do
not overlap where both are alive is the memory plan's promise; `overlaps` proves it for each kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatchmethod
from itertools import combinations

import sympy
from sympy import Expr, Integer, Mul, Symbol

from codegen.contraction import conjuncts
from codegen.launches import Launch
from codegen.loops import If, Let, Loop, Product, Statement, Store, expressions, statements
from codegen.memory import Plan
from codegen.threads import (
    Barrier,
    Branch,
    Grid,
    Merge,
    One,
    Own,
    Serial,
    Share,
    Spread,
    Step,
    Tiles,
    Together,
    Warps,
    threaded,
)
from codegen.touches import Touch, meets, same_turns
from derive.nodes import Access, Index, accesses


@dataclass(frozen=True)
class Conflict:
    """Two touches that may be of one element by two threads, or a barrier not all may reach."""

    launch: str
    what: str

    def __str__(self) -> str:
        return f"{self.launch}: {self.what}"


def conflicts(launch: Launch, tree: Sequence[Step] | None = None) -> tuple[Conflict, ...]:
    """What cannot be proved harmless in a launch; ``tree`` instead of its own."""
    walk = _Walk(launch.name, _written((*launch.body, *launch.behind)))
    walk.steps(threaded(launch) if tree is None else tree)
    further = [x for x in (launch.parts, launch.total) if x is not None and tree is None]
    return tuple(dict.fromkeys((*walk.found, *(c for x in further for c in conflicts(x)))))


def _written(body: Iterable[Statement]) -> set[str]:
    return {n.target.name for n in statements(tuple(body)) if isinstance(n, Store | Product)}


@dataclass
class _Walk:
    name: str
    written: set[str]
    found: list[Conflict] = field(default_factory=list)
    every: list[Touch] = field(default_factory=list)  # of a turn of the grid
    open: list[Touch] = field(default_factory=list)  # since the last barrier
    conditions: tuple[Expr, ...] = ()
    fixed: frozenset[Index] = frozenset()
    private: set[Symbol] = field(default_factory=set)  # scalars that differ from thread to thread
    site: int | None = None
    sites: int = 0
    shared: set[str] = field(default_factory=set)
    tiled: dict[Product | None, int] = field(default_factory=dict)
    turns: tuple[Index, ...] = ()
    rows: tuple[Index | None, int] = (None, 0)  # the index that warps share, the nest of theirs
    lanes: dict[Expr, int] = field(default_factory=dict)  # sites of a warp, by where a loop begins
    since: list[Touch] = field(default_factory=list)  # since a warp's last barrier
    alone: bool = False  # a thread of its own for each turn: nothing to compare in a block

    def steps(self, body: Sequence[Step]) -> None:
        for step in body:
            self.step(step)

    def note(self, what: str) -> None:
        self.found.append(Conflict(self.name, what))

    def touch(self, access: Access, writes: bool) -> None:
        if access.name not in self.written:
            return
        new = Touch(access, writes, self.site, self.turns, self.conditions, self.fixed, *self.rows)
        if not self.alone:
            for old, one, other in [*((t, t.outside, new.outside) for t in self.open),
                                    *((t, t.inside, new.inside) for t in self.since)]:
                if (old.writes or writes) and old.access.name == access.name and meets(one, other):
                    self.note(f"{'written' if old.writes else 'read'} {old.access} and "
                              f"{'written' if writes else 'read'} {access} with no barrier between")
            if writes and (self.site is None or (self.site and meets(new.inside, new.inside))
                           or meets(new.outside, new.outside)):
                self.note(f"two threads write {access}")
        if new.row is not None:
            self.since.append(new)
        self.open.append(new)
        self.every.append(new)

    # -- the tree -------------------------------------------------------------------------------
    @singledispatchmethod
    def step(self, node: Statement) -> None:
        """A statement that one thread runs, or each of them."""
        self._shared(*expressions(node))
        for expr in expressions(node):
            for access in accesses(expr):
                if not (isinstance(node, Store) and access == node.target):
                    self.touch(access, False)

    @step.register
    def _grid(self, node: Grid) -> None:
        self.alone, self.fixed = node.by == "thread", self.fixed | set(node.over)
        self.steps(node.body)
        for one in self.every:
            for other in self.every:
                if ((one.writes or other.writes) and one.access.name == other.access.name
                        and one.access.name not in self.shared):  # each block has its own
                    apart = replace(one, fixed=frozenset()), replace(other, fixed=frozenset())
                    if not same_turns(*apart, tuple(zip(node.over, node.over, strict=True))):
                        self.note(f"{one.access} and {other.access} in two turns of the grid")
        tiles = [t for t in self.open if t.access.name in self.shared]
        if tiles:  # a block's next turn finds them as this one leaves them
            for index in node.over:
                last = index.renamed(f"{index.name}_last")
                tiles = [_renamed(t, index, last) for t in tiles]
            self.open = tiles
            self.steps(node.body)

    @step.register
    def _share(self, node: Share) -> None:
        self.written.add(node.name)
        self.shared.add(node.name)

    @step.register
    def _spread(self, node: Spread) -> None:
        self.sites += 1
        before = self.site, self.turns
        self.site, self.turns = self.sites, node.over
        if node.of == "warp" and node.span is not None:  # the same thread for the same value
            self.site = self.lanes.setdefault(node.span[0], self.sites)
        for statement in node.body:
            self.step(statement)
        self._differ(node.body)
        self.site, self.turns = before

    def _differ(self, body: Iterable[Statement]) -> None:
        self.private |= {n.symbol for n in statements(tuple(body)) if isinstance(n, Let)}

    @step.register
    def _one(self, node: One) -> None:
        before, self.site = self.site, 0
        for statement in node.body:
            self.step(statement)
        self.site = before

    @step.register
    def _barrier(self, node: Barrier) -> None:
        if self.site is not None or self.alone or (node.of == "block" and self.rows[1]):
            self.note("a barrier that some threads may not reach")
        self.since.clear()
        if node.of == "block":
            self.open.clear()

    @step.register
    def _own(self, node: Own) -> None:
        self.private.add(node.symbol)

    @step.register
    def _merge(self, node: Merge) -> None:
        if node.of == "block":
            self.step(Barrier())

    @step.register
    def _warps(self, node: Warps) -> None:
        """Each turn is one warp's: what two of them touch must not meet."""
        self._uniform(*node.span)
        self.sites += 1
        self.rows, self.lanes = (node.index, self.sites), {}
        self.since.clear()
        own = {n.symbol for n in statements(tuple(_plain(node.body))) if isinstance(n, Let)}
        self.private -= own  # what the threads of a warp have in common
        self.steps(node.body)
        self.since.clear()
        self.rows = None, 0
        self.private |= own

    @step.register
    def _serial(self, node: Serial) -> None:
        index = node.loop.index
        self._uniform(node.loop.start, node.loop.stop)
        before = self.fixed
        self.fixed = before | {index}
        self.steps(node.body)
        last = index.renamed(f"{index.name}_last")
        self.open = [_renamed(t, index, last) for t in self.open]
        self.steps(node.body)
        self.fixed = before

    @step.register
    def _branch(self, node: Branch) -> None:
        self._uniform(node.condition)
        for access in accesses(node.condition):
            self.touch(access, False)
        before, kept = self.conditions, list(self.open)
        self.conditions = (*before, *conjuncts(node.condition))
        self.steps(node.yes)
        after, self.open, self.conditions = self.open, kept, before
        self.steps(node.no)
        self.open = list(dict.fromkeys((*after, *self.open)))

    def _uniform(self, *where: Expr) -> None:
        if any(e.free_symbols & (self.private | set(self.turns)) for e in where):
            self.note("a barrier that some threads may not reach")

    def _shared(self, *where: Expr) -> None:
        """What all threads, or the first one, compute is of nothing that differs among them."""
        if not self.site and any(e.free_symbols & self.private for e in where):
            self.note("a scalar that differs from thread to thread is taken for one")

    @step.register
    def _together(self, node: Together) -> None:
        self.sites += 1
        before = self.site, self.turns
        free = [s for e in node.product.places[0].where for s in e.free_symbols]
        own = tuple(s for s in dict.fromkeys(free) if isinstance(s, Index) and s not in self.fixed)
        self.site, self.turns = self.sites, own
        self._product(node.product)
        self.site, self.turns = before

    @step.register
    def _tiles(self, node: Tiles) -> None:
        """A thread has the same elements in each turn of a loop around, if there are as many."""
        product, before = node.product, (self.site, self.turns)
        size = {*product.target.rows.free_symbols, *product.target.columns.free_symbols}
        key = None if size & self.fixed else product
        if key is None or key not in self.tiled:
            self.sites += 1
            self.tiled[key] = self.sites
        self.site, self.turns = self.tiled[key], ()
        for access in product.places[1:]:
            self.touch(access, False)
        self.turns = (*product.rows, *product.columns)
        for statement in node.body:
            self.step(statement)
        self._differ(node.body)
        self.site, self.turns = before

    @step.register
    def _product(self, node: Product) -> None:
        target, *read = node.places
        for access in read:
            before, self.turns = self.turns, ()
            self.touch(access, False)
            self.turns = before
        self.touch(target, True)

    @step.register
    def _store(self, node: Store) -> None:
        self._shared(node.value)
        for expr in (node.value, *node.target.where):
            for access in accesses(expr):
                self.touch(access, False)
        self.touch(node.target, True)

    @step.register
    def _loop(self, node: Loop) -> None:
        for inner in node.body:
            self.step(inner)

    @step.register
    def _if(self, node: If) -> None:
        for access in accesses(node.condition):
            self.touch(access, False)
        before = self.conditions
        self.conditions = (*before, *conjuncts(node.condition))
        for inner in node.yes:
            self.step(inner)
        self.conditions = before
        for inner in node.no:
            self.step(inner)


def _plain(body: Iterable[Step]) -> Iterator[Statement]:
    """Statements that the threads of a warp do, whatever stands around them."""
    for node in body:
        if isinstance(node, Let | Store | Loop | If):
            yield node
        elif isinstance(node, Spread | One):
            yield from node.body
        elif isinstance(node, Serial):
            yield from _plain(node.body)
        elif isinstance(node, Branch):
            yield from _plain((*node.yes, *node.no))


def _renamed(touch: Touch, old: Index, new: Index) -> Touch:
    return replace(touch, access=touch.access.xreplace({old: new}),
                   conditions=tuple(c.xreplace({old: new}) for c in touch.conditions),
                   fixed=touch.fixed - {old})


# -- tensors do not overlap ----------------------------------------------------------------------
def overlaps(names: Iterable[str], plan: Plan) -> list[tuple[str, str]]:
    """Pairs of tensors whose places may overlap though they are not one place."""
    found = []
    for one, other in combinations(names, 2):
        a, b = plan.slots[one], plan.slots[other]
        if a.buffer == b.buffer and not (_before(a.offset, Mul(*a.shape), b.offset)
                                         or _before(b.offset, Mul(*b.shape), a.offset)):
            found.append((one, other))
    return found


def _before(offset: Expr, length: Expr, other: Expr) -> bool:
    """Whether a place ends where another one begins, or earlier, whatever the run-time sizes."""
    gap = sympy.expand(other - offset - length)
    return all(c >= 0 for c in gap.as_coefficients_dict().values()) or gap == Integer(0)
