"""Gaussian integrals as nodes of an expression: exact where a closed form exists, else evaluated
by quadrature when numbers are known.

``GaussianMoment(f, m, q)`` is E[f(z)] and ``PairMoment(f, g, m, q, r)`` is E[f(z₁) g(z₂)], where
z is normal with mean m and *second moment* q, and r = E[z₁ z₂]; f and g are expressions in `X`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import sympy
from sympy import Expr, Mul, S, Symbol

from derive.flow.closed import expectation, pair_covariance_derivative
from derive.flow.moments import Q, X
from derive.flow.quadrature import (
    Scalar,
    compiled,
    expect,
    expect_largest,
    expect_pair,
    softmax_second_moment,
)
from derive.nodes import Select


class GaussianIntegral(Expr):
    is_commutative = True
    is_real = True


class GaussianMoment(GaussianIntegral):
    """E[f(z)] for z normal with mean m and second moment q."""

    def __new__(cls, f: Expr, m: Expr, q: Expr) -> Expr:
        if not f.has(X):
            return f
        if f == X:
            return m
        if f == X**2:
            return q
        constant, rest = f.as_independent(X, as_Add=False)
        if constant != 1:
            return constant * cls(rest, m, q)
        line = _coefficients(f, 2)
        if line is not None:
            return line[0] + line[1] * m + line[2] * q
        if m == 0:
            if _odd(f):
                return S.Zero
            others = _others(f)
            closed = _closed(_canonical(f, others))
            if closed is not None:
                back = {Symbol(f"_o{k}", real=True): s for k, s in enumerate(others)}
                return closed.xreplace({Q: q, **back})
        return Expr.__new__(cls, f, m, q)

    def _sympystr(self, printer: object) -> str:
        f, m, q = self.args
        mean = f"{m}, " if m != 0 else ""
        return f"E[{f.xreplace({X: Symbol('z')})}; z ~ {mean}{q}]"


class PairMoment(GaussianIntegral):
    """E[f(z₁) g(z₂)] for z₁, z₂ jointly normal with mean m, second moment q and E[z₁ z₂] = r."""

    def __new__(cls, f: Expr, g: Expr, m: Expr, q: Expr, r: Expr) -> Expr:
        if r == q:
            return GaussianMoment(f * g, m, q)
        if r == m**2 or not f.has(X) or not g.has(X):
            return GaussianMoment(f, m, q) * GaussianMoment(g, m, q)
        cf, f = f.as_independent(X, as_Add=False)
        cg, g = g.as_independent(X, as_Add=False)
        left, right = _coefficients(f, 1), _coefficients(g, 1)
        if left is not None and right is not None:
            (a, b, _), (c, d, _) = left, right
            return cf * cg * (a * c + (a * d + b * c) * m + b * d * r)
        if f == g and m == 0:
            closed = _closed_pair(f)
            if closed is not None:
                return cf * cg * closed.xreplace({Q: q, _R: r})
        return cf * cg * Expr.__new__(cls, f, g, m, q, r)

    def _sympystr(self, printer: object) -> str:
        f, g, _, q, r = self.args
        a, b = f.xreplace({X: Symbol("z")}), g.xreplace({X: Symbol("z'")})
        return f"E[({a})*({b}); {q}, {r}]"


class SoftmaxSecondMoment(GaussianIntegral):
    """E[p²] for p a softmax over ``count`` independent normal logits of one variance."""

    def __new__(cls, variance: Expr, count: Expr) -> Expr:
        return Expr.__new__(cls, variance, count)

    def _sympystr(self, printer: object) -> str:
        return f"E[softmax^2; {self.args[0]}, {self.args[1]}]"


class LargestMoment(GaussianIntegral):
    """E[f(y)] for y the largest of ``count`` normal z with mean m, second moment q and
    E[z z'] = r among each other; with ``pairs`` E[f(y) f(y')] over two such groups that share
    only what all z share."""

    def __new__(cls, f: Expr, m: Expr, q: Expr, r: Expr, count: Expr, pairs: Expr) -> Expr:
        return Expr.__new__(cls, f, m, q, r, count, pairs)

    def _sympystr(self, printer: object) -> str:
        f, _, q, r, count, _ = self.args
        return f"E[{f.xreplace({X: Symbol('z')})}; z = largest of {count} with {q}, {r}]"


_R = Symbol("_r", nonnegative=True)


@lru_cache(maxsize=4096)
def _coefficients(f: Expr, degree: int) -> tuple[Expr, Expr, Expr] | None:
    """c₀, c₁, c₂ of a polynomial in X of at most this degree (2 or less)."""
    if f == X:
        return S.Zero, S.One, S.Zero
    if f.atoms(sympy.Function) or f.has(Select) or not f.is_polynomial(X):
        return None
    if sympy.degree(f, X) > degree:
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
    if found is None or found.has(sympy.erfc):  # exp(2q) erfc(√2q) overflows where it counts
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
    # a kink inside the inner integral costs the quadrature digits; a slip would cost all of them
    return found if abs(value - numeric) <= 1e-3 * max(abs(numeric), 1.0) else None


def number(expr: Expr, values: Mapping[Symbol, float]) -> float:
    """The value of an expression with integrals; every symbol must have a value.

    Raises:
        KeyError: a symbol without a value (its name).
    """
    if expr.is_Symbol:
        return values[expr]
    if expr.is_number and not expr.has(GaussianIntegral):
        return float(expr)
    return _numeric(expr)(values)


@lru_cache(maxsize=4096)
def _function(canonical: Expr, arguments: tuple[Symbol, ...]) -> Callable[..., float]:
    return sympy.lambdify(arguments, canonical, modules=["math", "scipy"])


class _Compiled:
    """An expression with its integrals replaced by symbols, ready to be evaluated often; what
    differs in the names of symbols only is compiled once."""

    def __init__(self, expr: Expr) -> None:
        self.nodes: list[Expr] = []
        walk = sympy.preorder_traversal(expr)
        for node in walk:
            if isinstance(node, GaussianIntegral):
                walk.skip()
                if node not in self.nodes:
                    self.nodes.append(node)
        there = {n: Symbol(f"_g{k}") for k, n in enumerate(self.nodes)}
        plain = expr.xreplace(there)
        marks = tuple(there.values())
        self.symbols = [
            s for s in dict.fromkeys(n for n in sympy.preorder_traversal(plain) if n.is_Symbol)
            if s not in marks
        ]
        dummies = {s: Symbol(f"_s{k}") for k, s in enumerate(self.symbols)}
        self.call = _function(plain.xreplace(dummies), (*dummies.values(), *marks))

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
    if isinstance(node, SoftmaxSecondMoment):
        return _softmax(*(number(a, values) for a in node.args))
    if isinstance(node, LargestMoment):
        f, *rest = node.args
        return _largest(f, *(number(a, values) for a in rest))
    functions = node.args[:1] if isinstance(node, GaussianMoment) else node.args[:2]
    others = _others(*functions)
    settings = tuple(values[s] for s in others)
    rest = (number(a, values) for a in node.args[len(functions):])
    if isinstance(node, GaussianMoment):
        return _moment(_canonical(functions[0], others), settings, *rest)
    return _pair(*(_canonical(f, others) for f in functions), settings, *rest)


def _others(*functions: Expr) -> tuple[Symbol, ...]:
    """Symbols besides the variable, such as the variance that a normalisation divides by."""
    found = set().union(*(f.free_symbols for f in functions)) - {X}
    return tuple(sorted(found, key=str))


def _canonical(f: Expr, others: tuple[Symbol, ...]) -> Expr:
    """Other symbols by position, so that every layer of a kind shares one compiled function."""
    return f.xreplace({s: Symbol(f"_o{k}", real=True) for k, s in enumerate(others)})


def _bound(f: Expr, settings: tuple[float, ...]) -> Scalar:
    call = compiled(f, X, *(Symbol(f"_o{k}", real=True) for k in range(len(settings))))
    return (lambda z: call(z, *settings)) if settings else call


@lru_cache(maxsize=65536)
def _moment(f: Expr, settings: tuple[float, ...], m: float, q: float) -> float:
    return expect(_bound(f, settings), max(q - m * m, 0.0), m).value


@lru_cache(maxsize=65536)
def _pair(f: Expr, g: Expr, settings: tuple[float, ...], m: float, q: float, r: float) -> float:
    first = _bound(f, settings)
    second = first if f == g else _bound(g, settings)
    return expect_pair(first, second, max(q - m * m, 0.0), r - m * m, m)


@lru_cache(maxsize=4096)
def _largest(f: Expr, m: float, q: float, r: float, count: float, pairs: float) -> float:
    shared, own = max(r - m * m, 0.0), max(q - max(r, m * m), 0.0)
    return expect_largest(compiled(f, X), m, shared, own, round(count), bool(pairs))


@lru_cache(maxsize=4096)
def _softmax(variance: float, count: float) -> float:
    return softmax_second_moment(max(variance, 0.0), round(count))


def product(factors: list[Expr]) -> Expr:
    """The product, 0 as soon as one factor is."""
    return S.Zero if any(f == 0 for f in factors) else Mul(*factors)
