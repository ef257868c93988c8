"""What an activation does to a Gaussian signal: moments, gain, and the initialisation they demand.

For z normal with mean 0 and variance q: E[φ(z)] and E[φ(z)²] drive the signal, E[φ'(z)²] the
adjoint. With weights of variance σ_w²/fan the variance of the next pre-activation is
σ_w² E[φ(z)²], so the gain that keeps it is σ_w = √(q / E[φ(z)²]): √2 for relu (He et al. 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import sympy
from sympy import Expr, Rational, S, Symbol

from derive import functions
from derive.errors import DeclarationError, nearest
from derive.flow.closed import expectation, unfold
from derive.flow.quadrature import Estimate, compiled, expect
from derive.nodes import Access, Select, exact

X = Symbol("x", real=True)
Q = Symbol("q", positive=True)

Activation: TypeAlias = str | Expr | Callable[[Expr], Expr]

_NAMED = {
    "identity": lambda x: x, "linear": lambda x: x, "tanh": sympy.tanh, "erf": sympy.erf,
    "sin": sympy.sin, "cos": sympy.cos, "exp": sympy.exp, "abs": functions.absolute,
    "leaky_relu": lambda x: functions.leaky_relu(x, Rational(1, 100)),
    "elu": lambda x: functions.elu(x, 1),
}  # fmt: skip


@dataclass(frozen=True)
class Moments:
    """E[φ(z)], E[φ(z)²] and E[φ'(z)²] for z normal with mean 0 and a variance.

    Each is an exact expression where SymPy arithmetic gives one, else an `Estimate` with its
    error bound; ``method`` says which, per moment.
    """

    function: Expr
    variance: Expr
    mean: Expr | Estimate
    second: Expr | Estimate
    derivative: Expr | Estimate

    @property
    def method(self) -> dict[str, str]:
        return {
            name: "quadrature" if isinstance(getattr(self, name), Estimate) else "closed form"
            for name in ("mean", "second", "derivative")
        }

    def __str__(self) -> str:
        return "\n".join(
            f"{label} = {getattr(self, name)}"
            for label, name in (("E[f]", "mean"), ("E[f^2]", "second"), ("E[f'^2]", "derivative"))
        )


def scalar_function(phi: Activation) -> Expr:
    """An activation as an expression in `X`.

    Args:
        phi: a name such as "relu" or "tanh", a function of `derive` or SymPy, or an expression
            in one symbol.

    Raises:
        DeclarationError: the name is unknown, or the expression has more than one symbol.
    """
    if isinstance(phi, str):
        known = {**functions.REGISTRY, **_NAMED}
        if phi not in known:
            guess = nearest(phi, known)
            raise DeclarationError(
                f"no activation is called {phi!r}", expected="one of " + ", ".join(sorted(known)),
                mend=f"did you mean {guess!r}?" if guess else None,
            )
        return known[phi](X)
    if isinstance(phi, Expr):
        free = sorted(phi.free_symbols, key=str) + list(phi.atoms(Access))
        if len(free) != 1:
            raise DeclarationError(
                f"{phi} is no function of one variable", expected="exactly one symbol",
                got=", ".join(map(str, free)) or "none",
            )
        return phi.xreplace({free[0]: X})
    return exact(phi(X))


def slope_of(f: Expr) -> Expr:
    """f', in the forms that do not overflow; what is taken at a kink no integral sees."""
    return f.diff(X)


def increasing(f: Expr) -> bool:
    """Whether a function of `X` never falls, judged on a fine grid."""
    values = compiled(f, X)(np.linspace(-30, 30, 12001))
    return bool((np.diff(values) >= -1e-12 * np.abs(values[1:])).all())


def gaussian(f: Expr, variance: Expr | float) -> Expr | Estimate:
    """E[f(z)], f an expression in `X`: an exact expression or an estimate with its bound.

    Raises:
        DeclarationError: there is no closed form and the variance is a symbol.
    """
    q = exact(variance)
    if q.free_symbols:
        found = expectation(f, X, Q)
        if found is None:
            raise DeclarationError(
                f"E[{f}] has no closed form, so it needs a number for the variance",
                got=str(q), mend="give the variance as a number",
            )
        return found.xreplace({Q: q})
    found = expectation(f, X, Q) if q > 0 else unfold(f).subs(X, 0)
    numeric = expect(compiled(f, X), float(q))
    if found is not None:
        value = found.subs(Q, q)
        if abs(float(value.evalf(30)) - numeric.value) <= numeric.error + 1e-9 * abs(numeric.value):
            return value
    return numeric


def moments(phi: Activation, variance: Expr | float = 1) -> Moments:
    """E[φ], E[φ²] and E[φ'²] of an activation under a Gaussian of mean 0.

    Args:
        phi: see `scalar_function`.
        variance: a number, or a symbol where a closed form exists (relu, leaky relu, elu, erf,
            gelu, abs, sin, polynomials, and sums of such).

    Returns:
        Exact expressions, or estimates with error bounds (tanh, sigmoid, silu, softplus).
    """
    f = scalar_function(phi)
    return Moments(
        f, exact(variance),
        gaussian(f, variance), gaussian(f**2, variance), gaussian(slope_of(f) ** 2, variance),
    )


def gain(
    phi: Activation, variance: Expr | float = 1, direction: str = "forward"
) -> Expr | Estimate:
    """The σ_w that keeps a variance through weights of variance σ_w²/fan and the activation.

    Args:
        phi: see `scalar_function`.
        variance: of the pre-activation that is to be kept; for relu and its kin any is kept.
        direction: "forward" keeps the signal, √(q/E[φ²]) over the fan-in; "backward" keeps the
            adjoint, √(1/E[φ'²]) over the fan-out.

    Returns:
        An exact expression such as √2, or an estimate with an error bound.
    """
    if direction not in ("forward", "backward"):
        raise DeclarationError(
            f"unknown direction {direction!r}", expected='"forward" or "backward"'
        )
    f = scalar_function(phi)
    keep, through = (exact(variance), f**2) if direction == "forward" else (S.One, slope_of(f) ** 2)
    second = gaussian(through, variance)
    if isinstance(second, Estimate):
        value = (float(keep) / second.value) ** 0.5
        return Estimate(value, value * second.error / second.value / 2)
    return sympy.sqrt(sympy.simplify(keep / second))


@dataclass(frozen=True)
class Initialisation:
    """Variances of a weight: what the signal wants, what the adjoint wants, and between them."""

    forward: Expr | Estimate
    backward: Expr | Estimate
    compromise: Expr | Estimate


def initialisation(phi: Activation, fan_in: Expr | int, fan_out: Expr | int,
                   variance: Expr | float = 1) -> Initialisation:
    """The weight variance that an activation demands, derived.

    The signal is kept by v = q/(n_in E[φ²]), the adjoint by v = 1/(n_out E[φ'²]). Both at once
    needs n_in E[φ²]/q = n_out E[φ'²]; the compromise divides by their mean, which for the
    identity is Glorot and Bengio's 2/(n_in + n_out) (2010) and for relu twice that.
    """
    forward, backward = (gain(phi, variance, way) for way in ("forward", "backward"))
    n_in, n_out = exact(fan_in), exact(fan_out)
    if isinstance(forward, Estimate) or isinstance(backward, Estimate):
        a, b = _number(forward) ** 2, _number(backward) ** 2
        n, m = float(n_in), float(n_out)
        bound = 2 * max(getattr(g, "error", 0.0) for g in (forward, backward))
        return Initialisation(
            *(Estimate(v, v * bound) for v in (a / n, b / m, 2 / (n / a + m / b)))
        )
    return Initialisation(
        forward**2 / n_in, backward**2 / n_out,
        sympy.simplify(2 / (n_in / forward**2 + n_out / backward**2)),
    )


def _number(value: Expr | Estimate) -> float:
    return value.value if isinstance(value, Estimate) else float(value)


def self_normalising() -> tuple[Expr, Expr]:
    """``λ, α`` of SELU as exact expressions (Klambauer et al. 2017): f(x) = λ x for x > 0, else
    λ α (eˣ - 1), with E[f(z)] = 0 and E[f(z)²] = 1 for z standard normal.

    E[f] = 0 is linear in α and does not depend on λ; E[f²] = 1 then gives λ.
    """
    alpha = Symbol("alpha", positive=True)
    shape = Select(X > 0, X, alpha * (sympy.exp(X) - 1))
    zero = expectation(shape, X, S.One)
    square = expectation(shape**2, X, S.One)
    assert zero is not None and square is not None
    solved = sympy.solve(zero, alpha)[0]
    return 1 / sympy.sqrt(square.xreplace({alpha: solved})), solved


def selu(x: Expr) -> Expr:
    """SELU with its constants as derived by `self_normalising`, as an expression in ``x``."""
    scale, alpha = (value.evalf(25) for value in self_normalising())
    return Select(x > 0, scale * x, scale * alpha * (sympy.exp(x) - 1))
