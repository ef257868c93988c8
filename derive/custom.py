"""Elementary functions given by the user as SymPy; gradients that are stopped or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy
from sympy import Expr, Rational, Symbol

from derive.errors import DeclarationError
from derive.functions import REGISTRY, Elementary, native, stop_gradient
from derive.lift import Names
from derive.naming import check_name
from derive.network import Handle
from derive.nodes import Reduction, accesses, contains, exact
from derive.operations import elementwise
from derive.program import Equation, Program, Tensor
from derive.simplify import opaque_atoms

X, Y = Symbol("x", real=True), Symbol("y", real=True)
_TRIED = tuple(Rational(n, 7) for n in (-23, -11, -5, -2, 1, 3, 8, 19))


def elementary(
    name: str,
    definition: Callable[[Expr], Expr],
    derivative: Callable[[Expr, Expr], Expr] | None = None,
    *,
    stable: Callable[[Expr], Expr] | None = None,
    kinks: Sequence[float] = (),
    symbol: str | None = None,
) -> Callable[[Expr | Handle], Expr]:
    """A new elementary function of one scalar, known from then on wherever ours are.

    Args:
        name: a plain identifier that no other function has.
        definition: x ↦ the function in SymPy, ``Piecewise`` and comparisons included.
        derivative: (x, y) ↦ its derivative, y being the function's own value; proved equal to
            SymPy's derivative of the definition. By default that one.
        stable: x ↦ the form that kernels compute, where the definition would overflow or cancel.
        kinks: the points where the derivative jumps; the branch taken there gives its value.
        symbol: LaTeX of its name.

    Returns:
        A function of a scalar expression or of a tensor, like ``dr.tanh``.

    Raises:
        DeclarationError: the name is taken by another function, or the derivative is another,
            with a counterexample.
    """
    check_name(name, "function")
    function = given_function(name, Given(
        _given(name, definition(X)),
        None if derivative is None else _given(name, derivative(X, Y)),
        None if stable is None else _given(name, stable(X)),
        tuple(sympy.nsimplify(k) for k in kinks), symbol))

    def apply(x: Expr | Handle) -> Expr:
        return elementwise(function, x)

    apply.__name__, apply.__doc__ = name, function.__doc__
    return apply


@dataclass(frozen=True)
class Given:
    """What the user gave of a function, in terms of x and, in the derivative, its value y."""

    definition: Expr
    derivative: Expr | None = None
    stable: Expr | None = None
    kinks: tuple[Expr, ...] = ()
    symbol: str | None = None

    def parts(self) -> list[tuple[Expr, set[Symbol]]]:
        """Each expression that is given, and the variables that it may have."""
        every = ((self.definition, {X}), (self.derivative, {X, Y}), (self.stable, {X}))
        return [(expr, variables) for expr, variables in every if expr is not None]


def given_function(name: str, given: Given) -> type[Elementary]:
    """The class of a function of the user's, made at its first use.

    Raises:
        DeclarationError: as `elementary` says.
    """
    check_name(name, "function")
    for expr, variables in given.parts():
        other = {*(expr.free_symbols - variables), *accesses(expr)}
        if other or contains(expr, Reduction):
            raise DeclarationError(
                f"the definition of {name!r} has other variables than its argument",
                got=", ".join(sorted(map(str, other))) or str(expr),
            )
    there = REGISTRY.get(name)
    taken = hasattr(sympy, name) if there is None else getattr(there, "given", None) != given
    if taken:
        raise DeclarationError(f"the function {name!r} exists already", mend="use a new name")
    return there or _made(name, given)


def given_functions(exprs: Iterable[Expr]) -> dict[str, Given]:
    """The functions of users that expressions are made of; one stands behind those it uses."""
    found: dict[str, Given] = {}
    for expr in exprs:
        for node in expr.atoms(Elementary):
            given = getattr(node.func, "given", None)
            if given is not None and node.func.__name__ not in found:
                found |= given_functions(part for part, _ in given.parts())
                found[node.func.__name__] = given
    return found


def _given(name: str, expr: object) -> Expr:
    try:
        return native(exact(expr))
    except (sympy.SympifyError, TypeError) as error:
        raise DeclarationError(
            f"what {name!r} is given by is no expression",
            expected="SymPy, such as x/(1 + dr.abs(x))", got=repr(expr)) from error


def _made(name: str, given: Given) -> type[Elementary]:
    """The class of a function; its derivative is proved first."""
    slope = sympy.diff(given.definition, X)
    if given.derivative is not None:
        _prove(name, slope, given.derivative.xreplace({Y: given.definition}), given.kinks)
    rate = slope if given.derivative is None else given.derivative

    def derive(cls: type[Elementary], x: Expr, y: Expr, *settings: Expr) -> Expr:
        return rate.xreplace({X: x, Y: y})

    def define(cls: type[Elementary], x: Expr, *settings: Expr) -> Expr:
        return given.definition.xreplace({X: x})

    members: dict[str, object] = {
        "define": classmethod(define),
        "derive": classmethod(derive),
        "given": given,
        "symbol": given.symbol or rf"\operatorname{{{name}}}",
        "kinks": given.kinks,
        "subgradient": f"{name}' at a kink is that of the branch taken there",
        "monotone": False,
        "__doc__": f"{name}(x) = {given.definition}",
    }
    if given.stable is not None:
        form = given.stable
        members["stable"] = classmethod(lambda cls, x, *settings: form.xreplace({X: x}))
    return type(name, (Elementary,), members)


def _prove(name: str, slope: Expr, given: Expr, kinks: Sequence[Expr]) -> None:
    difference = slope - given
    if sympy.simplify(difference) == 0:
        return
    for point in _TRIED:
        if point in kinks:
            continue
        error = sympy.N(difference.xreplace({X: point}), 30)
        if not error.is_number or abs(error) > Rational(1, 10**20):
            raise DeclarationError(
                f"the derivative given for {name!r} is another",
                expected=f"{slope}", got=f"{given}",
                mend=f"at x = {point} they are {sympy.N(slope.xreplace({X: point}), 8)} and "
                f"{sympy.N((slope - difference).xreplace({X: point}), 8)}",
            )


# -- gradients that are stopped --------------------------------------------------------------------
def stopped(x: Expr | Handle) -> Expr:
    """The value of ``x``, which the derivative takes for a constant."""
    return elementwise(stop_gradient, x)


def straight_through(value: Expr, through: Expr) -> Expr:
    """``value`` with the derivative of ``through`` (Bengio et al. 2013), for what has none of its
    own, such as a sign or a step."""
    return through + stop_gradient(value - through)


def stopped_parameters(program: Program) -> tuple[str, ...]:
    """The parameters that something under a `stop_gradient` depends on: the slope of the loss
    along them is not their gradient, unless what is stopped is held (`hold_stopped`)."""
    forward = program.only(*program.losses)
    roots = {access.name for eq in forward.equations
             for node in opaque_atoms(eq.body, (stop_gradient,)) for access in accesses(node)}
    return tuple(t.name for t in forward.only(*roots).parameters) if roots else ()


def hold_stopped(
    program: Program, values: Mapping[str, Any]
) -> tuple[Program, dict[str, Any]]:
    """The program in which what stands under a `stop_gradient` is held, and the values with it.

    The derived gradient is that of this program: numeric differentiation moves a tensor and not
    the copy of it, ``_held_…``, from which what is stopped is computed, in as many digits as the
    rest. Without a `stop_gradient` both come back as they are.
    """
    stopped_accesses = [
        access for eq in program.equations
        for node in opaque_atoms(eq.body, (stop_gradient,)) for access in accesses(node)]
    if not stopped_accesses:
        return program, dict(values)
    names, below = Names(set(program.tensors)), program.only(*{a.name for a in stopped_accesses})
    copies = {
        name: Tensor(names.new(f"_held_{name.lstrip('_')}"), t.indices,
                     role="intermediate" if name in below.defined else "input")
        for name, t in below.tensors.items() if t.dtype == "float"}

    def held(body: Expr) -> Expr:
        return body.xreplace({a: copies[a.name].at(*a.where)
                              for a in accesses(body) if a.name in copies})

    def still(eq: Equation) -> Equation:
        nodes = opaque_atoms(eq.body, (stop_gradient,))
        return replace(eq, body=eq.body.xreplace({node: held(node.args[0]) for node in nodes}))

    equations = (
        *(replace(eq, tensor=copies[eq.name], body=held(still(eq).body), why="stopped")
          for eq in below.equations),
        *(still(eq) for eq in program.equations))
    tensors = {**program.tensors, **{t.name: t for t in copies.values()}}
    known = {t.name: values[name] for name, t in copies.items() if name in values}
    return replace(program, tensors=tensors, equations=equations), {**values, **known}
