"""Repeated layers: found in the equations, so that a document derives them once, for layer ℓ.

Two layers are alike if their equations are the same but for names, where a name is replaced by
what it is to the layer: a tensor of the layer, of the layer before, or one of its own parameters.
The numbers in their names go on in equal steps, so that each can be written with ℓ: a block that
has two norms and three sums has ``m3, m4, y4, y5, y6`` behind ``m1, m2, y1, y2, y3``, which are
m of 2ℓ−1 and 2ℓ, y of 3ℓ−2, 3ℓ−1 and 3ℓ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sympy import Expr

from derive.nodes import Access, Index, Reduction
from derive.program import Equation, Program
from derive.symbols import Symbol, Symbols

_LONGEST = 24  # equations in a layer
_FEWEST = 4  # layers that are worth folding
_OWN = ("parameter", "state")  # what a layer may have for itself
_NUMBER = re.compile(r"\d+(?=(_next)?$)")


@dataclass(frozen=True)
class Fold:
    """``count`` layers of ``period`` equations from position ``start`` on; ``first`` is the number
    of the first one: that in its names, where one of them goes on by one from layer to layer."""

    start: int
    period: int
    count: int
    first: int

    @property
    def shown(self) -> int:
        """The repetition that stands for all: one with a layer of its kind on either side."""
        return 1


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs: the repetition ``layer`` of a fold, and its part in it."""

    fold: Fold
    part: str
    layer: int


class Folding:
    """The folds of a program and the place of each tensor that belongs to one."""

    def __init__(self, program: Program, forward: Iterable[Equation]) -> None:
        self.program = program
        self.forward = tuple(forward)
        self._lines = _lines(program, self.forward)
        self.folds = _find(self._lines)
        self.places: dict[str, Place] = {}
        self._known: dict[str, Place | None] = {}
        self.neighbours: dict[str, Place] = {}  # before the first layer and behind the last one
        for fold in self.folds:
            self._locate(fold)
            self._locate_neighbours(fold)
        for tensor in program.tensors.values():
            self._inherit(tensor.name)
        self._by_part = {(p.fold, p.part, p.layer): n for n, p in self.places.items()}
        self._steps: dict[tuple[Fold, str], tuple[int, int]] = {}

    def _locate(self, fold: Fold) -> None:
        for layer in range(fold.count):
            for offset in range(fold.period):
                position = fold.start + layer * fold.period + offset
                self.places[self.forward[position].name] = Place(fold, f"{offset}", layer)
                for number, name in enumerate(self._lines[position].own):
                    self.places[name] = Place(fold, f"{offset}.{number}", layer)

    def _locate_neighbours(self, fold: Fold) -> None:
        """The equations on either side whose names go on with the numbers of the layers."""
        for layer in (-1, fold.count):
            for offset in range(fold.period):
                position = fold.start + layer * fold.period + offset
                if not 0 <= position < len(self.forward):
                    continue
                eq, place = self.forward[position], Place(fold, f"{offset}", layer)
                if eq.name == self._name_at(place):
                    self.neighbours.setdefault(eq.name, place)
                    for n, name in enumerate(self._lines[position].own):
                        place = Place(fold, f"{offset}.{n}", layer)
                        if name == self._name_at(place):
                            self.neighbours.setdefault(name, place)

    def _inherit(self, name: str) -> None:
        """A generated tensor belongs where the tensor belongs that it is made for."""
        origin = self.program.tensors[name].origin if name in self.program.tensors else None
        if origin is None or name in self.places or name in self.neighbours:
            return
        self._inherit(origin[1])
        for places in (self.places, self.neighbours):
            place = places.get(origin[1])
            if place is not None:
                places[name] = replace(place, part=f"{origin[0]} {place.part}")

    def place_near(self, name: str) -> Place | None:
        """The place of a tensor in a fold or directly beside it."""
        return self.places.get(name) or self.neighbours.get(name)

    def alike(self, eq: Equation) -> Place | None:
        """The place of an equation that is the same as the one shown for its fold."""
        if eq.name not in self._known:
            self._known[eq.name] = self._alike(eq)
        return self._known[eq.name]

    def _alike(self, eq: Equation) -> Place | None:
        place = self.places.get(eq.name)
        if place is None:
            return None
        shown = self.partner(eq.name, place.fold.shown)
        if shown is None or shown not in self.program.defined:
            return None
        other = self.program.defined[shown]
        same = self._key(eq, place.layer) == self._key(other, place.fold.shown)
        return place if same else None

    def partner(self, name: str, layer: int) -> str | None:
        """The tensor that plays the part of ``name`` in another layer."""
        place = self.places[name]
        return self._by_part.get((place.fold, place.part, layer))

    def _progress(self, fold: Fold, part: str) -> tuple[int, int]:
        """The number in the name of a part of the first layer, and how it goes on."""
        offset, _, own = part.partition(".")
        here = self._lines[fold.start + int(offset)], self._lines[
            fold.start + fold.period + int(offset)]
        one, two = (line.numbers[int(own) + 1 if own else 0] for line in here)
        assert one is not None and two is not None  # else it were no fold
        return one, two - one

    def _name_at(self, place: Place) -> str:
        """The name that a part bears in some layer, in one before or behind the fold as well."""
        number, step = self._progress(place.fold, place.part)
        offset, _, own = place.part.partition(".")
        at = place.fold.start + int(offset)
        name = self._lines[at].own[int(own)] if own else self.forward[at].name
        return _NUMBER.sub(str(number + step * place.layer), name)

    def number_in(self, name: str) -> tuple[int, str] | None:
        """The number in the name of a tensor in a layer or beside it, and what that is to the
        layer ℓ that is shown: ``ℓ``, ``ℓ−1``, ``2ℓ+1``."""
        while (tensor := self.program.tensors.get(name)) is not None and tensor.origin is not None:
            name = tensor.origin[1]
        place = self.place_near(name)
        if place is None:
            return None
        number, step = self._progress(place.fold, place.part)
        rest = number + step * (place.layer - place.fold.shown - place.fold.first)
        factor, sign = "" if step == 1 else str(step), "+" if rest > 0 else "−"
        return (number + step * place.layer,
                f"{factor}ℓ{sign}{abs(rest)}" if rest else f"{factor}ℓ")

    def _key(self, eq: Equation, layer: int) -> tuple:
        def token(name: str) -> object:
            place = self.place_near(name)
            return (place.fold, place.part, place.layer - layer) if place else name

        return skeleton(eq, token)

    def symbols(self, plain: Symbols, fold: Fold) -> LayerSymbols:
        return LayerSymbols(plain, self, fold)

    def range_of(self, name: str) -> tuple[int, int]:
        """The numbers of the first and the last layer whose part ``name`` is alike."""
        place = self.places[name]
        fold, layers = place.fold, []
        for layer in range(fold.count):
            other = self.partner(name, layer)
            eq = self.program.defined.get(other or "")
            if eq is None or self.alike(eq):
                layers.append(layer)
        return fold.first + min(layers), fold.first + max(layers)


class LayerSymbols(Symbols):
    """Symbols in which the number of the layer that is shown reads ℓ."""

    def __init__(self, plain: Symbols, folding: Folding, fold: Fold) -> None:
        self.plain, self.folding, self.fold = plain, folding, fold
        self.index_names = plain.index_names
        self.tensors = plain.tensors
        self.style = plain.style

    def tensor(self, name: str) -> Symbol:
        symbol = self.plain.tensor(name)
        # an adjoint that is put in where it is used is no tensor of the program
        of = name if name in self.tensors else self.plain.origin_of(name)[1] or name
        place = self.folding.place_near(of)
        if place is None or place.fold != self.fold:
            return symbol
        known = self.folding.number_in(of)
        return _renumbered(symbol, str(known[0]), known[1]) if known else symbol


def _renumbered(symbol: Symbol, number: str, letter: str) -> Symbol:
    subs: list[str | Symbol] = []
    for s in symbol.subs:
        if isinstance(s, Symbol):
            subs.append(_renumbered(s, number, letter))
        elif s == number:
            subs.append(letter)
        elif s.endswith(number) and s.removesuffix(number).isalpha():  # the running mean 3
            subs += [s.removesuffix(number), letter]
        else:
            subs.append(s)
    return replace(symbol, subs=tuple(subs))


def skeleton(eq: Equation, token: object) -> tuple:
    """An equation without the names of its indices, tensors given by ``token(name)``."""
    assert callable(token)
    scope = {index: ("free", k) for k, index in enumerate(eq.indices)}

    def walk(expr: Expr, scope: dict) -> object:
        if isinstance(expr, Index):
            return (scope.get(expr, expr.name), expr.size)
        if isinstance(expr, Access):
            return ("access", token(expr.name), *(walk(w, scope) for w in expr.where))
        if isinstance(expr, Reduction):
            inner = {**scope}
            for index in expr.bound:
                inner[index] = ("bound", len(inner))
            return (type(expr).__name__, tuple(i.size for i in expr.bound), walk(expr.body, inner))
        if not expr.args:
            return expr
        return (type(expr).__name__, *sorted((walk(a, scope) for a in expr.args), key=repr))

    return tuple(i.size for i in eq.indices), walk(eq.body, scope)


# -- finding --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Line:
    """An equation: its ``key`` is that of its like in other layers; the ``numbers`` in its name and
    in those of its ``own`` parameters and states; what it ``reads`` is so many equations before."""

    key: tuple
    own: tuple[str, ...]
    numbers: tuple[int | None, ...]
    reads: tuple[int, ...]


def _lines(program: Program, forward: tuple[Equation, ...]) -> list[_Line]:
    position = {eq.name: k for k, eq in enumerate(forward)}
    readers: dict[str, int] = {}
    for eq in forward:
        for name in eq.reads:
            readers[name] = readers.get(name, 0) + 1

    def owned(name: str) -> bool:
        return (name not in position and program.tensors[name].role in _OWN
                and readers[name] == 1)

    lines = []
    for k, eq in enumerate(forward):

        def token(name: str, k: int = k) -> object:
            if name in position:
                return k - position[name]
            return ("own", program.tensors[name].shape) if owned(name) else name

        own = tuple(sorted(filter(owned, eq.reads), key=lambda name: _NUMBER.sub("", name)))
        back = tuple(k - position[name] for name in eq.reads if name in position)
        lines.append(_Line(skeleton(eq, token), own, tuple(map(_number, (eq.name, *own))), back))
    return lines


def _find(lines: list[_Line]) -> list[Fold]:
    """First what has one number in all names of a layer; between these, blocks of other names."""
    plain = _runs(lines, 0, len(lines), _layers)
    found, start = [], 0
    for fold in plain:
        found += [*_runs(lines, start, fold.start, _blocks), fold]
        start = fold.start + fold.period * fold.count
    return found + _runs(lines, start, len(lines), _blocks)


def _runs(lines: list[_Line], start: int, stop: int,
          find: Callable[[list[_Line], int, int, int], Fold | None]) -> list[Fold]:
    """The folds in a part of the equations: at each place the one that takes most of them."""
    folds: list[Fold] = []
    while start < stop:
        found = [find(lines, start, stop, period) for period in range(1, _LONGEST + 1)]
        best = max(found, key=lambda f: f.period * f.count if f else 0)
        if best is not None:
            folds.append(best)
            start = best.start + best.period * best.count
        else:
            start += 1
    return folds


def _layers(lines: list[_Line], start: int, stop: int, period: int) -> Fold | None:
    """Layers in whose names stands one number, their own."""
    first = lines[start].numbers[0]
    if first is None or any(line.numbers[0] != first for line in lines[start:start + period]):
        return None
    count, steps = _repetitions(lines, start, stop, period)
    alike = count >= _FEWEST and all(of_name == 1 for of_name, *_ in steps)
    return Fold(start, period, count, first) if alike else None


def _blocks(lines: list[_Line], start: int, stop: int, period: int) -> Fold | None:
    """Layers whose numbers go on in any steps. Of the starts from which on there are as many, that
    where least is handed on to the next layer, since blocks end there; the last of these."""
    count, _ = _repetitions(lines, start, stop, period)
    if count < _FEWEST:
        return None
    starts = [s for s in range(start, min(start + period, stop))
              if _repetitions(lines, s, stop, period)[0] == count]
    start = min(reversed(starts), key=lambda s: _handed_on(lines, s, period))
    _, steps = _repetitions(lines, start, stop, period)
    first = next((number for line, some in zip(lines[start:], steps, strict=False)
                  for number, step in zip(line.numbers, some, strict=True) if step == 1), 1)
    assert first is not None
    return Fold(start, period, count, first)


def _repetitions(lines: list[_Line], start: int, stop: int, period: int
                 ) -> tuple[int, list[list[int]]]:
    """How many layers of so many equations stand there, and the steps of the numbers in names."""
    if start + period * _FEWEST > stop or any(
            a.key != b.key for a, b in zip(lines[start:start + period],
                                           lines[start + period:], strict=False)):
        return 1, []
    steps: list[list[int]] = []
    for one, two in zip(lines[start:start + period], lines[start + period:], strict=False):
        steps.append([b - a if a is not None and b is not None else 0
                      for a, b in zip(one.numbers, two.numbers, strict=True)])
    if any(step < 1 for some in steps for step in some):
        return 1, []
    count = 2
    while start + (count + 1) * period <= stop and all(
            there.key == one.key and list(there.numbers) == [
                (a or 0) + count * step for a, step in zip(one.numbers, some, strict=True)]
            for one, there, some in zip(lines[start:start + period],
                                        lines[start + count * period:], steps, strict=False)):
        count += 1
    return count, steps


def _handed_on(lines: list[_Line], start: int, period: int) -> int:
    """How many tensors of a layer that begins there are read by the next one."""
    return len({k - back for k in range(start + period, start + 2 * period)
                for back in lines[k].reads if k - back < start + period})


def _number(name: str) -> int | None:
    found = _NUMBER.search(name)
    return int(found[0]) if found else None
