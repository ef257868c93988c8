"""The part of an optimizer that works on matrices, for a GPU: one more entry point of a module.

The rule's program over a matrix (R rows, C columns: run-time sizes) goes through the same stages as
the network: its products are tiles, its norms sums over blocks. Its tensors are handed in: a
matrix, its gradient and moments as copies of their pieces of the flat arrays, turned where there
are more rows than columns, because products are smaller then; settings and the step number in one
array, which the device fills. New values go back by a kernel that leaves them out where the step
is left out.
"""

from __future__ import annotations

from dataclasses import replace

from codegen.alike import Forms
from codegen.cpu_parts import table_text
from codegen.cuda_parts import EntryLauncher, LaunchSet
from codegen.kernelset import tensor_names
from codegen.matrix_update import matrices
from codegen.memory import Layout
from codegen.pipeline import STORAGE, Compiled, Entry, compile_entry, equation_numbers
from codegen.schedule import choose_batch
from derive.optimizers import Optimizer
from derive.program import Program

NAME, PREFIX = "matrix", "rule_"

KERNELS = """\
@launch
def matrix_in(flat, at, piece, rows, columns, turned):
    \"\"\"A matrix out of a flat array; ``turned``: its columns become rows.\"\"\"
    for i in range(cuda.grid(1), rows*columns, cuda.gridsize(1)):
        row, column = i//columns, i % columns
        piece[i] = flat[at + (column*rows + row if turned else i)]


@launch
def matrix_out(buffer, start, flat, at, rows, columns, turned, flag):
    \"\"\"Its new values back, unless the step is left out.\"\"\"
    if flag[0] != 0 or flag[1] != 0:
        return
    for i in range(cuda.grid(1), rows*columns, cuda.gridsize(1)):
        row, column = i//columns, i % columns
        flat[at + (column*rows + row if turned else i)] = buffer[start + i]"""


def rule_program(optimizer: Optimizer) -> Program:
    """The rule's equations of the new values, all that they are made of handed in."""
    rule = optimizer.matrix
    assert rule is not None
    needed = rule.only(*rule.updates.values())
    tensors = {n: t if n in needed.defined else replace(t, role="input")
               for n, t in needed.tensors.items()}
    return replace(needed, tensors=tensors, updates={})


def matrix_entry(compiled: Compiled, launches: LaunchSet) -> EntryLauncher:
    """The rule's launches, among the kernels of a module."""
    program, rule = rule_program(compiled.optimizer), compiled.optimizer.matrix
    assert rule is not None
    empty, shapes = Layout({}, 0), {n: t.shape for n, t in program.tensors.items()}
    made = compile_entry(NAME, program, choose_batch(program), equation_numbers(program), empty,
                         empty, tuple(rule.updates.values()), STORAGE, Forms(shapes), device=True)
    entry: Entry = replace(made, phases=tuple(
        tuple(replace(k, name=PREFIX + k.name, cites=()) for k in kernels)
        for kernels in made.phases))
    names = {n: PREFIX + code for n, code in tensor_names(program).items()}
    own = replace(launches, shapes=shapes, names=names, rooms={},
                  sizes={s: f"{PREFIX}{s}" for s in program.sizes}, adjoints=frozenset())
    return EntryLauncher(entry, own)  # texts, functions and keys are those of the module


def matrix_texts(compiled: Compiled, launcher: EntryLauncher) -> list[str]:
    """Tables, and kernels that bring matrices there and back."""
    optimizer, rule = compiled.optimizer, compiled.optimizer.matrix
    assert rule is not None
    settings = list(optimizer.settings)
    constants = [n for n in launcher.given if n not in ("p", "g", *optimizer.moments)]
    places = {n: settings.index(n) if n in settings else -1 for n in constants}
    rows = []
    for name in matrices(optimizer, compiled.parameters, compiled.trained):
        slot = compiled.parameters.slots[name]
        first = int(slot.shape[0])
        other = int(slot.elements)//first
        turned = first > other
        r, c = (other, first) if turned else (first, other)
        rows.append(f"    ({int(slot.offset)}, {r}, {c}, {turned}),  # {name}")
    flat = {"p": '"p"', "g": '"d"', **{m: f'"{m}"' for m in optimizer.moments}}
    fill = [f"    rule[{n}] = F({f'settings[{at}]' if at >= 0 else 'step'})"
            for n, at in enumerate(places.values())]
    counted = ["    step -= flag[2]"] if compiled.storage else []
    return [
        "\n".join([*(f"# {eq}" for eq in rule.equations),
                   "# where matrices begin, rows, columns, and whether they are turned",
                   "MATRICES = (", *rows, ")",
                   f"RULE_CONSTANTS = {tuple(constants)}",
                   "# of what a flat array is handed in, and what its new value is",
                   f"RULE_FLAT = {table_text({n: flat[n] for n in launcher.given if n in flat})}",
                   f"RULE_NEW = {table_text({n: repr(u) for n, u in rule.updates.items()})}"]),
        KERNELS,
        "\n".join(["@launch", "def rule_constants(step, settings, rule, flag):", *counted, *fill])]
