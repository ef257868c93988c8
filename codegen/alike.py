"""Kernels that differ only in what their tensors are called are lowered once.

A deep network repeats a layer under other names. The *form* of some tasks is their equations with
tensors and indices numbered as they come: tasks of one form become one loop-nest tree, which names
the tensors of the first; a kernel of the others says which of its own tensors stand for these.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sympy import Expr

from codegen.loops import Kernel
from codegen.schedule import Task
from derive.nodes import Access, Index
from derive.program import Equation

Shapes = Mapping[str, tuple[Expr, ...]]
FEW = 4  # equations beside the first that are printed though they are alike


@dataclass(frozen=True)
class Form:
    """``key`` is the same for what is alike; ``tensors`` and ``indices`` are numbered in it."""

    key: Hashable
    tensors: tuple[str, ...]
    indices: tuple[Index, ...] = ()


@dataclass
class Forms:
    """The forms of a program's equations and tasks; each equation is walked through once."""

    shapes: Shapes
    lowered: dict[Hashable, tuple[Kernel, Form]] = field(default_factory=dict)
    answers: dict[Hashable, bool] = field(default_factory=dict)
    _known: dict[int, tuple[Equation, Form]] = field(default_factory=dict)
    _numbers: dict[Hashable, int] = field(default_factory=dict)

    def of(self, shapes: Shapes) -> Forms:
        """The same for an entry point, whose tensors may be stored in other shapes."""
        if all(self.shapes.get(name) == shape for name, shape in shapes.items()):
            return self
        return replace(self, shapes=shapes, _known={})

    def kernel(self, tasks: Sequence[Task], numbers: Mapping[str, int],
               lower: Callable[[], Kernel]) -> Kernel:
        """The kernel of some tasks: lowered, or as one that is alike was."""
        form = self.of_tasks(tasks)
        if form.key not in self.lowered:
            self.lowered[form.key] = lower(), form
        kernel, first = self.lowered[form.key]
        if first.tensors == form.tensors:
            return kernel
        own = dict(zip(first.tensors, form.tensors, strict=True))
        equations = [eq for task in tasks for eq in task.group.equations]
        return replace(kernel, name=kernel_name(equations[0], numbers), cites=tuple(
            (numbers[eq.name], eq) for eq in equations),
            handed=tuple(own[t] for t in kernel.tensors))

    def answer(self, task: Task, ask: Callable[[], bool]) -> bool:
        """What is asked of one task, asked once of those that are alike."""
        key = self.of_tasks([task]).key
        if key not in self.answers:
            self.answers[key] = ask()
        return self.answers[key]

    def of_tasks(self, tasks: Sequence[Task]) -> Form:
        """The form of tasks that become one kernel."""
        tensors: dict[str, int] = {}
        indices: dict[Index, int] = {}
        parts: list[Hashable] = []
        for task in tasks:
            group = task.group
            parts += [len(group.equations), group.step,
                      None if task.part is None else _number(indices, task.part)]
            for eq in group.equations:
                form = self.of_equation(eq)
                parts += [form.key, group.axis.get(eq.name),
                          *(_number(tensors, t) for t in form.tensors),
                          *(_number(indices, i) for i in form.indices)]
            if task.sweep is not None:
                sweep = task.sweep
                parts += [sweep.size, *(_number(indices, i) for i in (
                    sweep.row, sweep.column, *sweep.outer))]
                parts += [_number(tensors, t) for pair in sweep.tiles.items() for t in pair]
        # indices of one name meet where they stand in several equations
        parts += [i.size for i in indices]
        return Form(tuple(parts), tuple(tensors), tuple(indices))

    def of_equation(self, eq: Equation) -> Form:
        """The form of one equation."""
        if id(eq) not in self._known:
            self._known[id(eq)] = eq, self._walk(eq)  # kept, so that no other has its id
        return self._known[id(eq)][1]

    def _walk(self, eq: Equation) -> Form:
        origin = None if eq.tensor.origin is None else eq.tensor.origin[0]
        tensors, indices = {eq.name: 0}, {i: n for n, i in enumerate(eq.indices)}
        key: list[Any] = [origin, len(indices)]
        stack: list[Expr] = [eq.body]
        while stack:
            node = stack.pop()
            args = node.args
            if isinstance(node, Access):
                key += [type(node), _number(tensors, node.name), len(args)]
                stack += args[:0:-1]
            elif isinstance(node, Index):
                key += [Index, _number(indices, node), node.size]
            elif args:
                key += [node.func, len(args)]
                stack += args[::-1]
            else:
                key += [type(node), node]
        key += [self.shapes.get(t) for t in tensors]
        number = self._numbers.setdefault(tuple(key), len(self._numbers))
        return Form(number, tuple(tensors), tuple(indices))


def _number(numbers: dict, one: Hashable) -> int:
    return numbers.setdefault(one, len(numbers))


def kernel_name(eq: Equation, numbers: Mapping[str, int]) -> str:
    """``k3_h1``: the number of a kernel's first equation, and its target."""
    return f"k{numbers[eq.name]}_{eq.name.strip('_')}"


def cited_lines(cites: Mapping[int, Equation]) -> list[str]:
    """The comment above a kernel: the equations that it computes, with their numbers; of those
    that are alike the first, and the numbers of the others."""
    forms = Forms({})
    rows: dict[Hashable, list[int]] = {}
    for number in sorted(cites):
        rows.setdefault(forms.of_equation(cites[number]).key, []).append(number)
    lines = []
    for first, *others in rows.values():
        lines.append(f"# ({first}) {' '.join(str(cites[first]).split())}")
        if len(others) < FEW:
            lines += [f"# ({n}) {' '.join(str(cites[n]).split())}" for n in others]
        else:
            lines.append(f"#     and alike: {', '.join(_spans(others))}")
    return lines


def _spans(numbers: Sequence[int]) -> list[str]:
    """``(6), (9), … (30)``: numbers in order, those in equal steps by their ends."""
    found: list[str] = []
    at = 0
    while at < len(numbers):
        end = at + 1
        while end + 1 < len(numbers) and (numbers[end + 1] - numbers[end]
                                          == numbers[at + 1] - numbers[at]):
            end += 1
        if end - at < FEW:
            found.append(f"({numbers[at]})")
            at += 1
        else:
            found.append(f"({numbers[at]}), ({numbers[at + 1]}), … ({numbers[end]})")
            at = end + 1
    return found
