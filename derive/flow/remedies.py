"""Remedies as changes of the program: Program → Program, to be derived and forecast again.

Each works on *layers*: equations with a contracted weight, and the pointwise function of one
element that follows. Nothing looks at names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import sympy
from sympy import Expr, Mul

from derive import functions
from derive.flow.axes import classify_axes, contracted_weights
from derive.flow.moments import X
from derive.flow.relations import random_parameters
from derive.flow.terms import roots_of
from derive.lift import name_reductions
from derive.nodes import Access, Index, Reduction, Select, SumOver, fresh
from derive.program import Equation, Program, Tensor


@dataclass(frozen=True)
class Layer:
    """A weighted sum ``name`` with its weights, what it reads, and the function that follows.

    ``function`` is φ as an expression in `X` and ``output`` the tensor φ(name); both are None
    where no pointwise function of this tensor alone follows.
    """

    name: str
    weights: tuple[str, ...]
    source: Access | None
    output: str | None
    function: Expr | None


def layers_of(program: Program) -> tuple[Layer, ...]:
    """The layers of a forward program in normal form, in order of computation."""
    random = random_parameters(program)
    pointwise: dict[str, tuple[str, Expr]] = {}
    for eq in program.equations:
        roots = roots_of(eq.body)
        if len(roots) == 1 and not eq.body.has(Reduction) and eq.tensor.role != "gradient":
            f = eq.body.xreplace({roots[0]: X})
            if f != X and roots[0].where == eq.indices and not f.free_symbols - {X}:
                pointwise.setdefault(roots[0].name, (eq.name, f))
    found = []
    for group in program.groups:
        for eq in group.equations:
            if eq.tensor.role == "gradient":
                continue
            weights = contracted_weights(eq.body, random)
            if weights:
                output, function = pointwise.get(eq.name, (None, None))
                names = tuple(dict.fromkeys(a.name for a in weights))
                source = _source(eq, set(names))
                found.append(Layer(eq.name, names, source, output, function))
    return tuple(found)


def _source(eq: Equation, weights: set[str]) -> Access | None:
    """The one tensor that a layer's weights are multiplied with."""
    for node in eq.body.atoms(SumOver):
        reads = [a for a in roots_of(node.body) if a.name not in weights]
        if len(reads) == 1 and any(a.name in weights for a in roots_of(node.body)):
            return reads[0]
    return None


def forward_of(program: Program) -> Program:
    """The forward program in normal form."""
    return name_reductions(program.forward)


def with_activation(program: Program, function: Callable[[Expr], Expr] = functions.relu) -> Program:
    """Every pointwise function that follows a layer replaced, for instance by relu."""
    there = {la.output: la.name for la in layers_of(program) if la.output}

    def body(eq: Equation) -> Expr:
        if eq.name not in there:
            return eq.body
        return function(roots_of(eq.body)[0])

    return _mapped(program, body)


def with_residuals(program: Program) -> tuple[Program, int]:
    """The input of each layer added to its output, where their shapes agree; and how many."""
    outputs: dict[str, Layer] = {
        la.output: la for la in layers_of(program) if la.output and la.source is not None
    }
    count = 0

    def body(eq: Equation) -> Expr:
        nonlocal count
        layer = outputs.get(eq.name)
        if layer is None or layer.source is None:
            return eq.body
        before = program.tensors[layer.source.name]
        if before.shape != eq.tensor.shape or before.role == "input":
            return eq.body
        count += 1
        return eq.body + before.at(*eq.indices)

    return _mapped(program, body), count


def with_normalisation(program: Program, over: str) -> tuple[Program, int]:
    """The argument of each layer's function normalised: ``over="feature"`` is layer norm,
    ``over="sample"`` batch norm, both without gain and bias; and how many were."""
    axes = classify_axes(program, random_parameters(program))
    follow = {la.output: la for la in layers_of(program) if la.output}
    equations: list[Equation] = []
    tensors = dict(program.tensors)
    count = 0
    for eq in program.equations:
        layer = follow.get(eq.name)
        bound = () if layer is None else tuple(
            i for i, kind in zip(eq.indices, axes[layer.name]) if kind == over
        )
        if layer is None or not bound:
            equations.append(eq)
            continue
        count += 1
        new = _normalised(program.tensors[layer.name], eq, bound, f"_norm{count}")
        tensors.update({e.name: e.tensor for e in new})
        equations += new
    return replace(program, tensors=tensors, equations=tuple(equations)), count


def _normalised(z: Tensor, eq: Equation, bound: tuple[Index, ...], stem: str) -> list[Equation]:
    """Mean, variance, normalised argument, and the equation that now reads it."""
    rest = tuple(i for i in eq.indices if i not in bound)
    taken = {i.name for i in eq.indices}
    there: dict[Index, Index] = {}
    for index in bound:
        there[index] = fresh(index, taken)
        taken.add(there[index].name)
    count = Mul(*(i.size for i in bound))
    inner = z.at(*(there.get(i, i) for i in eq.indices))
    mean = Tensor(f"{stem}_mean", rest)
    variance = Tensor(f"{stem}_variance", rest)
    unit = Tensor(stem, eq.indices)
    deviation = inner - mean.access
    spread = sympy.sqrt(variance.access + sympy.Rational(1, 100000))
    return [
        Equation(mean, rest, SumOver(inner, *there.values()) / count, "remedy"),
        Equation(variance, rest, SumOver(deviation**2, *there.values()) / count, "remedy"),
        Equation(unit, eq.indices, (z.at(*eq.indices) - mean.access) / spread, "remedy"),
        replace(eq, body=eq.body.xreplace({z.at(*eq.indices): unit.access})),
    ]


def _mapped(program: Program, body: Callable[[Equation], Expr]) -> Program:
    return replace(
        program, equations=tuple(replace(eq, body=body(eq)) for eq in program.equations)
    )


def is_squashing(f: Expr) -> bool:
    """Whether a pointwise function stays bounded."""
    if f.has(Select):
        return False
    return all(sympy.limit(functions_free(f), X, end).is_finite is True
               for end in (sympy.oo, -sympy.oo))


def functions_free(f: Expr) -> Expr:
    from derive.flow.closed import unfold

    return unfold(f)
