"""Proving that two tensors of a program are equal: normal forms, bottom up.

Every tensor is brought into normal form in an order of computation. Where two have the same form
up to a constant, one stands for the other from then on, so that forms stay small however deep the
network is. Where their *numbers* agree at random points but their forms do not yet, the difference
is written out, latest tensors first, until it vanishes or nothing is left to write out. Numbers
only choose what to try: whatever is merged was shown equal by algebra.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations, product
from math import floor, log10

import numpy as np

from derive.nodes import Index, MaxOver, MinOver
from derive.program import Equation, Program
from derive.verify.forms import Expand, Forms
from derive.verify.reading import Scope, Unrolled, element, read
from derive.verify.terms import (
    Frozen,
    Place,
    Sum,
    Table,
    Undecided,
    Variable,
    constant_place,
    freeze,
    variable_place,
)

Values = Sequence[tuple[Mapping[str, np.ndarray], Mapping[str, int]]]
_TERMS = 4000  # terms of a difference that is still written out further
_FEW = 200  # terms of a side, while only what the other one does not have is written out
_ROUNDS = 40
_CLOSE = 1e-7
_DENOMINATOR = 5000


@dataclass(frozen=True)
class Defined:
    """The normal form of a tensor (or slice) in the variables of its axes."""

    variables: tuple[Variable, ...]
    form: Sum
    height: int


class Prover:
    """Equality of tensors of one program. ``values`` are the numbers of all tensors at points,
    with the sizes there; ``deadline`` the processor time (`time.process_time`) to stop at."""

    def __init__(self, program: Program, unrolled: Unrolled, values: Values,
                 kinks: bool = False, deadline: float = float("inf")) -> None:
        self.program, self.unrolled, self.values = program, unrolled, values
        self.forms = Forms(Table(), kinks)
        self.forms.deadline = deadline
        self.forms.distributions = {t.name for t in program.tensors.values() if t.distribution}
        self.forms.maxima = frozenset(
            eq.name for eq in program.equations if isinstance(eq.body, MaxOver | MinOver))
        self.forms.relu_like = self._relu_like
        self.defined: dict[str, Defined] = {}
        self.merged: dict[str, Defined] = {}
        self.known: dict[Frozen, tuple[str, Fraction]] = {}
        self.looks: dict[tuple, list[str]] = {}
        self.trouble = ""
        self.ties = False
        self.looped = {eq.name for group in program.groups if group.recurrent
                       for eq in group.equations
                       if group.axis[eq.name] not in unrolled.axes.get(eq.name, ())}

    # -- the question -----------------------------------------------------------------------------
    def equal(self, one: str, two: str) -> bool:
        """Whether two tensors of the same shape are proved equal, element by element."""
        shape = self.program.tensors[one].shape
        axes = [self.unrolled.axes.get(n, frozenset()) for n in (one, two)]
        scope = Scope(self.forms, {}, self.unrolled)
        sizes = [scope.size(s) for s in shape]
        fixed = sorted(axes[0] | axes[1])
        try:
            for numbers in product(*(range(int(sizes[n])) for n in fixed)):
                there = dict(zip(fixed, numbers, strict=True))
                places = tuple(
                    constant_place(there[n]) if n in there
                    else variable_place(("v", f"f{n}", size)) for n, size in enumerate(sizes))
                sides = [element(self.forms, name, places, chosen)
                         for name, chosen in zip((one, two), axes, strict=True)]
                for side in sides:
                    for name in self.forms.table.tensors_of(side):
                        self._visit(name)
                if not self._same(*map(self._through, sides)):
                    return False
        except Undecided as stopped:
            self.trouble = self.trouble or str(stopped)
            return False
        return True

    # -- definitions ------------------------------------------------------------------------------
    def _definition(self, name: str) -> tuple[Equation, dict[Index, Place],
                                               tuple[Variable, ...]] | None:
        """The equation of a tensor or slice, and the place of each of its free indices."""
        base, _, label = name.partition("@")
        eq = self.program.defined.get(base)
        axes = sorted(self.unrolled.axes.get(base, ()))
        if eq is None or base in self.looped or (axes and not label):
            return None
        fixed = dict(zip(axes, label.split(","), strict=True)) if label else {}
        scope = Scope(self.forms, {}, self.unrolled)
        places: dict[Index, Place] = {}
        variables: list[Variable] = []
        for axis, index in enumerate(eq.indices):
            if axis in fixed:
                places[index] = constant_place(int(fixed[axis]))
                continue
            v = ("v", f"f{len(variables)}", scope.size(index.size))
            variables.append(v)
            places[index] = variable_place(v)
        return eq, places, tuple(variables)

    def _visit(self, root: str) -> None:
        """Bring a tensor and all that it needs into normal form, merging what is equal."""
        stack: list[tuple[str, Sum | None]] = [(root, None)]
        waiting: dict[str, tuple[tuple[Variable, ...], Sum]] = {}
        while stack:
            name, _ = stack[-1]
            if name in self.defined or name in self.merged:
                stack.pop()
                continue
            if name not in waiting:
                found = self._definition(name)
                if found is None:
                    self.defined[name] = Defined((), {}, 0)
                    continue
                waiting[name] = found[2], self._read(*found)
            needs = [n for n in self.forms.table.tensors_of(waiting[name][1])
                     if n not in self.defined and n not in self.merged]
            if needs:
                stack += [(n, None) for n in needs]
                continue
            stack.pop()
            self._settle(name, *waiting.pop(name))

    def _read(self, eq: Equation, places: dict[Index, Place],
              variables: tuple[Variable, ...]) -> Sum:
        self.forms.work = 0
        if self.forms.kinks and (eq.tensor.origin or ("",))[0] == "ties":
            self.ties = True
            return self.forms.constant(1)
        marked = self.unrolled.indices.get(eq.name, frozenset())
        try:
            return read(eq.body, Scope(self.forms, places, self.unrolled, marked))
        except Undecided as stopped:
            self.trouble = self.trouble or f"in {eq.name}: {stopped}"
            name = f"!{eq.name}"
            return self.forms.factor("T", name, tuple(places.values()))

    def _settle(self, name: str, variables: tuple[Variable, ...], raw: Sum) -> None:
        """Merge a tensor with one that is known, or make it known."""
        self.forms.look_at_the_clock()
        form = self._through(raw)
        heights = [self.defined[n].height for n in self.forms.table.tensors_of(form)
                   if n in self.defined]
        made = Defined(variables, form, 1 + max(heights, default=0))
        if not form or self._is_copy(form):
            self.merged[name] = made
            return
        first = min(form.items())[1]
        key = freeze(self.forms.scale(form, 1 / first))
        if key in self.known:
            other, times = self.known[key]
            if len(self.defined[other].variables) == len(variables):
                same = self._element(other, variables)
                self.merged[name] = Defined(variables, self.forms.scale(same, first / times), 0)
                return
        self.defined[name] = made
        look = self._look(name)
        for other, form_of_other in self._candidates(name, variables, look):
            if other != name and self._same(form, form_of_other):
                del self.defined[name]
                self.merged[name] = Defined(variables, form_of_other, 0)
                return
        self.known[key] = name, first
        if look is not None:
            self.looks.setdefault(look, []).append(name)

    def _is_copy(self, form: Sum) -> bool:
        if len(form) != 1:
            return False
        (m, _), = form.items()
        return all(self.forms.kind(n) in "TN" for n, _ in m) and sum(
            self.forms.kind(n) == "T" for n, _ in m) <= 1 and all(e == 1 for n, e in m
                                                                 if self.forms.kind(n) == "T")

    def _element(self, name: str, variables: Sequence[Variable]) -> Sum:
        return self.forms.factor("T", name, tuple(variable_place(v) for v in variables))

    def _through(self, form: Sum) -> Sum:
        """The form with every merged tensor replaced by what stands for it."""
        names = frozenset(n for n in self.forms.table.tensors_of(form) if n in self.merged)
        return self.forms.rebuild(form, {}, Expand(names, self._form_at)) if names else form

    def _form_at(self, name: str, places: tuple[Place, ...]) -> Sum:
        made = self.merged.get(name) or self.defined[name]
        there = dict(zip(made.variables, places, strict=True))
        form = self.forms.rebuild(made.form, {v: p for v, p in there.items()
                                              if p != variable_place(v)})
        return self._through(form)

    def _relu_like(self, n: int) -> Sum | None:
        """The form of an element whose tensor is a selection, to look through in a condition."""
        _, name, places = self.forms.table.factors[n]
        made = self.defined.get(name)
        if made is None or not made.form or len(made.form) > 4:
            return None
        kinds = {self.forms.kind(k) for m in made.form for k, _ in m}
        return self._form_at(name, places) if "I" in kinds and "S" not in kinds else None

    # -- differences ------------------------------------------------------------------------------
    def _same(self, one: Sum, two: Sum) -> bool:
        """Whether two forms are equal once their tensors are written out: first those that only
        one of them has, for what both have cancels more often than not."""
        self.forms.work = 0
        sides = one, two
        try:
            for _ in range(_ROUNDS):
                if not self.forms.minus(*sides):
                    return True
                names = [self._open_names(side) for side in sides]
                apart = names[0] ^ names[1]
                if not apart or max(map(len, sides)) > _FEW:
                    break
                top = max(self.defined[n].height for n in apart)
                latest = frozenset(n for n in apart if self.defined[n].height == top)
                expand = Expand(latest, self._form_at)
                sides = (self.forms.rebuild(sides[0], {}, expand),
                         self.forms.rebuild(sides[1], {}, expand))
        except Undecided:
            pass  # another order may do
        return self._vanishes(self.forms.minus(one, two))

    def _open_names(self, form: Sum) -> set[str]:
        """The tensors in a form that can be written out."""
        return {n for n in self.forms.table.tensors_of(form)
                if n in self.defined and self.defined[n].height > 0}

    def _vanishes(self, difference: Sum) -> bool:
        """Whether a form is zero once its tensors are written out, the latest first."""
        self.forms.work = 0
        try:
            for _ in range(_ROUNDS):
                if not difference:
                    return True
                open_names = self._open_names(difference)
                if not open_names or len(difference) > _TERMS:
                    return False
                top = max(self.defined[n].height for n in open_names)
                latest = frozenset(n for n in open_names if self.defined[n].height == top)
                difference = self.forms.rebuild(difference, {}, Expand(latest, self._form_at))
        except Undecided as stopped:
            self.trouble = self.trouble or str(stopped)
        return False

    # -- numbers that suggest what to try ---------------------------------------------------------
    def _numbers(self, name: str, point: int) -> np.ndarray | None:
        base, _, label = name.partition("@")
        array = self.values[point][0].get(base)
        if array is None or not label:
            return array
        where: list = [slice(None)] * array.ndim
        for axis, n in zip(sorted(self.unrolled.axes[base]), label.split(","), strict=True):
            where[axis] = int(n)
        return array[tuple(where)]

    def _look(self, name: str) -> tuple | None:
        """What tensors that are equal up to a constant and an order of axes have in common."""
        array = self._numbers(name, 0)
        if array is None or not np.all(np.isfinite(array)) or array.size == 0:
            return None
        scale = float(np.max(np.abs(array)))
        if scale < 1e-13:
            return ("zero",)
        parts = np.abs(array) / scale
        return (tuple(sorted(array.shape)), round(float(np.sum(parts)) / array.size, 4),
                round(float(np.sum(parts**2)) / array.size, 4))

    def _candidates(self, name: str, variables: tuple[Variable, ...],
                    look: tuple | None) -> Iterator[tuple[str, Sum]]:
        if look is None:
            return
        if look == ("zero",):
            yield "", {}
            return
        here = [self._numbers(name, p) for p in range(len(self.values))]
        for other in self.looks.get(look, ()):
            there = [self._numbers(other, p) for p in range(len(self.values))]
            for order in permutations(range(len(variables))):
                sizes = [self.defined[other].variables[n][2] for n in range(len(order))]
                if [variables[n][2] for n in order] != sizes:
                    continue
                ratios = [_ratio(a, b, order) for a, b in zip(here, there, strict=True)]
                times = self._constant(ratios)
                if times is not None:
                    same = self._element(other, [variables[n] for n in order])
                    yield other, self.forms.mul(times, same)

    def _constant(self, ratios: list[float | None]) -> Sum | None:
        """The constant, a rational times a power of sizes, that has these values."""
        if None in ratios:
            return None
        names = [n for n in self.values[0][1] if n not in self.unrolled.sizes]
        every = product((0, 1, -1), repeat=len(names))
        for powers in sorted(every, key=lambda p: sum(map(abs, p))):
            plain = []
            for ratio, (_, sizes) in zip(ratios, self.values, strict=True):
                value = float(ratio or 0.0)
                for name, e in zip(names, powers, strict=True):
                    value /= float(sizes[name]) ** e
                plain.append(value)
            for close in _simple(plain[0]):
                if close and all(abs(float(close) - v) < _CLOSE * abs(v) for v in plain):
                    parts = [(self.forms.table.number(("N", n)), Fraction(e))
                             for n, e in zip(names, powers, strict=True) if e]
                    return self.forms.scale(self.forms.monomial(parts), close)
        return None


def _simple(value: float) -> Iterator[Fraction]:
    """Fractions near a number: of small terms, and of small terms times a power of ten, as a
    loss that is scaled by 1e-6 makes them."""
    yield Fraction(value).limit_denominator(_DENOMINATOR)
    if value:
        shift = Fraction(10) ** floor(log10(abs(value)))
        yield (Fraction(value) / shift).limit_denominator(_DENOMINATOR) * shift


def _ratio(a: np.ndarray | None, b: np.ndarray | None, order: tuple[int, ...]) -> float | None:
    """The factor between an array and another with its axes in an order, if there is one."""
    if a is None or b is None:
        return None
    a = a.transpose(order) if a.ndim else a
    place = np.unravel_index(int(np.argmax(np.abs(b))), b.shape)
    if a.shape != b.shape or b[place] == 0:
        return None
    ratio = float(a[place] / b[place])
    return ratio if np.allclose(a, ratio * b, rtol=_CLOSE, atol=_CLOSE * float(
        np.max(np.abs(a)))) else None
