"""The loop-nest tree: what lowering makes of equations and what each target prints.

    Statement := Loop | Let | Store | If | Product (of Matrix | Window)
    Kernel    := name, tensors, a part of one index (lo .. hi), statements, equations cited

Expressions inside are the bodies' own SymPy scalars without reductions; scalars that are computed
on the way are `Symbol`s (see `local`). Nothing here knows a target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from sympy import Expr, Integer, Mul, Symbol

from derive.nodes import Access, Index, accesses
from derive.program import Equation

Op = Literal["=", "+=", "*=", "max", "min"]
LO, HI = Symbol("lo", integer=True), Symbol("hi", integer=True)


def local(number: int) -> Symbol:
    """The n-th scalar computed on the way; it may be infinite, which SymPy must not rule out."""
    return Symbol(f"_v{number}", extended_real=True)


@dataclass(frozen=True)
class Loop:
    """``for index in start .. stop-1`` (descending where ``down``)."""

    index: Index
    start: Expr
    stop: Expr
    body: tuple[Statement, ...]
    down: bool = False


@dataclass(frozen=True)
class Let:
    """A scalar on the way: set (``=``) or accumulated into."""

    symbol: Symbol
    value: Expr
    op: Op = "="


@dataclass(frozen=True)
class Store:
    """One element of a tensor, set or added to."""

    target: Access
    value: Expr
    op: Op = "="


@dataclass(frozen=True)
class If:
    """A branch; only the side that holds is evaluated."""

    condition: Expr
    yes: tuple[Statement, ...]
    no: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class Matrix:
    """A matrix inside a tensor: its element (r, c) is number ``start + r*row + c*column`` of the
    tensor's elements. One of the strides ``row`` and ``column`` is 1."""

    name: str
    start: Expr
    rows: Expr
    columns: Expr
    row: Expr
    column: Expr


@dataclass(frozen=True)
class Nest:
    """Loops of constant bounds that are no matrix product, around a tile of the target: how many
    turns, and how many elements a turn moves the target, the left and the right factor.

    ``loops``: (turns, target, left, right); ``rows``: (turns, target, left), where the right factor
    stays; ``columns``: neighbours in target and right factor, where the left one stays; ``sums``:
    (turns, left, right). ``tables``: where the left factor is numbers, the product of these: which
    of the rows and then the sums each table's dims count through, and its numbers.
    """

    loops: tuple[tuple[int, int, int, int], ...]
    rows: tuple[tuple[int, int, int], ...]
    columns: int
    sums: tuple[tuple[int, int, int], ...]
    tables: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...] = ()


@dataclass(frozen=True)
class Window:
    """A factor of a product that is no matrix in memory: its element is ``value`` (an access, or 0
    where a guard does not hold) at the values of the indices ``down``, which its rows count
    through, and ``across``."""

    name: str
    value: Expr
    down: tuple[Index, ...]
    across: tuple[Index, ...]

    @property
    def rows(self) -> Expr:
        return Mul(*(i.size for i in self.down))

    @property
    def columns(self) -> Expr:
        return Mul(*(i.size for i in self.across))


@dataclass(frozen=True)
class Product:
    """``target = beta*target + alpha * left @ right``: a matrix product, or (``nest``) a sum of
    products in a nest of loops, whose matrices then only say where each of the three begins (the
    left one where the right one does, if it is numbers).

    ``places`` are the accesses that it stands for (target, left, right): what is touched in each
    turn of the loops around it. ``rows`` and ``columns`` are the indices that its rows and columns
    count through, outermost first.
    """

    target: Matrix
    left: Matrix | Window
    right: Matrix | Window
    alpha: Expr
    beta: Literal[0, 1]
    places: tuple[Access, Access, Access]
    rows: tuple[Index, ...]
    columns: tuple[Index, ...]
    nest: Nest | None = None


Statement = Loop | Let | Store | If | Product


@dataclass(frozen=True)
class Blocks:
    """How the nests of a kernel are launched on a device: a block for each turn of the outermost
    loops (of each nest so many: ``grid``), with tensors in its shared memory (a name and a shape
    for each)."""

    grid: tuple[int, ...]
    shared: tuple[tuple[str, tuple[Expr, ...]], ...]


@dataclass(frozen=True)
class Kernel:
    """One function of the emitted module: a part ``lo .. hi`` of one index of its equations.

    ``part`` is the index that is split among threads (None: the kernel runs whole, on one);
    ``cites`` are the equations with their numbers, in program order; ``handed`` are the tensors
    that stand for ``tensors`` where the body is that of another kernel (see alike.py); ``blocks``
    says how the nests of a sweep are launched.
    """

    name: str
    tensors: tuple[str, ...]
    part: Index | None
    body: tuple[Statement, ...]
    cites: tuple[tuple[int, Equation], ...] = ()
    sizes: tuple[Symbol, ...] = field(default=())
    handed: tuple[str, ...] = ()
    blocks: Blocks | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The tensors that a call of the kernel is about, in the order of ``tensors``."""
        return self.handed or self.tensors

    @property
    def extent(self) -> Expr:
        """The size of the index that is split: 1 where the kernel runs whole."""
        return self.part.size if self.part is not None else Integer(1)


def statements(body: tuple[Statement, ...]) -> Iterator[Statement]:
    """Every statement of a tree, outermost first."""
    for node in body:
        yield node
        if isinstance(node, Loop):
            yield from statements(node.body)
        elif isinstance(node, If):
            yield from statements(node.yes)
            yield from statements(node.no)


def expressions(node: Statement) -> tuple[Expr, ...]:
    """The expressions that stand in one statement itself."""
    if isinstance(node, Loop):
        return (node.start, node.stop)
    if isinstance(node, Let):
        return (node.value,)
    if isinstance(node, Store):
        return (node.target, node.value)
    if isinstance(node, If):
        return (node.condition,)
    factors = (node.target, node.left, node.right)
    return (node.alpha, *(e for m in factors for e in (
        (m.value, m.rows, m.columns) if isinstance(m, Window)
        else (m.start, m.rows, m.columns, m.row, m.column))))


def written(kernel: Kernel) -> set[str]:
    """Names of the tensors that a kernel writes."""
    own = dict(zip(kernel.tensors, kernel.arguments, strict=True))
    return {own[name] for name in _written(_Same(kernel.body))}


@dataclass(frozen=True, eq=False)
class _Same:
    """A tree that is known by which it is: its own hash would go through all of it."""

    body: tuple[Statement, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.body is other.body

    def __hash__(self) -> int:
        return id(self.body)


@lru_cache(maxsize=4096)
def _written(tree: _Same) -> frozenset[str]:
    return frozenset(n.target.name for n in statements(tree.body)
                     if isinstance(n, Store | Product))


def touched(node: Statement) -> tuple[str, ...]:
    """Names of the tensors in one statement itself."""
    names = [a.name for e in expressions(node) for a in accesses(e)]
    if isinstance(node, Product):
        names += [m.name for m in (node.target, node.left, node.right)]
    return tuple(names)


def tensors_of(body: tuple[Statement, ...]) -> tuple[str, ...]:
    """Names of the tensors that a tree touches, in order of first use."""
    return tuple(dict.fromkeys(n for node in statements(body) for n in touched(node)))


def sizes_of(body: tuple[Statement, ...]) -> tuple[Symbol, ...]:
    """Run-time sizes that a tree needs as arguments."""
    found: dict[Symbol, None] = {}
    for node in statements(body):
        for expr in expressions(node):
            for symbol in sorted(expr.free_symbols, key=str):
                if symbol.is_positive and not isinstance(symbol, Index):
                    found[symbol] = None
    return tuple(found)
