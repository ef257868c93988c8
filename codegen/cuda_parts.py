"""What the CUDA template is filled with: kernels, the host's functions that launch them, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sympy import Expr, Symbol

from codegen import tiling
from codegen.alike import cited_lines
from codegen.cpu_parts import declared_parts, declared_tables, table_text
from codegen.cuda_ptx import ARCHITECTURES
from codegen.entries import given
from codegen.half import rescaling_text
from codegen.kernelset import Functions, function_texts, tensor_names
from codegen.launches import Launch, split
from codegen.loops import LO, Matrix, Store, Window
from codegen.memory import GIVEN, HALF
from codegen.optimizer_cuda import update_texts
from codegen.parts import PARTIAL, PARTS, long_sum, turns
from codegen.pipeline import Compiled, Entry
from codegen.print_cuda import LIBRARY, LaunchPrinter, elements_of
from codegen.print_statements import identifier, polynomial
from codegen.scalars import ScalarPrinter
from codegen.threads import threads_of
from derive.nodes import Access, IntegerAccess, size_symbol
from derive.program import Equation, Program, Tensor

FLAT = ("p", "d", "s", "n", "w", HALF, "partial")


@dataclass
class LaunchSet:
    """The kernels of a module, each text once, and the lines that launch them."""

    shapes: dict[str, tuple[Expr, ...]]
    names: dict[str, str]
    sizes: dict[Symbol, str]
    functions: Functions = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    cites: dict[str, dict[int, Equation]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    adjoints: frozenset[str] = frozenset()
    rooms: dict[str, None] = field(default_factory=dict)  # what parts of products take
    vendor: bool = False  # products by the vendor's library, where they are single ones

    def add(self, launch: Launch, buffers: dict[str, str], offsets: dict[str, str],
            given_sizes: dict[Symbol, str] | None = None) -> list[str]:
        """The lines that run a launch; ``offsets`` says where each tensor begins."""
        sizes = self.sizes if given_sizes is None else given_sizes
        if self.vendor and launch.behind_parts is not None and not launch.windows:
            return self.by_vendor(launch, launch.behind_parts, buffers, offsets, sizes)
        own, arguments = self.kernel(launch, buffers, offsets, sizes)
        total, whole = launch.total, f"{own}[(*{{}}, stream)]({arguments})"
        if launch.kind == "product":
            shape = product_sizes(launch, {**sizes})
            whole = (f"multiply(stream, ({own}, {own}_small), ({shape}), {total is not None}, "
                     f"({arguments}, partial))")
        else:
            whole = whole.format(grid_of(launch, {**sizes}))
        if total is None:
            return [whole]
        parted = self.parted(total, buffers, offsets, sizes)
        added = ["    " + line for line in self.lines(total, *parted)]
        if launch.parts is None:
            self.rooms[f"room({shape})"] = None
            return [f"parts = {whole}", "if parts > 1:", *added]
        shape = sum_sizes(launch, {**sizes})
        self.rooms[f"room_of_sums({shape})"] = None
        return [f"parts = cut_sums({shape})", "if parts > 1:",
                *("    " + line for line in self.lines(launch.parts, *parted)), *added,
                "else:", "    " + whole]

    def parted(self, total: Launch, buffers: dict[str, str], offsets: dict[str, str],
               sizes: dict[Symbol, str]
               ) -> tuple[dict[str, str], dict[str, str], dict[Symbol, str]]:
        """Buffers, offsets and sizes with those of parts."""
        self.shapes[PARTIAL] = (PARTS, *(i.size for i in total.over))
        self.names[PARTIAL] = "partial"
        return ({**buffers, PARTIAL: "partial"}, {**offsets, PARTIAL: "0"},
                {**sizes, PARTS: "parts"})

    def by_vendor(self, launch: Launch, behind: Launch, buffers: dict[str, str],
                  offsets: dict[str, str], sizes: dict[Symbol, str]) -> list[str]:
        """A product by the vendor's library into one part, and what is behind it."""
        names: dict[object, str] = {**sizes}
        product = launch.product

        def matrix(m: Matrix | Window) -> str:
            assert isinstance(m, Matrix)
            steps = [m.start.expand().coeff(i) for i in launch.over]
            first = m.start.subs(dict.fromkeys(launch.over, 0))
            shape = "".join(f"{polynomial(e, names)}, " for e in (
                *(i.size for i in launch.over), m.rows, m.columns))
            strides = "".join(f"{polynomial(e, names)}, " for e in (*steps, m.row, m.column))
            return (f"({buffers[m.name]}, {offsets[m.name]} + {polynomial(first, names)}, "
                    f"({shape.rstrip()}), ({strides.rstrip()}))")

        count = "*".join(f"({n})" for n in product_sizes(launch, names).split(", ")[:2])
        self.rooms[f"{count}*({polynomial(elements_of(launch), names)})"] = None
        alpha = ScalarPrinter(names).value(product.alpha)
        return [f"library_product(stream, {alpha}, {matrix(product.left)}, "
                f"{matrix(product.right)}, partial)", "parts = 1",
                *self.lines(behind, *self.parted(behind, buffers, offsets, sizes))]

    def lines(self, launch: Launch, buffers: dict[str, str], offsets: dict[str, str],
              sizes: dict[Symbol, str]) -> list[str]:
        """The line that runs a launch as it is."""
        own, arguments = self.kernel(launch, buffers, offsets, sizes)
        return [f"{own}[(*{grid_of(launch, {**sizes})}, stream)]({arguments})"]

    def kernel(self, launch: Launch, buffers: dict[str, str], offsets: dict[str, str],
               sizes: Mapping[Symbol, str]) -> tuple[str, str]:
        """The name of a launch's kernel, whose text is kept once, and its arguments."""
        plain = LaunchPrinter(launch, self.names, buffers, self.shapes, self.adjoints,
                              plain=True)
        name, number = launch.name, 1
        while name in self.texts:
            number += 1
            name = f"{launch.name}_v{number}"
        own = self.keys.setdefault(f"{launch.kind}\n{plain.key()}", name)
        self.cites.setdefault(own, {}).update(launch.cites)
        printer = LaunchPrinter(replace(launch, name=own), self.names, buffers, self.shapes,
                                self.adjoints)
        if own not in self.texts:
            self.texts[own] = printer.text()
            self.functions.update(printer.scalars.functions)
        handed = [*(sizes[s] for s in launch.sizes), *dict.fromkeys(
            buffers[t] for t in launch.tensors), *(offsets[t] for t in printer.starts),
            *(["s"] if printer.flat.scaled else [])]
        return own, ", ".join(handed)

    def ordered(self) -> list[str]:
        """The texts in the order of the program's equations, each below all that it computes."""
        names = sorted(self.texts, key=lambda n: min(self.cites[n], default=0))
        return ["\n".join([*cited_lines(self.cites[n]), self.texts[n]]) for n in names]


def grid_of(launch: Launch, names: dict[object, str]) -> str:
    """The call that chooses blocks and threads, from the sizes and the device."""
    over = polynomial(elements_of(launch), names)
    if launch.kind == "elements":
        return f"spread({over})"
    if launch.tiles:
        return f"tile_blocks({over})"
    return f"one_block_each({over}, {polynomial(threads_of(launch), names)})"


def product_sizes(launch: Launch, names: dict[object, str]) -> str:
    """Rows, columns, summands and number of the products of a launch."""
    product = launch.product
    return ", ".join(polynomial(e.subs(LO, 0), names) for e in (
        product.target.rows, product.target.columns, product.left.columns, elements_of(launch)))


def sum_sizes(launch: Launch, names: dict[object, str]) -> str:
    """Elements of a launch and summands of each."""
    found = long_sum(launch.over, launch.body)
    assert found is not None
    return f"{polynomial(elements_of(launch), names)}, {polynomial(turns(found[1:]), names)}"


class EntryLauncher:
    """The host's function of one entry point: its launches in order."""

    def __init__(self, entry: Entry, launches: LaunchSet) -> None:
        self.entry, self.launches = entry, launches
        self.given = [t.name for t in given(entry.program)]
        self.flat = {GIVEN + n: f"{launches.names[n]}_flat" for n in self.given}
        self.names: dict[object, str] = {**launches.sizes}
        self.rooms: tuple[str, ...] = ()
        self.pieces = [piece for kernels in entry.phases for k in kernels
                       for piece in split(k, launches.shapes)]

    @property
    def arguments(self) -> list[str]:
        return [*self.launches.sizes.values(), *FLAT, *self.flat.values()]

    def text(self) -> str:
        slots = self.entry.plan.slots
        lines = []
        self.launches.rooms = {}
        for launch in self.pieces:
            buffers = {t: self.flat.get(slots[t].buffer, slots[t].buffer) for t in launch.tensors}
            offsets = {t: polynomial(slots[t].offset, self.names) for t in launch.tensors}
            lines += ["    " + line for line in self.launches.add(launch, buffers, offsets)]
        self.rooms = tuple(self.launches.rooms)
        name, losses = self.entry.name, self.entry.program.losses
        last = "    return None"
        if losses and name != "forward":
            slot = slots[losses[0]]
            last = f"    return {slot.buffer}, {polynomial(slot.offset, self.names)}"
        return "\n".join([f"def launch_{name}(stream, {', '.join(self.arguments)}):", *lines, last])

    def table(self) -> str:
        """Where each tensor lies that is there when the entry point returns."""
        rows = []
        for tensor, slot in self.entry.plan.slots.items():
            if tensor in self.entry.program.defined and tensor in self.entry.plan.kept:
                shape = "".join(polynomial(e, self.names) + ", " for e in slot.shape)
                rows.append(f'        "{tensor}": ("{slot.buffer}", '
                            f"{polynomial(slot.offset, self.names)}, ({shape.rstrip()})),")
        sizes = ", ".join(self.launches.sizes.values())
        return "\n".join([f"def _offsets_{self.entry.name}({sizes}):", "    return {", *rows,
                          "    }"])

    def arena(self) -> str:
        sizes = ", ".join(self.launches.sizes.values())
        plan = self.entry.plan
        partial = f"max({', '.join(['0', *self.rooms])})" if self.rooms else "0"
        return "\n".join([f"def _arena_{self.entry.name}({sizes}):",
                          f"    return ({polynomial(plan.shared, self.names)}, "
                          f"{polynomial(plan.halves, self.names)},", f"            {partial})"])


def cuda_module_parts(compiled: Compiled, vendor: bool = False) -> dict[str, Any]:
    """Everything that the template names; ``vendor``: products by the vendor's library."""
    program = compiled.program
    names = tensor_names(compiled.packed)
    taken = set(names.values())
    sizes = {s: identifier(str(s), taken) for s in program.sizes}
    shapes = {n: t.shape for n, t in compiled.packed.tensors.items()}
    launches = LaunchSet(shapes, names, sizes, adjoints=_adjoints(compiled.packed),
                         vendor=vendor)
    entries = {n: EntryLauncher(e, launches) for n, e in compiled.entries.items()}
    texts = [e.text() for e in entries.values()]
    batch = next(iter(entries.values())).entry.schedule.batch
    update: list[str] = ["# none: a forward pass only"]
    epoch: list[str] = ["# none"]
    if "gradient" in entries:
        update, functions = update_texts(compiled.optimizer, compiled.parameters,
                                         compiled.trained, bool(compiled.storage))
        if compiled.storage:
            more, own = rescaling_text(compiled)
            update, functions = [*more, *update], {**functions, **own}
        if compiled.optimizer.matrix is not None:
            from codegen.matrix_cuda import NAME, matrix_entry, matrix_texts

            entries[NAME] = matrix_entry(compiled, launches)
            texts.append(entries[NAME].text())
            update = [*matrix_texts(compiled, entries[NAME]), *update]
        launches.functions.update(functions)
        epoch = [_gathering(compiled, entries["gradient"], batch)]
    functions_text = function_texts(launches.functions, library=LIBRARY)
    return {
        **declared_parts(compiled, batch),
        "functions": functions_text or ["# none"],
        "library": sorted(LIBRARY.items()),
        "kernels": launches.ordered(),
        "entries": texts, "update": update, "epoch": epoch,
        "half": compiled.storage or "", "matrices": compiled.optimizer.matrix is not None,
        "tiling": tiling.text(), "wait": tiling.WAIT, "more": tiling.LAUNCH,
        "lanes": {a.capability: a.lanes for a in ARCHITECTURES.values()},
        "tables": [*(e.table() for e in entries.values()), *(e.arena() for e in entries.values()),
                   "\n".join(_tables(compiled, entries))],
    }


def _adjoints(program: Program) -> frozenset[str]:
    """Adjoints, and what is computed of them (such as their packed windows)."""
    found = {t.name for t in program.role("gradient")}
    for group in program.groups:
        own = {eq.name for eq in group.equations}
        if any(found & {*eq.reads} for eq in group.equations):
            found |= own
    return frozenset(found)


def _tables(compiled: Compiled, entries: dict[str, EntryLauncher]) -> list[str]:
    def functions(stem: str) -> str:
        return table_text({n: f"{stem}_{n}" for n in entries})

    names = tensor_names(compiled.packed)
    kinds = dict.fromkeys(("p", "d", "s", "n", "w", "partial", "scales", "buffer", "bad"), "float")
    kinds[HALF] = "half"
    if "matrix" in entries:
        kinds |= dict.fromkeys((*entries["matrix"].flat.values(), "rule", "flat", "piece"), "float")
    kinds |= dict.fromkeys(("settings", "factors", "sums", "losses"), "double")
    kinds |= dict.fromkeys(("segments", "flag", "seed", "order_flat"), "int")
    for tensor in given(compiled.program):
        for start in ("", "all_"):
            kinds[f"{start}{names[tensor.name]}_flat"] = tensor.dtype
    return ["# what the arguments of kernels are arrays of; others are whole numbers",
            f"ARGUMENTS = {table_text({n: repr(k) for n, k in kinds.items()})}",
            f"_LAUNCH = {functions('launch')}", f"_OFFSETS = {functions('_offsets')}",
            f"_ARENA = {functions('_arena')}",
            f"_GIVEN = {table_text({n: repr(tuple(e.given)) for n, e in entries.items()})}",
            *declared_tables(compiled)]


def _gathering(compiled: Compiled, gradient: EntryLauncher, batch: Symbol | None) -> str:
    """The host's function that gathers the rows of a minibatch: a launch for each input."""
    launches, rows = gradient.launches, size_symbol("rows")
    sizes = {**launches.sizes, LO: "first", rows: "rows"}
    lines, arguments = [], ["order_flat"]
    for tensor in given(compiled.program):
        flat = f"{launches.names[tensor.name]}_flat"
        arguments += [f"all_{flat}", flat]
        if batch is None or batch not in tensor.shape:
            continue
        launch = _gather(tensor, batch, launches.shapes, rows)
        source, target = f"{tensor.name} all", f"{tensor.name} batch"
        launches.names.update({"order ": "order", source: source, target: target})
        buffers = {"order ": "order_flat", source: f"all_{flat}", target: flat}
        lines += ["    " + line for line in
                  launches.add(launch, buffers, dict.fromkeys(buffers, "0"), sizes)]
    arguments = ["stream", "first", "rows", *launches.sizes.values(), *arguments]
    return "\n".join([f"def launch_gather({', '.join(arguments)}):", *lines, "    return None"])


def _gather(tensor: Tensor, batch: Symbol, shapes: dict[str, tuple[Expr, ...]], rows: Symbol
            ) -> Launch:
    kind = IntegerAccess if tensor.dtype == "int" else Access
    at = next(i for i in tensor.indices if i.size == batch)
    source, target = f"{tensor.name} all", f"{tensor.name} batch"
    shapes[source] = tuple(rows if s == batch else s for s in tensor.shape)
    shapes[target], shapes["order "] = tensor.shape, (rows,)
    row = IntegerAccess("order ", at + LO)
    store = Store(kind(target, *tensor.indices),
                  kind(source, *(row if i == at else i for i in tensor.indices)))
    own = {s for s in tensor.shape if s.is_Symbol} | {LO}
    needed = {s for step in shapes[source][1:] for s in step.free_symbols}
    return Launch("elements", f"gather_{tensor.name}", tensor.indices, (store,),
                  ("order ", source, target), tuple(sorted(own | needed, key=str)), ())


