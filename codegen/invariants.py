"""What is the same in every row, once for all rows: program → program with the same values.

In ``n[b,j] = g[j]*(z[b,j] - m[j])/sqrt(v[j] + 1e-5) + c[j]`` a square root and a quotient are taken
for every row, though they depend on the column alone, and no compiler moves them out of a loop over
rows whose inner loop runs over columns. Each such factor becomes a tensor of its own:

    scale[j] = g[j]/sqrt(v[j] + 1e-5)
    n[b,j]   = scale[j]*(z[b,j] - m[j]) + c[j]

Equal factors, of forward and backward equations, are one tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import sympy
from sympy import Expr, Symbol

from codegen.blend import in_bounds
from codegen.packed import packed_name
from derive.nodes import Access, Index, Reduction, accesses, walk
from derive.program import Equation, Program, Tensor

MOST = 1 << 16  # elements of such a tensor: it is to stay in the cache


@dataclass
class Invariants:
    """Rewrites the equations of one program."""

    program: Program
    batch: Symbol
    known: dict[Expr, Tensor] = field(default_factory=dict)
    equations: list[Equation] = field(default_factory=list)
    names: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = set(self.program.tensors)

    def run(self) -> Program:
        recurrent = {eq.name for g in self.program.groups if g.recurrent for eq in g.equations}
        for eq in self.program.equations:
            body = eq.body
            if eq.name not in recurrent and self.mixed(eq) and _costly(body):
                body = self.rewritten(body, eq)
            self.equations.append(eq if body == eq.body else replace(eq, body=body))
        tensors = {**self.program.tensors, **{eq.name: eq.tensor for eq in self.equations}}
        return replace(self.program, tensors=tensors, equations=tuple(self.equations))

    def mixed(self, eq: Equation) -> bool:
        """Whether an equation reads a tensor without rows, and a row stands in it."""
        shapes = [self.program.tensors[a.name].shape for a in eq.accesses]
        return any(self.batch not in s for s in shapes) and any(
            isinstance(i, Index) and i.size == self.batch for i in walk(eq.body))

    def rewritten(self, expr: Expr, eq: Equation) -> Expr:
        """An expression with what is the same in every row replaced, outermost first."""
        if isinstance(expr, Access | Index) or not expr.args or not _costly(expr):
            return expr
        if self.moves(expr):
            return self.named(expr, eq)
        if expr.is_Mul:
            still = [a for a in expr.args if self.still(a)]
            if still and self.moves(factor := expr.func(*still)):
                rest = [self.rewritten(a, eq) for a in expr.args if a not in still]
                return expr.func(self.named(factor, eq), *rest)
        return expr.func(*(self.rewritten(a, eq) if isinstance(a, Expr) else a
                           for a in expr.args))

    def still(self, expr: Expr) -> bool:
        """Whether an expression is the same in every row, and may be computed anywhere."""
        shapes = {a.name: self.program.tensors[a.name].shape for a in accesses(expr)}
        return (not expr.has(Reduction) and not any(self.batch in s for s in shapes.values())
                and all(i.size.is_Integer for i in expr.atoms(Index))
                and all(in_bounds(a, shapes) for a in accesses(expr)))

    def moves(self, expr: Expr) -> bool:
        """Whether it is also worth a tensor: it is costly, differs from element to element, and
        there are few of these."""
        indices = expr.atoms(Index)
        count = sympy.Mul(*(i.size for i in indices))
        return _costly(expr) and bool(indices) and bool(accesses(expr)) and self.still(expr) \
            and bool(count <= MOST)

    def named(self, expr: Expr, eq: Equation) -> Access:
        """The element of the tensor that holds an expression."""
        indices: Sequence[Index] = sorted(expr.atoms(Index), key=lambda i: (str(i.size), i.name))
        places = {i: Index(f"_{n}", i.size) for n, i in enumerate(indices)}
        key = expr.xreplace(places)
        if key not in self.known:
            name = packed_name("scale", eq.name, self.names)
            tensor = Tensor(name, tuple(indices), origin=("packed", eq.name))
            self.known[key] = tensor
            self.names.add(name)
            self.equations.append(Equation(tensor, tuple(indices), expr, eq.why))
        return self.known[key].at(*indices)


def _costly(expr: Expr) -> bool:
    """Whether a quotient, a root or a function is taken in an expression."""
    return any(isinstance(node, sympy.Function)
               or (isinstance(node, sympy.Pow) and node.atoms(Access)
                   and (node.exp.is_negative or not node.exp.is_Integer)) for node in walk(expr))


def hoist_rows(program: Program, batch: Symbol | None) -> Program:
    """The program with costly factors that are the same in every row computed once."""
    return program if batch is None else Invariants(program, batch).run()
