"""Name the reductions that stand inside something else: Program → Program.

``h = relu(sum(x*W) + c)`` becomes ``u_h = sum(x*W) + c`` and ``h = relu(u_h)``: afterwards every
equation is a sum of terms (a constant times a plain sum, or no reduction at all), or exactly one
max, min, prod or logsumexp. Nothing is computed twice, and every adjoint has a name. What a max
or min ranges over is stored too: its derivative asks which element it is, and the same arithmetic
in another order may give another last bit. What is named stands outside of the selections around
it; where an access in it leaves its bounds, which only their conditions kept it from, it is 0.
"""

from __future__ import annotations

from dataclasses import replace

from sympy import Add, Expr, Function, Mul

from derive.bodies import selected
from derive.nodes import Access, Index, MaxOver, MinOver, Reduction, Select, SumOver, contains
from derive.program import Equation, Program, Step, Tensor
from derive.simplify import alpha_key, is_linear_sum, is_normal, is_stored


class Names:
    """Generated names: they start with an underscore, which no user's name may."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = set(taken)

    def new(self, stem: str) -> str:
        name, number = stem, 1
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        return name


class _Lifter:
    def __init__(self, program: Program) -> None:
        self.names = Names(set(program.tensors))
        self.tensors = dict(program.tensors)
        self.known: dict[tuple, Tensor] = {}
        self.new: list[Equation] = []
        self.steps: list[Step] = []

    def lift(self, body: Expr, parent: Equation, scope: tuple[Index, ...]) -> Access:
        """A named tensor for ``body``, shared with equal ones; returns its access."""
        body = selected(body, self.tensors)
        free = body.free_symbols
        indices = tuple(i for i in scope if i in free)
        key = alpha_key(indices, body)
        if key not in self.known:
            name = self.names.new(f"_u_{parent.name.lstrip('_')}")
            origin = ("argument", parent.name)
            tensor = Tensor(name, indices, origin=origin, where=parent.where)
            self.known[key] = self.tensors[name] = tensor
            self.new.append(Equation(tensor, indices, body, "name", parent.where))
            self.steps.append(Step("name", name, body, tensor.access, indices, parent.name))
        return self.known[key].at(*indices)

    def body(self, expr: Expr, eq: Equation, scope: tuple[Index, ...]) -> Expr:
        """``expr`` in normal form; what has to move out is lifted."""
        if not contains(expr, Reduction):
            return expr
        if isinstance(expr, Reduction):
            inner_scope = (*scope, *expr.bound)
            inner = self.scalar(expr.body, eq, inner_scope)
            if isinstance(expr, MaxOver | MinOver) and not is_stored(inner):
                inner = self.lift(inner, eq, inner_scope)
            return type(expr)(inner, *expr.bound)
        if isinstance(expr, Add):
            return Add(*(self.term(a, eq, scope) for a in expr.args))
        return self.term(expr, eq, scope)

    def term(self, expr: Expr, eq: Equation, scope: tuple[Index, ...]) -> Expr:
        """One term of a sum: a constant times a plain sum may stay as it is."""
        factors = Mul.make_args(expr)
        sums = [f for f in factors if isinstance(f, SumOver)]
        rest = Mul(*(f for f in factors if not isinstance(f, SumOver)))
        if len(sums) == 1 and not contains(rest, Access, Reduction, Select):
            return rest * self.body(sums[0], eq, scope)
        return self.scalar(expr, eq, scope)

    def scalar(self, expr: Expr, eq: Equation, scope: tuple[Index, ...]) -> Expr:
        """``expr`` without any reduction: each is lifted, with what makes it a whole."""
        if not contains(expr, Reduction):
            return expr
        if isinstance(expr, Reduction):
            return self.lift(self.body(expr, eq, scope), eq, scope)
        if isinstance(expr, Mul):
            kinds = (Access, Reduction, Select, Index)
            constant = Mul(*(f for f in expr.args if not contains(f, *kinds)))
            sums = [f for f in expr.args if isinstance(f, SumOver)]
            if len(sums) == 1 and constant != 1:  # a mean keeps its 1/N
                others = Mul(*(f for f in expr.args if f is not sums[0])) / constant
                mean = self.lift(constant * self.body(sums[0], eq, scope), eq, scope)
                return mean * self.scalar(others, eq, scope)
        if isinstance(expr, Function) and len(expr.args) >= 1:
            first = self.body(expr.args[0], eq, scope)
            if contains(first, Reduction):  # the argument as a whole is the pre-activation
                first = self.lift(first, eq, scope)
            return expr.func(first, *expr.args[1:])
        return expr.func(*(self.scalar(a, eq, scope) for a in expr.args))


def name_reductions(program: Program) -> Program:
    """The program in normal form, with a step recorded for each tensor that got a name."""
    lifter = _Lifter(program)
    equations: list[Equation] = []
    for eq in program.equations:
        if is_normal(eq.body):
            equations.append(eq)
            continue
        lifter.new = []
        body = lifter.body(eq.body, eq, eq.indices)
        assert is_normal(body) or is_linear_sum(body), f"not in normal form: {eq}"
        equations += lifter.new
        equations.append(replace(eq, body=body))
    tensors = {**program.tensors, **{eq.name: eq.tensor for eq in equations}}
    return replace(
        program,
        tensors=tensors,
        equations=tuple(equations),
        steps=(*program.steps, *lifter.steps),
    )
