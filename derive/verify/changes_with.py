"""Changes of one operation of a hand-written function with what else there is: the variables that
its code can name, and what the derivation computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import numpy as np

from derive.verify.changes import Array, Edit, Make, There, is_values
from derive.verify.events import Event, Record
from derive.verify.operation_text import operand_said, whole_text
from derive.verify.tape import Linear


def variable_edits(record: Record, there: There) -> Iterator[Edit]:
    """Changes of an operation with the variables that its code can name."""
    event, text = record.events[0], record.site.text
    names = [n for n, v in event.names().items() if np.ndim(v) <= 5]
    result = np.asarray(record.results[0])
    for name in names:
        value = event.names()[name]
        if is_values(result):
            for shown, turn in _views(value):
                if _fits(turn(value), result.shape):
                    yield from _combined(
                        text, shown.format(name),
                        lambda e, t, n=name, turn=turn: turn(e.names()[n]),  # type: ignore[misc]
                        turn(value).shape == result.shape)
    for n, old in enumerate(event.args):
        if isinstance(old, np.ndarray | float | int | np.generic) and not isinstance(old, bool):
            yield from _replaced(event, text, n, old, names)


def _views(value: Array) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    yield "{}", lambda v: v
    if value.ndim == 2 and value.shape[0] != value.shape[1]:
        yield "{}.T", lambda v: v.T
    if value.ndim == 1:
        yield "{}[:, None]", lambda v: v[:, None]


def _fits(value: Array, shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(value.shape, shape) == shape
    except ValueError:
        return False


_WITH: tuple[tuple[str, str, Callable[[Any, Any], Any]], ...] = (
    ("the factor {} is missing", "{r} * {v}", lambda r, v: r * v),
    ("the division by {} is missing", "{r} / {v}", lambda r, v: r / v),
    ("the term {} is missing", "{r} + {v}", lambda r, v: r + v),
    ("the term -{} is missing", "{r} - {v}", lambda r, v: r - v),
    ("it is to be taken from {}", "{v} - {r}", lambda r, v: v - r),
    ("the factor (1 - {}) is missing", "{r} * (1 - {v})", lambda r, v: r * (1 - v)),
    ("the factor {0} (1 - {0}) is missing", "{r} * {v} * (1 - {v})", lambda r, v: r * v * (1 - v)),
    ("the factor (1 - {}**2) is missing", "{r} * (1 - {v}**2)", lambda r, v: r * (1 - v**2)),
    ("the factor ({} > 0) is missing", "{r} * ({v} > 0)", lambda r, v: r * (v > 0)),
)


def _combined(text: str, shown: str, value: Make, same_shape: bool) -> Iterator[Edit]:
    whole = whole_text(text)
    for words, form, f in _WITH:
        yield Edit(words.format(shown), form.format(r=whole, v=shown) if whole else "",
                   lambda e, t, f=f: f(e.result(), value(e, t)))  # type: ignore[misc]
    if same_shape:
        yield Edit(f"{shown} belongs there", shown, value)


def _replaced(event: Event, text: str, n: int, old: Any, names: list[str]) -> Iterator[Edit]:
    """An operand that is another variable, or one that is changed on its way in."""
    said, shape = operand_said(text, n), np.shape(old)

    def into(make: Callable[[Event, Any], Any]) -> Make:
        return lambda e, t: e.compute(*(make(e, x) if k == n else x
                                        for k, x in enumerate(e.args)))

    values = event.names()
    for name in names:
        for shown, turn in _views(values[name]):
            if turn(values[name]).shape == shape and shape:
                yield Edit(f"{shown.format(name)} belongs where {said} stands",
                           text.replace(said, shown.format(name)) if text.count(said) == 1 else "",
                           into(lambda e, x, m=name, turn=turn: turn(  # type: ignore[misc]
                               e.names()[m])))
    known = shape and any(np.array_equal(v, old) for v in values.values())
    if known and is_values(old):
        for name in names:
            if _fits(values[name], shape) and values[name].dtype.kind == "f":
                for words, form, f in _WITH[:4]:
                    if name == said and ("/" in form or "-" in form):
                        continue  # t / t is no way to write 1
                    yield Edit(f"of {said} {words.format(name)}",
                               text.replace(said, f"({form.format(r=said, v=name)})")
                               if text.count(said) == 1 else "",
                               into(lambda e, x, m=name, f=f: f(x, e.names()[m])))  # type: ignore
    if not shape and isinstance(old, float | int | np.generic):
        for factor in (-1.0, 2.0, 0.5, 0.0):
            right = f"{factor * float(old):g}"
            yield Edit(f"{old:g} is wrong: {right} belongs there",
                       text.replace(said, right) if text.count(said) == 1 else "",
                       into(lambda e, x, c=factor: c * x))  # type: ignore[misc]


def scaled_edits(record: Record, judge: Linear | None) -> Iterator[Edit]:
    """The one number by which an operation's results are to be multiplied, if there is one."""
    if judge is None:
        return
    factor = judge.factor()
    if factor is not None:
        whole = whole_text(record.site.text)
        shown = f"{factor:.10g}"
        yield Edit(f"the factor {shown} is missing", f"{shown} * {whole}" if whole else "",
                   lambda e, t: factor * e.result())


def derived_edits(record: Record, there: There) -> Iterator[Edit]:
    """Changes of an operation with what the derivation computes, in any order of axes; of a
    tensor with one axis more, its steps go with the events of the operation."""
    result = np.asarray(record.results[0])
    if not is_values(result) or result.size < 2:
        return
    many = len(record.events) > 1
    shape = tuple(n for n in result.shape if n != 1)
    for text, value in there.values.items():
        for words, pick in _picks(value, shape, many):
            def get(e: Event, t: There, text: str = text,
                    pick: Callable[[Array, int], Array] = pick,
                    full: tuple[int, ...] = result.shape) -> Any:
                found = pick(np.squeeze(t.values[text]), e.number)
                here = np.shape(e.result())
                return found.reshape(here) if found.size == int(np.prod(here)) else found

            said = f"{text}{words}"
            yield Edit(f"it should be {said}", "", get)
            yield Edit(f"the factor {said} is missing", "",
                       lambda e, t, g=get: e.result() * g(e, t))  # type: ignore[misc]
            yield Edit(f"the term {said} is missing", "",
                       lambda e, t, g=get: e.result() + g(e, t))  # type: ignore[misc]
            yield Edit(f"the term -({said}) is missing", "",
                       lambda e, t, g=get: e.result() - g(e, t))  # type: ignore[misc]


def _picks(value: Array, shape: tuple[int, ...], many: bool
           ) -> Iterator[tuple[str, Callable[[Array, int], Array]]]:
    value = np.squeeze(value)
    if value.ndim == len(shape) and value.ndim <= 4 and sorted(value.shape) == sorted(shape):
        for order in permutations(range(value.ndim)):
            if tuple(value.shape[n] for n in order) == shape:
                turned = order != tuple(range(value.ndim))
                yield (", transposed" if turned else ""), (
                    lambda v, k, o=order: v.transpose(o))  # type: ignore[misc]
    if many and value.ndim == len(shape) + 1:
        for axis in range(value.ndim):
            rest = tuple(s for a, s in enumerate(value.shape) if a != axis)
            if rest == shape:
                for back in (False, True):
                    yield f" at step {'-k' if back else 'k'}", (
                        lambda v, k, a=axis, b=back: v.take(  # type: ignore[misc]
                            (-1 - k if b else k) % v.shape[a], a))
