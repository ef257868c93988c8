"""Ufuncs on symbolic arrays: elementwise functions, reductions, outer products, matrix products."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import sympy
from sympy import Expr, Integer, Mul

from derive.functions import absolute, relu, sign
from derive.nodes import Index, MaxOver, MinOver, ProdOver, Reduction, Select, SumOver
from derive.verify.bodies import apart, as_number, is_condition
from derive.verify.traced import NotTraced, Traced


# -- broadcasting ---------------------------------------------------------------------------------
def broadcast(arrays: Sequence[Traced]) -> tuple[tuple[Index, ...], list[Any]]:
    """The indices of the result of an elementwise operation, and each body in them."""
    from derive.verify.trace import active

    tracer = active()
    rank = max((a.ndim for a in arrays), default=0)
    chosen: list[Index] = []
    for place in range(rank):
        options = [a.indices[place - rank + a.ndim] for a in arrays if a.ndim > rank - 1 - place]
        wide = [i for i in options if i.size != 1] or options
        if any(i.size != wide[0].size for i in wide):
            numbers = {int(tracer.dim(i.size)) for i in wide}
            if len(numbers) > 1:
                shapes = " ".join(str(a.shape) for a in arrays)
                raise ValueError(f"operands could not be broadcast together with shapes {shapes}")
            raise NotTraced(f"sizes {', '.join(sorted({str(i.size) for i in wide}))} meet",
                            where=tracer.here())
        names = {i.name for i in chosen}
        later = {i.name for a in arrays for i in a.indices}
        free = next((i for i in wide if i.name not in names), None)
        chosen.append(free or tracer.fresh_index(wide[0].size, wide[0].name, names | later))
    bodies = []
    for array in arrays:
        mine = chosen[rank - array.ndim:]
        bodies.append(array.at(*(Integer(0) if i.size == 1 else c
                                 for i, c in zip(array.indices, mine, strict=True))))
    return tuple(chosen), [apart(body, chosen) for body in bodies]


def elementwise(function: Callable[..., Any], *operands: Any, kind: str | None = None) -> Traced:
    from derive.verify.trace import active

    tracer = active()
    arrays = [tracer.array(x) for x in operands]
    indices, bodies = broadcast(arrays)
    numbers = [b if kind == "logic" else as_number(b) for b in bodies]
    body = function(*numbers)
    logical = is_condition(body)
    whole = all(a.kind != "float" for a in arrays) and getattr(body, "is_integer", False)
    made = Traced(tracer, indices, body, "bool" if logical else "int" if whole else "float")
    masks = [a for a in arrays if a.masked is not None]
    if masks:
        if any(a.ndim and a.masked is None for a in arrays) or any(
                m.masked != masks[0].masked for m in masks):
            raise NotTraced("selected elements meet an array", where=tracer.here())
        made.masked = masks[0].masked.xreplace(dict(zip(masks[0].indices, indices, strict=True)))
    return made


def _maximum(a: Expr, b: Expr) -> Expr:
    if b == 0:
        return relu(a)
    if a == 0:
        return relu(b)
    return Select(a > b, a, b)


def _truth(x: Any) -> Any:
    return x if is_condition(x) else sympy.Ne(x, 0)


def _logical(combine: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: combine(*(_truth(a) for a in args))


def _times(a: Expr, b: Expr) -> Expr:
    """A product with 1 or 0 of a condition is a selection."""
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Select) and one.yes == 1 and one.no == 0:
            return Select(one.condition, other, sympy.S.Zero)
    return a * b


ELEMENTWISE: dict[Any, Callable[..., Any]] = {
    np.add: lambda a, b: a + b, np.subtract: lambda a, b: a - b,
    np.multiply: _times, np.true_divide: lambda a, b: a / b,
    np.negative: lambda a: -a, np.positive: lambda a: a, np.conjugate: lambda a: a,
    np.power: lambda a, b: a**b, np.float_power: lambda a, b: a**b,
    np.square: lambda a: a**2, np.sqrt: sympy.sqrt, np.reciprocal: lambda a: 1 / a,
    np.cbrt: lambda a: sign(a) * absolute(a) ** sympy.Rational(1, 3),
    np.exp: sympy.exp, np.exp2: lambda a: sympy.Integer(2) ** a,
    np.expm1: lambda a: sympy.exp(a) - 1,
    np.log: sympy.log, np.log1p: lambda a: sympy.log(1 + a),
    np.log2: lambda a: sympy.log(a) / sympy.log(2),
    np.log10: lambda a: sympy.log(a) / sympy.log(10),
    np.logaddexp: lambda a, b: sympy.log(sympy.exp(a) + sympy.exp(b)),
    np.tanh: sympy.tanh, np.sinh: sympy.sinh, np.cosh: sympy.cosh, np.sin: sympy.sin,
    np.cos: sympy.cos, np.tan: sympy.tan, np.arctan: sympy.atan, np.arcsin: sympy.asin,
    np.arccos: sympy.acos, np.arctanh: sympy.atanh, np.arcsinh: sympy.asinh,
    np.absolute: absolute, np.fabs: absolute, np.sign: sign,
    np.maximum: _maximum, np.fmax: _maximum,
    np.minimum: lambda a, b: Select(a < b, a, b), np.fmin: lambda a, b: Select(a < b, a, b),
    np.heaviside: lambda a, b: Select(a > 0, sympy.S.One, Select(a < 0, sympy.S.Zero, b)),
    np.greater: lambda a, b: a > b, np.greater_equal: lambda a, b: a >= b,
    np.less: lambda a, b: a < b, np.less_equal: lambda a, b: a <= b,
    np.equal: sympy.Eq, np.not_equal: sympy.Ne,
    np.isnan: lambda a: sympy.false, np.isinf: lambda a: sympy.false,
    np.isfinite: lambda a: sympy.true,
    np.floor_divide: lambda a, b: _whole(sympy.floor, a / b, a, b),
    np.remainder: lambda a, b: _whole(lambda q: sympy.Mod(a, b), a, a, b),
}
_LOGIC: dict[Any, Callable[..., Any]] = {
    np.logical_and: _logical(sympy.And), np.logical_or: _logical(sympy.Or),
    np.logical_not: _logical(sympy.Not), np.logical_xor: _logical(sympy.Xor),
    np.bitwise_and: _logical(sympy.And), np.bitwise_or: _logical(sympy.Or),
    np.invert: _logical(sympy.Not), np.bitwise_xor: _logical(sympy.Xor),
}


def _whole(function: Callable[[Expr], Expr], value: Expr, *parts: Expr) -> Expr:
    if any(p.is_integer is not True for p in parts):
        raise NotTraced("a remainder or quotient of numbers that are not whole")
    return function(value)


def call_ufunc(ufunc: np.ufunc, method: str, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
    """What NumPy's ``__array_ufunc__`` protocol asks for."""
    from derive.verify.trace import active

    tracer = active()
    out = options.pop("out", None)
    for name in ("casting", "order", "dtype", "subok"):
        options.pop(name, None)
    where = options.pop("where", True)
    name = ufunc.__name__
    if method == "at":
        from derive.verify.trace_index import add_at

        if ufunc not in (np.add, np.subtract):
            raise NotTraced(f"np.{name}.at", where=tracer.here())
        return add_at(inputs[0], inputs[1], inputs[2] if ufunc is np.add else -inputs[2])
    if method == "reduce":
        made = _reduce(ufunc, tracer.array(inputs[0]), options, where)
    elif method == "outer":
        one, two = (tracer.array(x) for x in inputs)
        spread = one[(..., *(None for _ in two.indices))]
        made = call_ufunc(ufunc, "__call__", (spread, two), {})
    elif method == "__call__" and ufunc is np.matmul:
        made = matmul(*(tracer.array(x) for x in inputs))
    elif method == "__call__" and ufunc in _LOGIC:
        made = elementwise(_LOGIC[ufunc], *inputs, kind="logic")
    elif method == "__call__" and (function := ELEMENTWISE.get(ufunc) or _special(ufunc)):
        made = elementwise(function, *inputs)
        if where is not True:
            made = _somewhere(made, where, out)
    else:
        raise NotTraced(f"np.{name}" + (f".{method}" if method != "__call__" else ""),
                        where=tracer.here())
    return _into(made, out)


def _special(ufunc: np.ufunc) -> Callable[..., Any] | None:
    """What one of SciPy's functions is, where the function at hand uses SciPy."""
    module = sys.modules.get("scipy.special")
    known: dict[str, Callable[..., Any]] = {
        "erf": sympy.erf, "erfc": sympy.erfc, "expit": lambda a: 1 / (1 + sympy.exp(-a)),
        "log_expit": lambda a: -sympy.log(1 + sympy.exp(-a)),
        "logit": lambda a: sympy.log(a / (1 - a)), "exprel": lambda a: (sympy.exp(a) - 1) / a}
    own = getattr(module, ufunc.__name__, None) is ufunc
    return known.get(ufunc.__name__) if own else None


def _somewhere(made: Traced, where: Any, out: Any) -> Traced:
    if out is None:
        raise NotTraced("where= without out= leaves elements unset")
    return elementwise(lambda c, a, b: Select(_truth(c), a, b), where, made, out[0], kind="logic")


def _into(made: Traced, out: Any) -> Any:
    target = out[0] if isinstance(out, tuple) else out
    if target is None:
        return made
    if not isinstance(target, Traced):
        raise NotTraced("out= of an array that is not symbolic")
    target[...] = made
    return target


# -- reductions -----------------------------------------------------------------------------------
def axes_of(array: Traced, axis: Any) -> list[int]:
    """The axes that ``axis`` means, from the front."""
    if axis is None:
        return list(range(array.ndim))
    chosen = [axis] if isinstance(axis, int | np.integer) else list(axis)
    for n in chosen:
        if not -array.ndim <= n < array.ndim:
            raise np.exceptions.AxisError(int(n), array.ndim)
    return sorted(int(n) % array.ndim for n in chosen)


def reduced(kind: type[Reduction], array: Traced, axis: Any = None, keepdims: bool = False,
            ) -> Traced:
    """A reduction along axes."""
    axes = axes_of(array, axis)
    body = as_number(array.at(*array.indices))
    if array.masked is not None:
        if kind is not SumOver or len(axes) != array.ndim:
            raise NotTraced("a reduction of selected elements")
        body = Select(array.masked, body, sympy.S.Zero)
    bound = [array.indices[n] for n in axes]
    left: list[Index] = []
    for n, index in enumerate(array.indices):
        if n not in axes:
            left.append(index)
        elif keepdims:
            left.append(array._tracer.fresh_index(Integer(1), "o", {i.name for i in left}
                                                  | {i.name for i in array.indices}))
    return Traced(array._tracer, tuple(left), over(kind, body, bound),
                  "int" if array.kind == "int" and kind is SumOver else "float")


def over(kind: type[Reduction], body: Expr, bound: Iterable[Index]) -> Expr:
    """A reduction; an index that does not occur is counted."""
    bound = list(bound)
    used = [i for i in bound if i in body.free_symbols]
    count = Mul(*(i.size for i in bound if i not in used))
    ones = [i for i in used if i.size == 1]
    body = body.xreplace(dict.fromkeys(ones, Integer(0)))
    made = kind(body, *(i for i in used if i not in ones))
    if kind is SumOver:
        return count * made
    return made**count if kind is ProdOver else made


_REDUCTIONS: dict[Any, type[Reduction]] = {
    np.add: SumOver, np.maximum: MaxOver, np.minimum: MinOver, np.multiply: ProdOver,
}


def _reduce(ufunc: np.ufunc, array: Traced, options: dict[str, Any], where: Any) -> Traced:
    if ufunc not in _REDUCTIONS or where is not True:
        raise NotTraced(f"np.{ufunc.__name__}.reduce")
    return reduced(_REDUCTIONS[ufunc], array, options.get("axis", 0),
                   options.get("keepdims", False))


# -- products -------------------------------------------------------------------------------------
def contract(arrays: Sequence[Traced], places: Sequence[Sequence[str]], result: Sequence[str],
             ) -> Traced:
    """Products of elements at letters, summed over letters that the result does not have."""
    from derive.verify.trace import active

    tracer = active()
    indices: dict[str, Index] = {}
    taken: set[str] = set()
    order = [*result, *(x for p in places for x in p if x not in result)]
    for letter in dict.fromkeys(order):
        found = [a.indices[n] for a, p in zip(arrays, places, strict=True)
                 for n, x in enumerate(p) if x == letter]
        sizes = {i.size for i in found if i.size != 1} or {Integer(1)}
        if len(sizes) > 1:
            numbers = {int(tracer.dim(s)) for s in sizes}
            raise (ValueError if len(numbers) > 1 else NotTraced)(
                f"sizes {', '.join(sorted(map(str, sizes)))} do not match in a product")
        size = next(iter(sizes))
        index = next((i for i in found if i.name not in taken and i.size == size), None)
        indices[letter] = index or tracer.fresh_index(size, found[0].name, taken)
        taken.add(indices[letter].name)
    body: Expr = sympy.S.One
    for array, letters in zip(arrays, places, strict=True):
        at = [Integer(0) if i.size == 1 else indices[x]
              for i, x in zip(array.indices, letters, strict=True)]
        body = _times(body, apart(as_number(array.at(*at)), indices.values()))
    bound = [indices[x] for x in indices if x not in result]
    return Traced(tracer, tuple(indices[x] for x in result), over(SumOver, body, bound))


def matmul(a: Traced, b: Traced) -> Traced:
    """``a @ b`` with NumPy's rules for one, two and more dims."""
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError("matmul: an operand has no dims")
    left = [*(f"m{n}" for n in range(a.ndim - 2, 0, -1)), "i", "k"][-a.ndim:]
    right = [*(f"m{n}" for n in range(b.ndim - 2, 0, -1)), "k", "j"]
    right = ["k"] if b.ndim == 1 else right[-b.ndim:]
    left = ["k"] if a.ndim == 1 else left
    many = [f"m{n}" for n in range(max(a.ndim, b.ndim) - 2, 0, -1)]
    result = [*many, *(["i"] if a.ndim > 1 else []), *(["j"] if b.ndim > 1 else [])]
    return contract([a, b], [left, right], result)


def dot(a: Traced, b: Traced) -> Traced:
    """``np.dot``: over the last dim of one and the last but one of the other."""
    if a.ndim == 0 or b.ndim == 0:
        return elementwise(lambda x, y: x * y, a, b)
    left = [f"a{n}" for n in range(a.ndim - 1)] + ["k"]
    right = [f"b{n}" for n in range(b.ndim)]
    right[-2 if b.ndim > 1 else -1] = "k"
    return contract([a, b], [left, right], [x for x in (*left, *right) if x != "k"])
