"""Where a wrong gradient is wrong: the single change of the derived program that reproduces it.

A mistake made by hand is a small change somewhere on the way from the loss to the parameter: a
factor left out, a sign, a sum for a mean, a tensor in the place of another. Every such change of
every adjoint on the way is tried on the derived program; one that gives the handed-in numbers at
two points with different sizes names equation, term and factor. Nothing here looks at how the
hand-written function is written, so it works for any that can be called.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy
from sympy import Add, Expr, Integer, Mul

from derive.differentiate import derive
from derive.functions import Elementary, sigmoid
from derive.matrix import matrix_form
from derive.nodes import Access, Index, IntegerAccess, Reduction, Select, SumOver
from derive.program import Equation, Program
from derive.reference import evaluate
from derive.text import expression_text, node_text
from derive.verify.deadline import Deadline
from derive.verify.factors import (
    Compared,
    accounts,
    constant_factor,
    counterexample,
    pattern,
    ratio,
    same,
    same_factor,
    unnamed_factor,
)
from derive.verify.report import Finding
from derive.verify.rerun import Base
from derive.verify.twice import second_derivatives

Point = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
_EXCHANGED = " stands where "


@dataclass(frozen=True)
class Edit:
    """A changed body of one equation, and the mistake that it stands for, in words."""

    equation: str
    body: Expr
    words: str


def explain_differences(program: Program, names: list[str], points: list[Point],
                        seconds: float = 3.0, numbers: Mapping[str, float] | None = None
                        ) -> list[Finding]:
    """The findings for wrong gradients, given hand-made gradients at two points; changes are tried
    for some seconds of processor time. ``numbers`` are those that the function has names for.

    The gradients nearest to the loss come first: a mistake that explains one of them is taken
    along when those further back are looked at, where another one may have been added to it.
    """
    order = {eq.name: n for n, eq in enumerate(program.equations)}
    known: list[Edit] = []
    found = {}
    deadline = Deadline(seconds)
    networks = cache(lambda: list(forward_changes(program)))
    for name in sorted(names, key=lambda n: order[program.gradients[n]]):
        found[name], edit = _explain(program, name, points, known, networks, deadline,
                                     numbers or {})
        known += [edit] if edit is not None and edit not in known else []
    return [found[name] for name in names]


def _explain(
    program: Program, name: str, points: list[Point], known: list[Edit],
    networks: Callable[[], list[tuple[str, str, Program]]], deadline: Deadline,
    numbers: Mapping[str, float],
) -> tuple[Finding, Edit | None]:
    base = Base(program, program.gradients[name], [point for point, _ in points])
    case = Compared(program, base.values, [given[name] for _, given in points], base.places,
                    numbers)
    worst = counterexample(name, case.right[0], case.hand[0])

    def found(words: str, eq: Equation = program[name], as_if: str = "") -> Finding:
        return Finding(name, words, as_if, str(eq), worst, matrix_text(eq))

    constant = constant_factor(case, case.right)
    if constant is not None:
        return found(constant), None
    for words, adjoint, changed in networks():
        target = changed.gradients[name]
        if all(accounts(evaluate(changed, p, (target,))[target], r, h)
               for p, r, h in zip(case.places, case.right, case.hand, strict=True)):
            return found(words, program.defined[adjoint]), None
    best = _best(_singles(base, known), case, deadline)
    twice = None
    if best is None or best[1]:  # nothing else gives exactly what was handed in
        twice = _twice(base, case, deadline)
    if twice is not None:
        return found(*twice), None
    best = best or _best(_pairs(base, known), case, deadline)
    if best is not None:
        edit, also = best
        eq = program.defined[edit.equation]
        return found(edit.words + also, eq, str(replace(eq, body=edit.body))), edit
    return found(unnamed_factor(case) or pattern(program, name, case.right[0], case.hand[0])), None


def _best(candidates: Iterator[tuple[Edit, Iterator[np.ndarray]]], case: Compared,
          deadline: Deadline) -> tuple[Edit, str] | None:
    """The first change that gives what was handed in, and ""; else the first after which a factor
    is left that has a name, else one without, and that in words."""
    named: tuple[Edit, str] | None = None
    unnamed: tuple[Edit, str] | None = None
    multiple = same_factor(case, case.right) is not None  # then that says more than any change
    for edit, values in candidates:
        if deadline.passed():
            break
        got = _proportional(values, case)
        if got is None:
            continue
        if all(map(accounts, got, case.right, case.hand)):
            return edit, ""
        if named is None:
            said = constant_factor(case, got)
            named = None if said is None else (edit, f"; and {said}")
            unnamed = unnamed or (None if multiple else _unnamed(edit, case, got))
    return named or unnamed


def _unnamed(edit: Edit, case: Compared, got: list[np.ndarray]) -> tuple[Edit, str] | None:
    factor = same_factor(case, got)
    return None if factor is None else (edit, f"; and it is {factor:.6g} times that")


def _proportional(values: Iterator[np.ndarray], case: Compared) -> list[np.ndarray] | None:
    """The values where they are a multiple of what was handed in, and not the right ones."""
    got: list[np.ndarray] = []
    for value, mine in zip(values, case.hand, strict=True):
        if not (same(mine, value) or ratio(value, mine) is not None):
            return None
        got.append(value)
    return None if all(map(same, got, case.right)) else got


def _twice(base: Base, case: Compared, deadline: Deadline) -> tuple[str, Equation, str] | None:
    """The words, the equation and its changed form, if a second derivative gives what was handed
    in."""
    for tensor, eq, values in second_derivatives(base):
        if deadline.passed():
            return None
        got = _proportional(values, case)
        also = None if got is None else "" if all(map(accounts, got, case.right, case.hand)) \
            else constant_factor(case, got)
        if also is not None:
            of = f"{tensor.name}[{', '.join(i.name for i in eq.indices)}]"
            left = str(eq).partition(" = ")[0]
            return (f"the loss is differentiated twice: its second derivative by {of} stands where "
                    f"its first belongs{'; and ' if also else ''}{also}", eq,
                    f"{left} = ∂²{base.program.losses[0]}/∂{of}²")
    return None


def matrix_text(eq: Equation) -> str:
    """The right formula in matrix form, where it has one that is as short."""
    form = matrix_form(eq) if eq.reads else None
    if form is None:
        return ""
    text = f"{node_text(form.statement.left)} = {node_text(form.statement.right)}"
    return text if len(text) <= len(str(eq)) else ""


def _singles(base: Base, known: list[Edit]) -> Iterator[tuple[Edit, Iterator[np.ndarray]]]:
    """Single changes, those that are known already first."""
    # a factor left out explains more to a person than the tensor that it happens to equal then
    single = sorted(all_edits(base.program, base.gradient),
                    key=lambda edit: _EXCHANGED in edit.words)
    for edit in (*known, *single):
        yield edit, base.changed(edit.equation, edit.body)


def _pairs(base: Base, known: list[Edit]) -> Iterator[tuple[Edit, Iterator[np.ndarray]]]:
    """Single changes on top of a mistake that is known already."""
    for first in known:
        then = Base(_changed(base.program, first), base.gradient, base.places)
        for edit in sorted(all_edits(then.program, base.gradient),
                           key=lambda edit: _EXCHANGED in edit.words):
            both = Edit(edit.equation, edit.body, f"{first.words}; and then {edit.words}")
            yield both, then.changed(edit.equation, edit.body)


def _changed(program: Program, edit: Edit) -> Program:
    return replace(program, equations=tuple(
        replace(eq, body=edit.body) if eq.name == edit.equation else eq
        for eq in program.equations))


# -- changes ------------------------------------------------------------------------------------
def all_edits(program: Program, gradient: str) -> Iterator[Edit]:
    """Every single change of an adjoint on the way to a gradient, the nearest equations first."""
    on_the_way = [eq for eq in reversed(program.only(gradient).equations)
                  if eq.tensor.role == "gradient" or (eq.tensor.origin or ("",))[0] == "softmax"]
    for eq in on_the_way:
        earlier = [t for t in program.tensors.values()  # a later one would close a cycle
                   if t.dtype == "float" and eq.name not in program.only(t.name).defined]
        for body, words in _edits(replace(program, tensors={t.name: t for t in earlier}), eq):
            if body != eq.body:
                yield Edit(eq.name, body, words)


def _edits(program: Program, eq: Equation) -> Iterator[tuple[Expr, str]]:
    """Changed bodies of one equation; ``program`` has the tensors that may stand in it."""
    terms = Add.make_args(eq.body)
    for n, term in enumerate(terms):
        others = Add(*terms[:n], *terms[n + 1:])
        said = f"the term {expression_text(term)}"
        if others != 0:
            yield others, f"{said} is missing"
        yield others - term, f"{said} has the wrong sign"
        for new, words in _term_edits(program, term):
            yield others + new, words
    yield from _whole_edits(program, eq)


def _whole_edits(program: Program, eq: Equation) -> Iterator[tuple[Expr, str]]:
    for loss in program.losses:
        value = program.tensors[loss].access
        yield value, "the value of the loss stands where a derivative belongs"
    sizes = {i.size for i in eq.body.atoms(Index)} | {i.size for i in eq.indices}
    for factor in (*sorted(sizes, key=str), Integer(2)):
        yield eq.body * factor, f"a factor {factor} too much"
        yield eq.body / factor, f"a factor 1/{factor} too much"


def _term_edits(program: Program, term: Expr) -> Iterator[tuple[Expr, str]]:
    """Changes of one term, inside its sum, if it is one."""
    factors = list(Mul.make_args(term))
    for one, two in itertools.combinations([f for f in factors if f.has(Access)], 2):
        if len(factors) > 2:  # y (1 - y) is one thing to a person
            yield term / (one * two), f"the factor {expression_text(one * two)} is missing"
    for n, factor in enumerate(factors):
        rest = Mul(*factors[:n], *factors[n + 1:])
        if isinstance(factor, SumOver):
            for index in factor.bound:
                yield rest * factor / index.size, (
                    f"the sum over {index.name} is taken as a mean (1/{index.size} too much)")
            for new, words in _term_edits(program, factor.body):
                yield rest * _resummed(new, factor.bound), words
            continue
        said = expression_text(factor)
        if rest != 1 or factor.has(Access):
            yield rest, f"the factor {said} is missing"
        if isinstance(factor, Add):
            for new, words in _inner_sum(program, factor):
                yield rest * new, words
        if isinstance(factor, Select):
            yield rest * factor.yes, f"the condition [{factor.condition}] is missing"
        if factor.has(Access):
            yield rest * factor**2, f"the factor {said} stands there twice"
        for power in factor.atoms(sympy.Pow):
            if power.exp.is_Integer and power.exp > 1:
                said_power = expression_text(power)
                yield rest * factor.xreplace({power: power.base}), (
                    f"{expression_text(power.base)} stands without its power: {said_power} belongs")
        for access in factor.atoms(Access):
            for other, words in _replacements(program, access):
                yield rest * factor.xreplace({access: other}), words


def _resummed(body: Expr, bound: tuple[Index, ...]) -> Expr:
    used = [i for i in bound if i in body.free_symbols]
    count = Mul(*(i.size for i in bound if i not in used))
    return count * SumOver(body, *used) if used else count * body


def _inner_sum(program: Program, factor: Add) -> Iterator[tuple[Expr, str]]:
    """Changes of a factor such as (1 - h) or (p - t)."""
    for n, part in enumerate(factor.args):
        others = Add(*factor.args[:n], *factor.args[n + 1:])
        said = expression_text(part)
        whole = expression_text(factor)
        yield others, f"{said} is missing in ({whole})"
        yield others - part, f"{said} has the wrong sign in ({whole})"


def _replacements(program: Program, access: Access) -> Iterator[tuple[Expr, str]]:
    """What may stand by mistake where ``access`` should."""
    if isinstance(access, IntegerAccess):
        return
    tensor = program.tensors.get(access.name)
    if tensor is None:  # a recurrence's own target
        return
    said = expression_text(access)
    shape = tuple(e.size if isinstance(e, Index) else None for e in access.where)
    for other in program.tensors.values():
        if other.name != access.name and other.shape == tensor.shape:
            if other.role != "gradient" or tensor.role == "gradient":
                new = other.at(*access.where)
                yield new, f"{expression_text(new)}{_EXCHANGED}{said} belongs"
    if len(shape) == 2 and shape[0] == shape[1] and None not in shape:
        yield tensor.at(*reversed(access.where)), f"{tensor.name} is transposed"
    definition = program.defined.get(access.name)
    if definition is not None and isinstance(definition.body, sympy.Function):
        function = definition.body
        if isinstance(function.args[0], Access) and not isinstance(function, Reduction):
            yield function.func(access, *function.args[1:]), (
                f"{type(function).__name__} is applied twice: to {said}, which is its result")


def forward_changes(program: Program) -> Iterator[tuple[str, str, Program]]:
    """Programs derived from a changed network: one of its functions (or a sigmoid, for losses that
    take logits) is applied once more to a tensor that the loss reads. Each with its words, and the
    adjoint of that tensor."""
    forward = program.forward
    loss = program.losses[0]
    near = [eq for eq in forward.equations
            if eq.name == loss or (eq.tensor.origin or ("",))[0] == "argument"]
    adjoints = {t.origin[1]: t.name for t in program.tensors.values()
                if t.origin and t.origin[0] == "adjoint"}
    used: dict[str, Any] = {"sigmoid": sigmoid}
    for eq in forward.equations:
        used |= {type(f).__name__: type(f) for f in eq.body.atoms(Elementary)}
    for eq in near:
        for access in sorted(eq.body.atoms(Access), key=str):
            if isinstance(access, IntegerAccess) or access.name not in adjoints:
                continue
            for name, function in sorted(used.items()):
                if function.nargs == sympy.FiniteSet(2):  # one with a setting
                    continue
                body = eq.body.xreplace({access: function(access)})
                changed = _changed(forward, Edit(eq.name, body, ""))
                words = f"{name} is applied to {access.name} once more in the loss"
                yield words, adjoints[access.name], derive(changed, wrt=tuple(program.gradients))
