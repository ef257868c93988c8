"""Gaussian integrals as nodes of an expression: exact where a closed form exists, else evaluated
by quadrature when numbers are known.

``GaussianMoment(f, m, q)`` is E[f(z)] and ``PairMoment(f, g, m, q, r)`` is E[f(z₁) g(z₂)], where
z is normal with mean m and *second moment* q, and r = E[z₁ z₂]; f and g are expressions in `X`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import sympy
from sympy import Expr, Mul, S, Symbol

from derive.flow.closed import expectation, pair_covariance_derivative
from derive.flow.moments import Q, X
from derive.flow.quadrature import compiled, expect, expect_pair, softmax_second_moment
from derive.nodes import Select


class Integral(Expr):
    is_commutative = True
    is_real = True


class GaussianMoment(Integral):
    """E[f(z)] for z normal with mean m and second moment q."""

    def __new__(cls, f: Expr, m: Expr, q: Expr) -> Expr:
        if not f.has(X):
            return f
        if f == X:
            return m
        if f == X**2:
            return q
        line = _coefficients(f, 2)
        if line is not None:
            return line[0] + line[1] * m + line[2] * q
        constant, rest = f.as_independent(X, as_Add=False)
        if constant != 1:
            return constant * cls(rest, m, q)
        if m == 0:
            if _odd(f):
                return S.Zero
            closed = _closed(f)
            if closed is not None:
                return closed.xreplace({Q: q})
        return Expr.__new__(cls, f, m, q)

    def _sympystr(self, printer: object) -> str:
        f, m, q = self.args
        mean = f"{m}, " if m != 0 else ""
        return f"E[{f.xreplace({X: Symbol('z')})}; z ~ {mean}{q}]"


class PairMoment(Integral):
    """E[f(z₁) g(z₂)] for z₁, z₂ jointly normal with mean m, second moment q and E[z₁ z₂] = r."""

    def __new__(cls, f: Expr, g: Expr, m: Expr, q: Expr, r: Expr) -> Expr:
        if r == q:
            return GaussianMoment(f * g, m, q)
        if r == m**2 or not f.has(X) or not g.has(X):
            return GaussianMoment(f, m, q) * GaussianMoment(g, m, q)
        left, right = _coefficients(f, 1), _coefficients(g, 1)
        if left is not None and right is not None:
            (a, b, _), (c, d, _) = left, right
            return a * c + (a * d + b * c) * m + b * d * r
        cf, f = f.as_independent(X, as_Add=False)
        cg, g = g.as_independent(X, as_Add=False)
        if f == X and g == X:
            return cf * cg * r
        if f == g and m == 0:
            closed = _closed_pair(f)
            if closed is not None:
                return cf * cg * closed.xreplace({Q: q, _R: r})
        return cf * cg * Expr.__new__(cls, f, g, m, q, r)

    def _sympystr(self, printer: object) -> str:
        f, g, _, q, r = self.args
        a, b = f.xreplace({X: Symbol("z")}), g.xreplace({X: Symbol("z'")})
        return f"E[({a})*({b}); {q}, {r}]"


class SoftmaxSecondMoment(Integral):
    """E[p²] for p a softmax over ``count`` independent normal logits of one variance."""

    def __new__(cls, variance: Expr, count: Expr) -> Expr:
        return Expr.__new__(cls, variance, count)

    def _sympystr(self, printer: object) -> str:
        return f"E[softmax^2; {self.args[0]}, {self.args[1]}]"


_R = Symbol("_r", nonnegative=True)


@lru_cache(maxsize=4096)
def _coefficients(f: Expr, degree: int) -> tuple[Expr, Expr, Expr] | None:
    """c₀, c₁, c₂ of a polynomial in X of at most this degree (2 or less)."""
    if f.has(Select) or not f.is_polynomial(X) or sympy.degree(f, X) > degree:
        return None
    poly = sympy.Poly(f, X)
    return tuple(poly.coeff_monomial(X**n) for n in range(3))  # type: ignore[return-value]


@lru_cache(maxsize=4096)
def _odd(f: Expr) -> bool:
    """Whether f(-x) = -f(x): its expectation under a symmetric density is 0."""
    return f.xreplace({X: -X}) == -f


@lru_cache(maxsize=1024)
def _closed(f: Expr) -> Expr | None:
    """A closed form in Q that quadrature confirms at two variances: one slip in the algebra and
    the form is not used."""
    found = expectation(f, X, Q)
    if found is None:
        return None
    settings = {s: sympy.Rational(3, 7) for s in f.free_symbols - {X}}
    for variance in (0.3, 2.0):
        numeric = expect(compiled(f.xreplace(settings), X), variance)
        value = float(found.xreplace({Q: sympy.Float(variance, 30), **settings}))
        if not abs(value - numeric.value) <= numeric.error + 1e-10 * abs(numeric.value):
            return None
    return found


@lru_cache(maxsize=1024)
def _closed_pair(f: Expr) -> Expr | None:
    found = None if f.free_symbols - {X} else pair_covariance_derivative(f, X, Q, _R)
    if found is None:
        return None
    call = compiled(f, X)
    numeric = expect_pair(call, call, 2.0, 0.7, points=14, halvings=12)
    value = float(found.xreplace({Q: sympy.Float(2, 30), _R: sympy.Float("0.7", 30)}))
    return found if abs(value - numeric) <= 1e-7 * max(abs(numeric), 1.0) else None


def number(expr: Expr, values: Mapping[Symbol, float]) -> float:
    """The value of an expression with integrals; every symbol must have a value.

    Raises:
        KeyError: a symbol without a value (its name).
    """
    if expr.is_Symbol:
        return values[expr]
    if expr.is_number and not expr.has(Integral):
        return float(expr)
    return _numeric(expr)(values)


class _Compiled:
    """An expression with its integrals replaced by symbols, ready to be evaluated often."""

    def __init__(self, expr: Expr) -> None:
        self.nodes: list[Expr] = []
        walk = sympy.preorder_traversal(expr)
        for node in walk:
            if isinstance(node, Integral):
                walk.skip()
                if node not in self.nodes:
                    self.nodes.append(node)
        there = {n: Symbol(f"_g{k}") for k, n in enumerate(self.nodes)}
        plain = expr.xreplace(there)
        self.symbols = sorted(plain.free_symbols - set(there.values()), key=str)
        marks = [there[n] for n in self.nodes]
        dummies = {s: Symbol(f"_s{k}") for k, s in enumerate(self.symbols)}
        self.call = sympy.lambdify(
            [*dummies.values(), *marks], plain.xreplace(dummies), modules=["math", "scipy"]
        )

    def __call__(self, values: Mapping[Symbol, float]) -> float:
        try:
            inner = [_integral(n, values) for n in self.nodes]
            return float(self.call(*(values[s] for s in self.symbols), *inner))
        except OverflowError:
            return float("inf")
        except (ZeroDivisionError, ValueError):
            return float("nan")


@lru_cache(maxsize=65536)
def _numeric(expr: Expr) -> _Compiled:
    return _Compiled(expr)


def _integral(node: Expr, values: Mapping[Symbol, float]) -> float:
    if isinstance(node, GaussianMoment):
        f, *rest = node.args
        return _moment(_settled(f, values), *(number(a, values) for a in rest))
    if isinstance(node, SoftmaxSecondMoment):
        return _softmax(*(number(a, values) for a in node.args))
    f, g, *rest = node.args
    return _pair(_settled(f, values), _settled(g, values), *(number(a, values) for a in rest))


def _settled(f: Expr, values: Mapping[Symbol, float]) -> Expr:
    """Symbols besides the variable, such as the mean of a normalisation, as numbers."""
    others = f.free_symbols - {X}
    return f.xreplace({s: sympy.Float(values[s]) for s in others}) if others else f


@lru_cache(maxsize=65536)
def _moment(f: Expr, m: float, q: float) -> float:
    return expect(compiled(f, X), max(q - m * m, 0.0), m).value


@lru_cache(maxsize=65536)
def _pair(f: Expr, g: Expr, m: float, q: float, r: float) -> float:
    first = compiled(f, X)
    second = first if f == g else compiled(g, X)
    return expect_pair(first, second, max(q - m * m, 0.0), r - m * m, m)


@lru_cache(maxsize=4096)
def _softmax(variance: float, count: float) -> float:
    return softmax_second_moment(max(variance, 0.0), round(count))


def product(factors: list[Expr]) -> Expr:
    """The product, 0 as soon as one factor is."""
    return S.Zero if any(f == 0 for f in factors) else Mul(*factors)
