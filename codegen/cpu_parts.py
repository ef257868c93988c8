"""What the CPU template is filled with: tables and functions, printed from the compiled program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
from sympy import Expr, Integer, Symbol

from codegen.initial import initial_values
from codegen.loops import Kernel, Loop, Store
from codegen.memory import GIVEN, Layout
from codegen.optimizer import update_text
from codegen.pipeline import Compiled, Entry
from codegen.print_cpu import KernelPrinter, function, identifier, polynomial, view
from codegen.scalars import ScalarPrinter, helper
from derive.nodes import Access, Index, IntegerAccess, size_symbol
from derive.program import Program, Tensor

Functions = dict[str, Any]


def tensor_names(program: Program) -> dict[str, str]:
    """Identifiers of all tensors, apart from each other and from the module's own names."""
    taken: set[str] = set()
    return {name: identifier(name, taken) for name in program.tensors}


@dataclass
class KernelSet:
    """The kernels of a module: each text once, though several layers may call it."""

    names: dict[str, str]
    functions: Functions = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    cites: dict[str, dict[int, str]] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)  # name of a kernel: the one that is called
    keys: dict[str, str] = field(default_factory=dict)

    def add(self, kernel: Kernel) -> None:
        if kernel.name in self.shared:
            return
        key = KernelPrinter(kernel, self.names, plain=True).key()
        own = self.keys.setdefault(key, kernel.name)
        self.shared[kernel.name] = own
        cites = self.cites.setdefault(own, {})
        cites.update(kernel.cites)
        if own == kernel.name:
            printer = KernelPrinter(kernel, self.names)
            self.texts[own] = printer.text()
            self.functions.update(printer.scalars.functions)

    def ordered(self) -> list[str]:
        """The texts in the order of the program's equations, each below all that it computes."""
        names = sorted(self.texts, key=lambda n: min(self.cites[n], default=0))
        return ["\n".join([*(f"# ({k}) {t}" for k, t in sorted(self.cites[n].items())),
                           self.texts[n]]) for n in names]


def collect_kernels(compiled: Compiled, entries: Iterable[str] | None = None) -> KernelSet:
    """Every kernel of the entry points, equal ones once."""
    found = KernelSet(tensor_names(compiled.program))
    for entry in entries or compiled.entries:
        for phase in compiled.entries[entry].phases:
            for kernel in phase:
                found.add(kernel)
    return found


def kernel_texts(compiled: Compiled, entries: Iterable[str] | None = None) -> list[str]:
    """The texts of all kernels, in the order of the program's equations."""
    return collect_kernels(compiled, entries).ordered()


def function_texts(functions: Functions) -> list[str]:
    """Elementary functions that kernels call, each after those that it calls itself."""
    texts: dict[str, str] = {}

    def add(name: str, kind: Any) -> None:
        if name in texts:
            return
        arguments, body = helper(name, kind)
        printer = ScalarPrinter({})
        text = function(name, arguments, printer, body)
        for inner, inner_kind in printer.functions.items():
            add(inner, inner_kind)
        texts[name] = text

    for name, kind in sorted(functions.items()):
        add(name, kind)
    return list(texts.values())


class EntryPrinter:
    """Prints the phases of one entry point and the entry point itself."""

    def __init__(self, entry: Entry, names: dict[str, str], shared: dict[str, str],
                 parallel: bool) -> None:
        self.entry, self.shared, self.parallel = entry, shared, parallel
        program = entry.program
        self.given = [t.name for t in program.given if t.role not in ("parameter", "state")]
        taken = set(names.values())
        self.sizes = {s: identifier(str(s), taken) for s in all_sizes(entry.program)}
        self.names: dict[object, str] = {**names, **self.sizes}
        self.flat = {GIVEN + n: f"{names[n]}_flat" for n in self.given}

    @property
    def arguments(self) -> list[str]:
        return [*self.sizes.values(), "p", "d", "s", "n", "w", *self.flat.values()]

    def phases(self) -> list[str]:
        texts = []
        for number, kernels in enumerate(self.entry.phases, 1):
            for part, chunk in enumerate(_chunks(kernels)):
                texts.append(self.phase(self.phase_name(number, part), chunk))
        if self.parallel:
            texts.append(self.launch())
        return texts

    def phase_name(self, number: int, part: int) -> str:
        return f"{self.entry.name}_phase{number}" + (f"_{part + 1}" if part else "")

    def phase(self, name: str, kernels: Sequence[Kernel]) -> str:
        lines = ["@thin", f"def {name}(part, parts, {', '.join(self.arguments)}):"]
        for tensor in dict.fromkeys(t for k in kernels for t in k.tensors):
            lines.append("    " + self.view(tensor))
        for kernel in kernels:
            lines += self.call(kernel)
        return "\n".join(lines)

    def view(self, tensor: str) -> str:
        slot = self.entry.plan.slots[tensor]
        buffer = self.flat.get(slot.buffer, slot.buffer)
        return view(self.names[tensor], buffer, slot.offset, slot.shape, self.names)

    def call(self, kernel: Kernel) -> list[str]:
        extent = polynomial(kernel.extent, self.names)
        others = [self.sizes[s] for s in kernel.sizes] + [self.names[t] for t in kernel.tensors]
        if kernel.part is None:
            return ["    if part == 0:",
                    f"        {self.shared[kernel.name]}({', '.join(['0', '1', *others])})"]
        span = [f"{extent}*part//parts", f"{extent}*(part + 1)//parts"]
        return [f"    {self.shared[kernel.name]}({', '.join([*span, *others])})"]

    def launch(self) -> str:
        """One parallel loop for all phases of the entry point: each is costly to compile."""
        arguments = ", ".join(self.arguments)
        lines = ["@njit(parallel=True, **OPTIONS)",
                 f"def {self.entry.name}_phases(phase, parts, {arguments}):",
                 "    for part in prange(parts):"]
        for number, kernels in enumerate(self.entry.phases, 1):
            lines.append(f"        if phase == {number}:")
            lines += [f"            {self.phase_name(number, c)}(part, parts, {arguments})"
                      for c in range(len(_chunks(kernels)))]
        return "\n".join(lines)

    def entry_texts(self) -> list[str]:
        """The entry point on one thread, and on ``parts`` threads."""
        arguments = ", ".join(self.arguments)
        serial = [f"    {self.phase_name(number, c)}(0, 1, {arguments})"
                  for number, kernels in enumerate(self.entry.phases, 1)
                  for c in range(len(_chunks(kernels)))]
        split = [f"    {self.entry.name}_phases({number}, parts, {arguments})"
                 for number in range(1, len(self.entry.phases) + 1)]
        losses = self.entry.program.losses
        last = "    return 0.0"
        if losses and self.entry.name != "forward":
            slot = self.entry.plan.slots[losses[0]]
            last = f"    return float({slot.buffer}[{polynomial(slot.offset, self.names)}])"
        made = [(self.entry.name, serial)]
        if self.parallel:
            made.append((f"{self.entry.name}_split", split))
        return ["\n".join(["@thin", f"def {name}(parts, {arguments}):", *calls, last])
                for name, calls in made]

    def table(self) -> str:
        """Where each tensor of the arena lies."""
        rows = []
        for tensor, slot in self.entry.plan.slots.items():
            if tensor in self.entry.program.defined:
                shape = "".join(polynomial(e, self.names) + ", " for e in slot.shape)
                rows.append(f'        "{tensor}": ("{slot.buffer}", '
                            f"{polynomial(slot.offset, self.names)}, ({shape.rstrip()})),")
        return "\n".join([f"def _offsets_{self.entry.name}({', '.join(self.sizes.values())}):",
                          "    return {", *rows, "    }"])


def _chunks(kernels: Sequence[Kernel], length: int = 48) -> list[Sequence[Kernel]]:
    """A phase of many tasks becomes several functions: compile time grows faster than length."""
    return [kernels[n:n + length] for n in range(0, len(kernels), length)]


def all_sizes(program: Program) -> tuple[Symbol, ...]:
    return program.sizes


def module_parts(compiled: Compiled, parallel: bool) -> dict[str, Any]:
    """Everything that the templates name."""
    program = compiled.program
    names = tensor_names(program)
    found = collect_kernels(compiled)
    functions, kernels = found.functions, found.ordered()
    printers = [EntryPrinter(e, names, found.shared, parallel) for e in compiled.entries.values()]
    sizes = all_sizes(program)
    for printer in printers:  # every entry point takes all run-time sizes, in one order
        taken = set(names.values())
        printer.sizes = {s: identifier(str(s), taken) for s in sizes}
        printer.names = {**names, **printer.sizes}
    gradient = next((p for p in printers if p.entry.name == "gradient"), None)
    update, update_functions = update_text(compiled.optimizer, compiled.trained, parallel)
    functions.update(update_functions)
    batch = printers[0].entry.schedule.batch
    return {
        "parameters": _layout(compiled.parameters),
        "states": _layout(compiled.states),
        "total": compiled.parameters.total,
        "trained": compiled.trained,
        "state_total": compiled.states.total,
        "trained_names": repr(tuple(n for n in compiled.parameters.slots
                                    if n in program.gradients)),
        "inputs": _table({t.name: _input(t, batch) for t in given(program)}),
        "sizes": repr(tuple(str(s) for s in sizes)),
        "batch": repr(str(batch)) if batch is not None else "None",
        "moments": repr(compiled.optimizer.moments),
        "settings": repr(dict(compiled.optimizer.settings)),
        "flops": str(flops_per_row(program, batch)),
        "forward_inputs": _needs(compiled, "forward"),
        "loss_inputs": _needs(compiled, "loss"),
        "initial": _table({n: repr(v) for n, v in initial_values(program).items()}),
        "uses_blas": any("gemm(" in text for text in kernels),
        "functions": function_texts(functions) or ["# none"],
        "kernels": kernels,
        "phases": [text for p in printers for text in p.phases()],
        "entries": [text for p in printers for text in p.entry_texts()],
        "update": update if gradient else ["# none: a forward pass only"],
        "epoch": epoch_texts(compiled, gradient, parallel) if gradient else ["# none"],
        "tables": _host_tables(compiled, printers, parallel),
    }


def given(program: Program) -> tuple[Tensor, ...]:
    """What is handed in at each step."""
    return tuple(t for t in program.given if t.role not in ("parameter", "state"))


def _needs(compiled: Compiled, entry: str) -> str:
    if entry not in compiled.entries:
        return "()"
    return repr(tuple(t.name for t in given(compiled.entries[entry].program)))


def _layout(layout: Layout) -> str:
    return _table({n: f"({s.offset}, {_tuple(map(str, s.shape))})"
                   for n, s in layout.slots.items()})


def _tuple(parts: Iterable[str]) -> str:
    parts = list(parts)
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _table(rows: dict[str, str]) -> str:
    if not rows:
        return "{}"
    return "{\n" + "".join(f'    "{n}": {v},\n' for n, v in rows.items()) + "}"


def _input(tensor: Tensor, batch: Symbol | None) -> str:
    shape = _tuple(str(s) if s.is_Integer else f'"{s}"' for s in tensor.shape)
    axis = next((n for n, s in enumerate(tensor.shape) if s == batch and batch is not None), None)
    return f'({shape}, "{tensor.dtype}", {axis})'


def flops_per_row(program: Program, batch: Symbol | None) -> int:
    """Operations of a step for one row, other run-time sizes taken as 16: for choosing a plan."""
    total = 0
    for eq in program.equations:
        bound = {i for node in sympy.preorder_traversal(eq.body)
                 for i in getattr(node, "bound", ())}
        count: Expr = Integer(2)
        for index in (*eq.indices, *bound):
            size = index.size
            count *= size if size.is_Integer else (1 if size == batch else 16)
        total += int(count)
    return total


def _host_tables(compiled: Compiled, printers: Sequence[EntryPrinter], parallel: bool) -> list[str]:
    program = compiled.program
    arenas = [
        f"def _arena_{p.entry.name}({', '.join(p.sizes.values())}):\n"
        f"    return {polynomial(p.entry.plan.arena, p.names)}"
        for p in printers
    ]
    entry_names = [p.entry.name for p in printers]
    every = [*entry_names, "epoch", "update"] if "gradient" in entry_names else entry_names
    states = {t.name: "1.0" if t.initial == "ones" else "0.0" for t in program.role("state")}
    small = [
        "# by the name of an entry point: on one thread, and on several",
        f"_ENTRY = {_table({n: f'({n}, {n}_split)' if parallel else f'({n}, {n})' for n in every})}",
        f"_OFFSETS = {{{', '.join(f'{n!r}: _offsets_{n}' for n in entry_names)}}}",
        f"_ARENA = {{{', '.join(f'{n!r}: _arena_{n}' for n in entry_names)}}}",
        f"_GIVEN = {_table({p.entry.name: repr(tuple(p.given)) for p in printers})}",
        f"STATE_INITIAL = {_table(states)}",
        f"DISTRIBUTIONS = {tuple(t.name for t in program.tensors.values() if t.distribution)!r}",
        f"LABELS = {_table({n: str(s) for n, s in index_ranges(program).items()})}",
        "# operations in a step from which on a second thread pays (a launch costs 5 µs and more)",
        f"PARALLEL_FROM = {PARALLEL_FROM}",
    ]
    return [*(p.table() for p in printers), *arenas, "\n".join(small)]


PARALLEL_FROM = 12_000_000


def index_ranges(program: Program) -> dict[str, int]:
    """For each integer tensor used as an index the size of the dim that it indexes."""
    found: dict[str, int] = {}
    for eq in program.equations:
        for access in eq.body.atoms(Access):
            shape = program.tensors[access.name].shape
            for where, size in zip(access.where, shape, strict=True):
                if isinstance(where, IntegerAccess) and size.is_Integer:
                    found[where.name] = min(int(size), found.get(where.name, int(size)))
    return found


def epoch_texts(compiled: Compiled, gradient: EntryPrinter, parallel: bool) -> list[str]:
    """Gathering of a minibatch, and the loop over minibatches."""
    program, batch = compiled.program, gradient.entry.schedule.batch
    tensors = [t for t in given(program)]
    texts, calls = [], []
    sizes = list(gradient.sizes.values())
    size_of = gradient.sizes.get(batch) if batch is not None else None
    rows = size_symbol("rows")
    for tensor in tensors:
        if batch is None or batch not in tensor.shape:
            continue
        text, call = _gather(tensor, batch, gradient, rows)
        texts.append(text)
        calls.append(call)
    moments = [f"moment_{m}" for m in compiled.optimizer.moments]
    data = [f"{gradient.flat.get(GIVEN + t.name, t.name + '_flat')}_all" for t in tensors]
    batches = [gradient.flat.get(GIVEN + t.name, t.name + "_flat") for t in tensors]
    handed = {t.name: (b if batch is not None and batch in t.shape else a)
              for t, a, b in zip(tensors, data, batches)}
    passed = ", ".join(["parts", *sizes, "p", "d", "s", "n", "w",
                        *(handed[n] for n in gradient.given)])
    arguments = ", ".join(["parts", "order", "batch", "rows", "step", "settings", *sizes, "p", "d",
                           "s", "n", "w", *moments, *data, *batches])
    texts += [
        "\n".join(_epoch(f"epoch{ending}", arguments, size_of, calls,
                         f"gradient{ending}({passed})",
                         f"update{ending}({', '.join(['parts', 'step', 'settings', 'p', 'd', *moments])})"))
        for ending in (("", "_split") if parallel else ("",))
    ]
    return texts


def _epoch(name: str, arguments: str, size: str | None, gathers: Sequence[str], gradient: str,
           update: str) -> list[str]:
    rows = "order.shape[0]"
    return [
        "@kernel", f"def {name}({arguments}):",
        "    total = 0.0",
        f"    for first in range(0, {rows}, batch):",
        *([f"        {size} = min(batch, {rows} - first)"] if size else []),
        *(f"        {call}" for call in gathers),
        f"        loss = {gradient}",
        "        if not np.isfinite(loss):",
        "            return total, step, True",
        "        step += 1",
        "        for i in range(s.shape[0]):",
        "            s[i] = n[i]",
        f"        {update}",
        f"        total += loss*{size or rows}",
        "    return total, step, False",
    ]


def _gather(tensor: Tensor, batch: Symbol, gradient: EntryPrinter, rows: Symbol
            ) -> tuple[str, str]:
    """The kernel that copies rows of a data set into a minibatch, and the call of it."""
    kind = IntegerAccess if tensor.dtype == "int" else Access
    at = next(i for i in tensor.indices if i.size == batch)
    first = Index("first", Integer(1))
    row = IntegerAccess("order", at + first)
    source = kind(f"{tensor.name}_all", *(row if i == at else i for i in tensor.indices))
    body: Any = Store(kind(f"{tensor.name}_batch", *tensor.indices), source)
    for index in reversed(tensor.indices):
        body = Loop(index, Integer(0), index.size, (body,))
    names: dict[str, str] = {n: n for n in ("order", f"{tensor.name}_all",
                                            f"{tensor.name}_batch")}
    kernel = Kernel(f"gather_{tensor.name}", ("order", f"{tensor.name}_all",
                                              f"{tensor.name}_batch"), None, (body,), (),
                    tuple(s for s in all_sizes(gradient.entry.program) if s in tensor.shape))
    printer = KernelPrinter(kernel, names)
    text = printer.text().replace("(lo, hi, ", "(first, ")
    whole = [rows if s == batch else s for s in tensor.shape]
    flat = gradient.flat.get(GIVEN + tensor.name, f"{tensor.name}_flat")

    def shaped(name: str, shape: Sequence[Expr]) -> str:
        return view("", name, Integer(0), shape, gradient.names).removeprefix(" = ")

    sizes = [gradient.sizes[s] for s in kernel.sizes]
    arguments = ["first", *sizes, "order", shaped(f"{flat}_all", whole),
                 shaped(flat, tensor.shape)]
    return text, f"gather_{tensor.name}({', '.join(arguments)})"
