"""Where a wrong gradient is wrong: the single change of the derived program that reproduces it.

A mistake made by hand is a small change somewhere on the way from the loss to the parameter: a
factor left out, a sign, a sum for a mean, a tensor in the place of another. Every such change of
every adjoint on the way is tried on the derived program; one that gives the handed-in numbers at
two points with different sizes names equation, term and factor. Nothing here looks at how the
hand-written function is written, so it works for any that can be called.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import sympy
from sympy import Add, Expr, Integer, Mul

from derive.data import resolve_sizes
from derive.differentiate import derive
from derive.functions import Elementary, sigmoid
from derive.matrix import matrix_form
from derive.nodes import Access, Index, IntegerAccess, Reduction, Select, SumOver
from derive.program import Equation, Program
from derive.reference import evaluate
from derive.text import expression_text, node_text
from derive.verify.deadline import Deadline
from derive.verify.precision import NEAR
from derive.verify.report import Finding
from derive.verify.rerun import Base

Point = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
_EXCHANGED = " stands where "

NO_PATTERN = ", in no pattern that a single change of the derivation explains"


@dataclass(frozen=True)
class Edit:
    """A changed body of one equation, and the mistake that it stands for, in words."""

    equation: str
    body: Expr
    words: str


def explain_differences(program: Program, names: list[str], points: list[Point],
                        seconds: float = 3.0) -> list[Finding]:
    """The findings for wrong gradients, given hand-made gradients at two points; changes are tried
    for some seconds of processor time.

    The gradients nearest to the loss come first: a mistake that explains one of them is taken
    along when those further back are looked at, where another one may have been added to it.
    """
    order = {eq.name: n for n, eq in enumerate(program.equations)}
    known: list[Edit] = []
    found = {}
    deadline = Deadline(seconds)
    networks = cache(lambda: list(forward_changes(program)))
    for name in sorted(names, key=lambda n: order[program.gradients[n]]):
        found[name], edit = _explain(program, name, points, known, networks, deadline)
        known += [edit] if edit is not None and edit not in known else []
    return [found[name] for name in names]


def _explain(
    program: Program, name: str, points: list[Point], known: list[Edit],
    networks: Callable[[], list[tuple[str, Program]]], deadline: Deadline,
) -> tuple[Finding, Edit | None]:
    gradient = program.gradients[name]
    hand = [given[name] for _, given in points]
    places = [point for point, _ in points]
    base = Base(program, gradient, places)
    right = base.values
    worst = counterexample(name, right[0], hand[0])
    shown = (str(program[name]), worst, matrix_text(program[name]))
    constant = _constant_factor(program, right, right, hand, places)
    if constant is not None:
        return Finding(name, constant, "", *shown), None
    for words, changed in networks():
        target = changed.gradients[name]
        if all(_accounts(evaluate(changed, p, (target,))[target], r, h)
               for p, r, h in zip(places, right, hand, strict=True)):
            return Finding(name, words, "", *shown), None
    for edit, values in _candidates(base, known):
        if deadline.passed():
            break
        also = _explains(program, values, right, hand, places)
        if also is not None:
            words = edit.words + (f"; and {also}" if also else "")
            eq = program.defined[edit.equation]
            as_if = str(replace(eq, body=edit.body))
            return Finding(name, words, as_if, str(eq), worst, matrix_text(eq)), edit
    words = _unnamed_factor(right, hand) or _pattern(program, name, right[0], hand[0])
    return Finding(name, words, "", *shown), None


def _explains(program: Program, values: Iterator[np.ndarray], right: list[np.ndarray],
              hand: list[np.ndarray], places: list[dict[str, np.ndarray]]) -> str | None:
    """"" where a change gives the gradient that was handed in, words where a factor comes on top;
    None where it does not, or changes nothing."""
    got: list[np.ndarray] = []
    for value, mine in zip(values, hand, strict=True):
        if not (_same(mine, value) or _ratio(value, mine) is not None):
            return None
        got.append(value)
    if all(_same(g, r) for g, r in zip(got, right, strict=True)):
        return None
    if all(_accounts(g, r, h) for g, r, h in zip(got, right, hand, strict=True)):
        return ""
    return _constant_factor(program, got, right, hand, places)


def matrix_text(eq: Equation) -> str:
    """The right formula in matrix form, where it has one that is as short."""
    form = matrix_form(eq) if eq.reads else None
    if form is None:
        return ""
    text = f"{node_text(form.statement.left)} = {node_text(form.statement.right)}"
    return text if len(text) <= len(str(eq)) else ""


def _candidates(base: Base, known: list[Edit]) -> Iterator[tuple[Edit, Iterator[np.ndarray]]]:
    """Single changes, then those that come on top of a mistake that is known already."""
    # a factor left out explains more to a person than the tensor that it happens to equal then
    single = sorted(all_edits(base.program, base.gradient),
                    key=lambda edit: _EXCHANGED in edit.words)
    for edit in (*known, *single):
        yield edit, base.changed(edit.equation, edit.body)
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


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    scale = float(np.max(np.abs(b))) if b.size else 0.0
    near = np.abs(a - b) <= NEAR.get().close * scale
    return bool(np.all(near)) and bool(np.all(np.isfinite(a)))


def _accounts(value: np.ndarray, right: np.ndarray, hand: np.ndarray) -> bool:
    """Whether a value is the gradient that was handed in, and not only near it: of its difference
    from the right one a thousandth is left at most, or what rounding leaves.

    Beside a gradient that is right but for 1e-9, the right one itself is near.
    """
    if not _same(hand, value):
        return False
    rounding = NEAR.get().rounding * float(np.max(np.abs(hand), initial=0.0))
    difference = float(np.max(np.abs(hand - right), initial=0.0))
    return float(np.max(np.abs(hand - value), initial=0.0)) <= max(1e-3 * difference, rounding)


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


def forward_changes(program: Program) -> Iterator[tuple[str, Program]]:
    """Programs derived from a changed network: one of its functions (or a sigmoid, for losses that
    take logits) is applied once more to a tensor that the loss reads."""
    forward = program.forward
    loss = program.losses[0]
    near = [eq for eq in forward.equations
            if eq.name == loss or (eq.tensor.origin or ("",))[0] == "argument"]
    used: dict[str, Any] = {"sigmoid": sigmoid}
    for eq in forward.equations:
        used |= {type(f).__name__: type(f) for f in eq.body.atoms(Elementary)}
    for eq in near:
        for access in sorted(eq.body.atoms(Access), key=str):
            if isinstance(access, IntegerAccess) or forward.tensors[access.name].role == "input":
                continue
            for name, function in sorted(used.items()):
                if function.nargs == sympy.FiniteSet(2):  # one with a setting
                    continue
                body = eq.body.xreplace({access: function(access)})
                changed = _changed(forward, Edit(eq.name, body, ""))
                words = f"{name} is applied to {access.name} once more in the loss"
                yield words, derive(changed, wrt=tuple(program.gradients))


# -- when a constant, or nothing, explains it -----------------------------------------------------
def _constant_factor(program: Program, got: list[np.ndarray], right: list[np.ndarray],
                     hand: list[np.ndarray], points: list[dict[str, np.ndarray]]) -> str | None:
    """"too large by the factor B" where one factor on ``got`` explains the gradient at both
    points."""
    ratios = _ratios(got, hand)
    if ratios is None:
        return None
    if ratios == [0.0, 0.0]:
        return "it is zero everywhere: the gradient is not computed"
    for text, values in _candidate_factors(program, points):
        if all(_accounts(v * g, r, h)
               for v, g, r, h in zip(values, got, right, hand, strict=True)):
            return text
    return None


def _ratios(right: list[np.ndarray], hand: list[np.ndarray]) -> list[float] | None:
    """The factor between the two arrays at each point, where there is one."""
    ratios = [_ratio(r, h) for r, h in zip(right, hand, strict=True)]
    return None if None in ratios else [r for r in ratios if r is not None]


def _ratio(right: np.ndarray, hand: np.ndarray) -> float | None:
    """The factor that makes one array the other, where there is one."""
    if not np.any(right):
        return None
    ratio = float(np.vdot(right, hand) / np.vdot(right, right))
    return ratio if _same(hand, ratio * right) else None


def _unnamed_factor(right: list[np.ndarray], hand: list[np.ndarray]) -> str | None:
    ratios = _ratios(right, hand)
    if ratios is None:
        return None
    if np.isclose(ratios[0], ratios[1], rtol=NEAR.get().close):
        off = ratios[0] - 1
        factor = f"1 {off:+.3g}" if abs(off) < 1e-6 else f"{ratios[0]:.10g}"
        return f"it is {factor} times the right gradient, everywhere"
    return f"it is a multiple of the right gradient: {ratios[0]:.6g} and {ratios[1]:.6g} times"


def _candidate_factors(
    program: Program, points: list[dict[str, np.ndarray]]
) -> Iterator[tuple[str, list[float]]]:
    known = [resolve_sizes(program, point) for point in points]
    named: list[tuple[str, list[float]]] = [
        (s.name, [float(k[s]) for k in known]) for s in program.sizes]
    fixed = {int(i.size) for t in program.tensors.values() for i in t.indices if i.size.is_Integer}
    named += [(str(n), [float(n)] * 2) for n in sorted(fixed) if n > 2]
    yield "its sign is wrong", [-1.0, -1.0]
    yield "it is too large by the factor 2 (the ½ of the square is missing)", [2.0, 2.0]
    yield "it is too small by the factor 1/2 (the 2 of the square is missing)", [0.5, 0.5]
    for name, values in named:
        yield f"it is too large by the factor {name} (1/{name} is missing)", values
        yield f"it is too small: a factor 1/{name} too much", [1 / v for v in values]
        for extra in (-1.0, 2.0, 0.5):
            label = {-1.0: "the sign is wrong and ", 2.0: "a 2 and ", 0.5: "a ½ and "}[extra]
            yield (f"{label}the factor {name} is too much (1/{name} is missing)",
                   [extra * v for v in values])
            yield f"{label}a factor 1/{name} is too much", [extra / v for v in values]


def _pattern(program: Program, name: str, right: np.ndarray, hand: np.ndarray) -> str:
    """Which entries differ, and whether the ratio is constant along an index."""
    scale = float(np.max(np.abs(right))) if right.size else 0.0
    off = np.abs(hand - right) > NEAR.get().close * scale
    share = f"{int(off.sum())} of {off.size} entries differ"
    indices = program[name].indices
    for axis, index in enumerate(indices):
        others = tuple(n for n in range(right.ndim) if n != axis)
        rows = off.any(axis=others) if others else off
        if rows.sum() < len(rows):
            listed = ", ".join(str(int(n)) for n in np.flatnonzero(rows)[:8])
            same = _ratio(right[off], hand[off])
            factor = f", {same:.6g} times the right ones" if same is not None else ""
            return f"{share}: only those with {index.name} in {{{listed}}}{factor}"
        with np.errstate(all="ignore"):
            ratio = np.where(np.abs(right) > NEAR.get().close * scale, hand / right, np.nan)
        spread = np.nanmax(ratio, axis=others) - np.nanmin(ratio, axis=others) if others else None
        if spread is not None and np.all(spread < 1e-7):
            values = np.nanmean(ratio, axis=others)
            listed = ", ".join(f"{v:.5g}" for v in values[:6])
            return f"{share}; the ratio depends on {index.name} only: {listed}"
    if right.ndim == 2 and right.shape[0] == right.shape[1] and _same(hand, right.T):
        return "it is transposed"
    return f"{share}{NO_PATTERN}"


def counterexample(name: str, right: np.ndarray, hand: np.ndarray) -> str:
    place = np.unravel_index(int(np.argmax(np.abs(hand - right))), right.shape)
    at = "".join(f"[{int(n)}]" for n in place)
    return f"{name}{at}: yours {hand[place]:.12g}, right {right[place]:.12g}"


