"""The kernels and helper functions of a module: each text once, whoever calls it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from codegen.alike import cited_lines
from codegen.loops import Kernel
from codegen.pipeline import Compiled
from codegen.print_cpu import KernelPrinter
from codegen.print_statements import function, identifier
from codegen.scalars import ScalarPrinter, helper
from codegen.small import only_small
from codegen.vector_math import vectorised
from derive.program import Equation, Program

Functions = dict[str, Any]


def tensor_names(program: Program) -> dict[str, str]:
    """Identifiers of all tensors, apart from each other and from the module's own names."""
    taken: set[str] = set()
    return {name: identifier(name, taken) for name in program.tensors}


@dataclass
class KernelSet:
    """The kernels of a module: each text once, though several layers may call it."""

    names: dict[str, str]
    small: bool = False  # products are loops with constant bounds
    functions: Functions = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    cites: dict[str, dict[int, Equation]] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)  # name of a kernel: the one that is called
    keys: dict[str, str] = field(default_factory=dict)
    bodies: dict[int, tuple[str, Kernel]] = field(default_factory=dict)

    def add(self, kernel: Kernel) -> None:
        if kernel.name in self.shared:
            return
        if id(kernel.body) not in self.bodies:
            key = KernelPrinter(kernel, self.names, plain=True, small=self.small).key()
            self.bodies[id(kernel.body)] = self.keys.setdefault(key, kernel.name), kernel
        own = self.bodies[id(kernel.body)][0]
        self.shared[kernel.name] = own
        cites = self.cites.setdefault(own, {})
        cites.update(kernel.cites)
        if own == kernel.name:
            printer = KernelPrinter(kernel, self.names, small=self.small)
            self.texts[own] = printer.text()
            self.functions.update(printer.scalars.functions)

    def ordered(self) -> list[str]:
        """The texts in the order of the program's equations, each below all that it computes."""
        names = sorted(self.texts, key=lambda n: min(self.cites[n], default=0))
        return ["\n".join([*cited_lines(self.cites[n]), self.texts[n]]) for n in names]


def collect_kernels(compiled: Compiled, entries: Iterable[str] | None = None) -> KernelSet:
    """Every kernel of the entry points, equal ones once."""
    every = (kernel for entry in compiled.entries.values() for phase in entry.phases
             for kernel in phase)
    small = not compiled.optimizer.matrix and only_small(every)
    found = KernelSet(tensor_names(compiled.packed), small)
    for entry in entries or compiled.entries:
        for phase in compiled.entries[entry].phases:
            for kernel in phase:
                found.add(kernel)
    return found


def kernel_texts(compiled: Compiled, entries: Iterable[str] | None = None) -> list[str]:
    """The texts of all kernels, in the order of the program's equations."""
    return collect_kernels(compiled, entries).ordered()


def function_texts(functions: Functions, library: Mapping[str, str] | None = None) -> list[str]:
    """Elementary functions that kernels call, each after those that it calls itself; ``library``
    are the names of a target that has no functions of its own for those of the math library."""
    texts: dict[str, str] = {}

    def add(name: str, kind: Any) -> None:
        if name in texts:
            return
        if isinstance(kind, str):  # a text of its own
            texts[name] = kind
            return
        arguments, body = helper(name, kind)
        printer = ScalarPrinter({}, own=None if library else vectorised, library=library)
        text = function(name, arguments, printer, body)
        for inner, inner_kind in printer.functions.items():
            add(inner, inner_kind)
        texts[name] = text

    for name, kind in sorted(functions.items()):
        add(name, kind)
    return list(texts.values())
