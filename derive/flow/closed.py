"""Gaussian expectations in closed form: E[f(z)] for z normal with mean 0 and variance q.

f may be a sum of terms c · xⁿ · exp(a + b x - e x²) · erf(k x)^m (m ≤ 2), with sines and cosines
written as exponentials, and may change its form at 0 (relu, leaky relu, elu, abs). Everything
comes out of integration by parts (Stein's lemma, E[z g(z)] = q E[g'(z)]) and, for erf squared,
out of Price's theorem; nothing is looked up. What has another form gives None.
"""

from __future__ import annotations

from functools import lru_cache

import sympy
from sympy import Add, Dummy, Expr, Mul, Pow, S, Symbol, erf, erfc, exp, pi, sqrt

from derive.functions import Elementary
from derive.nodes import Select

_POSITIVE = Symbol("_p", positive=True)


class _NoForm(Exception):
    """The integrand has no form that the recursions know."""


def unfold(expr: Expr, stable: bool = False) -> Expr:
    """Our elementary functions written out in primitives."""
    while True:
        ours = [node for node in expr.atoms(sympy.Function) if isinstance(node, Elementary)]
        if not ours:
            return expr
        inner = [f for f in ours if not any(isinstance(a, Elementary) for a in _below(f))]
        form = "stable" if stable else "define"
        expr = expr.xreplace({f: getattr(type(f), form)(*f.args) for f in inner})


def _below(node: Expr) -> set[Expr]:
    return {f for arg in node.args for f in arg.atoms(sympy.Function)}


@lru_cache(maxsize=2048)
def expectation(f: Expr, x: Symbol, q: Expr) -> Expr | None:
    """E[f(z)] with z normal, mean 0 and variance ``q``, or None where no closed form is known."""
    body = unfold(f)
    try:
        if not body.has(x):
            return body
        if not body.has(Select):
            return _tidy(_line(body, x, q))
        right = _branch(body.xreplace({x: _POSITIVE}))
        left = _branch(body.xreplace({x: -_POSITIVE}))
        return _tidy(_half(right, _POSITIVE, q) + _half(left, _POSITIVE, q))
    except _NoForm:
        return None


def _tidy(expr: Expr) -> Expr:
    """Erf of a negative argument and powers of the same base brought together."""
    if expr.has(sympy.I):
        expr = sympy.simplify(expr.rewrite(sympy.cos)) if expr.has(exp) else sympy.expand(expr)
        if expr.has(sympy.I):
            raise _NoForm
    return sympy.powsimp(sympy.expand(expr)) if not expr.has(sympy.asin) else expr


def _branch(expr: Expr) -> Expr:
    """Selections resolved where x has one sign; a condition that SymPy cannot decide is decided
    by its value at points of that side, where all agree."""
    while expr.has(Select):
        node = next(
            n for n in sympy.postorder_traversal(expr)
            if isinstance(n, Select) and not any(a.has(Select) for a in n.args)
        )
        expr = expr.xreplace({node: node.yes if _decide(node.condition) else node.no})
    return expr


def _decide(condition: Expr) -> bool:
    if condition in (S.true, S.false):
        return bool(condition)
    points = [sympy.Rational(n, 100) for n in (1, 10, 50, 100, 300, 1000)]
    truths = {condition.xreplace({_POSITIVE: p}) for p in points}
    if truths == {S.true} or truths == {S.false}:
        return truths == {S.true}
    raise _NoForm


def _terms(expr: Expr, x: Symbol) -> list[Expr]:
    if expr.has(sympy.sin, sympy.cos):
        expr = expr.rewrite(exp)
    expr = expr.rewrite(exp) if expr.has(sympy.sinh, sympy.cosh) else expr
    return list(Add.make_args(sympy.powsimp(sympy.expand(expr), combine="exp")))


def _parse(term: Expr, x: Symbol) -> tuple[Expr, int, Expr, Expr, Expr, int]:
    """``c, n, b, e, k, m`` of the term c xⁿ exp(b x - e x²) erf(k x)^m."""
    c: Expr = S.One
    n, b, e, k, m = 0, S.Zero, S.Zero, S.Zero, 0
    for factor in Mul.make_args(term):
        if not factor.has(x):
            c *= factor
        elif factor == x or (isinstance(factor, Pow) and factor.base == x):
            power = factor.as_base_exp()[1]
            if not (power.is_Integer and power > 0):
                raise _NoForm
            n += int(power)
        elif isinstance(factor, exp):
            poly = sympy.Poly(factor.args[0], x) if factor.args[0].is_polynomial(x) else None
            if poly is None or poly.degree() > 2:
                raise _NoForm
            b, e = b + poly.coeff_monomial(x), e - poly.coeff_monomial(x**2)
            c *= exp(poly.coeff_monomial(1))
        else:
            base, power = factor.as_base_exp()
            slope = base.args[0] / x if isinstance(base, erf) else x
            if slope.has(x) or k != 0 or power not in (1, 2):
                raise _NoForm
            k, m = slope, int(power)
    return c, n, b, e, k, m


def _tilt(q: Expr, e: Expr) -> tuple[Expr, Expr]:
    """exp(-e x²) times the density of variance q is a density of variance s, times a factor."""
    return q / (1 + 2 * e * q), 1 / sqrt(1 + 2 * e * q)


def _line(expr: Expr, x: Symbol, q: Expr) -> Expr:
    total: Expr = S.Zero
    for term in _terms(expr, x):
        c, n, b, e, k, m = _parse(term, x)
        s, factor = _tilt(q, e)
        if m and b != 0:
            raise _NoForm
        total += c * factor * (_erf_moment(n, k, m, s) if m else _moment(n, b, s))
    return total


def _moment(n: int, b: Expr, s: Expr) -> Expr:
    """E[zⁿ e^{bz}] = s((n-1) E[z^{n-2} e^{bz}] + b E[z^{n-1} e^{bz}])."""
    values = [exp(b**2 * s / 2)]
    for k in range(1, n + 1):
        values.append(s * (b * values[k - 1] + ((k - 1) * values[k - 2] if k > 1 else 0)))
    return values[n]


def _erf_moment(n: int, k: Expr, m: int, s: Expr) -> Expr:
    """E[zⁿ erf(kz)^m] by parts; erf'(kz) = 2k/√π exp(-k²z²) tilts the variance."""
    if m == 0:
        return _moment(n, S.Zero, s)
    if (n + m) % 2:
        return S.Zero
    if n == 0:  # m = 2: Price's theorem, the integral of E[erf' erf'] over the covariance
        t = 2 * k**2 * s
        return 2 / pi * sympy.asin(t / (1 + t))
    narrow, factor = _tilt(s, k**2)
    inner = m * 2 * k / sqrt(pi) * factor * _erf_moment(n - 1, k, m - 1, narrow)
    return s * ((n - 1) * (_erf_moment(n - 2, k, m, s) if n > 1 else 0) + inner)


def _half(expr: Expr, x: Symbol, q: Expr) -> Expr:
    """E[f(z); z > 0] for f without selections."""
    total: Expr = S.Zero
    for term in _terms(expr, x):
        c, n, b, e, _, m = _parse(term, x)
        if m:
            raise _NoForm
        s, factor = _tilt(q, e)
        values = [exp(b**2 * s / 2) * erfc(-b * sqrt(s / 2)) / 2]
        for k in range(1, n + 1):
            boundary = 1 / sqrt(2 * pi * s) if k == 1 else 0
            lower = (k - 1) * values[k - 2] if k > 1 else 0
            values.append(s * (b * values[k - 1] + lower + boundary))
        total += c * factor * values[n]
    return total


def pair_covariance_derivative(f: Expr, x: Symbol, q: Expr, r: Expr) -> Expr | None:
    """E[f(z₁) f(z₂)] for jointly normal z of variance q and covariance r, in closed form: by
    Price's theorem its derivative with respect to r is E[f'(z₁) f'(z₂)].

    Known for linear f, relu (the arc-cosine kernel, Cho and Saul 2009), abs and erf; else None.
    """
    body = unfold(f)
    if body.is_polynomial(x) and sympy.degree(body, x) <= 1:
        slope, offset = body.diff(x), body.subs(x, 0)
        return slope**2 * r + offset**2
    rho, angle = r / q, Dummy("a")
    if isinstance(body, erf) and not (body.args[0] / x).has(x):
        k2 = (body.args[0] / x) ** 2
        return 2 / pi * sympy.asin(2 * k2 * r / (1 + 2 * k2 * q))
    if body.has(Select):
        try:
            right = _branch(body.xreplace({x: _POSITIVE})).expand() / _POSITIVE
            left = _branch(body.xreplace({x: -_POSITIVE})).expand() / -_POSITIVE
        except _NoForm:
            return None
        if right.has(_POSITIVE) or left.has(_POSITIVE):
            return None
        # f = (right+left)/2 x + (right-left)/2 |x|; the two parts do not correlate
        kernel = (2 * q / pi) * (sqrt(1 - angle**2) + angle * sympy.asin(angle))
        even = kernel.xreplace({angle: rho})
        return ((right + left) / 2) ** 2 * r + ((right - left) / 2) ** 2 * even
    return None
