"""Bodies of equations as ONNX nodes: one entry for each kind of node, as in the evaluator.

In: an expression and the `Scope` around it. Out: a `Value`. A sum of products is an Einsum (or a
MatMul, or a Conv), an access at plain indices is the array itself, any other a Gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import numpy as np
import sympy
from sympy import Expr, Mul, S
from sympy.codegen.cfunctions import expm1, log1p
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction

from derive import functions
from derive.exporting.graph import Graph, Value, refusal
from derive.exporting.reductions import logsumexp, matmul, reduced
from derive.exporting.windows import convolution
from derive.functions import Elementary
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    LogSumExpOver,
    MaxOver,
    MinOver,
    ProdOver,
    Reduction,
    Select,
    SumOver,
)
from derive.program import Equation, Program, Tensor
from derive.reference import evaluate

_FUNCTIONS: dict[type, str] = {
    sympy.exp: "Exp", sympy.log: "Log", sympy.tanh: "Tanh", sympy.sinh: "Sinh",
    sympy.cosh: "Cosh", sympy.sin: "Sin", sympy.cos: "Cos", sympy.tan: "Tan", sympy.asin: "Asin",
    sympy.acos: "Acos", sympy.atan: "Atan", sympy.asinh: "Asinh", sympy.acosh: "Acosh",
    sympy.atanh: "Atanh", sympy.erf: "Erf", sympy.Abs: "Abs", sympy.sign: "Sign",
    functions.relu: "Relu", functions.sigmoid: "Sigmoid",
}
_COMPARE = {"==": "Equal", "!=": "Equal", "<": "Less", "<=": "LessOrEqual", ">": "Greater",
            ">=": "GreaterOrEqual"}
_REDUCE = {MaxOver: "ReduceMax", MinOver: "ReduceMin", ProdOver: "ReduceProd"}


@dataclass(frozen=True)
class Scope:
    """The graph, the equation that is written, and the indices around an expression."""

    graph: Graph
    eq: Equation
    indices: tuple[Index, ...]

    def value(self, expr: Expr) -> Value:
        """A float (or, of a condition, boolean) value."""
        folded = self.folded(expr)
        return _value(expr, self) if folded is None else folded

    def folded(self, expr: Expr, kind: str = "float") -> Value | None:
        """The constant that an expression of indices of known sizes is."""
        loop = self.graph.loop
        free = [i for i in self.indices if i in expr.free_symbols]
        if expr.has(Access) or (loop and loop[0] in free) or not all(
                s in free and s.size.is_Integer for s in expr.free_symbols):
            return None
        condition = isinstance(expr, BooleanAtom | Relational | BooleanFunction)
        body = Select(expr, S.One, S.Zero) if condition else expr
        if any(isinstance(n, Reduction) for n in sympy.preorder_traversal(expr)):
            return None
        target = Tensor("_folded", tuple(free))
        one = Program("folded", {"_folded": target}, (Equation(target, tuple(free), body),))
        array = evaluate(one, {}, ["_folded"])["_folded"]
        if condition:
            array, kind = array.astype(bool), "bool"
        if kind == "int":
            array = np.floor(array).astype(np.int64)
        return Value(self.graph.constant(array), tuple(free), kind)

    def join(self, op: str, *values: Value, kind: str | None = None) -> Value:
        return self.graph.joined(op, values, self.indices, kind)

    def number(self, value: float | int) -> Value:
        return Value(self.graph.constant(value), (), "int" if isinstance(value, int) else "float")

    # -- whole numbers ------------------------------------------------------------------------
    def whole(self, expr: Expr) -> Value:
        """An int64 value; a quotient that is not whole is floored (no guard lets it through)."""
        folded = self.folded(expr, "int")
        if folded is not None:
            return folded
        if self.graph.loop and expr == self.graph.loop[0]:
            return self.graph.loop[1]
        if isinstance(expr, Index):
            graph = self.graph
            name = graph.node("Range", graph.constant(0), graph.size(expr.size), graph.constant(1))
            return Value(name, (expr,), "int")
        if isinstance(expr, IntegerAccess):
            return read(expr, self)
        if expr.is_Symbol:
            return Value(self.graph.size(expr), (), "int")
        if isinstance(expr, sympy.floor):
            return self.whole(expr.args[0])
        if isinstance(expr, sympy.Mod):
            return self.join("Mod", self.whole(expr.args[0]), self.whole(expr.args[1]))
        if isinstance(expr, Select):
            return self.join("Where", self.value(expr.condition), self.whole(expr.yes),
                             self.whole(expr.no), kind="int")
        terms = expr.as_coefficients_dict()
        denominator = int(sympy.ilcm(1, *(c.q for c in terms.values())))
        if denominator != 1:  # ONNX divides towards zero, so the remainder is taken off first
            top = self.whole(sympy.expand(expr * denominator))
            by = self.number(denominator)
            return self.join("Div", self.join("Sub", top, self.join("Mod", top, by)), by)
        for kind, op in ((sympy.Add, "Add"), (Mul, "Mul"), (sympy.Max, "Max"), (sympy.Min, "Min")):
            if isinstance(expr, kind):
                return self.fold(op, [self.whole(a) for a in expr.args])
        raise refusal(self.eq, f"the index expression {expr}")

    def fold(self, op: str, values: Sequence[Value]) -> Value:
        total = values[0]
        for value in values[1:]:
            total = self.join(op, total, value)
        return total


# -- accesses -------------------------------------------------------------------------------------
def read(access: Access, scope: Scope) -> Value:
    """The elements of a tensor. Indices that may leave the bounds are clipped; a guard around
    keeps what is read there from sight."""
    graph = scope.graph
    tensor = graph.program.tensors[access.name]
    kind = "int" if tensor.dtype == "int" else "float"
    where, dims, name = list(access.where), list(tensor.indices), access.name
    if graph.loop and access.name in graph.loop[2]:
        axis = graph.loop[2][access.name]
        lag = sympy.expand(where[axis] - graph.loop[0])
        if not lag.is_Integer or (access.name, int(lag)) not in graph.locals:
            raise refusal(scope.eq, f"the recurrence {access}")
        name = graph.locals[access.name, int(lag)].name
        del where[axis], dims[axis]
    loop = graph.loop[0] if graph.loop else None
    plain = [isinstance(w, Index) and w != loop and w.size == d.size
             for w, d in zip(where, dims, strict=True)]
    if len({w for w, p in zip(where, plain) if p}) == sum(plain):
        others = {s for w, p in zip(where, plain) if not p for s in _own(w, scope)}
        if not others & {w for w, p in zip(where, plain) if p}:
            return _by_axes(name, kind, where, plain, dims, scope)
    return _by_numbers(name, kind, where, dims, scope)


def _own(where: Expr, scope: Scope) -> set[Index]:
    return {s for s in where.free_symbols if s in scope.indices}


def _place(where: Expr, dim: Index, scope: Scope) -> Value:
    """The numbers of the elements along a dim, within its bounds."""
    value = scope.whole(where)
    known = scope.graph.constants.get(value.name)
    if known is not None and dim.size.is_Integer:
        inside = np.clip(known, 0, int(dim.size) - 1)
        return Value(scope.graph.constant(inside), value.axes, "int")
    if isinstance(where, IntegerAccess) or (isinstance(where, Index) and where.size == dim.size):
        return value
    graph = scope.graph
    last = scope.join("Sub", Value(graph.size(dim.size), (), "int"), scope.number(1))
    return scope.join("Max", scope.join("Min", value, last), scope.number(0))


def _by_axes(name: str, kind: str, where: Sequence[Expr], plain: Sequence[bool],
             dims: Sequence[Index], scope: Scope) -> Value:
    """One Gather for each dim that is not read at a plain index."""
    places = [Value("", (w,), "int") if p else _place(w, d, scope)
              for w, p, d in zip(where, plain, dims, strict=True)]
    axes = tuple(i for place in places for i in place.axes)
    if len(set(axes)) < len(axes):  # two dims share an index: element by element
        return _by_numbers(name, kind, where, dims, scope)
    axis = 0
    for place, is_plain in zip(places, plain, strict=True):
        if not is_plain:
            name = scope.graph.node("Gather", name, place.name, axis=axis)
        axis += len(place.axes)
    return Value(name, axes, kind)


def _by_numbers(name: str, kind: str, where: Sequence[Expr], dims: Sequence[Index],
                scope: Scope) -> Value:
    """A Gather from the flattened array, at each element's number."""
    graph = scope.graph
    number = scope.number(0)
    for expr, dim in zip(where, dims, strict=True):
        size = Value(graph.size(dim.size), (), "int")
        number = scope.join("Add", scope.join("Mul", number, size), _place(expr, dim, scope))
    flat = graph.node("Reshape", name, graph.constant(np.array([-1])))
    return Value(graph.node("Gather", flat, number.name, axis=0), number.axes, kind)


# -- one entry for each kind of node --------------------------------------------------------------
@singledispatch
def _value(expr: Any, scope: Scope) -> Value:
    raise refusal(scope.eq, f"it has no operator for {type(expr).__name__}")


@_value.register
def _(expr: sympy.Symbol, scope: Scope) -> Value:
    return scope.graph.cast(scope.whole(expr), "float")


@_value.register
def _(expr: Access, scope: Scope) -> Value:
    return scope.graph.cast(read(expr, scope), "float")


@_value.register
def _(expr: sympy.Add, scope: Scope) -> Value:
    positive = sorted(expr.args, key=lambda a: a.could_extract_minus_sign())
    total = scope.value(positive[0])
    for term in positive[1:]:
        minus = term.could_extract_minus_sign()
        total = scope.join("Sub" if minus else "Add", total, scope.value(-term if minus else term))
    return total


@_value.register
def _(expr: Mul, scope: Scope) -> Value:
    below = [a for a in expr.args if isinstance(a, sympy.Pow) and a.exp.is_negative]
    above = [a for a in expr.args if a not in below]
    if above and above[0] == -1 and len(above) > 1:
        rest = scope.value(Mul(*above[1:], *below))
        return Value(scope.graph.node("Neg", rest.name), rest.axes)
    top = scope.fold("Mul", [scope.value(a) for a in above]) if above else scope.number(1.0)
    for factor in below:
        top = scope.join("Div", top, scope.value(1 / factor))
    return top


@_value.register
def _(expr: sympy.Pow, scope: Scope) -> Value:
    base = scope.value(expr.base)
    if expr.exp.is_negative:
        return scope.join("Div", scope.number(1.0), scope.value(1 / expr))
    if expr.exp == S.Half:
        return Value(scope.graph.node("Sqrt", base.name), base.axes)
    if expr.exp == 2:
        return Value(scope.graph.node("Mul", base.name, base.name), base.axes)
    return scope.join("Pow", base, scope.value(expr.exp))


@_value.register
def _(expr: Select, scope: Scope) -> Value:
    return scope.join("Where", scope.value(expr.condition), scope.value(expr.yes),
                      scope.value(expr.no), kind="float")


@_value.register
def _(expr: sympy.Piecewise, scope: Scope) -> Value:
    result = scope.number(float("nan"))
    for value, condition in reversed(expr.args):
        result = scope.join("Where", scope.value(condition), scope.value(value), result,
                            kind="float")
    return result


@_value.register
def _(expr: BooleanAtom, scope: Scope) -> Value:
    return Value(scope.graph.constant(np.array(bool(expr))), (), "bool")


@_value.register
def _(expr: Relational, scope: Scope) -> Value:
    whole = expr.lhs.is_integer and expr.rhs.is_integer
    sides = [scope.whole(s) if whole else scope.value(s) for s in (expr.lhs, expr.rhs)]
    found = scope.join(_COMPARE[expr.rel_op], *sides, kind="bool")
    if expr.rel_op == "!=":
        return Value(scope.graph.node("Not", found.name), found.axes, "bool")
    return found


@_value.register
def _(expr: sympy.And, scope: Scope) -> Value:
    return scope.fold("And", [scope.value(a) for a in expr.args])


@_value.register
def _(expr: sympy.Or, scope: Scope) -> Value:
    return scope.fold("Or", [scope.value(a) for a in expr.args])


@_value.register
def _(expr: sympy.Not, scope: Scope) -> Value:
    inner = scope.value(expr.args[0])
    return Value(scope.graph.node("Not", inner.name), inner.axes, "bool")


@_value.register
def _(expr: sympy.Function, scope: Scope) -> Value:
    if isinstance(expr, sympy.floor | sympy.Mod):
        return scope.graph.cast(scope.whole(expr), "float")
    if isinstance(expr, sympy.Max | sympy.Min):
        op = "Max" if isinstance(expr, sympy.Max) else "Min"
        return scope.fold(op, [scope.value(a) for a in expr.args])
    if type(expr) in _FUNCTIONS:
        inner = scope.value(expr.args[0])
        return Value(scope.graph.node(_FUNCTIONS[type(expr)], inner.name), inner.axes)
    if isinstance(expr, log1p):
        return scope.value(sympy.log(1 + expr.args[0], evaluate=False))
    if isinstance(expr, sympy.erfc):
        return scope.join("Sub", scope.number(1.0), scope.value(sympy.erf(expr.args[0])))
    if isinstance(expr, expm1):
        return scope.join("Sub", scope.value(sympy.exp(expr.args[0])), scope.number(1.0))
    if isinstance(expr, Elementary):
        return scope.value(type(expr).stable(*expr.args))
    raise refusal(scope.eq, f"it has no operator for the function {type(expr).__name__}")


# -- reductions -----------------------------------------------------------------------------------
@_value.register
def _(expr: Reduction, scope: Scope) -> Value:
    inner = replace(scope, indices=(*scope.indices, *expr.bound))
    if isinstance(expr, SumOver):
        product = _product(expr, inner)
        if product is not None:
            return product
    value = inner.value(expr.body)
    axes = tuple(i for i in inner.indices if i in value.axes or i in expr.bound)
    whole = Value(scope.graph.full(value, axes), axes)
    if isinstance(expr, LogSumExpOver):
        return logsumexp(whole, expr.bound, scope.graph)
    return reduced(_REDUCE.get(type(expr), "ReduceSum"), whole, expr.bound, scope.graph)


def _product(expr: SumOver, inner: Scope) -> Value | None:
    """A sum over a product of two factors that hold every summed index: one Einsum."""
    factors = [f for f in Mul.make_args(expr.body) if f.free_symbols or f.has(Access)]
    number = Mul(*(f for f in Mul.make_args(expr.body) if f not in factors))
    if len(factors) != 2 or any(isinstance(f, sympy.Pow) and f.exp.is_negative for f in factors):
        return None
    found = _convolved(factors, expr.bound, inner)
    if found is not None:
        return found if number == 1 else inner.join("Mul", found, inner.value(number))
    values = [inner.value(f) for f in factors]
    if not all(any(i in v.axes for v in values) for i in expr.bound):
        return None
    axes = tuple(i for i in inner.indices
                 if i not in expr.bound and any(i in v.axes for v in values))
    name = matmul(values, expr.bound, axes, inner.graph)
    if name is None:
        letters = {i: chr(97 + n) for n, i in enumerate(inner.indices)}
        spell = ["".join(letters[i] for i in v) for v in (values[0].axes, values[1].axes, axes)]
        name = inner.graph.node("Einsum", values[0].name, values[1].name,
                                equation=f"{spell[0]},{spell[1]}->{spell[2]}")
    found = Value(name, axes)
    return found if number == 1 else inner.join("Mul", found, inner.value(number))


def _convolved(factors: Sequence[Expr], bound: Sequence[Index], inner: Scope) -> Value | None:
    graph = inner.graph
    if graph.loop or graph.dtype != np.float32:  # onnxruntime convolves in single precision only
        return None
    found = convolution(factors, bound, graph.program)
    if found is None:
        return None
    settings: dict[str, Any] = dict(found.settings)
    name = graph.node("Conv", found.data, found.kernel, **settings)
    return Value(name, found.axes)
