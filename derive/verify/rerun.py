"""A derived program evaluated once, and again from one changed equation on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from sympy import Expr

from derive.data import resolve_sizes
from derive.program import Group, Program
from derive.reference import evaluate, evaluate_group

_Put = Callable[[Group, dict[str, np.ndarray], int], None]


class Base:
    """A program's values at some points, from which those of a changed one need little more."""

    def __init__(self, program: Program, gradient: str, places: list[dict[str, np.ndarray]]
                 ) -> None:
        self.program, self.gradient, self.places = program, gradient, places
        self.points = [{**{n: np.asarray(a) for n, a in place.items()},
                        **evaluate(self.program, place)} for place in places]
        self.sizes = [resolve_sizes(program, point) for point in self.points]
        self.values = [point[gradient] for point in self.points]
        self.behind: dict[str, list[Group]] = {}

    def changed(self, name: str, body: Expr) -> Iterator[np.ndarray]:
        """The gradient at each point with another body of one equation."""
        def put(group: Group, arrays: dict[str, np.ndarray], at: int) -> None:
            evaluate_group(_with(group, name, body), arrays, self.sizes[at])

        return self._again(name, put)

    def with_values(self, name: str, values: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The gradient at each point with other values of one equation's tensor."""
        def put(group: Group, arrays: dict[str, np.ndarray], at: int) -> None:
            evaluate_group(group, arrays, self.sizes[at])
            if any(eq.name == name for eq in group.equations):
                arrays[name] = values[at]

        return self._again(name, put)

    def _again(self, name: str, put: _Put) -> Iterator[np.ndarray]:
        for at, point in enumerate(self.points):
            arrays = dict(point)
            with np.errstate(all="ignore"):
                for group in self._behind(name):
                    put(group, arrays, at)
            yield arrays[self.gradient]

    def _behind(self, name: str) -> list[Group]:
        """The equation and what is computed from it, in order."""
        if name not in self.behind:
            reached, found = {name}, []
            for group in self.program.only(self.gradient).groups:
                if any(eq.name == name or reached & set(eq.reads) for eq in group.equations):
                    reached |= {eq.name for eq in group.equations}
                    found.append(group)
            self.behind[name] = found
        return self.behind[name]


def _with(group: Group, name: str, body: Expr) -> Group:
    return replace(group, equations=tuple(
        replace(eq, body=body) if eq.name == name else eq for eq in group.equations))
