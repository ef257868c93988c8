"""Schedule → memory plan: where each tensor lies in its flat buffer.

Parameters, their gradients and every moment of the optimizer share one layout: an offset for each
parameter, aligned to 16 elements (a cache line in single precision). Intermediates lie in one
arena, allocated once, whose offsets are polynomials in the run-time sizes. What lives longer than
a phase has a place in front that is free again after the last phase that reads it. What lives
inside one phase over rows is needed for a block of rows only: each thread has a part of its own at
the end of the arena, in which the tensors of one block follow each other. Between the two lie the
threads' shares of sums over rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import sympy
from sympy import Expr, Integer, Mul, S, Symbol

from codegen.memory_blocks import block_rows, blockable
from codegen.memory_lives import Life, aligned, lay_out
from codegen.rates import Rates, Ways
from codegen.recurrences import begins_with
from codegen.schedule import Schedule, Task
from codegen.shares import PARTS, is_share
from codegen.tiles import Wanted
from derive.errors import DeclarationError
from derive.nodes import IntegerAccess, Select
from derive.program import Program, Tensor

GIVEN = "given "  # the buffer of a tensor that is handed in is its own, whatever its name
HALF = "half"  # the buffer of intermediates that are stored in 16 bits
OWN = "o"  # the buffer that is a thread's own part of the arena
SHARE = "q"  # the part of the arena that holds shares: of a tensor those of all threads in order
PART = Symbol("_part", integer=True, nonnegative=True)  # the number of the thread


@dataclass(frozen=True)
class Storage:
    """How intermediates are stored.

    ``reuse``: places are used again; else every intermediate is there when an entry point returns.
    ``block``: rows that a thread takes through a phase at once (None: chosen for the cache).
    ``short``: of these no more than that, though with more what each block goes through once would
    weigh less: for the sake of memory.
    ``shares``: sums over rows are added up thread by thread (None: where that pays).
    ``tiles``: rows and columns of the tiles in which a softmax between products is computed (None:
    where that pays, in tiles of a size that fits the cache; False: nowhere).
    ``recompute``: elements of a training step, with 64 of each run-time size on two threads, above
    which intermediates are computed again in the backward pass (None: never).
    ``half``: what has two dims or more, and is not wanted when all is done, is stored in 16 bits.
    ``columns``: there are phases split over columns, which saves barriers between statistics.
    ``windows``: how sums over windows are computed: one of `codegen.rates.WAYS` for all, or pairs
    of an equation's name and one of these ("auto": what should take least by the ``rates``; without
    any, by those that `codegen.rates` states).
    """

    reuse: bool = True
    block: int | None = None
    short: bool = False
    shares: bool | None = None
    half: bool = False
    columns: bool = False
    tiles: Wanted = None
    recompute: int | None = None
    windows: Ways = "auto"
    rates: Rates | None = None


@dataclass(frozen=True)
class Block:
    """A phase over rows is run block by block: at most ``rows`` at a time, for each of which the
    thread's own part of the arena holds ``elements``."""

    rows: int
    elements: Expr


@dataclass(frozen=True)
class Slot:
    """A tensor's place: ``buffer`` is p (parameters), d (their gradients), s (states), n (the
    states' next values), w (arena), `HALF` (arena of 16 bits), `OWN` (of one row, in the thread's
    part of the arena), `SHARE` (of one thread; the offset counts from the front of the arena), or
    `GIVEN` and the name of a tensor that is handed in."""

    buffer: str
    offset: Expr
    shape: tuple[Expr, ...]

    @property
    def elements(self) -> Expr:
        return Mul(*self.shape)


@dataclass(frozen=True)
class Layout:
    """The flat buffer of parameters (or states): offsets, shapes, total length."""

    slots: dict[str, Slot]
    total: int


@dataclass(frozen=True)
class Plan:
    """Where everything lies: ``slots`` by tensor, ``shared`` the elements in the front of the
    arena (those of `PARTS` threads' shares among them), ``blocks`` how each phase is cut (None: it
    is not), ``kept`` what is there at the end, ``halves`` the elements of the arena of 16 bits."""

    slots: dict[str, Slot]
    shared: Expr
    blocks: tuple[Block | None, ...]
    kept: frozenset[str]
    batch: Symbol | None
    halves: Expr = S.Zero

    def arena(self, parts: Expr) -> Expr:
        """Elements of the arena for so many parts."""
        shared = self.shared.subs(PARTS, parts)
        if self.batch is None:
            return shared
        rows = sympy.ceiling(self.batch / parts)
        own = [parts * b.elements * sympy.Min(b.rows, rows) for b in self.blocks if b is not None]
        return shared + sympy.Max(0, *dict.fromkeys(own)) if own else shared

    def __str__(self) -> str:
        width = max((len(n) for n in self.slots), default=0)
        rows = [f"{n:{width}}  {s.buffer}[{s.offset} : {sympy.expand(s.offset + s.elements)}]"
                f"  {tuple(s.shape)}" for n, s in self.slots.items()]
        cut = [f"phase {n}: blocks of up to {b.rows} rows, {b.elements} elements for each"
               for n, b in enumerate(self.blocks, 1) if b is not None]
        return "\n".join([*rows, *cut, f"arena: {self.shared} elements"
                          + (", and a block for each thread" if cut else "")])


def flat_layout(tensors: Iterable[Tensor], buffer: str) -> Layout:
    """Consecutive aligned places for tensors of fixed size.

    Raises:
        DeclarationError: a tensor has a size that is not a number.
    """
    slots: dict[str, Slot] = {}
    at = 0
    for tensor in tensors:
        if any(not s.is_Integer for s in tensor.shape):
            raise DeclarationError(
                f"the {tensor.role} {tensor.name!r} has a size that is known only at run time",
                expected="a number for every dim of a tensor that is kept",
                got=f"({', '.join(map(str, tensor.shape))})",
                mend="give the dim a number, or make it an input",
                where=tensor.where,
            )
        slots[tensor.name] = Slot(buffer, Integer(at), tensor.shape)
        at += aligned(int(Mul(*tensor.shape)))
    return Layout(slots, at)


def plan_memory(schedule: Schedule, groups: Sequence[Sequence[Sequence[Task]]],
                parameters: Layout, states: Layout, kept: Collection[str],
                storage: Storage) -> Plan:
    """A place for every tensor of a program.

    Args:
        groups: for each phase the tasks of each kernel, in the order in which they run.
        kept: intermediates that are wanted when all is done.
    """
    program = schedule.program
    slots: dict[str, Slot] = {}
    back = {gradient: name for name, gradient in program.gradients.items()
            if name not in program.jacobians}
    after = {new: old for old, new in program.updates.items() if old in states.slots}
    shapes = schedule.stored
    beside = {name: tile for sweep in schedule.sweeps for name, tile in sweep.tiles.items()
              if name != tile}  # which lie where another does
    beside |= {held: eq.name for eq in program.equations if (held := begins_with(eq)) is not None}
    nowhere = {name for sweep in schedule.sweeps if sweep.device for name in sweep.tiles}
    single = {eq.name for sweep in schedule.sweeps for eq in sweep.equations}
    stored: set[str] = set()
    shares: list[str] = []
    for name, tensor in program.tensors.items():
        if name in parameters.slots:
            slots[name] = parameters.slots[name]
        elif name in states.slots:
            slots[name] = states.slots[name]
        elif name in back and back[name] in parameters.slots:
            own = parameters.slots[back[name]]
            slots[name] = Slot("d", own.offset, tensor.shape)
        elif name in after:
            slots[name] = Slot("n", states.slots[after[name]].offset, tensor.shape)
        elif name in program.defined and is_share(tensor):
            shares.append(name)
        elif name in program.defined:
            if name not in beside and name not in nowhere:
                stored.add(name)
        else:
            slots[name] = Slot(GIVEN + name, Integer(0), tensor.shape)
    wanted = frozenset(stored) if not storage.reuse else stored & frozenset(kept)
    shared, own_lives, blocks = _lives(schedule, groups, stored, wanted, storage)
    small = {life.name for life in shared if storage.half and life.name not in single
             and _halved(program, life)}  # what a sweep adds up tile by tile is not rounded
    offsets, length = lay_out([life for life in shared if life.name not in small])
    slots |= {n: Slot("w", at, shapes[n]) for n, at in offsets.items()}
    for name in shares:
        shape = program.tensors[name].shape
        count = int(Mul(*shape))
        slots[name] = Slot(SHARE, length + PART * count, shape)
        length = sympy.expand(length + PARTS * count)
    offsets, halves = lay_out([life for life in shared if life.name in small])
    slots |= {n: Slot(HALF, at, program.tensors[n].shape) for n, at in offsets.items()}
    made: list[Block | None] = []
    for lives, rows in zip(own_lives, blocks, strict=True):
        offsets, elements = lay_out(lives)
        slots |= {n: Slot(OWN, at, shapes[n]) for n, at in offsets.items()}
        made.append(Block(rows, elements) if lives else None)
    slots |= {name: slots[tile] for name, tile in beside.items() if name not in nowhere}
    ordered = {n: slots[n] for n in program.tensors if n not in nowhere}  # but in shared memory
    passing = {*stored, *shares, *beside} - wanted
    present = frozenset(n for n in slots if n not in passing)
    return Plan(ordered, length, tuple(made), present, schedule.batch, halves)


def _halved(program: Program, life: Life) -> bool:
    """Whether 16 bits are enough: not for what is wanted at the end, nor for a number of a row (a
    sum, a maximum), nor where a scatter adds one element after the other."""
    tensor = program.tensors[life.name]
    scattered = any(a.has(IntegerAccess) for s in program.defined[life.name].body.atoms(Select)
                    for a in (s.condition,))
    return (life.last is not None and tensor.rank > 1 and tensor.dtype == "float"
            and not scattered)


def _lives(schedule: Schedule, groups: Sequence[Sequence[Sequence[Task]]], stored: set[str],
           wanted: Collection[str], storage: Storage
           ) -> tuple[list[Life], list[list[Life]], list[int]]:
    """Lifetimes across phases (counted in phases), inside each phase (counted in its kernels), and
    the rows of each phase's blocks."""
    program, shapes = schedule.program, schedule.stored
    born: dict[str, tuple[int, int]] = {}
    read: dict[str, tuple[int, int]] = {}
    for phase, kernels in enumerate(groups):
        for time, tasks in enumerate(kernels):
            for eq in (eq for task in tasks for eq in task.group.equations):
                born[eq.name] = (phase, time)
                read.update(dict.fromkeys((*eq.reads, eq.name), (phase, time)))
                held = begins_with(eq)
                if held is not None:  # the place is that of both
                    born[eq.name] = born[held]
    cut = [storage.reuse and blockable(phase, program, schedule.batch)
           for phase in schedule.phases]
    shared: list[Life] = []
    inside: list[list[Life]] = [[] for _ in groups]
    for name in (n for n in program.tensors if n in stored):
        shape, (phase, time), last = shapes[name], born[name], read[name]
        if name in wanted:
            shared.append(Life(name, phase, None, shape))
        elif cut[phase] and last[0] == phase and shape[:1] == (schedule.batch,):
            inside[phase].append(Life(name, time, last[1], shape[1:]))
        else:
            shared.append(Life(name, phase, last[0], shape))
    rows = [storage.block or block_rows(p, program, lives, storage.short)
            for p, lives in zip(schedule.phases, inside, strict=True)]
    return shared, inside, rows
