"""Repeated layers: found in the equations, so that a document derives them once, for layer ℓ.

Two layers are alike if their equations are the same but for names, where a name is replaced by
what it is to the layer: a tensor of the layer, of the layer before, or one of its own parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
    in the names of the first one."""

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
        self.folds = _find(program, self.forward)
        self.places: dict[str, Place] = {}
        self._known: dict[str, Place | None] = {}
        self.neighbours: dict[str, Place] = {}  # before the first layer and behind the last one
        for fold in self.folds:
            self._locate(fold)
            self._locate_neighbours(fold)
        for tensor in program.tensors.values():
            self._inherit(tensor.name)
        self._by_part = {(p.fold, p.part, p.layer): n for n, p in self.places.items()}

    def _locate(self, fold: Fold) -> None:
        for layer in range(fold.count):
            for offset in range(fold.period):
                eq = self.forward[fold.start + layer * fold.period + offset]
                self.places[eq.name] = Place(fold, f"{offset}", layer)
                for number, name in enumerate(eq.reads):
                    tensor = self.program.tensors[name]
                    if name not in self.program.defined and tensor.role in _OWN:
                        self.places.setdefault(name, Place(fold, f"{offset}.{number}", layer))

    def _locate_neighbours(self, fold: Fold) -> None:
        """The equations on either side whose names go on with the numbers of the layers."""
        for layer in (-1, fold.count):
            for offset in range(fold.period):
                position = fold.start + layer * fold.period + offset
                if not 0 <= position < len(self.forward):
                    continue
                eq = self.forward[position]
                name = self.forward[fold.start + offset].name
                if eq.name == _NUMBER.sub(str(fold.first + layer), name):
                    self.neighbours.setdefault(eq.name, Place(fold, f"{offset}", layer))
                    for number, name in enumerate(eq.reads):
                        if name not in self.program.defined:
                            self.neighbours.setdefault(
                                name, Place(fold, f"{offset}.{number}", layer))

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
        place = self.folding.place_near(name)
        if place is None or place.fold != self.fold:
            return symbol
        shift = place.layer - self.fold.shown
        number = str(self.fold.first + place.layer)
        letter = "ℓ" if shift == 0 else f"ℓ{'+' if shift > 0 else '−'}{abs(shift)}"
        return _renumbered(symbol, number, letter)


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


def _find(program: Program, forward: tuple[Equation, ...]) -> list[Fold]:
    position = {eq.name: k for k, eq in enumerate(forward)}
    readers: dict[str, int] = {}
    for eq in forward:
        for name in eq.reads:
            readers[name] = readers.get(name, 0) + 1
    keys: list[tuple] = []
    for k, eq in enumerate(forward):

        def token(name: str, k: int = k) -> object:
            if name in position:
                return k - position[name]
            tensor = program.tensors[name]
            own = tensor.role in _OWN and readers[name] == 1
            return ("own", tensor.shape) if own else name

        keys.append(skeleton(eq, token))
    folds: list[Fold] = []
    start = 0
    while start < len(forward):
        best = max(
            (_run(forward, keys, start, period) for period in range(1, _LONGEST + 1)),
            key=lambda f: f.period * f.count if f else 0,
        )
        if best is not None:
            folds.append(best)
            start = best.start + best.period * best.count
        else:
            start += 1
    return folds


def _run(forward: tuple[Equation, ...], keys: list[tuple], start: int, period: int) -> Fold | None:
    if start + period * _FEWEST > len(keys):
        return None
    if any(keys[start + k] != keys[start + k + period] for k in range(period)):
        return None
    count = 1
    numbers = [_number(forward[start + k].name) for k in range(period)]
    first = numbers[0]
    if first is None or any(number != first for number in numbers):
        return None
    while start + (count + 1) * period <= len(keys):
        here = start + count * period
        same = all(
            keys[here + k] == keys[start + k]
            and _number(forward[here + k].name) == first + count
            for k in range(period)
        )
        if not same:
            break
        count += 1
    return Fold(start, period, count, first) if count >= _FEWEST else None


def _number(name: str) -> int | None:
    found = _NUMBER.search(name)
    return int(found[0]) if found else None
