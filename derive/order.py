"""The order of computation: equations → groups, each one equation or one recurrence.

A recurrence is a strongly connected set of equations; it is computed in a loop over one index in
which every access inside the set is shifted by a constant, backwards (or forwards for time
reversed) at least once around each cycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sympy import Integer

from derive.errors import DeclarationError
from derive.nodes import Access
from derive.program import Equation, Group


def strongly_connected(successors: Sequence[Sequence[int]]) -> list[list[int]]:
    """Strongly connected components, each after those it points to (Tarjan 1972, iterative)."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    components: list[list[int]] = []
    for root in range(len(successors)):
        if root in number:
            continue
        work = [(root, iter(successors[root]))]
        number[root] = low[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            for nxt in rest:
                if nxt not in number:
                    number[nxt] = low[nxt] = len(number)
                    stack.append(nxt)
                    on_stack.add(nxt)
                    work.append((nxt, iter(successors[nxt])))
                    break
                if nxt in on_stack:
                    low[node] = min(low[node], number[nxt])
            else:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == number[node]:
                    component = [stack.pop()]
                    while component[-1] != node:
                        component.append(stack.pop())
                    on_stack.difference_update(component)
                    components.append(sorted(component))
    return components


def order_equations(equations: Iterable[Equation]) -> tuple[Group, ...]:
    """Group equations so that each group reads only earlier groups and itself."""
    eqs = tuple(equations)
    position = {eq.name: n for n, eq in enumerate(eqs)}
    reads = [[position[r] for r in eq.reads if r in position] for eq in eqs]
    groups = []
    for component in strongly_connected(reads):
        members = [eqs[n] for n in component]
        if len(members) == 1 and members[0].name not in members[0].reads:
            groups.append(Group((members[0],)))
        else:
            groups.append(_recurrence(members))
    return tuple(groups)


def _inner_accesses(eq: Equation, names: set[str]) -> list[Access]:
    return [a for a in eq.accesses if a.name in names]


def _shift(access: Access, axis: int, eq: Equation, own_axis: int) -> int | None:
    """The constant by which ``access`` is shifted along the loop index, if it is one."""
    difference = access.where[axis] - eq.indices[own_axis]
    return int(difference) if isinstance(difference, Integer) else None


def _axes(members: Sequence[Equation], first_axis: int) -> dict[str, int] | None:
    """Loop axis of each member, found by following accesses from the first member's axis."""
    names = {eq.name for eq in members}
    by_name = {eq.name: eq for eq in members}
    axes = {members[0].name: first_axis}
    todo = [members[0].name]
    while todo:
        eq = by_name[todo.pop()]
        for access in _inner_accesses(eq, names):
            fits = [
                axis
                for axis in range(len(access.where))
                if _shift(access, axis, eq, axes[eq.name]) is not None
            ]
            known = axes.get(access.name)
            if known is None and fits:
                axes[access.name] = fits[0]
                todo.append(access.name)
            elif known is None or known not in fits:
                return None
    return axes


def _recurrence(members: Sequence[Equation]) -> Group:
    names = {eq.name for eq in members}
    for first_axis in range(members[0].tensor.rank):
        axes = _axes(members, first_axis)
        if axes is None or len(axes) != len(members):
            continue
        shifts = {
            _shift(a, axes[a.name], eq, axes[eq.name])
            for eq in members
            for a in _inner_accesses(eq, names)
        }
        if None in shifts:
            continue
        moving = {s for s in shifts if s}
        if not moving or (min(moving) < 0 < max(moving)):  # type: ignore[type-var]
            continue
        position = {eq.name: n for n, eq in enumerate(members)}
        still = [
            [position[r] for r in eq.reads if r in names and _reads_now(eq, r, axes)]
            for eq in members
        ]
        order = strongly_connected(still)
        if all(len(c) == 1 and c[0] not in still[c[0]] for c in order):
            ordered = tuple(members[c[0]] for c in order)
            return Group(ordered, axes, 1 if max(moving) < 0 else -1)  # type: ignore[type-var]
    listing = "\n".join(f"    {eq}" for eq in members)
    raise DeclarationError(
        f"the equations of {', '.join(sorted(names))} form a cycle that is no recurrence",
        expected="every turn around the cycle goes to an earlier (or later) value of one index",
        got="\n" + listing,
        mend="read the tensor at t-1 (or t+1) somewhere on the cycle",
        where=members[0].where,
    )


def _reads_now(eq: Equation, name: str, axes: dict[str, int]) -> bool:
    return any(
        a.name == name and _shift(a, axes[name], eq, axes[eq.name]) == 0
        for a in eq.accesses
    )
