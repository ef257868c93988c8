"""What the CPU template is filled with: tables and functions, printed from the compiled program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sympy import Expr, Symbol

from codegen.entries import EntryPrinter, SectionPrinter, epoch_texts, given
from codegen.initial import initial_values
from codegen.kernelset import collect_kernels, function_texts, tensor_names
from codegen.memory import Layout
from codegen.optimizer import update_text
from codegen.phases import PhaseSet
from codegen.pipeline import Compiled
from codegen.print_statements import identifier, polynomial
from codegen.shares import PARTS
from codegen.train_step import TrainPrinter, find_behinds, streams
from derive.custom import stopped_parameters
from derive.data import label_limits
from derive.program import Program, Tensor


def module_parts(compiled: Compiled, parallel: bool) -> dict[str, Any]:
    """Everything that the templates name."""
    names = tensor_names(compiled.packed)
    found = collect_kernels(compiled)
    functions, kernels = found.functions, found.ordered()
    sizes = compiled.program.sizes  # every entry point takes all of them, in one order
    taken = set(names.values())
    phases = PhaseSet(names, {s: identifier(str(s), taken) for s in sizes}, found.shared)
    printers = [EntryPrinter(e, phases, parallel) for n, e in compiled.entries.items()
                if n != "gradient"]
    gradient = (SectionPrinter(compiled.entries["gradient"], phases, parallel)
                if "gradient" in compiled.entries else None)
    printers += [gradient] if gradient else []
    behinds = find_behinds(compiled)
    streamed = parallel and streams(compiled)
    update, update_functions = update_text(compiled.optimizer, compiled.parameters,
                                           compiled.trained, parallel, streamed)
    functions.update(update_functions)
    train = TrainPrinter(compiled, behinds, phases, parallel) if behinds else None
    batch = printers[0].entry.schedule.batch
    windows, small = (any(name.startswith(kind) for name in functions)
                      for kind in ("direct_", "product_"))
    products = any("gemm(" in text for text in kernels) or bool(
        gradient and compiled.optimizer.matrix)
    return {
        **declared_parts(compiled, batch),
        "uses_matrices": products or windows or small,
        "uses_products": products,
        "uses_windows": windows,
        "uses_small": small,
        "uses_streams": streamed,
        "functions": function_texts(functions) or ["# none"],
        "kernels": kernels,
        "phases": [p.text() for p in phases.phases if not p.updates],
        "entries": [text for p in printers for text in p.texts()]
        + (gradient.section_texts() if gradient else []),
        "update": [*update, *(train.texts() if train else [])] if gradient else [
            "# none: a forward pass only"],
        "epoch": epoch_texts(compiled, gradient, parallel, train) if gradient else ["# none"],
        "tables": _host_tables(compiled, printers, parallel),
    }


def declared_parts(compiled: Compiled, batch: Symbol | None) -> dict[str, Any]:
    """The tables of a module that say what was declared, whatever the target."""
    program = compiled.program
    return {
        "parameters": _layout(compiled.parameters),
        "states": _layout(compiled.states),
        "total": compiled.parameters.total,
        "trained": compiled.trained,
        "state_total": compiled.states.total,
        "trained_names": repr(tuple(n for n in compiled.parameters.slots if n in
                                    program.gradients and n not in program.jacobians)),
        "inputs": table_text({t.name: _input(t, batch) for t in given(program)}),
        "random": repr(tuple(t.name for t in given(program) if t.role == "random")),
        "sizes": repr(tuple(map(str, program.sizes))),
        "batch": repr(str(batch)) if batch is not None else "None",
        "moments": repr(compiled.optimizer.moments),
        "settings": repr(dict(compiled.optimizer.settings)),
        "flops": str(flops_per_row(program, batch)),
        "forward_inputs": _needs(compiled, "forward"),
        "loss_inputs": _needs(compiled, "loss"),
        "initial": table_text({n: repr(v) for n, v in initial_values(program).items()}),
    }


def _needs(compiled: Compiled, entry: str) -> str:
    if entry not in compiled.entries:
        return "()"
    return repr(tuple(t.name for t in given(compiled.entries[entry].program)))


def _layout(layout: Layout) -> str:
    return table_text({n: f"({s.offset}, {_tuple(map(str, s.shape))})"
                   for n, s in layout.slots.items()})


def _tuple(parts: Iterable[str]) -> str:
    parts = list(parts)
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def table_text(rows: dict[str, str]) -> str:
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
        count = 2
        for index in (*eq.indices, *set(eq.bound)):
            size = index.size
            count *= int(size) if size.is_Integer else 1 if size == batch else 16
        total += count
    return total


def _host_tables(compiled: Compiled, printers: Sequence[EntryPrinter], parallel: bool) -> list[str]:
    arenas = [arena_text(p) for p in printers]
    entry_names = [p.entry.name for p in printers]
    every = [*entry_names, "epoch", "update"] if "gradient" in entry_names else entry_names
    ending = "_split" if parallel else ""
    phases = max(len(p.entry.phases) for p in printers)
    small = [
        "# by the name of an entry point: on one thread, and on several",
        f"_ENTRY = {table_text({n: f'({n}, {n}{ending})' for n in every})}",
        f"_OFFSETS = {{{', '.join(f'{n!r}: _offsets_{n}' for n in entry_names)}}}",
        f"_ARENA = {{{', '.join(f'{n!r}: _arena_{n}' for n in entry_names)}}}",
        f"_GIVEN = {table_text({p.entry.name: repr(tuple(p.given)) for p in printers})}",
        *declared_tables(compiled),
        "# operations in a step from which on a second thread pays",
        f"PARALLEL_FROM = {max(PARALLEL_FROM, PER_PHASE * phases)}",
    ]
    return [*(p.table() for p in printers), *arenas, "\n".join(small)]


def _further(compiled: Compiled) -> dict[str, str]:
    """Jacobians, and gradients of tensors that are no parameters."""
    program = compiled.program
    return {name: repr((program.jacobians.get(name), gradient))
            for name, gradient in program.gradients.items()
            if name in program.jacobians or name not in compiled.parameters.slots}


def declared_tables(compiled: Compiled) -> list[str]:
    """Lines that say how states begin and what values inputs may have."""
    program = compiled.program
    states = {t.name: repr(float(t.initial)) if isinstance(t.initial, Expr) else
              "1.0" if t.initial == "ones" else "0.0" for t in program.role("state")}
    return [
        f"STATE_INITIAL = {table_text(states)}",
        f"DISTRIBUTIONS = {tuple(t.name for t in program.tensors.values() if t.distribution)!r}",
        f"LABELS = {table_text({n: str(s) for n, s in index_ranges(program).items()})}",
        "# gradients that have no place in the flat array: of what each is, and where it lies",
        f"FURTHER = {table_text(_further(compiled))}",
        "# parameters below a stopped gradient: the slope of the loss is not their gradient",
        f"STOPPED = {tuple(n for n in stopped_parameters(program) if n in program.gradients)!r}",
    ]


def arena_text(printer: EntryPrinter) -> str:
    """A function that gives the elements of an entry point's arena: what is shared, and for each
    part the largest of its blocks."""
    plan = printer.entry.plan
    lines = [f"def _arena_{printer.entry.name}({', '.join([*printer.sizes.values(), 'parts'])}):"]
    own = {(b.rows, polynomial(b.elements, printer.names)) for b in plan.blocks if b is not None}
    shared = polynomial(plan.shared, {**printer.names, PARTS: "parts"})
    if not own or plan.batch is None:
        return "\n".join([*lines, f"    return {shared}"])
    most = ", ".join(f"min({rows}, rows)*({elements})" for rows, elements in sorted(own))
    return "\n".join([*lines, f"    rows = -(-{printer.sizes[plan.batch]}//parts)",
                      f"    return {shared} + parts*max(0, {most})"])


PARALLEL_FROM = 4_000_000  # on two cores a step of 3 million took 44 µs on one thread, 91 on two
PER_PHASE = 100_000  # operations of a phase that pay for threads that wait for each other after it


def index_ranges(program: Program) -> dict[str, int]:
    """For each integer tensor used as an index the size of the dim that it indexes."""
    found: dict[str, int] = {}
    for name, size, _ in label_limits(program):
        if size.is_Integer:
            found[name] = min(int(size), found.get(name, int(size)))
    return found
