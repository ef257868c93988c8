"""The words that bodies are written in: reductions, selections and functions of scalars."""

from __future__ import annotations

from collections.abc import Callable

import sympy
from sympy import Expr, Mul, S

from derive import functions as f
from derive.errors import DeclarationError
from derive.network import Handle
from derive.nodes import (
    Index,
    LogSumExpOver,
    MaxOver,
    MinOver,
    ProdOver,
    Reduction,
    Select,
    SumOver,
    exact,
    fresh,
)


def _check_over(op: str, body: object, over: tuple[object, ...]) -> None:
    """What is reduced over are indices, and there are some."""
    for index in over:
        if not isinstance(index, Index):
            raise DeclarationError(
                f"{op} over {index!r}, which is no index", expected=f"dr.{op}(body, i, j, …)")
    if not over:
        mend = None
        if isinstance(body, Handle) and body.indices:
            dims = ", ".join(i.name for i in body.indices)
            mend = f"over all dims: dr.{op}({body.name}[{dims}], {dims})"
        raise DeclarationError(f"{op} over nothing", expected=f"dr.{op}(body, i, j, …)", mend=mend)


def _reduction(node: type[Reduction], doc: str) -> Callable[..., Expr]:
    def reduce(body: Expr, *over: Index) -> Expr:
        _check_over(node.op, body, over)
        return node(exact(body), *over)

    reduce.__doc__ = doc
    reduce.__name__ = node.op
    return reduce


sum = _reduction(SumOver, "The sum of a body over indices.")
max = _reduction(MaxOver, "The largest value of a body over indices; ties share the gradient.")
min = _reduction(MinOver, "The smallest value of a body over indices; ties share the gradient.")
prod = _reduction(ProdOver, "The product of a body over indices.")
logsumexp = _reduction(LogSumExpOver, "log of the sum of exp of a body, without overflow.")


def mean(body: Expr, *over: Index) -> Expr:
    """The mean of a body over indices: the sum divided by the sizes, which stay symbolic."""
    _check_over("mean", body, over)
    return sum(body, *over) / Mul(*(index.size for index in over))


def where(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """``yes`` where ``condition`` holds, else ``no``; a selection, never a product."""
    return Select(condition, exact(yes), exact(no))


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two expressions; where they are equal each gets half of the derivative."""
    return f.maximum(exact(a), exact(b))


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller of two expressions; where they are equal each gets half of the derivative."""
    return f.minimum(exact(a), exact(b))


def clip(x: Expr, low: float, high: float) -> Expr:
    """x between two bounds; at a bound itself the derivative is 1."""
    body, least, most = exact(x), exact(low), exact(high)
    return Select(body < least, least, Select(body > most, most, body))


def elementwise(function: Callable[[Expr], Expr], target: Expr | Handle, stem: str = "h") -> Expr:
    """A function of a scalar expression; of a tensor, a new tensor of the network."""
    if isinstance(target, Handle) and target.tensor.rank:
        net = target.network
        body = function(target.tensor.access)
        return net.define(net.fresh_name(stem), target.indices, body)
    return function(exact(target))


def _function(function: Callable[[Expr], Expr], name: str, doc: str) -> Callable[..., Expr]:
    def apply(x: Expr | Handle) -> Expr:
        return elementwise(function, x)

    apply.__name__ = name
    apply.__doc__ = doc
    return apply


identity = _function(lambda x: x, "identity", "The argument itself.")
sigmoid = _function(f.sigmoid, "sigmoid", "The logistic function 1/(1 + exp(-x)).")
tanh = _function(sympy.tanh, "tanh", "The hyperbolic tangent.")
relu = _function(f.relu, "relu", "max(x, 0), with derivative 0 at 0.")
softplus = _function(f.softplus, "softplus", "log(1 + exp(x)).")
gelu = _function(f.gelu, "gelu", "x Φ(x), exact (by erf).")
silu = _function(f.silu, "silu", "x σ(x).")
exp = _function(sympy.exp, "exp", "The exponential.")
log = _function(sympy.log, "log", "The natural logarithm.")
sqrt = _function(sympy.sqrt, "sqrt", "The square root.")
sin = _function(sympy.sin, "sin", "The sine.")
cos = _function(sympy.cos, "cos", "The cosine.")
erf = _function(sympy.erf, "erf", "The error function.")
abs = _function(f.absolute, "abs", "The absolute value, with derivative 0 at 0.")


def leaky_relu(x: Expr | Handle, slope: float = 0.01) -> Expr:
    """x for x > 0, else slope·x."""
    return elementwise(lambda e: f.leaky_relu(e, exact(slope)), x)


def elu(x: Expr | Handle, alpha: float = 1.0) -> Expr:
    """x for x > 0, else alpha·(exp(x) - 1)."""
    return elementwise(lambda e: f.elu(e, exact(alpha)), x)


def softmax(
    x: Expr | Handle, over: Index | None = None, allowed: Expr = sympy.true
) -> Expr:
    """exp(x) divided by its sum over an index, computed without overflow.

    Of a tensor, over its last dim, a new tensor ``p``; of an expression, over the index given.
    Where the condition ``allowed`` fails, an element is masked: its share is 0, also where all
    of a row are masked.
    """
    if isinstance(x, Handle):
        net = x.network
        last = x.indices[-1] if over is None else over
        share = softmax(x.tensor.access, last, allowed)
        return net.define(net.fresh_name("p"), x.indices, share)
    if over is None:
        raise DeclarationError("softmax of an expression needs an index", expected="softmax(x, k)")
    masked = Select(allowed, x, S.NegativeInfinity)
    other = fresh(over, {s.name for s in masked.free_symbols})
    total = LogSumExpOver(masked.xreplace({over: other}), other)
    return Select(allowed, sympy.exp(x - total))
