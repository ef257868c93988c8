"""Loop-nest trees → launches: how a kernel's tree is spread over the threads of a GPU.

    Kernel → tuple of Launch, which run one after the other

A launch is of one of three kinds. *elements*: one thread for each element of a nest of loops whose
turns are independent. *blocks*: one block of threads for each such element; inside, loops with
independent turns and reductions are spread over the threads of the block. *product*: tiles of a
matrix product, one block for each; the nest of elements behind it is done while a tile is in
registers (epilogue.py). The sum of a product may be cut into parts, which one more launch adds up.

A loop is spread only where `parallel` proves its turns independent: for every tensor that it
writes, all places in its body have its index by itself in one and the same dim. So no two threads
write the same element, and none reads what another one writes between two barriers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import sympy
from sympy import Integer, Mod, Symbol

from codegen.block_weights import Kept, kept_tensors
from codegen.contraction import Shapes
from codegen.epilogue import VALUE, behind, stored
from codegen.fuse import independent
from codegen.loops import (
    Blocks,
    If,
    Kernel,
    Let,
    Loop,
    Product,
    Statement,
    Store,
    Window,
    expressions,
    sizes_of,
    statements,
    tensors_of,
)
from codegen.parts import LONG, PARTIAL, PARTS, added, long_sum, partial_sums
from derive.nodes import Access, Index, IntegerAccess
from derive.program import Equation

Kind = Literal["elements", "blocks", "product"]
OWNERS = 64  # threads that share the places of a scatter among them, for each of its columns
SHORT = 32  # turns of the loops in an element up to which one thread does them all


@dataclass(frozen=True)
class Launch:
    """One launch: ``over`` are the loops that are spread over the grid, outermost first; ``body``
    is what stands inside them; ``behind`` is what is done with each element of a product, ``kept``
    are the tensors that blocks keep in shared memory, ``tiles`` those that are there only."""

    kind: Kind
    name: str
    over: tuple[Index, ...]
    body: tuple[Statement, ...]
    tensors: tuple[str, ...]
    sizes: tuple[Symbol, ...]
    cites: tuple[tuple[int, Equation], ...]
    behind: tuple[Statement, ...] = ()
    kept: tuple[Kept, ...] = ()
    tiles: tuple[Kept, ...] = ()

    @property
    def product(self) -> Product:
        """The matrix product of a launch of that kind."""
        return _product(self.body)

    @property
    def windows(self) -> tuple[Window, ...]:
        """The factors of a product that are no matrices in memory."""
        if self.kind != "product":
            return ()
        return tuple(f for f in (self.product.left, self.product.right) if isinstance(f, Window))

    @property
    def parts(self) -> Launch | None:
        """The launch that makes parts of the sum that each element is; None for a product, whose
        own launch makes them, and where there is no such sum."""
        if not self._long:
            return None
        return self._like("parts", *partial_sums(self.over, self.body)[0])

    @property
    def total(self) -> Launch | None:
        """The launch that adds up parts; None where a sum is not cut: it is short, or there are
        several, one for each turn of a loop."""
        if self.kind == "elements":
            return self._like("sum", *partial_sums(self.over, self.body)[1]) if self._long else None
        inner = self.product.left.columns if self.kind == "product" else Integer(0)
        return None if inner.is_Integer and inner < LONG else self.behind_parts

    @property
    def behind_parts(self) -> Launch | None:
        """The launch that adds up parts of a single product, and does what is behind it."""
        if self.kind != "product" or not isinstance(self.body[0], Product):
            return None
        product = self.product
        own = (*self.over, *product.rows, *product.columns)
        return self._like("sum", *added(own, VALUE, self.behind))

    @property
    def _long(self) -> bool:
        return (self.kind == "elements" and PARTIAL not in self.tensors
                and long_sum(self.over, self.body) is not None)

    def _like(self, name: str, over: tuple[Index, ...], body: tuple[Statement, ...]) -> Launch:
        nest = _nest(over, body)
        sizes = dict.fromkeys((*sizes_of(nest), *(s for s in self.sizes if s != PARTS)))
        return Launch("elements", f"{self.name}_{name}", over, body, tensors_of(nest),
                      tuple(sizes), self.cites)


def parallel(loop: Loop) -> bool:
    """Whether the turns of a loop may run at once."""
    inside = {n.symbol for n in statements(loop.body) if isinstance(n, Let) and n.op == "="}
    carried = any(isinstance(n, Let) and n.op != "=" and n.symbol not in inside
                  for n in statements(loop.body))
    return not carried and independent(loop.body, loop.body, loop.index)


def reduction(loop: Loop) -> tuple[Let, ...]:
    """The scalars that a loop does nothing but accumulate into; empty where it does more."""
    found: dict[Symbol, Let] = {}
    own: set[Symbol] = set()
    for node in statements(loop.body):
        if isinstance(node, Store | Product):
            return ()
        if isinstance(node, Let):
            if node.op == "=":
                own.add(node.symbol)
            elif node.symbol not in own:
                if found.setdefault(node.symbol, node).op != node.op:
                    return ()
    read = {s for n in statements(loop.body) for e in expressions(n) for s in e.free_symbols}
    return () if (own | read) & set(found) else tuple(found.values())


def split(kernel: Kernel, shapes: Shapes) -> tuple[Launch, ...]:
    """The launches of one kernel, in order; strides need the tensors' sizes, too."""
    if kernel.blocks is not None:
        return tuple(_in_tiles(kernel, kernel.blocks, number, shapes)
                     for number in range(len(kernel.body)))
    made: list[Launch] = []
    for group in _groups(kernel.body):
        for piece in (one for p in _pieces(group) for one in _apart(p)):
            kind, over, body = _spread(piece)
            last: tuple[Statement, ...] | None = None
            if kind == "elements" and made and isinstance(made[-1].body[0], Product):
                before = made[-1]
                last = behind(before.product, before.over, over, body)
            if last is not None and before.behind == stored(before.product):
                kind, over, body = before.kind, before.over, before.body
                made.pop()
            else:
                last = stored(_product(body)) if kind == "product" else ()
            number = f"_{len(made) + 1}" if made else ""
            nest = (*_nest(over, body), *last)
            tensors = tensors_of(nest)
            sizes = _sizes(nest, tensors, shapes)
            kept = kept_tensors(body, over, shapes) if kind == "blocks" else ()
            made.append(Launch(kind, kernel.name + number, over, body, tensors, sizes,
                               kernel.cites, last, kept))
    return tuple(made)


def _in_tiles(kernel: Kernel, blocks: Blocks, number: int, shapes: Shapes) -> Launch:
    """The launch of one nest of a sweep."""
    nest = kernel.body[number]
    over: list[Index] = []
    body: tuple[Statement, ...] = (nest,)
    for _ in range(blocks.grid[number]):
        (loop,) = body
        assert isinstance(loop, Loop)
        over.append(loop.index)
        body = loop.body
    inside = tensors_of(body)
    tiles = tuple(t for t in blocks.shared if t[0] in inside)
    tensors = tuple(t for t in inside if t not in dict(tiles))
    return Launch("blocks", kernel.name + (f"_{number + 1}" if number else ""), tuple(over), body,
                  tensors, _sizes((nest,), tensors, shapes), kernel.cites, tiles=tiles)


def _sizes(nest: tuple[Statement, ...], tensors: Sequence[str], shapes: Shapes
           ) -> tuple[Symbol, ...]:
    """Run-time sizes that a launch needs, those in strides among them."""
    steps = {s for t in tensors for size in shapes[t][1:] for s in size.free_symbols}
    return tuple(dict.fromkeys((*sizes_of(nest), *sorted(steps, key=str))))


def _product(body: Sequence[Statement]) -> Product:
    return next(n for n in statements(tuple(body)) if isinstance(n, Product))


def _nest(over: Sequence[Index], body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    for index in reversed(over):
        body = (Loop(index, Integer(0), index.size, body),)
    return body


def _groups(body: Sequence[Statement]) -> list[tuple[Statement, ...]]:
    """Statements that belong together because a scalar goes from one to the next."""
    groups: list[list[Statement]] = []
    open_until = -1
    for at, node in enumerate(body):
        if at > open_until:
            groups.append([])
        groups[-1].append(node)
        for symbol in {n.symbol for n in statements((node,)) if isinstance(n, Let)}:
            last = max(k for k, other in enumerate(body) if _mentions(other, symbol))
            open_until = max(open_until, last)
    return [tuple(g) for g in groups]


def _mentions(node: Statement, symbol: Symbol) -> bool:
    return any((isinstance(n, Let) and n.symbol == symbol)
               or any(symbol in e.free_symbols for e in expressions(n))
               for n in statements((node,)))


def _pieces(group: tuple[Statement, ...]) -> list[tuple[Statement, ...]]:
    """A nest cut at its matrix products, each of which gets the loops around it: turns of a loop
    that are independent may be taken product by product as well as turn by turn."""
    if len(group) != 1 or not isinstance(group[0], Loop):
        return [group]
    loop = group[0]
    if not any(isinstance(n, Product) for n in statements(loop.body)) or not whole(loop):
        return [group]
    if not parallel(loop):
        return [group]
    inner = [p for g in _groups(loop.body) for p in _pieces(g)]
    return [(replace(loop, body=p),) for p in _joined(inner)]


def _apart(piece: tuple[Statement, ...]) -> list[tuple[Statement, ...]]:
    """A nest by itself for each part of a body all of whose parts are elements of their own, one
    thread each: by a block for each turn of the loops around, they would be done one by one."""
    kind, over, body = _spread(piece)
    groups = _groups(body) if kind == "blocks" and over else []
    made = [_nest(over, group) for group in groups]
    spread = [_spread(one) for one in made]
    own = all(k == "elements" and len(inner) > len(over) for k, inner, _ in spread)
    return made if own and len(made) > 1 else [piece]


def _joined(pieces: Sequence[tuple[Statement, ...]]) -> list[tuple[Statement, ...]]:
    """Neighbouring pieces without a product stay together."""
    out: list[tuple[Statement, ...]] = []
    for piece in pieces:
        if out and not _has_product(out[-1]) and not _has_product(piece):
            out[-1] = (*out[-1], *piece)
        else:
            out.append(piece)
    return out


def _has_product(body: tuple[Statement, ...]) -> bool:
    return any(isinstance(n, Product) for n in statements(body))


def whole(loop: Loop) -> bool:
    """Whether a loop goes upwards through all values of its index."""
    return not loop.down and loop.start == 0 and loop.stop == loop.index.size


def _spread(group: tuple[Statement, ...]) -> tuple[Kind, tuple[Index, ...], tuple[Statement, ...]]:
    """The kind of launch of a group, its loops over the grid, and what is inside them."""
    scattered = _scattered(group)
    if scattered is not None:
        return "elements", *scattered
    over: list[Index] = []
    body = group
    while len(body) == 1 and isinstance(body[0], Loop) and whole(body[0]) and parallel(body[0]):
        over.append(body[0].index)
        body = body[0].body
    if _only_product(body):
        return "product", tuple(over), body
    if over and not _has_product(body) and _for_one_thread(over, body):
        return "elements", tuple(over), body
    return "blocks", tuple(over), body


def _only_product(body: tuple[Statement, ...]) -> bool:
    """Whether a body is one product, inside serial loops and branches at most."""
    while len(body) == 1:
        node = body[0]
        if isinstance(node, Product):
            return True
        if isinstance(node, Loop) or (isinstance(node, If) and not node.no):
            body = node.body if isinstance(node, Loop) else node.yes
        else:
            return False
    return False


def _for_one_thread(over: Sequence[Index], body: tuple[Statement, ...]) -> bool:
    """Whether an element is better left to one thread: it has no loop, or short ones, or its
    neighbours lie side by side in memory, which a block for each would read one by one."""
    loops = [n for n in statements(body) if isinstance(n, Loop)]
    if not loops:
        return True
    if not all(map(reduction, loops)):
        return False
    turns = Integer(1)
    for loop in loops:
        turns *= loop.stop - loop.start
    if turns.is_Integer and turns <= SHORT:
        return True
    return _strides(body, over[-1]) < _strides(body, loops[-1].index)


def _strides(body: tuple[Statement, ...], index: Index) -> int:
    """How many places jump in memory from one value of an index to the next."""
    count = 0
    for node in statements(body):
        for expr in expressions(node):
            for access in expr.atoms(Access):
                front, last = access.where[:-1], access.where[-1:]
                count += any(index in e.free_symbols for e in front) or any(
                    index in e.free_symbols and e.diff(index) not in (1, -1)
                    for e in last if not e.has(IntegerAccess))
    return count


def _scattered(group: tuple[Statement, ...]
               ) -> tuple[tuple[Index, ...], tuple[Statement, ...]] | None:
    """A scatter turned inside out: a thread has a column and a share of the places, visits every
    summand in order, and adds those that belong to a place of its own."""
    loops: list[Loop] = []
    conditions: list[sympy.Basic] = []
    body = group
    while len(body) == 1 and not isinstance(body[0], Store):
        node = body[0]
        if isinstance(node, Loop) and not node.down:
            loops.append(node)
            body = node.body
        elif isinstance(node, If) and not node.no:
            conditions.append(node.condition)
            body = node.yes
        else:
            return None
    if len(body) != 1 or not isinstance(body[0], Store) or body[0].op != "+=":
        return None
    store = body[0]
    places = [e for e in store.target.where if e.has(IntegerAccess)]
    if not places or any(a.name == store.target.name for a in store.value.atoms(Access)):
        return None
    columns = [n for n in loops if n.index in store.target.where and whole(n)]
    rest = [n for n in loops if n not in columns]
    owner = Index("owner", Integer(OWNERS))
    mine = sympy.Eq(Mod(places[0], OWNERS, evaluate=False), owner, evaluate=False)
    inner: tuple[Statement, ...] = (If(sympy.And(*conditions, mine), (store,)),)
    for loop in reversed(rest):
        inner = (replace(loop, body=inner),)
    return (owner, *(n.index for n in columns)), inner
