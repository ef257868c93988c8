"""Indexing symbolic arrays: slices, positions, masks, and assignment in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
from sympy import Expr, Integer

from derive.nodes import Index, IntegerAccess, Select, SumOver
from derive.verify.bodies import apart, as_number, put
from derive.verify.trace_ops import broadcast, over
from derive.verify.traced import Dim, NotTraced, Traced


@dataclass(frozen=True)
class _Slice:
    start: Expr
    step: int
    size: Expr
    whole: bool


def get_item(array: Traced, key: Any) -> Any:
    """``array[key]``; basic indexing gives a view."""
    mask = _mask(array, key)
    if mask is not None:
        made = Traced(array._tracer, array.indices, array.at(*array.indices), array.kind)
        made.masked = mask
        return made
    made = _read(array, key)
    parts = _parts(array, key)
    if not any(isinstance(p, Traced) for p in parts):
        made.base, made.base_version = array, array.version
        made.again = lambda: _read(array, key)
        made.back = lambda value: set_item(array, key, value)
    return made


def _mask(array: Traced, key: Any) -> Any:
    """The condition of a mask of the array's own shape, in its indices."""
    if not isinstance(key, Traced) or key.kind != "bool":
        return None
    if [i.size for i in key.indices] != [i.size for i in array.indices]:
        raise NotTraced("a mask of another shape than its array", where=array._tracer.here())
    return key.at(*array.indices)


def _whole_mask(array: Traced, key: Any) -> Any:
    """A mask of some dims, as in ``a[:, mask]``, as one of all; another key as it is."""
    parts = list(key) if isinstance(key, tuple) else [key]
    masks = [p for p in parts if isinstance(p, Traced) and p.kind == "bool"]
    others = [p for p in parts if not any(p is m for m in masks)]
    if len(masks) != 1 or any(p is not Ellipsis and (
            not isinstance(p, slice) or p != slice(None)) for p in others):
        return key
    (mask,) = masks
    at = next(n for n, p in enumerate(parts) if p is mask)
    if any(p is Ellipsis for p in parts[:at]):
        at = array.ndim - mask.ndim - (len(parts) - 1 - at)
    mine = array.indices[at : at + mask.ndim]
    if [i.size for i in mine] != [i.size for i in mask.indices]:
        return key
    return Traced(array._tracer, array.indices, mask.at(*mine), "bool")


def _parts(array: Traced, key: Any) -> list[Any]:
    """The key, one part for each dim (and each None)."""
    parts = list(key) if isinstance(key, tuple) else [key]
    dims = sum(p is not None and p is not Ellipsis for p in parts)
    if dims > array.ndim:
        raise IndexError(f"too many indices: the array has {array.ndim} dims, {dims} were indexed")
    fill = [slice(None)] * (array.ndim - dims)
    dots = next((n for n, p in enumerate(parts) if p is Ellipsis), None)
    if dots is None:
        parts = [*parts, *fill]
    else:
        parts = [*parts[:dots], *fill, *parts[dots + 1:]]
    return [_part(array, p) for p in parts]


def _counted(tracer: Any, numbers: range) -> Traced:
    """``range(n)`` as positions: of a size, at the number at which the function runs alone."""
    size = next((s for s, n in tracer.numbers.items() if range(n) == numbers), None)
    if size is None:
        return tracer.array(np.asarray(numbers))
    tracer.branches.taken_as_number(size)
    index = tracer.fresh_index(size, "n")
    return Traced(tracer, (index,), index, "int")


def _listed(tracer: Any, part: list[Any]) -> Traced:
    """A list of elements as positions; all those of a vector, in order, are the vector itself."""
    bodies = [tracer.array(p).at() for p in part]
    first = bodies[0]
    if isinstance(first, IntegerAccess) and all(
            b == type(first)(first.name, n) for n, b in enumerate(bodies)):
        (index,) = tracer.program.tensors[first.name].indices
        if tracer.numbers.get(index.size) == len(bodies):
            tracer.branches.taken_as_number(index.size)
            return Traced(tracer, (index,), type(first)(first.name, index), "int")
    return tracer.array(part)


def _part(array: Traced, part: Any) -> Any:
    made: Any = part
    if part is None or isinstance(part, slice | Dim | Traced):
        pass
    elif isinstance(part, int | np.integer) and not isinstance(part, bool):
        made = int(part)
    elif isinstance(part, list) and any(isinstance(p, Traced) for p in part):
        made = _listed(array._tracer, part)
    elif isinstance(part, list | np.ndarray):
        made = array._tracer.array(np.asarray(part))
    elif isinstance(part, range):
        made = _counted(array._tracer, part)
    else:
        raise NotTraced(f"an index of type {type(part).__name__}", where=array._tracer.here())
    if isinstance(made, Traced):
        if made.kind == "bool":
            raise NotTraced("a mask along one dim", where=array._tracer.here())
        if made.kind != "int":
            raise IndexError("arrays used as indices must be of integer type")
        if made.ndim == 0:
            return made.at()
    return made


def _place(array: Traced, index: Index, part: int | Dim | Expr) -> Expr:
    """A position from the front, within bounds."""
    if isinstance(part, Expr):
        return part
    n, expr = int(part), part.expr if isinstance(part, Dim) else Integer(int(part))
    size = int(array._tracer.dim(index.size))
    if not -size <= n < size:
        raise IndexError(f"index {n} is out of bounds for a dim of size {size}")
    return expr if n >= 0 else index.size + expr


def _slice(array: Traced, index: Index, part: slice) -> _Slice:
    tracer, size = array._tracer, index.size
    number = int(tracer.dim(size))
    start, stop, step = part.indices(number)
    count = len(range(start, stop, step))
    if count == number and step == 1:
        return _Slice(Integer(0), 1, size, True)
    first: Expr = Integer(start)
    given = part.start
    if isinstance(given, Dim):
        first = given.expr if int(given) >= 0 else size + given.expr
    elif given is not None and given < 0 and not size.is_Integer:
        first = size + given
    elif step < 0 and given is None:
        first = size - 1
    extent: Expr = Integer(count)
    if isinstance(part.stop, Dim) and step == 1:
        extent = (part.stop.expr if int(part.stop) >= 0 else size + part.stop.expr) - first
    elif not size.is_Integer and step == 1:
        if part.stop is None:
            extent = size - first
        elif part.stop < 0:
            extent = size + part.stop - first
    elif not size.is_Integer and step == -1 and part.stop is None:
        extent = first + 1
    return _Slice(first, step, sympy.expand(extent), False)


def _read(array: Traced, key: Any) -> Traced:
    tracer, parts = array._tracer, _parts(array, key)
    fancy = [p for p in parts if isinstance(p, Traced)]
    gathered, bodies = broadcast(fancy) if fancy else ((), [])
    values = iter(bodies)
    where: list[Expr] = []
    made: list[Index | None] = []
    axis = 0
    taken = {i.name for i in array.indices}
    for part in parts:
        if part is None:
            made.append(tracer.fresh_index(Integer(1), "o", taken))
            taken.add(made[-1].name)  # type: ignore[union-attr]
            continue
        index = array.indices[axis]
        axis += 1
        if isinstance(part, slice):
            cut = _slice(array, index, part)
            new = index if cut.whole else tracer.fresh_index(cut.size, index.name)
            where.append(new if cut.whole else cut.start + cut.step * new)
            made.append(new)
        elif isinstance(part, Traced):
            where.append(next(values))
            made.append(None)
        else:
            where.append(_place(array, index, part))
    body = array.at(*_apart(where, made, gathered, tracer, taken))
    return Traced(tracer, _arranged(made, gathered), body, array.kind)


def _apart(where: list[Expr], made: list[Index | None], gathered: Sequence[Index], tracer: Any,
           taken: set[str]) -> list[Expr]:
    """Indices of slices that bear the name of a gathered index get another."""
    names = {i.name for i in gathered} | {i.name for i in made if i is not None and i.size == 1}
    used: set[str] = set(names)
    moved: dict[Index, Expr] = {}
    for n, index in enumerate(made):
        if index is None or (index.size == 1 and index not in where):
            continue
        if index.name in used:
            new = tracer.fresh_index(index.size, index.name, used | taken)
            moved[index] = new
            made[n] = new
            used.add(new.name)
        used.add(made[n].name)  # type: ignore[union-attr]
    mine = set(moved)
    return [w if isinstance(w, IntegerAccess) or not mine & w.free_symbols
            or _only(w, gathered) else put(w, moved) for w in where]


def _only(where: Expr, gathered: Sequence[Index]) -> bool:
    return bool(where.free_symbols) and where.free_symbols <= set(gathered)


def _arranged(made: list[Index | None], gathered: Sequence[Index]) -> tuple[Index, ...]:
    """NumPy's order: gathered dims where they stand side by side, else in front."""
    at = [n for n, index in enumerate(made) if index is None]
    plain = [i for i in made if i is not None]
    if not at:
        return tuple(plain)
    together = at == list(range(at[0], at[-1] + 1))
    before = sum(i is not None for i in made[: at[0]]) if together else 0
    return (*plain[:before], *gathered, *plain[before:])


# -- assignment -----------------------------------------------------------------------------------
def set_item(array: Traced, key: Any, value: Any) -> None:
    """``array[key] = value``, in place."""
    tracer = array._tracer
    array.refreshed()
    new = tracer.array(value)
    mask = _mask(array, key) if new.ndim else _mask(array, _whole_mask(array, key))
    old = array.at(*array.indices)
    if mask is not None:
        if new.ndim and new.masked is None:
            raise NotTraced("an array is assigned to selected elements", where=tracer.here())
        body = new.at(*array.indices) if new.ndim else new.at()
        chosen = Select(mask, apart(as_number(body), array.indices), old)
        array.change(Traced(tracer, array.indices, chosen, array.kind))
        return
    condition, places = _region(array, _parts(array, key))
    body = apart(as_number(_spread(new, places)), array.indices)
    array.change(Traced(tracer, array.indices, Select(condition, body, old), array.kind))


def _spread(value: Traced, places: list[Expr]) -> Any:
    """The body of a value at the places of a region, broadcast from the back."""
    while value.ndim > len(places) and value.indices[0].size == 1:
        value = value[0]
    if value.ndim > len(places):
        raise ValueError(f"could not broadcast {value!r} into {len(places)} dims")
    mine = places[len(places) - value.ndim:]
    return value.at(*(Integer(0) if i.size == 1 else p
                      for i, p in zip(value.indices, mine, strict=True)))


def _region(array: Traced, parts: list[Any]) -> tuple[Any, list[Expr]]:
    """The condition under which an element lies in the region of a key, and its place there."""
    conditions: list[Any] = []
    places: list[Expr | None] = []
    fancy: list[tuple[Index, Traced]] = []
    axis = 0
    for part in parts:
        if part is None:
            places.append(Integer(0))
            continue
        index = array.indices[axis]
        axis += 1
        if isinstance(part, slice):
            cut = _slice(array, index, part)
            if cut.whole:
                places.append(index)
                continue
            offset = (index - cut.start) * (1 if cut.step > 0 else -1)
            step = abs(cut.step)
            conditions += [sympy.Ge(offset, 0), sympy.Lt(offset, cut.size * step)]
            if step != 1:
                conditions.append(sympy.Eq(sympy.Mod(offset, step), 0))
            places.append(sympy.expand(offset / step))
        elif isinstance(part, Traced):
            fancy.append((index, part))
            places.append(None)
        else:
            conditions.append(sympy.Eq(index, _place(array, index, part)))
    if not fancy:
        return sympy.And(*conditions), [p for p in places if p is not None]
    found, gathered = _found(array, fancy)
    conditions += found
    at = [n for n, p in enumerate(places) if p is None]
    plain = [p for p in places if p is not None]
    together = at == list(range(at[0], at[-1] + 1))
    before = sum(p is not None for p in places[: at[0]]) if together else 0
    return sympy.And(*conditions), [*plain[:before], *gathered, *plain[before:]]


def _found(array: Traced, fancy: list[tuple[Index, Traced]]) -> tuple[list[Any], list[Expr]]:
    """For positions such as ``[np.arange(n), t]``: which element of the value lands at an element
    of the array, where each place is met at most once."""
    indices, bodies = broadcast([p for _, p in fancy])
    there: dict[Index, Expr] = {}
    for (index, _), body in zip(fancy, bodies, strict=True):
        if isinstance(body, Index) and body not in there and body.size == index.size:
            there[body] = index
    one = {i for i in indices if i.size == 1}  # t[:, None]: its only place
    if any(i not in there for i in indices if i not in one):
        raise NotTraced(
            "positions from an integer array may repeat, and assignment in place then counts a "
            "repeated one once", mend="np.add.at(array, positions, values) adds every one",
            where=array._tracer.here())
    conditions = [sympy.Eq(index, put(body, there))
                  for (index, _), body in zip(fancy, bodies, strict=True)
                  if there.get(body) != index]
    return conditions, [Integer(0) if i in one else there[i] for i in indices]


def add_at(array: Any, key: Any, value: Any) -> None:
    """``np.add.at``: every value is added, at repeated positions too."""
    if not isinstance(array, Traced):
        raise NotTraced("np.add.at into an array that is not symbolic")
    tracer = array._tracer
    new, parts = tracer.array(value), _parts(array, key)
    fancy = [(n, p) for n, p in enumerate(parts) if isinstance(p, Traced)]
    if not fancy or any(p is None or (isinstance(p, slice) and p != slice(None)) for p in parts):
        raise NotTraced("np.add.at with such positions", where=tracer.here())
    gathered, bodies = broadcast([p for _, p in fancy])
    taken = {i.name for i in array.indices}
    away = {}
    for i in gathered:
        away[i] = tracer.fresh_index(i.size, i.name, taken)
        taken.add(away[i].name)
    axes = [n for n, _ in fancy]
    conditions = [sympy.Eq(array.indices[n], put(body, dict(away)))
                  for n, body in zip(axes, bodies, strict=True)]
    plain = [i for n, i in enumerate(array.indices) if n not in axes]
    together = axes == list(range(axes[0], axes[-1] + 1))
    before = axes[0] if together else 0
    places = [*plain[:before], *away.values(), *plain[before:]]
    inner = apart(as_number(_spread(new, places)), [*array.indices, *away.values()])
    term = Select(sympy.And(*conditions), inner, sympy.S.Zero)
    total = array.at(*array.indices) + over(SumOver, term, list(away.values()))
    array.change(Traced(tracer, array.indices, total, array.kind))

