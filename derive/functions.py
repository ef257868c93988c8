"""Elementary functions: the one place where a function of scalars is defined.

A function that SymPy knows (exp, tanh, sin, erf, sqrt, …) needs nothing here. One of ours is a
class with a definition in primitives, its derivative (in terms of its own output ``y`` where that
is what people and kernels use), a stable form for floating point, a LaTeX name and its kinks.
Gradients, numeric checks, kernels, documents and the list in the command line come from
`REGISTRY`; a test proves each derivative from its definition with SymPy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import ClassVar

import sympy
from sympy import Expr, Function, Rational, S, exp, log, sqrt
from sympy.codegen.cfunctions import expm1, log1p

from derive.errors import DeclarationError
from derive.nodes import Select

REGISTRY: dict[str, type[Elementary]] = {}


class Elementary(Function):
    """Base of our elementary functions of one scalar ``x`` and constant settings.

    Class attributes: ``symbol`` is the LaTeX of its name; ``kinks`` are the points of ``x`` where
    the derivative jumps; ``subgradient`` says in words which value is taken there; ``surrogate``
    says that the declared derivative is not that of the definition, on purpose.
    """

    symbol: ClassVar[str] = ""
    kinks: ClassVar[tuple[Expr, ...]] = ()
    subgradient: ClassVar[str] = ""
    monotone: ClassVar[bool] = True
    surrogate: ClassVar[bool] = False
    is_real = True

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        REGISTRY[cls.__name__] = cls

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        """The function in primitives: what it means."""
        raise NotImplementedError

    @classmethod
    def stable(cls, x: Expr, *settings: Expr) -> Expr:
        """The form that kernels compute; by default the definition."""
        return cls.define(x, *settings)

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        """The derivative with respect to ``x``; ``y`` is the function's own output."""
        raise NotImplementedError

    def fdiff(self, argindex: int = 1) -> Expr:
        if argindex != 1:
            # A setting is a constant of the network; nothing differentiates by it.
            raise sympy.ArgumentIndexError(self, argindex)
        return type(self).derive(self.args[0], self, *self.args[1:])

    def _eval_derivative(self, symbol: sympy.Symbol) -> Expr:
        inner = self.args[0].diff(symbol)
        return S.Zero if inner == 0 else self.fdiff(1) * inner

    def _eval_evalf(self, precision: int) -> Expr:
        return type(self).define(*self.args)._eval_evalf(precision)


class sigmoid(Elementary):
    symbol = r"\sigma"

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return 1 / (1 + exp(-x))

    @classmethod
    def stable(cls, x: Expr, *settings: Expr) -> Expr:
        # exp of a positive number would overflow in single precision from 89 on
        small = exp(-absolute(x))
        return Select(x >= 0, 1, small) / (1 + small)

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return y * (1 - y)


class relu(Elementary):
    symbol = r"\operatorname{relu}"
    kinks = (S.Zero,)
    subgradient = "relu'(0) = 0"

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return Select(x > 0, x, S.Zero)

    @classmethod
    def stable(cls, x: Expr, *settings: Expr) -> Expr:
        return Select(x <= 0, S.Zero, x)  # a NaN passes through

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return step(y)  # y > 0 exactly where x > 0


class step(Elementary):
    """The indicator of x > 0; its own derivative is 0 everywhere it has one."""

    symbol = r"\mathbf{1}_{>0}"
    kinks = (S.Zero,)
    subgradient = "step'(0) = 0"

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return Select(x > 0, S.One, S.Zero)

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return S.Zero


class sign(Elementary):
    """-1, 0 or 1: the derivative of abs."""

    symbol = r"\operatorname{sign}"
    kinks = (S.Zero,)
    subgradient = "sign'(0) = 0"

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return Select(x > 0, S.One, Select(x < 0, S.NegativeOne, S.Zero))

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return S.Zero


class absolute(Elementary):
    symbol = r"\operatorname{abs}"
    kinks = (S.Zero,)
    subgradient = "abs'(0) = 0"
    monotone = False

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return Select(x < 0, -x, x)

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return sign(x)


class stop_gradient(Elementary):
    """The value of its argument, declared to have the derivative 0."""

    symbol = r"\operatorname{sg}"
    surrogate = True

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return x

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return S.Zero


class leaky_relu(Elementary):
    """x for x > 0, else slope·x; the slope lies in (0, 1)."""

    symbol = r"\operatorname{lrelu}"
    nargs = (2,)
    kinks = (S.Zero,)
    subgradient = "leaky_relu'(0) = slope"

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return Select(x > 0, x, settings[0] * x)

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return Select(y > 0, S.One, settings[0])


class elu(Elementary):
    """x for x > 0, else alpha·(e^x - 1)."""

    symbol = r"\operatorname{elu}"
    nargs = (2,)
    kinks = (S.Zero,)
    subgradient = "elu'(0) = alpha"

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return Select(x > 0, x, settings[0] * (exp(x) - 1))

    @classmethod
    def stable(cls, x: Expr, *settings: Expr) -> Expr:
        return Select(x > 0, x, settings[0] * expm1(x))

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return Select(y > 0, S.One, y + settings[0])


class softplus(Elementary):
    symbol = r"\operatorname{softplus}"

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return log(1 + exp(x))

    @classmethod
    def stable(cls, x: Expr, *settings: Expr) -> Expr:
        return Select(x > 0, x, S.Zero) + log1p(exp(-absolute(x)))  # exp of x would overflow

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return sigmoid(x)


class gelu(Elementary):
    """x·Φ(x) with the exact normal distribution function (Hendrycks and Gimpel 2016)."""

    symbol = r"\operatorname{gelu}"
    monotone = False

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return x * (1 + sympy.erf(x / sqrt(2))) / 2

    @classmethod
    def stable(cls, x: Expr, *settings: Expr) -> Expr:
        # 1 + erf cancels for negative x (SymPy turns erfc(-x) back into it, hence absolute); the
        # tail is no side of a choice, for in vectors both sides are computed
        tail = sympy.erfc(absolute(x) / sqrt(2))
        return x * (Select(x < 0, 0, 2) + Select(x < 0, 1, -1) * tail) / 2

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        density = exp(-(x**2) / 2) / sqrt(2 * sympy.pi)
        return (1 + sympy.erf(x / sqrt(2))) / 2 + x * density


class silu(Elementary):
    """x·σ(x), also called swish."""

    symbol = r"\operatorname{silu}"
    monotone = False

    @classmethod
    def define(cls, x: Expr, *settings: Expr) -> Expr:
        return x / (1 + exp(-x))

    @classmethod
    def stable(cls, x: Expr, *settings: Expr) -> Expr:
        return x * sigmoid(x)

    @classmethod
    def derive(cls, x: Expr, y: Expr, *settings: Expr) -> Expr:
        return sigmoid(x) * (1 + x - y)


def sample_settings(function: type[Elementary]) -> tuple[Expr, ...]:
    """Settings to try a function with, where it takes some."""
    return (Rational(1, 4),) if function.nargs == sympy.FiniteSet(2) else ()


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two; where they are equal each gets half of the derivative."""
    return Select(a > b, a, Select(a < b, b, (a + b) / 2))


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two; where they are equal each gets half of the derivative."""
    return Select(a < b, a, Select(a > b, b, (a + b) / 2))


def native(expr: Expr) -> Expr:
    """SymPy's own piecewise functions in terms of ours, whose kinks have a declared derivative."""
    if not expr.has(*_FOREIGN):
        return expr
    return expr.replace(lambda e: isinstance(e, tuple(_FOREIGN)), lambda e: _FOREIGN[e.func](e))


def _piecewise(expr: Expr) -> Expr:
    (*others, (last, condition)) = expr.args
    if condition != True:  # noqa: E712  (SymPy's true)
        raise DeclarationError(
            f"{expr} has no value where none of its conditions holds",
            expected="a last branch (value, True)",
        )
    for value, condition in reversed(others):
        last = Select(condition, value, last)
    return last


_FOREIGN: dict[type, Callable[[Expr], Expr]] = {
    sympy.Piecewise: _piecewise,
    sympy.Max: lambda e: reduce(maximum, e.args),
    sympy.Min: lambda e: reduce(minimum, e.args),
    sympy.Abs: lambda e: absolute(e.args[0]),
    sympy.sign: lambda e: sign(e.args[0]),
    sympy.Heaviside: lambda e: step(e.args[0]),
}
