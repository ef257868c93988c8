"""Entry points of a module: phases as functions, the calls of kernels, and the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sympy import Expr, Integer, Symbol

from codegen.loops import Kernel, Loop, Product, Store, statements
from codegen.memory import GIVEN
from codegen.pipeline import Compiled, Entry
from codegen.print_cpu import KernelPrinter, identifier, polynomial, view
from derive.nodes import Access, Index, IntegerAccess, size_symbol
from derive.program import Program, Tensor


def given(program: Program) -> tuple[Tensor, ...]:
    """What is handed in at each step."""
    return tuple(t for t in program.given if t.role not in ("parameter", "state"))


class EntryPrinter:
    """Prints the phases of one entry point and the entry point itself."""

    def __init__(self, entry: Entry, names: dict[str, str], sizes: Sequence[Symbol],
                 shared: dict[str, str], parallel: bool) -> None:
        self.entry, self.shared, self.parallel = entry, shared, parallel
        program = entry.program
        self.given = [t.name for t in program.given if t.role not in ("parameter", "state")]
        taken = set(names.values())
        self.sizes = {s: identifier(str(s), taken) for s in sizes}
        self.names: dict[object, str] = {**self.sizes}
        self.names.update(names)
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

    @property
    def sections(self) -> list[tuple[int, list[Kernel]]]:
        """What runs between two looks from outside: a phase over rows, or one kernel of pieces."""
        found: list[tuple[int, list[Kernel]]] = []
        for number, (phase, kernels) in enumerate(
                zip(self.entry.schedule.phases, self.entry.phases, strict=True), 1):
            whole = phase.kind == "rows"
            found += [(number, list(kernels))] if whole else [(number, [k]) for k in kernels]
        return found

    def section_texts(self) -> list[str]:
        """The entry point one section at a time, and what is whole after each: for a caller that
        sends one gradient on its way while the next one is computed."""
        arguments = ", ".join(self.arguments)
        lines = ["@kernel", f"def {self.entry.name}_section(section, part, parts, {arguments}):"]
        rows = ["# sections of the gradient: the phase, and the tensors that are whole after it",
                "SECTIONS = ("]
        for n, (number, kernels) in enumerate(self.sections):
            lines.append(f"    if section == {n}:")
            for tensor in dict.fromkeys(t for k in kernels for t in k.tensors):
                lines.append("        " + self.view(tensor))
            lines += ["    " + line for k in kernels for line in self.call(k)]
            made = sorted({t for k in kernels for t in _targets(k)})
            rows.append(f"    ({number}, {tuple(made)!r}),")
        return ["\n".join(lines), "\n".join([*rows, ")"])]

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


def _targets(kernel: Kernel) -> list[str]:
    """The tensors that a kernel writes."""
    nodes = list(statements(kernel.body))
    return [n.target.name for n in nodes if isinstance(n, Store | Product)]


def _chunks(kernels: Sequence[Kernel], length: int = 48) -> list[Sequence[Kernel]]:
    """A phase of many tasks becomes several functions: compile time grows faster than length."""
    return [kernels[n:n + length] for n in range(0, len(kernels), length)]


def epoch_texts(compiled: Compiled, gradient: EntryPrinter, parallel: bool) -> list[str]:
    """Gathering of a minibatch, and the loop over minibatches."""
    program, batch = compiled.program, gradient.entry.schedule.batch
    tensors = list(given(program))
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
    arguments = ", ".join(["parts", "order", "batch", "rows", "losses", "step", "settings", *sizes,
                           "p", "d", "s", "n", "w", *moments, *data, *batches])
    seeds = [handed[t.name] for t in tensors if t.role == "random"]
    updated = ", ".join(["parts", "step", "settings", "p", "d", *moments])
    texts += [
        "\n".join(_epoch(f"epoch{ending}", arguments, size_of, calls, seeds,
                         f"gradient{ending}({passed})",
                         f"update{ending}({updated})"))
        for ending in (("", "_split") if parallel else ("",))
    ]
    return texts


def _epoch(name: str, arguments: str, size: str | None, gathers: Sequence[str],
           seeds: Sequence[str], gradient: str, update: str) -> list[str]:
    rows = "order.shape[0]"
    return [
        "@kernel", f"def {name}({arguments}):",
        "    total = 0.0",
        f"    for first in range(0, {rows}, batch):",
        *([f"        {size} = min(batch, {rows} - first)"] if size else []),
        *(f"        {call}" for call in gathers),
        f"        loss = {gradient}",
        "        losses[first//batch] = loss",
        "        if not np.isfinite(loss):",
        "            return total, step, True",
        "        step += 1",
        "        for i in range(s.shape[0]):",
        "            s[i] = n[i]",
        f"        {update}",
        *(f"        {seed}[0] += 1  # new random numbers" for seed in seeds),
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
                    tuple(s for s in gradient.entry.program.sizes if s in tensor.shape))
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
