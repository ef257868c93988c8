"""Hand-written functions as syntax trees: read, compiled, evaluated at 50 digits, and judged by the
rules of other checkers. `mutations.py` is the script."""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import math
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import sympy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import derive as dr
from derive.points import default_sizes, random_values
from derive.program import Program
from tests.derive import verify_gradients_layers, verify_gradients_sequences
from tests.derive.verify_gradients import CASES

_MODULES = (verify_gradients_layers, verify_gradients_sequences)  # they fill CASES when imported
mpmath.mp.dps = 50


@dataclass(frozen=True)
class Hand:
    """A right gradient: its network's program and its source with all that it calls."""

    name: str
    program: Program
    tree: ast.Module
    main: str

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(self.program.gradients)


def hands(names: tuple[str, ...] = ()) -> list[Hand]:
    """All right gradients, or those named."""
    return [hand(name) for name in (names or tuple(CASES))]


@cache
def hand(name: str) -> Hand:
    network, function = CASES[name]
    module = sys.modules[function.__module__]
    parts: list[ast.stmt] = []
    seen: set[str] = set()

    def collect(f: Callable[..., Any]) -> None:
        seen.add(f.__name__)
        tree = ast.parse(textwrap.dedent(inspect.getsource(f))).body[0]
        assert isinstance(tree, ast.FunctionDef)
        tree.decorator_list = []
        for node in ast.walk(tree):
            other = vars(module).get(node.id) if isinstance(node, ast.Name) else None
            if inspect.isfunction(other) and other.__name__ not in seen:
                collect(other)
        parts.append(tree)

    collect(function)
    # unparsed and read again: line numbers are then those of the file that users would have
    source = ast.unparse(ast.Module(parts, []))
    net = network()
    derived = dr.derive(net.program())
    return Hand(name, derived, ast.parse(source), function.__name__)


@cache
def scaled(name: str, power: int) -> Program:
    """The derived program with its loss multiplied by ``10**power``."""
    one = hand(name).program
    if power == 0:
        return one
    forward = one.forward
    loss = forward.losses[0]
    factor = sympy.Rational(10) ** power
    equations = tuple(replace(eq, body=factor * eq.body) if eq.name == loss else eq
                      for eq in forward.equations)
    return dr.derive(replace(forward, equations=equations))


# -- running ------------------------------------------------------------------------------------
_SERIAL = iter(range(10**9))


class Times:
    """Multiplies what a function returns: a dictionary, a tuple or one array."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, result: Any) -> Any:
        if isinstance(result, Mapping):
            return {n: self.scale * a for n, a in result.items()}
        if isinstance(result, tuple | list):
            return tuple(self.scale * a for a in result)
        return self.scale * result


def source_of(tree: ast.Module, power: int = 0) -> str:
    """The text; at another scale every ``return`` of the last function is multiplied."""
    if power:
        tree = ast.parse(ast.unparse(tree))
        main = tree.body[-1]
        assert isinstance(main, ast.FunctionDef)
        last = main.body[-1]
        assert isinstance(last, ast.Return)
        call = ast.Call(ast.Name("_scaled", ast.Load()), [last.value], [])
        main.body[-1] = ast.Return(call)
    return ast.unparse(ast.fix_missing_locations(tree))


def compiled(source: str, main: str, power: int = 0, numpy: Any = np,
             **extra: Any) -> Callable[..., Any]:
    """The function of a text of our own (a benchmark's, never a user's)."""
    name = f"<hand {next(_SERIAL)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    space: dict[str, Any] = {"np": numpy, "_scaled": Times(10.0**power),
                             "__builtins__": builtins, **extra}
    exec(compile(source, name, "exec"), space)
    return space[main]


@cache
def points(name: str) -> tuple[dict[str, np.ndarray], ...]:
    """Points of two different sizes: what differs at one of them is no equivalent."""
    program = hand(name).program
    other = {n: s + 2 for n, s in default_sizes(program).items()}
    return tuple(random_values(program, seed, sizes)
                 for seed, sizes in ((11, None), (12, other), (13, other)))


def values(function: Callable[..., Any], names: tuple[str, ...],
           point: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The gradients by name; raises whatever the function raises, ValueError for a wrong shape."""
    taken = inspect.signature(function).parameters
    result = function(**{n: np.array(point[n]) for n in taken})
    if not isinstance(result, Mapping):
        result = dict(zip(names, result, strict=True))
    out = {}
    for n in names:
        out[n] = np.asarray(result[n])
        if out[n].shape != np.shape(point[n]):
            raise ValueError(f"shape of {n}")
    return out


@cache
def right_values(name: str, at: int) -> dict[str, np.ndarray]:
    one = hand(name)
    return values(compiled(ast.unparse(one.tree), one.main), one.parameters, points(name)[at])


# -- 50 digits ----------------------------------------------------------------------------------
_UNARY = ("exp", "log", "sqrt", "tanh", "sin", "cos", "sinh", "cosh", "expm1", "log1p")
_FILLED = ("zeros", "ones", "eye", "zeros_like", "ones_like", "full", "full_like", "empty",
           "empty_like", "tril", "triu")


def _exact(array: Any) -> Any:
    """Floating-point numbers as 50-digit ones; labels and indices as they are."""
    array = np.asarray(array)
    return np.frompyfunc(mpmath.mpf, 1, 1)(array) if array.dtype.kind == "f" else array


class HighNumPy:
    """NumPy on object arrays of 50-digit numbers."""

    def __getattr__(self, name: str) -> Any:
        if name in _UNARY:
            return np.frompyfunc(getattr(mpmath, name), 1, 1)
        made = getattr(np, name)
        if name in _FILLED:
            def fill(*args: Any, **keywords: Any) -> Any:
                keywords.pop("dtype", None)
                found = made(*args, **keywords)
                if found.dtype.kind in "if":
                    found = np.frompyfunc(mpmath.mpf, 1, 1)(found)
                return found
            return fill
        return made


class _Exactly(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Div):
            return ast.Call(ast.Name("_div", ast.Load()), [node.left, node.right], [])
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, float):
            return ast.Call(ast.Name("_mpf", ast.Load()), [node], [])
        return node


def _div(a: Any, b: Any) -> Any:
    return mpmath.mpf(a) / b if isinstance(a, int) and isinstance(b, int) else a / b


def high_values(tree: ast.Module, one: Hand, at: int) -> dict[str, Any]:
    """The gradients of a function at 50 digits."""
    exact = ast.fix_missing_locations(_Exactly().visit(ast.parse(ast.unparse(tree))))
    function = compiled(ast.unparse(exact), one.main, numpy=HighNumPy(), _div=_div,
                        _mpf=mpmath.mpf)
    point = points(one.name)[at]
    result = function(**{n: _exact(point[n]) for n in inspect.signature(function).parameters})
    if not isinstance(result, Mapping):
        result = dict(zip(one.parameters, result, strict=True))
    return {n: np.asarray(result[n]) for n in one.parameters}


@cache
def right_high(name: str, at: int) -> dict[str, Any]:
    one = hand(name)
    return high_values(one.tree, one, at)


@dataclass(frozen=True)
class Effect:
    """What a change of the source does: ``kind`` is "differs", "equal", "refused" (it raises, or
    returns what is no gradient) or "unclear"; ``wrong`` the parameters whose gradients change;
    ``size`` the largest change relative to the largest entry."""

    kind: str
    wrong: tuple[str, ...] = ()
    size: float = 0.0


def _size(right: Mapping[str, Any], name: str) -> Any:
    """The largest entry; a gradient that is zero by symmetry is measured by the others."""
    largest = {n: max((abs(v) for v in a.flat), default=0) for n, a in right.items()}
    return max(largest[name], max(largest.values()) / 1000)


def effect(tree: ast.Module, one: Hand) -> Effect:
    """Compare with the right gradient in float64, and where that is not enough at 50 digits."""
    source = ast.unparse(tree)
    biggest: dict[str, float] = {}
    try:
        function = compiled(source, one.main)
        for at in range(3):
            with np.errstate(all="ignore"):
                found = values(function, one.parameters, points(one.name)[at])
            right = right_values(one.name, at)
            for n in one.parameters:
                change = np.abs(found[n].astype(float) - right[n])
                if not np.isfinite(change).all():
                    return Effect("refused")
                size = float(change.max() / _size(right, n))
                biggest[n] = max(biggest.get(n, 0.0), size)
    except Exception:
        return Effect("refused")
    seen = {n: s for n, s in biggest.items() if s > 1e-9}
    close = [n for n, s in biggest.items() if n not in seen]
    if not seen and any(biggest[n] > 0 for n in close):
        try:
            for at in range(2):
                high, right_ = high_values(tree, one, at), right_high(one.name, at)
                for n in close:
                    scale = _size(right_, n)
                    gap = max((abs(a - b) for a, b in
                               zip(high[n].flat, right_[n].flat, strict=True)), default=0)
                    if gap > mpmath.mpf("1e-35") * scale:
                        seen[n] = max(seen.get(n, 0.0), float(gap / scale))
        except Exception:
            return Effect("unclear")
    if not seen:
        return Effect("equal")
    return Effect("differs", tuple(n for n in one.parameters if n in seen), max(seen.values()))


def wrong_exactly(tree: ast.Module, one: Hand) -> set[str]:
    """The gradients that change at 50 digits, however little: in float64 rounding may hide one, or
    look like one where the right gradient is zero."""
    pairs = [(high_values(tree, one, at), right_high(one.name, at)) for at in range(2)]
    return {n for n in one.parameters if any(
        abs(a - b) > mpmath.mpf("1e-35") * _size(right, n) for high, right in pairs
        for a, b in zip(high[n].flat, right[n].flat, strict=True))}


# -- the rules of other checkers ----------------------------------------------------------------
class Rules:
    """The rules of three checkers on the numbers of one network at one point (scale 1; a scaled
    loss scales every difference quotient with it).

    torch: central differences of 1e-6 at every coordinate, atol 1e-5, rtol 1e-3.
    jax: central differences of 1e-4 along one Gaussian direction for each array, absolute and
    relative tolerance 1e-5 (float64), each times the array's size.
    pytensor: one-sided differences of 1e-7, an error only where the absolute one exceeds 1e-4 and
    the relative one, |a - n|/(|a| + |n|), exceeds 1e-4.
    """

    names = ("torch", "jax", "pytensor")

    def __init__(self, name: str) -> None:
        self.one, self.point = hand(name), points(name)[0]
        self.loss = self.one.program.losses[0]
        base = self._at({})
        self.central: dict[str, np.ndarray] = {}
        self.forward: dict[str, np.ndarray] = {}
        self.direction: dict[str, tuple[np.ndarray, float]] = {}
        for n in self.one.parameters:
            shape = self.point[n].shape
            central, forward = np.zeros(shape), np.zeros(shape)
            for place in np.ndindex(shape):
                unit = np.zeros(shape)
                unit[place] = 1
                central[place] = self._slope(n, unit, 1e-6)
                forward[place] = (self._at({n: 1e-7 * unit}) - base) / 1e-7
            self.central[n], self.forward[n] = central, forward
            v = np.random.default_rng(len(n) + 7).normal(size=shape)
            self.direction[n] = v, self._slope(n, v, 1e-4)

    def _at(self, moved: Mapping[str, np.ndarray]) -> float:
        there = {n: a + moved[n] if n in moved else a for n, a in self.point.items()}
        return float(self.one.program.forward.evaluate(there, (self.loss,))[self.loss])

    def _slope(self, name: str, v: np.ndarray, h: float) -> float:
        return (self._at({name: h * v}) - self._at({name: -h * v})) / (2 * h)

    def detects(self, given: Mapping[str, np.ndarray], scale: float) -> dict[str, bool]:
        """Whether each rule calls a gradient (of the loss times ``scale``) wrong."""
        found = dict.fromkeys(self.names, False)
        for n in self.one.parameters:
            a = scale * given[n].astype(float)
            c, f = scale * self.central[n], scale * self.forward[n]
            found["torch"] |= bool((np.abs(a - c) > 1e-5 + 1e-3 * np.abs(c)).any())
            v, slope = self.direction[n]
            ip, tol = float((a * v).sum()), 1e-5 * a.size
            found["jax"] |= abs(ip - scale * slope) > tol + tol * abs(scale * slope)
            gap = np.abs(a - f)
            relative = gap / np.maximum(np.abs(a) + np.abs(f), 1e-8)
            found["pytensor"] |= bool(((gap > 1e-4) & (relative > 1e-4)).any())
        return found


@cache
def rules(name: str) -> Rules:
    return Rules(name)


def share(items: list[Any], part: float, salt: int = 0) -> list[Any]:
    """An even choice of a part of a list, the same in every process."""
    if part >= 1:
        return items
    count = max(1, math.ceil(part * len(items)))
    step = len(items) / count
    return [items[int((n + (salt % 97) / 97) * step) % len(items)] for n in range(count)]
