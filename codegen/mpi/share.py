"""A derived program → the program that one of several ranks computes on its own rows.

A row of the batch belongs to one rank. A tensor with the batch's dim is spread over the ranks, any
other is whole and equal on all of them. So a sum over the batch gives a rank its own part of it,
which is added up over the ranks before anything reads it; and the batch size as a *number* (in
``1/B``) is that of all ranks. Loss, gradients and the statistics of batch norm follow from that
alone, whatever the network; a network whose rows read other rows is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Add, Expr, Mul, Symbol

from codegen.schedule import choose_batch
from derive.errors import DerivationError
from derive.nodes import Access, Index, IntegerAccess, Reduction, SumOver, walk
from derive.program import Equation, Program, Tensor

ROWS, FIRST = "_all_rows", "_first_row"  # rows of the whole minibatch; the number of a rank's first


@dataclass(frozen=True)
class Shared:
    """A program for one rank, and the tensors that are added up over all ranks."""

    program: Program
    summed: tuple[str, ...]
    batch: Symbol


def share(program: Program) -> Shared:
    """The program of one rank.

    Raises:
        DerivationError: no input has a batch, or an equation reads rows of other ranks (named).
    """
    batch = choose_batch(program)
    if batch is None:
        raise DerivationError(f"{program.name!r} has no batch to share among ranks",
                              expected="an input whose first dim has no fixed size",
                              mend="train it on one rank")
    tensors, equations, summed = dict(program.tensors), [], []
    loops = {eq.name for g in program.groups if g.recurrent for eq in g.equations}
    for eq in program.equations:
        sums = _check(eq, program, batch)
        if sums and eq.name in loops:
            raise _refused(eq, batch)
        if sums and _is_sum(eq.body, batch):
            summed.append(eq.name)
        elif sums:
            body = eq.body
            for node in dict.fromkeys(sums):
                part = _part(node, eq, tensors)
                tensors[part.name] = part.tensor
                equations.append(replace(part, body=_spread(part.body, batch)))
                summed.append(part.name)
                body = body.xreplace({node: part.target})
            eq = replace(eq, body=body)
        equations.append(replace(eq, body=_spread(eq.body, batch)))
    tensors[ROWS] = Tensor(ROWS, (), "float", "input")
    tensors[FIRST] = Tensor(FIRST, (), "int", "input")
    made = replace(program, tensors=tensors, equations=tuple(equations))
    return Shared(made, tuple(summed), batch)


def rows_apart(program: Program) -> bool:
    """Whether the forward pass treats each row of the batch by itself, so that rows may be
    measured in any parts: nothing that is summed over the batch comes back to a row."""
    forward = replace(program, gradients={}, updates={}).only(*program.losses)
    try:
        shared = share(forward)
    except DerivationError:
        return False
    mixed = set(shared.summed)
    for group in shared.program.groups:
        for eq in group.equations:
            if mixed & set(eq.reads):
                mixed.add(eq.name)
                if any(i.size == shared.batch for i in eq.indices):
                    return False
    return True


def _refused(eq: Equation, batch: Symbol) -> DerivationError:
    return DerivationError(f"rows of the batch {batch} depend on each other: they cannot be "
                           "shared among ranks", got=str(eq), mend="train it on one rank",
                           where=eq.tensor.where)


def _check(eq: Equation, program: Program, batch: Symbol) -> list[SumOver]:
    """The sums over the batch in an equation that reads its own rows, or sums over all."""
    own = [i for i in eq.indices if i.size == batch]
    over = [n for n in walk(eq.body) if isinstance(n, Reduction)
            and any(batch in i.size.free_symbols for i in n.bound)]
    sizes = {i.size for i in (*eq.indices, *(i for n in over for i in n.bound))}
    wrong = len(own) > 1 or bool(own and over) or any(type(n) is not SumOver for n in over)
    wrong |= any(batch in s.free_symbols and s != batch for s in sizes)
    rows = {*own, *(i for n in over for i in n.bound if i.size == batch)}
    wrong |= len({i for n in over for i in n.bound if i.size == batch}) > len(set(over))
    for access in (n for n in walk(eq.body) if isinstance(n, Access)):
        for where, size in zip(access.where, program.tensors[access.name].shape, strict=True):
            wrong |= size == batch and where not in rows
            wrong |= batch in size.free_symbols and size != batch
    wrong |= any(m is not n and m in set(walk(n)) for n in over for m in over)
    if wrong:
        raise _refused(eq, batch)
    return over


def _is_sum(body: Expr, batch: Symbol) -> bool:
    """Whether the body is nothing but sums over the batch, with factors: then so is their sum."""
    def over(expr: Expr) -> bool:
        return isinstance(expr, SumOver) and any(i.size == batch for i in expr.bound)

    return all(sum(map(over, Mul.make_args(term))) == 1
               and not any(over(n) for f in Mul.make_args(term) if not over(f) for n in walk(f))
               for term in Add.make_args(body))


def _part(node: SumOver, eq: Equation, tensors: dict[str, Tensor]) -> Equation:
    """The sum inside a larger equation, by a name of its own."""
    indices = tuple(i for i in eq.indices if i in node.free_symbols)
    number = next(n for n in range(1, len(tensors) + 2) if f"_part{n}" not in tensors)
    tensor = Tensor(f"_part{number}", indices)
    return Equation(tensor, indices, node, eq.why)


def _spread(expr: Expr, batch: Symbol) -> Expr:
    """The batch size as a number is that of all ranks, and a row's number is that in the batch."""
    if expr == batch:
        return Access(ROWS)
    if isinstance(expr, Index):
        return expr + IntegerAccess(FIRST) if expr.size == batch else expr
    if isinstance(expr, Access) or not expr.args:
        return expr
    if isinstance(expr, Reduction):
        return type(expr)(_spread(expr.body, batch), *expr.bound)
    return expr.func(*(_spread(a, batch) for a in expr.args))

