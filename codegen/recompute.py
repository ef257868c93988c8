"""Intermediates computed again in the backward pass: program → program with the same values.

What the backward pass reads is kept from the forward pass on. Memory is won where it is computed
again instead, just before it is read first (`again`); what that is computed from is kept, or
computed again as well. `fit` looks for the way that takes the least time among these, in order:

- elementwise tensors of what is kept all the same (what a norm gives), the fewest operations for
  a byte first;
- sums over rows in shares, so that what they read is there for a block of rows only (shares.py);
- of the others every second, third, … is kept, and those between are computed again from it,
  segment by segment (Chen et al. 2016).

Each is judged by the work space that is planned for it. A tensor is computed again by the same
equation, so gradients do not change by a bit but where sums are cut into shares.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from sympy import Expr, Symbol

from codegen.shares import is_share, shared_sums
from derive.nodes import Reduction, accesses
from derive.program import Equation, Program, Tensor

AUTO = 1 << 33  # bytes of training from which on "auto" computes again
SMALL = 8  # times that a tensor is smaller than another for which it is kept
SEGMENTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # kept tensors of a segment, of which one stays


def is_again(tensor: Tensor) -> bool:
    """Whether a tensor is a copy that is computed when it is asked for."""
    return tensor.origin is not None and tensor.origin[0] == "again"


def copy_of(name: str, program: Program) -> Tensor:
    """The tensor that holds what is computed again of another one."""
    return Tensor(program.unused(f"_again_{name}"), program.tensors[name].indices,
                  origin=("again", name))


def kept_tensors(program: Program, batch: Symbol) -> list[str]:
    """The intermediates with rows that the forward pass makes and the backward pass reads."""
    ahead = {eq.name for eq in program.forward.equations}
    read = {n for eq in program.equations if eq.name not in ahead for n in eq.reads}
    return [eq.name for eq in program.equations
            if eq.name in ahead & read and _can(eq, program, batch)]


def _can(eq: Equation, program: Program, batch: Symbol) -> bool:
    """Whether an equation may be computed again: it keeps to its rows."""
    from codegen.schedule import row_index

    sizes = {n: t.shape for n, t in program.tensors.items()}
    return eq.tensor.shape[:1] == (batch,) and not is_share(eq.tensor) \
        and row_index(eq, sizes, batch) is not None


def again(program: Program, names: Collection[str], batch: Symbol) -> Program:
    """The program in which the backward pass reads copies of ``names``, made when they are read."""
    if not names:
        return program
    ahead = {eq.name for eq in program.forward.equations}
    recurrent = {eq.name for g in program.groups if g.recurrent for eq in g.equations}
    stays = {n for eq in program.equations if eq.name not in ahead for n in eq.reads} - set(names)
    copies: dict[str, Tensor] = {}
    made: list[Equation] = []

    def copied(name: str, size: int) -> bool:
        """Whether a tensor is read as a copy; makes it."""
        if name in copies:
            return True
        eq = program.defined.get(name)
        if eq is None or name in stays or name in recurrent or name not in ahead:
            return False
        if not _can(eq, program, batch) or SMALL * elements(eq) <= size:
            return False
        body = reading(eq, elements(eq))
        copies[name] = copy_of(name, program)
        made.append(replace(eq, tensor=copies[name], body=body))
        return True

    def reading(eq: Equation, size: int, only: Collection[str] | None = None) -> Expr:
        swaps = {a: copies[a.name].at(*a.where) for a in accesses(eq.body)
                 if (only is None or a.name in only) and copied(a.name, size)}
        return eq.body.xreplace(swaps)

    for eq in program.equations:
        made.append(eq if eq.name in ahead else replace(eq, body=reading(eq, 0, names)))
    tensors = {**program.tensors, **{eq.name: eq.tensor for eq in made}}
    return replace(program, tensors=tensors, equations=tuple(made))


def elements(eq: Equation) -> int:
    """Elements of a row; other run-time sizes count as 64."""
    total = 1
    for size in eq.tensor.shape:
        total *= int(size) if size.is_Integer else 1 if size == eq.tensor.shape[0] else 64
    return total


def ways(program: Program, batch: Symbol) -> Iterator[tuple[Program, tuple[str, ...]]]:
    """Programs that take less and less memory and more and more time, each with a sorted list of
    tensors of which the first ones may be enough."""
    recurrent = {eq.name for g in program.groups if g.recurrent for eq in g.equations}
    kept = [program.defined[n] for n in kept_tensors(program, batch) if n not in recurrent]
    plain: list[Equation] = []
    for eq in kept:  # from what is kept all the same
        stays = {e.name for e in kept} - {e.name for e in plain}
        if not eq.body.has(Reduction) and not any(
                n not in stays and _can(program.defined[n], program, batch)
                and SMALL * elements(program.defined[n]) > elements(eq)
                for n in eq.reads if n in program.defined):
            plain.append(eq)
    products = [eq.name for eq in kept if eq not in plain]
    plain.sort(key=lambda eq: (eq.body.count_ops(), -elements(eq)))
    cheap = tuple(eq.name for eq in plain)
    cut = shared_sums(program, batch, True)
    for one in (program, cut):
        yield one, cheap
    for length in SEGMENTS:
        between = tuple(n for number, n in enumerate(products) if (number + 1) % length)
        if length <= len(products):
            for one in (program, cut):
                yield one, (*cheap, *between)


def fit(program: Program, batch: Symbol, limit: int, measure: Callable[[Program], int]
        ) -> Program:
    """The first way whose work space, as ``measure`` plans it, is within a limit; the smallest if
    there is none."""
    best, least = program, measure(program)
    for one, names in ways(program, batch):
        whole = again(one, names, batch)
        size = measure(whole)
        if size < least:
            best, least = whole, size
        if size > limit:
            continue
        low, high = 0, len(names)  # the first so many are enough
        while low < high:
            middle = (low + high) // 2
            if measure(again(one, names[:middle], batch)) <= limit:
                high = middle
            else:
                low = middle + 1
        return again(one, names[:high], batch)
    return best
