"""The value of what is printed: notation trees evaluated node by node, with plain loops.

It shares nothing with the reference evaluator, so that a wrong sign, order or parenthesis in the
notation of an equation shows as a wrong number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import singledispatchmethod
from typing import Any

import numpy as np
import sympy

from derive import notation as n
from derive.functions import REGISTRY
from derive.nodes import Access
from derive.orientation import Orientation
from derive.program import Program
from derive.randomness import uniform_value

_COMPARE = {
    "=": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


def function_value(name: str, *args: float) -> float:
    if name in REGISTRY:
        x = sympy.Float(float(args[0]), 20)
        return float(REGISTRY[name].define(x, *map(sympy.nsimplify, args[1:])).evalf(20))
    if name == "uniform":
        return float(uniform_value(*map(int, args)))
    plain = {"exp": math.exp, "log": math.log, "tanh": math.tanh, "sin": math.sin,
             "cos": math.cos, "erf": math.erf, "floor": math.floor, "mod": lambda a, b: a % b}
    return float(plain[name](*args))


def number(size: sympy.Expr, sizes: Mapping[str, int]) -> int:
    """A size as a number."""
    return int(size.xreplace({s: sympy.Integer(sizes[s.name]) for s in size.free_symbols}))


class Values:
    """Values of scalar nodes, given arrays by name, sizes and the index values in ``env``."""

    def __init__(self, program: Program, arrays: Mapping[str, Any], sizes: Mapping[str, int],
                 ranges: Mapping[str, int]) -> None:
        self.program, self.arrays, self.sizes, self.ranges = program, arrays, sizes, ranges
        self.env: dict[str, int] = {}

    @singledispatchmethod
    def of(self, node: Any) -> Any:
        raise TypeError(type(node).__name__)

    @of.register
    def _(self, node: n.Number) -> Any:
        return {"π": math.pi, "e": math.e, "inf": math.inf}.get(node.text) or float(node.text)

    @of.register
    def _(self, node: n.Name) -> Any:
        return self.env[node.code] if node.kind == "index" else self.sizes[node.code]

    @of.register
    def _(self, node: n.Element) -> Any:
        where = [self.of(w) for w in node.where]
        assert all(w == int(w) and w >= 0 for w in where), f"{node} at {where}"
        return np.asarray(self.arrays[node.name.code])[tuple(int(w) for w in where)]

    @of.register
    def _(self, node: n.Sum) -> Any:
        return sum((-1 if negative else 1) * self.of(term) for negative, term in node.terms)

    @of.register
    def _(self, node: n.Product) -> Any:
        return math.prod(self.of(f) for f in node.factors)

    @of.register
    def _(self, node: n.Fraction) -> Any:
        return self.of(node.above) / self.of(node.below)

    @of.register
    def _(self, node: n.Power) -> Any:
        return self.of(node.base) ** self.of(node.exponent)

    @of.register
    def _(self, node: n.Root) -> Any:
        return math.sqrt(self.of(node.body))

    @of.register
    def _(self, node: n.Call) -> Any:
        return function_value(node.function, *(self.of(a) for a in node.args))

    @of.register
    def _(self, node: n.Big) -> Any:
        found = []
        outer = dict(self.env)
        spans = [range(self.ranges[b.code]) for b in node.bound]
        for values in itertools.product(*spans):
            self.env = {**outer, **{b.code: v for b, v in zip(node.bound, values, strict=True)}}
            if node.condition is None or self.of(node.condition):
                found.append(self.of(node.body))
        self.env = outer
        if node.op == "logsumexp":
            return math.log(sum(map(math.exp, found)))
        return {"sum": sum, "max": max, "min": min, "prod": math.prod}[node.op](found)

    @of.register
    def _(self, node: n.Choice) -> Any:
        return self.of(node.yes if self.of(node.condition) else node.no)

    @of.register
    def _(self, node: n.Bracket) -> Any:
        return float(self.of(node.condition))

    @of.register
    def _(self, node: n.Relation) -> Any:
        values = [self.of(p) for p in node.parts]
        return all(
            _COMPARE[op](a, b) for op, a, b in zip(node.ops, values, values[1:], strict=False)
        )

    @of.register
    def _(self, node: n.Congruent) -> Any:
        return (self.of(node.body) - self.of(node.rest)) % self.of(node.modulus) == 0

    @of.register
    def _(self, node: n.Junction) -> Any:
        return (all if node.op == "and" else any)(self.of(p) for p in node.parts)

    @of.register
    def _(self, node: n.Negation) -> Any:
        return not self.of(node.body)


def _plain(kind: type) -> Any:
    """How `Values` treats a kind of node."""
    return Values.__dict__["of"].dispatcher.dispatch(kind)


class ArrayValues(Values):
    """Values of matrix forms: vectors are columns, every array has two dims."""

    @singledispatchmethod
    def of(self, node: Any) -> Any:
        return _plain(type(node))(self, node)

    @of.register
    def _(self, node: n.Whole) -> Any:
        array = np.asarray(self.arrays[node.name.code])
        at = node.at or (None,) * array.ndim
        array = array[tuple(slice(None) if w is None else int(self.of(w)) for w in at)]
        array = array.reshape(-1, 1) if array.ndim == 1 else array
        left = [k for k, w in enumerate(at) if w is None]
        turned = bool(left) and self.orientation.turned(node.name.code, left[0])
        return array.T if turned else array

    @of.register
    def _(self, node: n.Transposed) -> Any:
        return np.asarray(self.of(node.body)).T

    @of.register
    def _(self, node: n.Chain) -> Any:
        out = self.of(node.factors[0])
        for factor in node.factors[1:]:
            value = self.of(factor)
            # what a bracket has set to zero is the zero matrix
            out = 0.0 if np.ndim(value) == 0 == value or np.ndim(out) == 0 == out else out @ value
        return out

    @of.register
    def _(self, node: n.Hadamard) -> Any:
        values = [self.of(f) for f in node.factors]
        shapes = {v.shape for v in values if np.ndim(v)}
        assert len(shapes) == 1, f"{shapes} multiplied entry by entry"
        return math.prod(values)

    @of.register
    def _(self, node: n.Ones) -> Any:
        return np.ones((int(self.of(node.size)), 1))

    @of.register
    def _(self, node: n.Convolved) -> Any:
        left, right = (
            np.asarray(self.arrays[w.name.code])[tuple(
                slice(None) if a is None else int(self.of(a)) for a in w.at or ())]
            for w in (node.left, node.right)
        )
        out = np.zeros([self.ranges[f.code] for f in node.free])
        outer = dict(self.env)
        for place in np.ndindex(out.shape):
            for k in np.ndindex(right.shape):
                names = (*node.free, *node.bound)
                self.env = {**outer, **{m.code: v for m, v in zip(names, (*place, *k))}}
                at = [self.of(p) for p in node.places]
                whole = all(v == int(v) and 0 <= v < s for v, s in zip(at, left.shape))
                out[place] += left[tuple(map(int, at))] * right[k] if whole else 0
        self.env = outer
        return out

    @of.register
    def _(self, node: n.Root) -> Any:
        return np.sqrt(self.of(node.body))

    @of.register
    def _(self, node: n.Bracket) -> Any:
        return np.asarray(self.of(node.condition), dtype=float)

    @of.register
    def _(self, node: n.Relation) -> Any:
        if len(node.parts) > 2:
            return _plain(n.Relation)(self, node)
        return _COMPARE[node.ops[0]](self.of(node.parts[0]), self.of(node.parts[1]))

    @of.register
    def _(self, node: n.Call) -> Any:
        args = [self.of(a) for a in node.args]
        first = args[0]
        if node.function == "diag":
            square = first.shape[1] == 1
            return np.diag(first[:, 0]) if square else np.diag(first).reshape(-1, 1)
        if node.function == "onehot":
            labels = first[:, 0].astype(int)
            name, at = node.args[0].name.code, node.args[0].at or (None,)
            hot = np.eye(self.width(name))[labels]
            return hot.T if self.orientation.across(name, at.index(None)) else hot
        special = {"tr": np.trace, "norm": np.linalg.norm, "max": np.max, "min": np.min,
                   "rowmax": lambda a: np.max(a, axis=1, keepdims=True),
                   "rowmin": lambda a: np.min(a, axis=1, keepdims=True)}
        if node.function in special:
            out = special[node.function](first)
            return float(out) if np.ndim(out) == 0 else out
        if node.function == "power":
            return first ** args[1]
        return np.vectorize(lambda v: function_value(node.function, v, *args[1:]))(first)

    orientation = Orientation()

    def width(self, labels: str) -> int:
        """How many classes there are: the last size of what is read at the labels."""
        readers = [a for eq in self.program.equations for a in eq.body.atoms(Access)
                   if any(w.has(Access) and next(iter(w.atoms(Access))).name == labels
                          for w in a.where)]
        at = next(k for k, w in enumerate(readers[0].where) if w.has(Access))
        return self.arrays[readers[0].name].shape[at]
