"""Functions of values: entry by entry, and those that act on whole arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import sympy
from sympy import Dummy, Expr, S
from sympy.codegen.cfunctions import expm1, log1p

from derive.functions import REGISTRY, absolute, maximum, minimum
from derive.nodes import Index, LogSumExpOver, MaxOver, MinOver, Reduction, Select, SumOver
from derive.randomness import uniform
from derive.tex.sliding import turned_round
from derive.tex.values import (
    UNKNOWN,
    MisfitError,
    Value,
    array,
    diagonal,
    entrywise,
    fits,
    fresh,
    put,
    shape,
    total,
)

_SYMPY: dict[str, Callable[[Expr], Expr]] = {
    "exp": sympy.exp, "log": sympy.log, "tanh": sympy.tanh, "sinh": sympy.sinh,
    "cosh": sympy.cosh, "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "erf": sympy.erf,
    "erfc": sympy.erfc, "sqrt": sympy.sqrt, "atan": sympy.atan, "log1p": log1p, "expm1": expm1,
}  # fmt: skip
_WITH_SETTING = {"leaky_relu", "elu"}
_ROWS: dict[str, type[Reduction]] = {"rowmax": MaxOver, "rowmin": MinOver, "rowsum": SumOver}
_WHOLE = {"softmax", "logsumexp", "diag", "tr", "onehot", "rowmax", "rowmin", "rowsum", "norm",
          "rot180"}


def call(name: str, args: list[Value], primes: int, batch: Expr | None,
         over: Index | None = None) -> Value:
    """A function's value; ``primes``: its derivative, ``over``: the index of a softmax.

    Raises:
        MisfitError: it does not take these arguments.
    """
    if name in ("max", "min") and len(args) > 1:
        pick = maximum if name == "max" else minimum
        return reduce(lambda a, b: entrywise(pick, a, b, "compared"), args)
    if name == "uniform":
        return _random(args)
    if name == "rot180" and [a.body for a in args[1:]] == [180]:  # rot_{180}
        args = args[:1]
    wanted = 2 if name in _WITH_SETTING else 1
    if len(args) != wanted:
        raise MisfitError(f"{name} takes {wanted} argument{'s' * (wanted > 1)}",
                          got_text(args))
    first = args[0]
    if name in ("max", "min"):
        return _extreme(name, first)
    if name in _WHOLE:
        if primes:
            raise MisfitError(f"{name} is no function of one number, and has no derivative f′")
        return _whole(name, first, batch, over)
    return first.with_body(_scalar(name, primes, *(a.body for a in args)))


def _random(args: list[Value]) -> Value:
    """A random number: of the seed, the number of its stream and the indices of the element."""
    if len(args) < 2 or any(a.axes for a in args):
        raise MisfitError("uniform takes a seed, and the numbers of a stream and an element",
                          r"\mathrm{uniform}_{0,b,k}(\mathrm{seed})")
    return Value(uniform(*(a.body for a in args)))


def got_text(args: list[Value]) -> str:
    return f"{len(args)} stand here"


def _scalar(name: str, primes: int, x: Expr, *settings: Expr) -> Expr:
    function = _SYMPY.get(name) or REGISTRY[name]
    if not primes:
        return function(x, *settings)
    place = Dummy("x", real=True)
    made = function(place, *settings)
    for _ in range(primes):
        made = sympy.diff(made, place)
    return made.xreplace({place: x})


def _extreme(name: str, value: Value) -> Value:
    if not value.kept:
        raise MisfitError(f"{name} of a scalar", rf"\{name}(0, z), or \{name}_{{j}} z_j")
    node = MaxOver if name == "max" else MinOver
    return Value(node(value.body, *value.kept), (), value.notes)


def _whole(name: str, value: Value, batch: Expr | None, over: Index | None) -> Value:
    if name == "diag":
        return diagonal(value)
    if name == "rot180":
        return turned_round(value)
    if name == "tr":
        if len(value.kept) != 2 or not fits(*value.kept):
            raise MisfitError(f"{shape(value)} has no trace", "a square matrix")
        return Value(total(diagonal(value)), (), value.notes)
    if name == "norm":
        return norm(value, "2")
    if name == "onehot":
        if len(value.kept) != 1:
            raise MisfitError("onehot takes a vector of labels", "labels t, one for each sample")
        label = fresh(UNKNOWN)
        return Value(Select(sympy.Eq(label, value.body), S.One), (value.kept[0], label),
                     value.notes)
    if name in _ROWS:
        row, col = value.axes if len(value.axes) == 2 else (None, None)
        if row is None or col is None:
            raise MisfitError(f"{name} takes a matrix", got_text([value]))
        return array(_ROWS[name](value.body, col), (row, None))
    return _soft(name, value, batch, over)


def norm(value: Value, kind: str) -> Value:
    """A norm of a vector, or the one of a matrix whose entries are squared and summed.

    Raises:
        MisfitError: a norm of a matrix that is another one.
    """
    if len(value.kept) > 1 and kind not in ("", "F"):
        shown = {"2": "its largest singular value", "1": "the largest sum of a column"}
        raise MisfitError(
            f"‖·‖_{kind} of {shape(value)} is {shown.get(kind, 'a norm')}, or of its entries",
            r"‖·‖_F, the root of the sum of squares, or \sum_{i,j} |…|")
    if kind == "1":
        return Value(total(value.with_body(absolute(value.body))), (), value.notes)
    if kind == "∞":
        if not value.kept:
            raise MisfitError("the largest entry of a scalar", "a vector")
        return Value(MaxOver(absolute(value.body), *value.kept), (), value.notes)
    return Value(sympy.sqrt(total(value.with_body(value.body**2))), (), value.notes)


def _soft(name: str, value: Value, batch: Expr | None, over: Index | None) -> Value:
    axis = over if over is not None else _classes(value, batch)
    other = fresh(axis.size)
    lse = LogSumExpOver(put(value.body, {axis: other}), other)
    if name == "softmax":
        return value.with_body(sympy.exp(value.body - lse))
    axes = tuple(None if a == axis else a for a in value.axes)
    return array(lse, axes, value.notes)


def _classes(value: Value, batch: Expr | None) -> Index:
    """The axis of the classes: that which does not count the samples; of two, the last."""
    if not value.kept:
        raise MisfitError("softmax of a scalar", r"a vector, a matrix, or \operatorname{softmax}_k")
    if len(value.kept) == 1:
        return value.kept[0]
    first, last = value.kept[0], value.kept[-1]
    return first if last.size == batch and first.size != batch else last
