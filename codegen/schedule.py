"""Program → schedule: which equations are computed together, and over which index they split.

A *phase* runs on all threads without a barrier inside. In a phase over rows, every equation reads
and writes the row (the value of the batch index) that it is at and no other, so each thread runs
the whole chain of layers on its own rows, and adds up its share of what is summed over them
(shares.py). In a phase of pieces, each equation is split over its own first index, e.g. a weight
gradient over the rows of the weight; one may read another of the same phase at that index (a
variance its mean). In a phase of columns, each is split over an index that is no row, and reads
what the phase makes at that index only: a product, the statistics over the batch of its columns
and what is made with them. All follow from the equations' indices; no layer has a case of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sympy import Expr, Symbol

from codegen.packed import is_packed
from codegen.recompute import is_again
from codegen.shares import is_share, share_index
from codegen.tiles import Sweep
from codegen.worklist import Worklist
from derive.nodes import Index, accesses
from derive.program import Equation, Group, Program

FEW = 8  # values of an index below which what is packed is not split over it


@dataclass(frozen=True)
class Task:
    """One group of equations and the index it is split over (None: not split); ``sweep`` says
    how those of a softmax between products are computed tile by tile."""

    group: Group
    part: Index | None
    sweep: Sweep | None = None


@dataclass(frozen=True)
class Phase:
    """Tasks between two barriers."""

    kind: Literal["rows", "pieces", "columns"]
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Schedule:
    """The phases of a program, in order; ``batch`` is the size that rows are split over."""

    program: Program
    batch: Symbol | None
    phases: tuple[Phase, ...]
    sweeps: tuple[Sweep, ...] = ()

    @property
    def stored(self) -> dict[str, tuple[Expr, ...]]:
        """What is stored of each tensor: its shape, or a tile's."""
        shapes = {n: t.shape for n, t in self.program.tensors.items()}
        for sweep in self.sweeps:
            shapes |= sweep.shapes
        return shapes

    def __str__(self) -> str:
        lines = [f"batch: {self.batch if self.batch is not None else 'none'}"]
        for number, phase in enumerate(self.phases, 1):
            lines.append(f"phase {number}: {phase.kind}")
            for task in phase.tasks:
                split = f"split over {task.part.name}" if task.part is not None else "whole"
                kind = "recurrence, " if task.group.recurrent else ""
                if task.sweep is not None:
                    kind = "in tiles of {}×{}, ".format(*task.sweep.size)
                lines += [f"  {eq}    ({kind}{split})" for eq in task.group.equations]
        return "\n".join(lines)


def row_index(eq: Equation, sizes: dict[str, tuple], batch: Symbol) -> Index | None:
    """The index of ``eq`` that is its row, where every access stays in that row."""
    own = [i for i in eq.indices if i.size.is_Symbol and i.size == batch]
    if len(own) != 1 or any(i.size.is_Symbol and i.size == batch for i in eq.bound):
        return None
    for access in eq.accesses:
        for where, size in zip(access.where, sizes[access.name], strict=True):
            if size.is_Symbol and size == batch and where != own[0]:
                return None
    return own[0]


def choose_batch(program: Program) -> Symbol | None:
    """The symbolic size that most equations keep to one row of."""
    sizes = {n: t.shape for n, t in program.tensors.items()}
    found = {s for t in program.inputs for s in t.shape if s.is_Symbol}
    ordered = [s for s in program.sizes if s in found]
    if len(ordered) < 2:
        return ordered[0] if ordered else None
    looped = {
        eq.indices[g.axis[eq.name]].size
        for g in program.groups if g.recurrent for eq in g.equations
    }
    score = {
        s: (s not in looped,
            sum(row_index(eq, sizes, s) is not None for eq in program.equations))
        for s in ordered
    }
    return max(ordered, key=lambda s: score[s])


def make_schedule(program: Program, batch: Symbol | None = None, columns: bool = False,
                  sweeps: tuple[Sweep, ...] = ()) -> Schedule:
    """Phases such that every task reads only earlier phases, or its own row (or column) in its
    own phase; ``columns``: whether there are phases of columns. Each of ``sweeps`` is one task."""
    batch = choose_batch(program) if batch is None else batch
    groups = _with_sweeps(program.groups, sweeps)
    phases = _phases(program, groups, batch, columns and batch is not None)
    of = {sweep.equations[0].name: sweep for sweep in sweeps}
    return Schedule(program, batch, tuple(
        Phase(p.kind, tuple(replace(t, sweep=of.get(t.group.equations[0].name))
                            for t in p.tasks)) for p in phases), sweeps)


def _phases(program: Program, groups: Sequence[Group], batch: Symbol | None, columns: bool
            ) -> tuple[Phase, ...]:
    sizes = {n: t.shape for n, t in program.tensors.items()}
    todo = Worklist(groups, (t.name for t in program.given))
    phases: list[Phase] = []

    def add(kind: Literal["rows", "pieces", "columns"], tasks: list[Task]) -> None:
        if tasks:
            phases.append(Phase(kind, tuple(tasks)))
            todo.finish(task.group for task in tasks)

    while todo.left:
        before = todo.left
        ahead = _take_ahead(todo, sizes, batch)
        if ahead:
            add("pieces", ahead)
            continue
        rows = _take_rows(todo, sizes, batch)
        if columns:
            assert batch is not None
            taken = take_columns(todo, sizes, batch)
            if {id(t.group) for t in rows} <= {id(t.group) for t in taken}:
                add("columns", taken)
                continue
        add("rows", rows)
        if not columns:
            add("pieces", _take_pieces(todo, sizes, batch))
        assert todo.left < before, "groups are in an order of computation: the first is ready"
    return tuple(phases)


def _with_sweeps(groups: Sequence[Group], sweeps: Sequence[Sweep]) -> list[Group]:
    """The groups in order, the equations of each sweep as one, where the last of them stands."""
    of = {eq.name: sweep for sweep in sweeps for eq in sweep.equations}
    last = {eq.name: group for group in groups for eq in group.equations}
    found = []
    for group in groups:
        sweep = of.get(group.equations[0].name)
        if sweep is None:
            found.append(group)
        elif last[sweep.equations[-1].name] is group:
            found.append(Group(sweep.equations))
    return found


def _take_rows(todo: Worklist, sizes: dict[str, tuple], batch: Symbol | None,
               ahead: Sequence[Group] = ()) -> list[Task]:
    """Everything that keeps to its rows and reads what is ready, with ``ahead`` what these make.
    What is computed again waits until it is read, by one of these, or by what can be computed
    next."""
    if batch is None:
        return []
    tasks: list[Task] = []
    others: list[Group] = []
    made: set[str] = set()

    def add_copies(group: Group, row: Symbol) -> None:
        for copy in todo.copies(group, made):
            part = _group_row(copy, sizes, row)
            assert part is not None, "only what keeps to its rows is computed again"
            tasks.append(Task(copy, part))
            made.add(copy.equations[0].name)

    def take(group: Group) -> bool:
        part = _group_row(group, sizes, batch)
        if part is None:
            others.append(group)
            return False
        add_copies(group, batch)
        tasks.append(Task(group, part))
        made.update(eq.name for eq in group.equations)
        return True

    todo.offer(take, ahead)
    for group in others:
        add_copies(group, batch)
    return tasks


def _group_row(group: Group, sizes: dict[str, tuple], batch: Symbol) -> Index | None:
    if is_share(group.equations[0].tensor):
        return share_index(group.equations[0], batch)
    rows = {row_index(eq, sizes, batch) for eq in group.equations}
    return next(iter(rows)) if len(rows) == 1 else None


def _take_ahead(todo: Worklist, sizes: dict[str, tuple], batch: Symbol | None) -> list[Task]:
    """What is packed of ready tensors without rows, where rows would be cut to wait for it."""
    if batch is None:
        return []
    tasks = _take_pieces(todo, sizes, batch, lambda group: is_packed(group.equations[0].tensor)
                         and not any(i.size == batch for i in group.equations[0].indices))
    if not tasks or len(_take_rows(todo, sizes, batch, [t.group for t in tasks])) <= len(
            _take_rows(todo, sizes, batch)):
        return []
    return tasks


def _take_pieces(todo: Worklist, sizes: dict[str, tuple], batch: Symbol | None,
                 asked: Callable[[Group], bool] = lambda _: True) -> list[Task]:
    """Everything ``asked`` for that is ready and not better left to the next phase over rows."""
    tasks: list[Task] = []
    split: set[str] = set()  # what this phase makes, each thread its part of the first index

    def take(group: Group) -> bool:
        new = group.reads - todo.done
        if not asked(group) or (batch is not None and is_again(group.equations[0].tensor)):
            return False
        if new and not (new <= split and _keeps_to_piece(group, new, sizes)):
            return False
        tasks.append(Task(group, _piece(group)))
        eq = group.equations[0]
        if tasks[-1].part is not None and tasks[-1].part == eq.indices[0]:
            split.add(eq.name)
        return True

    todo.offer(take)
    return tasks


def _keeps_to_piece(group: Group, names: Collection[str], sizes: dict[str, tuple]) -> bool:
    """Whether a group reads these tensors at its own first index only."""
    part = _piece(group)
    return part is not None and all(
        access.where[:1] == (part,) and sizes[access.name][0] == part.size
        for access in accesses(group.equations[0].body) if access.name in names)


def take_columns(todo: Worklist, sizes: Mapping[str, tuple], batch: Symbol) -> list[Task]:
    """Everything that can be computed from what is done, and from the own column of what is
    computed on the way."""
    tasks: list[Task] = []
    split: dict[str, int | None] = {}  # what this phase makes, and which dim it is split along

    def take(group: Group) -> bool:
        new = group.reads - todo.done
        eq = group.equations[0]
        if is_again(eq.tensor) or (len(group.equations) > 1 and not group.recurrent):
            return False  # a copy, or a sweep: it keeps to its rows
        part = _piece(group) if not new else None
        if len(group.equations) == 1 and not group.recurrent and not is_share(eq.tensor):
            part = _column(eq, new, split, sizes, batch)
        if not new <= split.keys() or (new and part is None):
            return False
        tasks.append(Task(group, part))
        split.update((e.name, None) for e in group.equations)
        if part is not None:
            split[eq.name] = eq.indices.index(part)
        return True

    todo.offer(take)
    return tasks


def _column(eq: Equation, new: Collection[str], split: Mapping[str, int | None],
            sizes: Mapping[str, tuple], batch: Symbol) -> Index | None:
    """The index that an equation is split over in a phase of columns: that at which it reads
    ``new``, else the last one beside the row, or the first one where there are no rows."""
    found: set[Index | None] = set()
    for access in (a for a in accesses(eq.body) if a.name in new):
        at = split.get(access.name)
        place = None if at is None else access.where[at]
        whole = (at is not None and isinstance(place, Index) and place in eq.indices
                 and place.size == sizes[access.name][at] != batch)
        found.add(place if whole else None)
    if found:
        return found.pop() if len(found) == 1 else None
    own = [i for i in eq.indices if i.size != batch]
    if not own or len(own) == len(eq.indices):
        return eq.indices[0] if eq.indices else None
    return own[-1]


def _piece(group: Group) -> Index | None:
    """The index that a task of its own phase is split over: the first one, and of what is packed
    without rows the first of more than a few values, for loops over few may be written out, but
    not the last one, along which vectors run."""
    if group.recurrent:
        return None
    eq = group.equations[0]
    split = list(eq.indices)
    if is_packed(eq.tensor) and all(i.size.is_Integer for i in (*eq.indices, *eq.bound)):
        split = [i for i in eq.indices[:-1] if i.size >= FEW] or split
    return split[0] if split else None
