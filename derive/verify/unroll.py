"""Which indices a proof has to write out number by number.

Code that loops over time steps or pixels reads tensors at numbers; convolutions read them at
``2p + r - 1``. Where such places occur, the axes are unrolled, and with them every index and axis
that they are tied to. All other indices stay letters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sympy import Expr
from sympy.core.relational import Equality, Relational, Unequality

from derive.nodes import Access, Index, IntegerAccess, walk
from derive.program import Equation, Program
from derive.verify.reading import Unrolled
from derive.verify.terms import Undecided

_ELEMENTS = 3000  # slices of one tensor that are still written out
_Node = tuple[str, object]


def unrolling(program: Program, sizes: Mapping[str, int], whole: frozenset[str] = frozenset()
              ) -> Unrolled:
    """The axes and indices to unroll, and the numbers that their symbolic sizes are taken for.

    Args:
        sizes: a number for each symbolic size.
        whole: names of sizes that are taken for numbers in any case.

    Raises:
        Undecided: too many elements would be written out.
    """
    group = _Groups()
    marked: list[_Node] = []
    for eq in program.equations:
        for axis, index in enumerate(eq.indices):
            group.join((eq.name, axis), (eq.name, index))
        marked += _read_places(eq, group)
    roots = {group.root(node) for node in marked}
    axes: dict[str, set[int]] = {}
    indices: dict[str, set[Index]] = {}
    bound: set[str] = set(whole)
    for node in list(group.parent):
        if group.root(node) not in roots:
            continue
        name, part = node
        size: Expr
        if isinstance(part, Index):
            indices.setdefault(name, set()).add(part)
            size = part.size
        else:
            axes.setdefault(name, set()).add(int(str(part)))
            size = program.tensors[name].shape[int(str(part))]
        bound |= {s.name for s in size.free_symbols}
    taken = {name: sizes[name] for name in bound if name in sizes}
    for name, chosen in axes.items():
        count = 1
        for axis in chosen:
            size = program.tensors[name].shape[axis]
            count *= int(size.xreplace({s: taken[s.name] for s in size.free_symbols}))
        if count > _ELEMENTS:
            raise Undecided(f"{name} has {count} elements along the axes that are read at "
                            "numbers: too many to write out")
    return Unrolled({n: frozenset(a) for n, a in axes.items()},
                    {n: frozenset(i) for n, i in indices.items()}, taken)


def _read_places(eq: Equation, group: _Groups) -> Iterator[_Node]:
    """Ties indices to the axes that they read; what is to be unrolled."""
    for node in walk(eq.body):
        if isinstance(node, Access):
            for axis, where in enumerate(node.where):
                place: _Node = (node.name, axis)
                if isinstance(where, Index):
                    group.join(place, (eq.name, where))
                elif not isinstance(where, IntegerAccess):
                    group.root(place)
                    yield place
                    yield from ((eq.name, i) for i in _plain_indices(where))
        elif isinstance(node, Relational) and not _only_names(node):
            yield from ((eq.name, i) for i in _plain_indices(node))


def _only_names(relation: Relational) -> bool:
    """Whether a condition compares two indices, or an index with a gather, for equality; or
    numbers that are no indices."""
    if any(not isinstance(a, IntegerAccess) for a in relation.atoms(Access)):
        return True
    plain = all(isinstance(side, Index | IntegerAccess) for side in relation.args)
    return plain and isinstance(relation, Equality | Unequality)


def _plain_indices(expr: Expr) -> set[Index]:
    if isinstance(expr, IntegerAccess):
        return set()
    if isinstance(expr, Index):
        return {expr}
    return {i for arg in expr.args for i in _plain_indices(arg)}


class _Groups:
    """Sets of axes and indices that range together."""

    def __init__(self) -> None:
        self.parent: dict[_Node, _Node] = {}

    def root(self, node: _Node) -> _Node:
        self.parent.setdefault(node, node)
        while self.parent[node] != node:
            node = self.parent[node]
        return node

    def join(self, one: _Node, two: _Node) -> None:
        self.parent[self.root(one)] = self.root(two)
