"""Launches → what each thread does: the tree that the CUDA printer prints, line by line.

    Launch → tuple of Step
    Step := Grid | Spread | One | Barrier | Own | Merge | Serial | Branch | Together | Tiles
            | Share | Warps | Statement

Here and nowhere else is decided which thread does what, and where the threads of a block wait for
each other; `codegen.races` proves of each of these trees that no two threads meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatchmethod
from typing import Literal

from sympy import Expr, Mul, S, Symbol

from codegen.block_weights import copied, padded, reading_kept
from codegen.fuse import renamed
from codegen.launches import Launch, parallel, reduction, whole
from codegen.loops import If, Let, Loop, Op, Product, Statement, Store, statements
from codegen.touches import Touched, touched
from derive.nodes import Index

Team = Literal["block", "warp"]
FEW = 32  # turns of a loop below which its inner loops are spread over the threads instead


@dataclass(frozen=True)
class Grid:
    """The turns of ``over`` are shared by all threads of the grid ("thread"), or by its blocks,
    counted along x or y."""

    over: tuple[Index, ...]
    by: Literal["thread", "x", "y"]
    body: tuple[Step, ...]


@dataclass(frozen=True)
class Spread:
    """The turns of ``over`` are shared by the threads of a block, or of a warp; from ``start`` to
    ``stop`` where the range of a single index is narrowed."""

    over: tuple[Index, ...]
    body: tuple[Statement, ...]
    span: tuple[Expr, Expr] | None = None
    of: Team = "block"


@dataclass(frozen=True)
class One:
    """What the first thread of a block, or of a warp, does."""

    body: tuple[Statement, ...]
    of: Team = "block"


@dataclass(frozen=True)
class Barrier:
    """The threads of a block, or of a warp, wait for each other."""

    of: Team = "block"


@dataclass(frozen=True)
class Own:
    """A scalar of each thread's own, in which it accumulates from the neutral element on."""

    symbol: Symbol
    op: Op


@dataclass(frozen=True)
class Merge:
    """What the threads have accumulated is put together, and added to a scalar that all have; those
    of a block wait for each other in it, at last behind it."""

    symbol: Symbol
    own: Symbol
    op: Op
    of: Team = "block"


@dataclass(frozen=True)
class Warps:
    """The turns of a loop are shared by the warps of a block, each of which goes through one as a
    block goes through its own."""

    index: Index
    span: tuple[Expr, Expr]
    body: tuple[Step, ...]


@dataclass(frozen=True)
class Serial:
    """A loop that the threads of a block go through in step."""

    loop: Loop  # without its body
    body: tuple[Step, ...]


@dataclass(frozen=True)
class Branch:
    """A branch that all threads of a block take, or none."""

    condition: Expr
    yes: tuple[Step, ...]
    no: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Together:
    """A matrix product whose elements are shared by the threads of a block."""

    product: Product


@dataclass(frozen=True)
class Tiles:
    """A matrix product in tiles: each thread has elements of its own, and does ``body`` for each
    of them, whose value is the scalar `codegen.epilogue.VALUE`."""

    product: Product
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Share:
    """A tensor in the shared memory of a block."""

    name: str
    shape: tuple[Expr, ...]


Step = (Grid | Spread | One | Barrier | Own | Merge | Serial | Branch | Together | Tiles | Share
        | Warps | Statement)


def threaded(launch: Launch) -> tuple[Step, ...]:
    """The tree of one launch."""
    if launch.kind == "elements":
        return (Grid(launch.over, "thread", launch.body),)
    axis: Literal["x", "y"] = "y" if launch.kind == "product" else "x"
    front: list[Step] = []
    if launch.kind == "product":
        body = _tiled(launch.body, launch.behind)
    elif launch.tiles:
        front += [Share(*tile) for tile in launch.tiles]
        body = _Tile().turns(launch.body, frozenset(name for name, _ in launch.tiles))
    else:
        body = _Block().together(reading_kept(launch.body, launch.kept))
        for kept in launch.kept:
            over, copy = copied(kept)
            front += [Share(copy.target.name, padded(kept[1])), Spread(over, (copy,))]
        front += [Barrier()] if front else []
    return (*front, *((Grid(launch.over, axis, body),) if launch.over else body))


def _tiled(body: Sequence[Statement], behind: tuple[Statement, ...]) -> tuple[Step, ...]:
    """A product inside loops and branches that its blocks of threads go through in step."""
    (node,) = body
    if isinstance(node, Loop):
        head = Loop(node.index, node.start, node.stop, (), node.down)
        return (Serial(head, _tiled(node.body, behind)),)
    if isinstance(node, If):
        return (Branch(node.condition, _tiled(node.yes, behind)),)
    assert isinstance(node, Product)
    return (Tiles(node, behind),)


class _Block:
    """Spreads statements over the threads of a block; ``dirty``: something was written since the
    last barrier that another thread may read."""

    team: Team = "block"

    def __init__(self) -> None:
        self.dirty = False

    def together(self, body: Sequence[Statement]) -> tuple[Step, ...]:
        """Statements that all threads of a block reach at once."""
        out: list[Step] = []
        for node in body:
            if self.dirty:
                out.append(Barrier(self.team))
                self.dirty = False
            out += self.steps(node)
        return tuple(out)

    @singledispatchmethod
    def steps(self, node: Statement) -> Sequence[Step]:
        return [node]

    @steps.register
    def _store(self, node: Store) -> Sequence[Step]:
        self.dirty = True
        return [One((node,), self.team)]

    @steps.register
    def _if(self, node: If) -> Sequence[Step]:
        yes = self.together(node.yes)
        left, self.dirty = self.dirty, False
        no = self.together(node.no)
        self.dirty = self.dirty or left
        return [Branch(node.condition, yes, no)]

    @steps.register
    def _product(self, node: Product) -> Sequence[Step]:
        self.dirty = True
        return [Together(node)]

    @steps.register
    def _loop(self, node: Loop) -> Sequence[Step]:
        sums = reduction(node)
        if sums:
            return self.reduced(node, sums)
        if parallel(node) and node.start == 0 and not _few(node):
            over, body = _perfect(node)
            self.dirty = True
            return [Spread(over, body)]
        if parallel(node) and not whole(node) and not node.down and not any(
                isinstance(n, Loop | Product) for n in statements(node.body)):
            self.dirty = True
            return [Spread((node.index,), node.body, (node.start, node.stop))]
        return self.serial(node)

    def serial(self, node: Loop) -> Sequence[Step]:
        """A loop that all go through in step."""
        inner = self.together(node.body)
        if self.dirty:  # what the next turn reads
            inner = (*inner, Barrier(self.team))
            self.dirty = False
        return [Serial(Loop(node.index, node.start, node.stop, (), node.down), inner)]

    def reduced(self, node: Loop, sums: Sequence[Let]) -> Sequence[Step]:
        """Each thread accumulates its turns, then the threads' results are put together."""
        own: dict[Symbol, Symbol] = {}
        body: Statement = node
        for let in sums:
            own[let.symbol] = Symbol(f"{let.symbol.name}_own", extended_real=True)
            body = renamed(body, let.symbol, own[let.symbol])
        assert isinstance(body, Loop)
        over, inner = flat_sum(body)
        if self.team == "warp" and len(over) == 1:
            over = ()
        spread = (Spread(over, inner, None, self.team) if over
                  else Spread((body.index,), body.body, (body.start, body.stop), self.team))
        if self.team == "block":  # there is a barrier at the end of each merging
            self.dirty = False
        return [*(Own(own[let.symbol], let.op) for let in sums), spread,
                *(Merge(let.symbol, own[let.symbol], let.op, self.team) for let in sums)]


class _Tile(_Block):
    """Spreads the statements about tiles: products over all threads of the block, the rows (or
    columns) of a nest over its warps. It waits only where two of them touch the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.since = Touched()  # what was touched after the last barrier

    def together(self, body: Sequence[Statement]) -> tuple[Step, ...]:
        out: list[Step] = []
        for node in body:
            inside = isinstance(node, If) or _holds_products(node)
            names = touched(_head(node) if inside else node)
            if self.since.meets(names):
                out.append(Barrier())
                self.since = Touched()
            self.since = self.since.and_(names)
            out += self.steps(node)
        return tuple(out)

    def turns(self, body: Sequence[Statement], tiles: frozenset[str] | None = None
              ) -> tuple[Step, ...]:
        """What is done in turn after turn, each of which may meet what the one before has left;
        between two turns of the grid only in ``tiles``: all else is another place."""
        before = self.since
        self.together(body)
        self.since = before.and_(self.since if tiles is None else self.since.only(tiles))
        out = self.together(body)
        self.since = before.and_(self.since)
        return out

    def serial(self, node: Loop) -> Sequence[Step]:
        head = Loop(node.index, node.start, node.stop, (), node.down)
        return [Serial(head, self.turns(node.body))]

    @singledispatchmethod
    def steps(self, node: Statement) -> Sequence[Step]:
        return super().steps(node)

    @steps.register
    def _loop(self, node: Loop) -> Sequence[Step]:
        if _holds_products(node):
            return self.serial(node)
        return [Warps(node.index, (node.start, node.stop), _Warp().together(node.body))]

    @steps.register
    def _if(self, node: If) -> Sequence[Step]:
        before = self.since
        yes = self.together(node.yes)
        left, self.since = self.since, before
        no = self.together(node.no)
        self.since = self.since.and_(left)
        return [Branch(node.condition, yes, no)]


def _holds_products(node: Statement) -> bool:
    return isinstance(node, Loop) and any(isinstance(n, Product) for n in statements(node.body))


def _head(node: Statement) -> Statement:
    """A branch or a loop without what is inside."""
    if isinstance(node, If):
        return replace(node, yes=(), no=())
    return replace(node, body=()) if isinstance(node, Loop) else node


class _Warp(_Block):
    """Spreads statements over the threads of a warp."""

    team: Team = "warp"

    @singledispatchmethod
    def steps(self, node: Statement) -> Sequence[Step]:
        return super().steps(node)

    @steps.register
    def _loop(self, node: Loop) -> Sequence[Step]:
        sums = reduction(node)
        if sums:
            return self.reduced(node, sums)
        if not parallel(node):
            return self.serial(node)
        self.dirty = True
        return [Spread((node.index,), node.body, (node.start, node.stop), "warp")]


def _perfect(node: Loop) -> tuple[tuple[Index, ...], tuple[Statement, ...]]:
    """Nested loops whose turns are all independent, and what stands inside."""
    over, body = [node.index], node.body
    assert whole(node)
    while len(body) == 1 and isinstance(body[0], Loop) and whole(body[0]) and parallel(body[0]):
        over.append(body[0].index)
        body = body[0].body
    return tuple(over), body


def flat_sum(node: Loop) -> tuple[tuple[Index, ...], tuple[Statement, ...]]:
    """Nested loops that do nothing but accumulate; none where a range is narrowed."""
    over: list[Index] = []
    body: tuple[Statement, ...] = (node,)
    while len(body) == 1 and isinstance(body[0], Loop) and whole(body[0]):
        over.append(body[0].index)
        body = body[0].body
    return tuple(over), body


def _few(node: Loop) -> bool:
    """Whether the threads have more to do in the loops inside than in the turns of this one."""
    if not whole(node):
        return True
    over, body = _perfect(node)
    turns = Mul(*(i.size for i in over))
    return bool(turns.is_Integer and turns < FEW
                and any(isinstance(n, Loop) for n in statements(body)))


def threads_of(launch: Launch) -> Expr:
    """How many turns the threads of a block share, at most: the longest of its spread loops."""
    longest: Expr = S.One
    for node in statements(launch.body):
        if isinstance(node, Loop) and whole(node):
            longest = _longer(longest, Mul(*(i.size for i in flat_sum(node)[0])))
        if isinstance(node, Product):
            longest = _longer(longest, node.target.rows*node.target.columns)
    return longest


def _longer(one: Expr, other: Expr) -> Expr:
    if one.is_Integer and other.is_Integer:
        return max(one, other)
    return other if one.is_Integer else one
