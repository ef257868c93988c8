"""Small changes of one operation of a hand-written function, each with its words and its text.

What people get wrong is an operation left out, done twice or done on the wrong thing; so the
opposite of each is tried: a factor, a term or a function more or less, operands exchanged or
replaced by other variables, another axis, another index. `derive.verify.repair` tries them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement, permutations
from typing import Any

import numpy as np

from derive.verify.events import After, Elsewhere, Event, Record
from derive.verify.operation_text import joined, operand_said, parsed, whole_text

Make = Callable[[Event, "There"], Any]
Array = np.ndarray


@dataclass(frozen=True)
class There:
    """A point: its sizes by name, and what the derivation computes there, by its text."""

    sizes: Mapping[str, int]
    values: Mapping[str, Array]


@dataclass(frozen=True)
class Edit:
    """A change of an operation: what is wrong with it in words, the right text in its place ("":
    there is none), how to compute it."""

    words: str
    text: str
    make: Make


# -- what is there to use -------------------------------------------------------------------------
def _factors(there: There) -> Iterator[tuple[str, Callable[[There], float]]]:
    """2, the sizes, and products of two sizes, as text and value."""
    yield "2", lambda t: 2.0
    fixed = [(str(n), n) for n in sorted({s for v in there.values.values() for s in v.shape})
             if 2 < n and n not in there.sizes.values()]
    named = [*((n, n) for n in there.sizes), *fixed[:4]]

    def value(key: Any, t: There) -> float:
        return float(t.sizes[key] if isinstance(key, str) else key)

    for name, key in named:
        yield name, lambda t, k=key: value(k, t)  # type: ignore[misc]
    for (a, i), (b, j) in combinations_with_replacement(named, 2):
        yield f"({a} * {b})", lambda t, i=i, j=j: value(i, t) * value(j, t)  # type: ignore[misc]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "np.exp": np.exp, "np.log": np.log, "np.sqrt": np.sqrt, "np.square": np.square,
    "np.tanh": np.tanh, "np.abs": np.abs, "np.sin": np.sin, "np.cos": np.cos, "np.sign": np.sign,
    "np.log1p": np.log1p, "np.expm1": np.expm1, "np.sinh": np.sinh, "np.cosh": np.cosh,
    "1 / ": lambda x: 1 / x, "sigmoid": _sigmoid, "softmax": _softmax,
    "relu": lambda x: np.maximum(x, 0),
}
_UNARY = {"exp", "log", "sqrt", "square", "tanh", "absolute", "fabs", "sin", "cos", "sign", "log1p",
          "expm1", "sinh", "cosh", "reciprocal", "negative", "positive", "power", "cbrt"}
_BINARY: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "add": ("+", lambda a, b: a + b), "subtract": ("-", lambda a, b: a - b),
    "multiply": ("*", lambda a, b: a * b), "divide": ("/", lambda a, b: a / b),
}
_COMPARE: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "greater": (">", np.greater), "greater_equal": (">=", np.greater_equal),
    "less": ("<", np.less), "less_equal": ("<=", np.less_equal),
    "equal": ("==", np.equal), "not_equal": ("!=", np.not_equal),
}
_CHOICES: dict[str, Callable[[Any, Any], Any]] = {"maximum": np.maximum, "minimum": np.minimum}
_PRODUCTS = ("matmul", "dot", "outer", "inner", "tensordot")
_SUMS = {"sum": np.sum, "mean": np.mean, "add.reduce": np.sum, "max": np.max, "min": np.min,
         "amax": np.max, "amin": np.min, "std": np.std, "var": np.var, "prod": np.prod}


def is_values(value: Any) -> bool:
    """Whether an operation's result is floating-point numbers."""
    return isinstance(value, np.ndarray | np.floating) and np.asarray(value).dtype.kind == "f"


# -- changes that need nothing but the operation --------------------------------------------------
def own_edits(record: Record, there: There) -> Iterator[Edit]:
    """Changes of an operation by itself."""
    event, text = record.events[0], record.site.text
    result = record.results[0]
    # the simplest first: of changes that come to the same, the first one is named
    yield from _operands(event, text)
    if event.name in _SUMS:
        yield from _reduced(event, text)
    if event.name in ("getitem", "setitem"):
        yield from _indexed(event)
    if event.name == "setitem":
        yield from _afterwards(text, there)
    if is_values(result):
        yield from _scaled(text, there)
        yield from _applied(text)
        yield from _turned(text, np.ndim(result))
    if event.name == "einsum" and isinstance(event.args[0], str):
        yield from _letters(event)
    if event.name == "astype" and is_values(event.args[0]):
        yield Edit(f"{text} rounds to another precision", "", lambda e, t: e.args[0])
    if event.name == "where" and len(event.args) == 3:
        yield Edit("its two branches are exchanged", "",
                   lambda e, t: e.compute(e.args[0], e.args[2], e.args[1]))


def _scaled(text: str, there: There) -> Iterator[Edit]:
    whole = whole_text(text)
    yield Edit("its sign is wrong", f"-{whole}" if whole else "", lambda e, t: -e.result())
    for name, value in _factors(there):
        yield Edit(f"the factor {name} is missing", joined(name, "*", whole),
                   lambda e, t, v=value: e.result() * v(t))  # type: ignore[misc]
        yield Edit(f"the division by {name} is missing", joined(whole, "/", name),
                   lambda e, t, v=value: e.result() / v(t))  # type: ignore[misc]
        if name != "2":
            yield Edit(f"the factor 2/{name} is missing", joined(joined("2", "*", whole), "/",
                                                                  name),
                       lambda e, t, v=value: 2 * e.result() / v(t))  # type: ignore[misc]
    for shift in (1.0, -1.0):
        sign = "+" if shift > 0 else "-"
        yield Edit(f"the term {shift:+.0f} is missing", joined(text if whole else "", sign, "1"),
                   lambda e, t, s=shift: e.result() + s)  # type: ignore[misc]
    yield Edit("1 minus it belongs there", joined("1", "-", whole), lambda e, t: 1 - e.result())
    yield Edit("1 plus it belongs there", joined("1", "+", whole), lambda e, t: 1 + e.result())
    for eps in (1e-5, 1e-6, 1e-8, 1e-12, 1e-3):
        yield Edit(f"the term {eps:g} is missing", joined(text if whole else "", "+", f"{eps:g}"),
                   lambda e, t, s=eps: e.result() + s)  # type: ignore[misc]


def _afterwards(text: str, there: There) -> Iterator[Edit]:
    """A line more after an assignment to elements: its whole array times a factor."""
    name = operand_said(text, 0)
    yield Edit(f"`{name} *= -1` is missing after it", "",
               lambda e, t: After(e.args[0], lambda a: -a))
    for factor, value in _factors(there):
        yield Edit(f"`{name} /= {factor}` is missing after it", "",
                   lambda e, t, v=value: After(  # type: ignore[misc]
                       e.args[0], lambda a: a / v(t)))
        yield Edit(f"`{name} *= {factor}` is missing after it", "",
                   lambda e, t, v=value: After(  # type: ignore[misc]
                       e.args[0], lambda a: a * v(t)))


def _applied(text: str) -> Iterator[Edit]:
    for name, f in _FUNCTIONS.items():
        call = f"{name}({text})" if parsed(text) is not None else ""
        yield Edit(f"{name.strip(' /')} of it is missing" if name != "1 / " else
                   "one over it belongs there", call,
                   lambda e, t, f=f: f(e.result()))  # type: ignore[misc]
    yield Edit("1 minus its square belongs there", f"1 - {whole_text(text)}**2",
               lambda e, t: 1 - e.result() ** 2)
    yield Edit("v (1 - v) of it belongs there", "", lambda e, t: e.result() * (1 - e.result()))


def _turned(text: str, rank: int) -> Iterator[Edit]:
    whole = whole_text(text)
    for a in range(rank):
        yield Edit(f"axis {a} runs the other way", "",
                   lambda e, t, a=a: np.flip(e.result(), a))  # type: ignore[misc]
        for b in range(a):
            yield Edit("it is to be transposed", f"{whole}.T" if rank == 2 and whole else "",
                       lambda e, t, a=a, b=b: np.swapaxes(e.result(), a, b))  # type: ignore[misc]


def _operands(event: Event, text: str) -> Iterator[Edit]:
    name, count = event.name, len(event.args)
    if name in _BINARY:
        yield from _arithmetic(name, text)
    elif name in _COMPARE:
        for other, (sign, f) in _COMPARE.items():
            if other != name:
                yield Edit(f"{sign} belongs there",
                           joined(operand_said(text, 0), sign, operand_said(text, 1)),
                           lambda e, t, f=f: f(*e.args))  # type: ignore[misc]
    elif name in _CHOICES:
        for other, f in _CHOICES.items():
            if other != name:
                yield Edit(f"np.{other} belongs there", "",
                           lambda e, t, f=f: f(*e.args[:2]))  # type: ignore[misc]
    elif name in _PRODUCTS and count >= 2:
        yield from _products(event, text)
    elif name in _UNARY:
        for n, g in _FUNCTIONS.items():
            yield Edit(f"{n.strip()} belongs where {name} stands", f"{n}({operand_said(text, 0)})",
                       lambda e, t, g=g: g(e.args[0]))  # type: ignore[misc]
        yield Edit(f"{name} is too much", operand_said(text, 0), lambda e, t: e.args[0])
    if name in ("power", "square", "reciprocal", "sqrt"):
        for p in (-3, -2, -1.5, -1, -0.5, 0.5, 1, 1.5, 2, 3):
            yield Edit(f"the power {p} belongs there", f"{whole_text(operand_said(text, 0))}**{p}",
                       lambda e, t, p=p: np.power(e.args[0], float(p)))  # type: ignore[misc]


def _arithmetic(name: str, text: str) -> Iterator[Edit]:
    a, b = operand_said(text, 0), operand_said(text, 1)
    for other, (sign, f) in _BINARY.items():
        if other != name:
            yield Edit(f"{sign} belongs where {_BINARY[name][0]} stands", joined(a, sign, b),
                       lambda e, t, f=f: f(*e.args))  # type: ignore[misc]
        if other in ("subtract", "divide"):
            yield Edit("its operands are exchanged", joined(whole_text(b), sign, whole_text(a)),
                       lambda e, t, f=f: f(e.args[1], e.args[0]))  # type: ignore[misc]
    kind = "the term" if name in ("add", "subtract") else "the factor"
    if name == "divide":
        yield Edit(f"the division by {b} is too much", a, lambda e, t: e.args[0] + 0 * e.result())
        yield Edit(f"{kind} {a} is too much", f"1 / {whole_text(b)}", lambda e, t: 1 / e.args[1])
        yield Edit(f"{kind} {a} is too much, and {b} is no divisor", b,
                   lambda e, t: e.args[1] + 0 * e.result())
        return
    yield Edit(f"{kind} {b} is too much", a, lambda e, t: e.args[0] + 0 * e.result())
    yield Edit(f"{kind} {a} is too much", f"-{whole_text(b)}" if name == "subtract" else b,
               lambda e, t: _kept(name, e.args[1]) + 0 * e.result())
    for n, (one, two) in enumerate(((a, b), (b, a))):
        if name == "multiply":
            yield Edit(f"{one} is to be squared", joined(f"{whole_text(one)}**2", "*", two),
                       lambda e, t, n=n: e.result() * e.args[n])  # type: ignore[misc]
        for factor, said in ((2.0, "2"), (0.5, "0.5"), (-1.0, "-1")):
            if name in ("add", "subtract"):
                yield Edit(f"the factor {said} of {one} is missing", "",
                           lambda e, t, n=n, c=factor: e.compute(  # type: ignore[misc]
                               *(c * x if k == n else x for k, x in enumerate(e.args))))


def _kept(name: str, value: Any) -> Any:
    return -np.asarray(value) if name == "subtract" else value


def _products(event: Event, text: str) -> Iterator[Edit]:
    a, b = operand_said(text, 0), operand_said(text, 1)
    sign = "@" if event.name == "matmul" else ","
    yield Edit("its operands are exchanged", joined(whole_text(b), sign, whole_text(a)),
               lambda e, t: e.compute(e.args[1], e.args[0], *e.args[2:]))
    for which in ((0,), (1,), (0, 1)):
        said = " and ".join((a, b)[n] for n in which)
        for swap in (False, True):
            def make(e: Event, t: There, which: tuple[int, ...] = which, swap: bool = swap) -> Any:
                ends = [np.swapaxes(x, -1, -2) if n in which and np.ndim(x) > 1 else x
                        for n, x in enumerate(e.args[:2])]
                return e.compute(*(reversed(ends) if swap else ends), *e.args[2:])

            yield Edit(f"{said} is to be transposed" + (", and the operands exchanged" if swap
                                                        else ""), "", make)


def _reduced(event: Event, text: str) -> Iterator[Edit]:
    array = event.args[0]
    keep = bool(event.options.get("keepdims", False))
    rank = np.ndim(array)
    axes: list[Any] = [None, *range(rank), *((a, b) for b in range(rank) for a in range(b))]
    for name, f in _SUMS.items():
        if name in ("add.reduce", "amax", "amin"):
            continue
        for axis in axes:
            for kept in dict.fromkeys((keep, not keep)):
                said = f"np.{name} over axis {axis}" if axis is not None else f"np.{name} over all"
                yield Edit(f"{said} belongs there" + (", keepdims" if kept != keep else ""), "",
                           lambda e, t, f=f, axis=axis, kept=kept: f(  # type: ignore[misc]
                               np.asarray(e.args[0]), axis=axis, keepdims=kept))
    yield Edit(f"the {event.name.split('.')[-1]} is too much", operand_said(text, 0),
               lambda e, t: e.args[0])


def _indexed(event: Event) -> Iterator[Edit]:
    key = event.args[1]
    parts = key if isinstance(key, tuple) else (key,)
    for n, part in enumerate(parts):
        for words, change in _keys(part):
            def make(e: Event, t: There, n: int = n, change: Callable[[Any], Any] = change) -> Any:
                now = list(e.args[1]) if isinstance(e.args[1], tuple) else [e.args[1]]
                now[n] = change(now[n])
                return _at(e, tuple(now) if isinstance(e.args[1], tuple) else now[0])

            yield Edit(words, "", make)
    if len(parts) > 1:
        for order in permutations(range(len(parts))):
            if order != tuple(range(len(parts))):
                yield Edit("its indices are exchanged", "",
                           lambda e, t, o=order: _at(  # type: ignore[misc]
                               e, tuple(e.args[1][n] for n in o)))


def _at(event: Event, key: Any) -> Any:
    """The element at another key, or what is to be stored there."""
    if event.name == "setitem":
        return Elsewhere(event.args[0], key)
    return event.compute(event.args[0], key)


def _keys(part: Any) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    if isinstance(part, bool) or part is None or part is Ellipsis:
        return
    if isinstance(part, int | np.integer) or (isinstance(part, np.ndarray)
                                              and part.dtype.kind in "iu"):
        yield "the index is one too low", lambda k: k + 1
        yield "the index is one too high", lambda k: k - 1
        yield "the index counts from the wrong end", lambda k: -1 - k
    if isinstance(part, slice):
        yield "the whole axis belongs there", lambda k: slice(None)
        yield "the other way round", lambda k: slice(None, None, -1)
        for by in (1, -1):
            yield "the slice is shifted by one", lambda k, by=by: slice(  # type: ignore[misc]
                k.start if k.start is None else k.start + by,
                k.stop if k.stop is None else k.stop + by, k.step)
    if isinstance(part, np.ndarray) and part.dtype.kind == "b":
        yield "the condition is the wrong way round", lambda k: ~k


def _letters(event: Event) -> Iterator[Edit]:
    """Other orders of the letters of each operand, and of the result."""
    spec = str(event.args[0]).replace(" ", "")
    inputs, arrow, output = spec.partition("->")
    groups = [*inputs.split(","), *([output] if arrow else [])]
    for n, group in enumerate(groups):
        for order in permutations(group) if len(group) <= 4 else ():
            now = [*groups[:n], "".join(order), *groups[n + 1:]]
            new = ",".join(now[:-1] if arrow else now) + (arrow + now[-1] if arrow else "")
            if new != spec:
                yield Edit(f"the letters {new!r} belong there", "",
                           lambda e, t, s=new: e.compute(s, *e.args[1:]))  # type: ignore[misc]
