"""Equations → loop-nest trees: one kernel for each equation or recurrence.

A sum becomes an accumulation, either into a scalar (the reduction innermost) or into the target
itself (the target's last index innermost), whichever reads memory in order. A sum that is guarded
by "free index = gather" is turned into a scatter: every summand is visited once and added where it
belongs, by the one part that owns the place, so that no two threads write the same element and the
order of additions never changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sympy
from sympy import Add, Expr, Integer, S, Symbol

from codegen.alike import Forms, kernel_name
from codegen.blend import blend
from codegen.contraction import (
    Contraction,
    Shapes,
    conjuncts,
    contraction,
    factor_and_sum,
    guarded,
)
from codegen.direct import Direct, direct
from codegen.fetched import Windowed, windowed
from codegen.fuse import fuse
from codegen.loops import (
    HI,
    LO,
    Blocks,
    If,
    Kernel,
    Let,
    Loop,
    Op,
    Statement,
    Store,
    local,
    sizes_of,
    tensors_of,
)
from codegen.ranges import sharpen
from codegen.recurrences import begins_with
from codegen.schedule import Phase, Task
from codegen.shares import is_share
from codegen.softmax import keep_exponentials
from codegen.sums import (
    SEVERAL,
    gathered,
    in_order,
    other_side,
    prefers_target,
    several,
)
from codegen.tile_blocks import block_nests
from codegen.tile_loops import sweep_statements
from codegen.tiles import Sweep
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    LogSumExpOver,
    MaxOver,
    MinOver,
    ProdOver,
    Reduction,
    Select,
    SumOver,
    alpha_rename,
    bound_indices,
    fresh,
    rename,
)
from derive.program import Equation, Group


class Lowering:
    """Lowers the scalar bodies of one kernel; numbers its scalars.

    For a ``device`` no sum is accumulated in its target, and a product may be one whose factors are
    no matrices in memory.
    """

    def __init__(self, part: Index | None, shapes: Shapes, device: bool = False) -> None:
        self.part, self.shapes, self.count, self.device = part, shapes, 0, device

    def fresh(self) -> Symbol:
        self.count += 1
        return local(self.count)

    def loop(self, index: Index, body: Sequence[Statement]) -> Loop:
        if index == self.part:
            return Loop(index, LO, HI, tuple(body))
        return Loop(index, Integer(0), index.size, tuple(body))

    def nest(self, indices: Sequence[Index], body: Sequence[Statement]) -> tuple[Statement, ...]:
        out = tuple(body)
        for index in reversed(indices):
            out = (self.loop(index, out),)
        return out

    # -- scalars ----------------------------------------------------------------------------
    def scalar(self, expr: Expr, out: list[Statement]) -> Expr:
        """``expr`` with every reduction computed before, in statements added to ``out``."""
        if not expr.has(Reduction):
            return expr
        if isinstance(expr, SumOver):
            return self.accumulate(expr.body, expr.bound, "+=", S.Zero, out)
        if isinstance(expr, ProdOver):
            return self.accumulate(expr.body, expr.bound, "*=", S.One, out)
        if isinstance(expr, MaxOver):
            return self.accumulate(expr.body, expr.bound, "max", S.NegativeInfinity, out)
        if isinstance(expr, MinOver):
            return self.accumulate(expr.body, expr.bound, "min", S.Infinity, out)
        if isinstance(expr, LogSumExpOver):
            return self.logsumexp(expr, out)
        if isinstance(expr, Select):
            return self.select(expr, out)
        return expr.func(*(self.scalar(a, out) if isinstance(a, Expr) else a for a in expr.args))

    def accumulate(self, body: Expr, bound: Sequence[Index], op: str, start: Expr,
                   out: list[Statement]) -> Symbol:
        total = self.fresh()
        out.append(Let(total, start))
        condition, summand = S.true, body
        if op == "+=" and isinstance(body, Select) and body.no == 0:
            condition, summand = body.condition, body.yes
        inner: list[Statement] = []
        value = self.scalar(summand, inner)
        inner.append(Let(total, value, op))  # type: ignore[arg-type]
        if condition != True:  # noqa: E712  (SymPy's true)
            inner = [If(condition, tuple(inner))]
        out.extend(self.nest(bound, inner))
        return total

    def logsumexp(self, expr: LogSumExpOver, out: list[Statement]) -> Expr:
        """log sum exp about the largest value; a row of -inf gives -inf, of +inf gives +inf."""
        highest = self.accumulate(expr.body, expr.bound, "max", S.NegativeInfinity, out)
        base = self.fresh()
        infinite = sympy.Or(sympy.Eq(highest, S.Infinity), sympy.Eq(highest, S.NegativeInfinity))
        out.append(Let(base, Select(infinite, S.Zero, highest)))
        total = self.accumulate(sympy.exp(expr.body - base, evaluate=False), expr.bound, "+=",
                                S.Zero, out)
        return base + sympy.log(total)

    def select(self, expr: Select, out: list[Statement]) -> Symbol:
        chosen = self.fresh()
        out.append(Let(chosen, S.Zero))
        sides: list[tuple[Statement, ...]] = []
        for side in (expr.yes, expr.no):
            inner: list[Statement] = []
            value = self.scalar(side, inner)
            sides.append(() if value == 0 else (*inner, Let(chosen, value)))
        if sides[0]:
            out.append(If(expr.condition, sides[0], sides[1]))
        else:
            out.append(If(sympy.Not(expr.condition), sides[1]))
        return chosen

    # -- equations --------------------------------------------------------------------------
    def equation(self, eq: Equation, fixed: Sequence[Index] = ()) -> tuple[Statement, ...]:
        """The nests of one equation; the loops over ``fixed`` stand outside already. A share is
        added to what it holds, and so is what begins in the place of another tensor."""
        begun_with = begins_with(eq)
        adds = is_share(eq.tensor) or begun_with is not None
        free = [i for i in eq.indices if i not in fixed]
        body = alpha_rename(guarded(eq.body), {i.name for i in eq.indices})
        plain: list[Expr] = []
        products: list[Contraction | Direct | Windowed] = []
        apart: list[tuple[Expr, SumOver, bool]] = []
        for term in Add.make_args(body):
            if isinstance(term, Access) and term.name == begun_with:
                continue  # which is there
            kind, value = self.split(term, eq, free, fixed)
            kinds: dict[str, list] = {"product": products, "apart": apart, "plain": plain}
            kinds[kind].append(value)
        out: list[Statement] = []
        # a product that writes the whole target comes first, and what stands plainly is fused
        # behind it; where there is none, the target starts with what stands plainly
        products.sort(key=lambda p: p.needs_start)
        late = bool(products) and not products[0].needs_start and not adds
        begun: list[Statement] = []
        if plain or not (late or adds):
            value = self.scalar(Add(*plain), begun)
            op: Op = "+=" if late or adds else "="
            begun = list(self.nest(free, [*begun, Store(eq.target, value, op)]))
        out += [] if late else begun
        for number, product in enumerate(products):
            out += product.statements(accumulate=number > 0 or not late)
        out += begun if late else []
        if apart and not (plain or products or adds) and not apart[0][2]:
            # nothing is there yet: the sum is complete before its factor multiplies it
            factor, node, _ = apart.pop(0)
            out += self.in_place(eq, free, S.One, node)
            if factor != 1:
                scaled: list[Statement] = []
                value = self.scalar(factor, scaled)
                out += self.nest(free, [*scaled, Store(eq.target, value, "*=")])
        for factor, node, scattered in apart:
            make = self.scatter if scattered else self.in_place
            out += make(eq, free, factor, node)
        return tuple(out)

    def split(self, term: Expr, eq: Equation, free: Sequence[Index], fixed: Sequence[Index]
              ) -> tuple[str, Any]:
        """How a term is computed: as a matrix product, apart from the others (factor, sum,
        scattered?), or plainly where the target is stored."""
        guard: tuple[Expr, ...] = ()
        inner = term
        if isinstance(term, Select) and term.no == 0:
            guard, inner = conjuncts(term.condition), term.yes
        whole = factor_and_sum(inner)
        if whole is None or whole[1].body.has(Reduction) or whole[0].has(Reduction):
            return "plain", term
        factor, node = whole
        product: Contraction | Direct | None = contraction(
            eq.target, factor, node, self.shapes, self.part, fixed, guard)
        if self.device and not fixed and (not isinstance(product, Contraction) or product.peeled):
            fetched = windowed(eq.target, factor, node, self.shapes, guard)
            if fetched is not None:
                return "product", fetched
        if product is None and not (guard or fixed or self.device):
            product = direct(eq.target, factor, node, self.shapes, self.part)
        if product is not None:
            return "product", product
        if guard:
            return "plain", term
        if gathered(node, free):
            return "apart", (factor, node, True)
        if not self.device and free and prefers_target(node, free[-1]):
            return "apart", (factor, node, False)
        return "plain", term

    def in_place(self, eq: Equation, free: Sequence[Index], factor: Expr, node: SumOver
                 ) -> tuple[Statement, ...]:
        """``target += factor * body`` with the target's last indices innermost."""
        outer, inmost = in_order(free, node.body)
        if not isinstance(node.body, Select) and several(node.bound[-1].size):
            return self.in_place_by_several(eq, outer, inmost, factor * node.body, node.bound)
        condition, summand = S.true, node.body
        if isinstance(summand, Select) and summand.no == 0:
            condition, summand = summand.condition, summand.yes
        inner: tuple[Statement, ...] = (Store(eq.target, factor * summand, "+="),)
        if condition != True and condition.free_symbols & set(inmost):  # noqa: E712
            inner = (If(condition, inner),)
            condition = S.true
        inner = self.nest(inmost, inner)
        if condition != True:  # noqa: E712
            inner = (If(condition, inner),)
        return self.nest([*outer, *node.bound], inner)

    def in_place_by_several(self, eq: Equation, free: Sequence[Index], inmost: Sequence[Index],
                            summand: Expr, bound: Sequence[Index]) -> tuple[Statement, ...]:
        """The same with a few values of the last summed index at a time, so that the target is
        read and written that much less often; then those that are left over."""
        *outer, index = bound
        start, stop = (LO, HI) if index == self.part else (Integer(0), index.size)
        count = sympy.floor((stop - start) / SEVERAL)
        group = fresh(Index(f"{index.name}s", count), {i.name for i in (*free, *inmost, *bound)})
        each = [summand.xreplace({index: start + SEVERAL*group + n}) for n in range(SEVERAL)]
        groups = Loop(group, Integer(0), count, self.nest(inmost, [
            Store(eq.target, Add(*each, evaluate=False), "+=")]))
        rest = Loop(index, start + SEVERAL*count, stop, self.nest(inmost, [
            Store(eq.target, summand, "+=")]))
        left = () if count.is_Integer and SEVERAL*count == stop else (rest,)
        return self.nest([*free, *outer], (groups, *left))

    def scatter(self, eq: Equation, free: Sequence[Index], factor: Expr, node: SumOver
                ) -> tuple[Statement, ...]:
        """Visit every summand once; add it where its gathers point."""
        places = gathered(node, free)
        rest = [c for c in conjuncts(node.body.condition) if c not in places.values()]
        mapping = {index: other_side(eq_, index) for index, eq_ in places.items()}
        for index, value in mapping.items():
            reach = value if not isinstance(value, IntegerAccess) else None
            if index == self.part:
                rest += [sympy.Ge(value, LO), sympy.Lt(value, HI)]
            elif reach is not None:
                rest += [sympy.Ge(value, 0), sympy.Lt(value, index.size)]
        yes = (factor * node.body.yes).xreplace(mapping)
        guard = sympy.And(*rest).xreplace(mapping)
        left = [i for i in free if i not in mapping]
        inner: tuple[Statement, ...] = (Store(eq.target.xreplace(mapping), yes, "+="),)
        within = [c for c in conjuncts(guard) if c.free_symbols & set(left)]
        outside = [c for c in conjuncts(guard) if not c.free_symbols & set(left)]
        if within:
            inner = (If(sympy.And(*within), inner),)
        inner = self.nest(left, inner)
        if outside:
            inner = (If(sympy.And(*outside), inner),)
        return self.nest(node.bound, inner)


def lower_tasks(numbers: Mapping[str, int], tasks: Sequence[Task], shapes: Shapes,
                device: bool = False) -> Kernel:
    """One kernel of tasks that are split over the same index, their loops fused.

    For a ``device`` nothing is split: which loops are spread over its threads is read from the
    tree. A recurrence that keeps to its rows has the loop over these outside, so that each block
    of threads goes through all steps of its own.
    """
    part = None if device else tasks[0].part
    lowering = Lowering(part, shapes, device)
    if device and tasks[0].sweep is not None:
        return _blocks(numbers, lowering, tasks[0].sweep)
    body: list[Statement] = []
    for task in tasks:
        if task.sweep is not None:
            body += sweep_statements(lowering, task.sweep, shapes)
            continue
        if task.group.recurrent:
            body += (_rows_of_recurrence(lowering, task) if device and task.part is not None
                     else _recurrence(lowering, task.group))
            continue
        eq = task.group.equations[0]
        if task.part is not None and part is not None and task.part != part:
            eq = _with_index(eq, task.part, part)
        body += lowering.equation(eq)
    joined = fuse(sharpen(body))
    fused = blend(joined if device else keep_exponentials(joined, lowering.fresh), shapes)
    equations = [eq for task in tasks for eq in task.group.equations]
    cites = tuple((numbers[eq.name], eq) for eq in equations)
    return Kernel(kernel_name(equations[0], numbers), tensors_of(fused), part, fused, cites,
                  sizes_of(fused))


def _blocks(numbers: Mapping[str, int], lowering: Lowering, sweep: Sweep) -> Kernel:
    """A sweep on a device: a launch for each direction, with its tiles in shared memory."""
    body, grid = block_nests(lowering, sweep, lowering.shapes)
    shared = {tile: sweep.shapes[tile] for tile in sweep.tiles.values()}
    tensors = tuple(t for t in tensors_of(body) if t not in shared)
    cites = tuple((numbers[eq.name], eq) for eq in sweep.equations)
    return Kernel(kernel_name(sweep.equations[0], numbers), tensors, None, body, cites,
                  sizes_of(body), blocks=Blocks(grid, tuple(shared.items())))


def begins_kernel(task: Task, before: Sequence[Task], forms: Forms, device: bool = False) -> bool:
    """Whether a task starts a kernel of its own: a recurrence, what is packed for a product, or
    a matrix product that reads nothing packed in front of it. What follows is fused behind."""
    if task.group.recurrent or task.sweep is not None:
        return True
    eq = task.group.equations[0]
    origin = eq.tensor.origin
    if origin is not None and origin[0] in ("packed", "share"):
        return True
    last = before[-1].group.equations[0] if before else None
    if last is not None and last.tensor.origin == ("packed", eq.name):
        return False
    lowering = Lowering(task.part, forms.shapes, device)
    return forms.answer(task, lambda: any(
        lowering.split(term, eq, eq.indices, ())[0] != "plain"
        for term in Add.make_args(alpha_rename(eq.body, {i.name for i in eq.indices}))))


def group_tasks(phase: Phase, forms: Forms, device: bool = False) -> tuple[tuple[Task, ...], ...]:
    """The tasks of a phase in the groups that become one kernel each."""
    if phase.kind == "pieces":
        return tuple((task,) for task in phase.tasks)
    groups: list[list[Task]] = []
    for task in phase.tasks:
        alone = groups and (groups[-1][0].group.recurrent or groups[-1][0].sweep is not None
                            or is_share(groups[-1][0].group.equations[0].tensor))
        if not groups or alone or begins_kernel(task, groups[-1], forms, device) or _size(
                task.part) != _size(groups[-1][-1].part):
            groups.append([])
        groups[-1].append(task)
    return tuple(map(tuple, groups))


def _size(part: Index | None) -> Expr | None:
    return None if part is None else part.size


def _recurrence(lowering: Lowering, group: Group) -> tuple[Statement, ...]:
    first = group.equations[0]
    index = first.indices[group.axis[first.name]]
    inner: list[Statement] = []
    for eq in group.equations:
        own = eq.indices[group.axis[eq.name]]
        if own != index:
            eq = _with_index(eq, own, index)
        inner += lowering.equation(eq, (index,))
    return (Loop(index, Integer(0), index.size, tuple(inner), down=group.step < 0),)


def _rows_of_recurrence(lowering: Lowering, task: Task) -> tuple[Statement, ...]:
    """The loop over rows, inside it the steps of a recurrence, for each its equations."""
    group, first = task.group, task.group.equations[0]
    row, index = task.part, first.indices[group.axis[first.name]]
    assert row is not None
    inner: list[Statement] = []
    for eq in group.equations:
        own_row = next(i for i in eq.indices if i.size == row.size)
        for own, common in ((own_row, row), (eq.indices[group.axis[eq.name]], index)):
            if own != common:
                eq = _with_index(eq, own, common)
        inner += lowering.equation(eq, (row, index))
    steps = Loop(index, Integer(0), index.size, tuple(inner), down=group.step < 0)
    return (Loop(row, Integer(0), row.size, (steps,)),)


def _with_index(eq: Equation, own: Index, index: Index) -> Equation:
    """The equation with its loop index renamed to the group's, others kept apart from it."""
    taken = {i.name for i in (*eq.indices, *bound_indices(eq.body))} | {index.name}
    mapping: dict[Index, Expr] = {own: index}
    for other in (*eq.indices, *bound_indices(eq.body)):
        if other.name == index.name and other != own:
            mapping[other] = fresh(other, taken)
            taken.add(mapping[other].name)
    body = rename(eq.body, mapping)
    return replace(eq, indices=tuple(mapping.get(i, i) for i in eq.indices), body=body)
