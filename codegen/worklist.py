"""What can be computed next: groups of equations by readiness.

Groups are in an order of computation. Each knows by how many reads it waits; when what it read last
is made, it is ready. So phases are found in time linear in the reads of a program, however many
phases it has: none goes through all groups that are left.

A copy (recompute.py) is computed when it is asked for. Here, it is as good as made once all that it
reads is; who takes a group that reads it takes it along (`Worklist.copies`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from heapq import heappop, heappush

from codegen.recompute import is_again
from derive.program import Group


def is_copy(group: Group) -> bool:
    """Whether a group is a copy that is computed when it is asked for."""
    return len(group.equations) == 1 and is_again(group.equations[0].tensor)


class Worklist:
    """The groups that are left, of which some are ready; ``done``: names of what is made."""

    def __init__(self, groups: Sequence[Group], given: Iterable[str]) -> None:
        self.groups = tuple(groups)
        self.done = set(given)
        self.left = len(self.groups)
        self._place = {eq.name: n for n, g in enumerate(self.groups) for eq in g.equations}
        self._readers: dict[str, list[int]] = {}
        self._missing: dict[int, int] = {}
        for n, group in enumerate(self.groups):
            waits = group.reads - self.done
            self._missing[n] = len(waits)
            for name in waits:
                self._readers.setdefault(name, []).append(n)
        first = [g for n, g in enumerate(self.groups) if not self._missing[n]]
        self._ready = {self._number(g) for g in first if not is_copy(g)}
        for group in filter(is_copy, first):
            self._ready.update(self._freed(group, self._missing))

    def offer(self, take: Callable[[Group], bool], ahead: Sequence[Group] = ()) -> None:
        """Offers to ``take``, in order, each group that reads what is made (by the groups
        ``ahead``, too), or what was taken on the way; it says whether it takes the group. Nothing
        is done thereby: what was taken can be given to `finish`."""
        missing: dict[int, int] = {}  # where it differs
        coming = sorted(self._ready.difference(map(self._number, ahead)))
        for group in ahead:
            for n in self._freed(group, missing):
                heappush(coming, n)
        while coming:
            number = heappop(coming)
            if take(self.groups[number]):
                for n in self._freed(self.groups[number], missing):
                    if n > number:
                        heappush(coming, n)

    def finish(self, groups: Iterable[Group]) -> None:
        """These groups are computed."""
        for group in groups:
            self.done.update(eq.name for eq in group.equations)
            self.left -= 1
            self._ready.discard(self._number(group))
            if not is_copy(group):
                self._ready.update(self._freed(group, self._missing))

    def copies(self, group: Group, made: Container[str] = ()) -> list[Group]:
        """The copies that a group reads and that are not made yet, each behind those that it reads
        itself; ``made``: what is not done, but made by then."""
        found: dict[int, Group] = {}

        def visit(reader: Group) -> None:
            numbers = {self._place[r] for r in reader.reads - self.done if r not in made}
            for n in sorted(numbers):
                if n not in found and is_copy(self.groups[n]):
                    visit(self.groups[n])
                    found[n] = self.groups[n]

        visit(group)
        return list(found.values())

    def _number(self, group: Group) -> int:
        return self._place[group.equations[0].name]

    def _freed(self, group: Group, missing: dict[int, int]) -> list[int]:
        """The numbers of the groups that nothing is missing for once a group is made; counts them
        down in ``missing``."""
        found, made = [], [group]
        while made:
            for eq in made.pop().equations:
                for n in self._readers.get(eq.name, ()):
                    missing[n] = missing.get(n, self._missing[n]) - 1
                    if not missing[n] and is_copy(self.groups[n]):
                        made.append(self.groups[n])
                    elif not missing[n]:
                        found.append(n)
        return found
