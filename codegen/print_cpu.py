"""Loop-nest trees → Python text for Numba on the CPU: the one printer of the CPU target."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Sequence
from functools import singledispatchmethod

from sympy import Expr, Symbol

from codegen.loops import (
    HI,
    LO,
    If,
    Kernel,
    Let,
    Loop,
    Matrix,
    Product,
    Statement,
    Store,
    expressions,
    statements,
)
from codegen.scalars import ScalarPrinter
from codegen.vector_math import vectorised
from derive.functions import REGISTRY
from derive.nodes import Index, IntegerAccess, accesses, bound_indices

# Names that the module itself uses: a tensor or an index of that name gets another one.
RESERVED = frozenset(
    """np math os sys time json F DTYPE numba njit prange range len min max abs float int bool
    print part parts lo hi p d s n w o batch order step settings flat total loss gradient forward
    update epoch gemm at mix pick main exact inlined I U kernel thin view first rows block blocks
    most True False None""".split()
)
_OWN = re.compile(r"(k\d+_|gather_|power\d|moment_|fast_).*|.*_(phase.*|flat|all|batch|split)")


def identifier(name: str, taken: set[str]) -> str:
    """A Python identifier for a declared or generated name, unlike those taken; takes it."""
    made = f"own_{name}_" if _OWN.fullmatch(name) else name
    while made in taken or made in RESERVED or made in REGISTRY or keyword.iskeyword(made):
        made += "_"
    taken.add(made)
    return made


class KernelPrinter:
    """Prints one kernel. Tensors keep their names; indices get others where they would meet.

    ``plain`` numbers all names instead: kernels that differ in names only have the same text then.
    """

    def __init__(self, kernel: Kernel, tensors: dict[str, str], plain: bool = False) -> None:
        self.kernel = kernel
        if plain:
            tensors = {n: f"t{k}" for k, n in enumerate(kernel.tensors)}
        taken = {tensors[n] for n in kernel.tensors} | {"x", "setting"}
        names: dict[object, str] = {n: tensors[n] for n in kernel.tensors}
        names[LO], names[HI] = "lo", "hi"
        for number, index in enumerate(_indices(kernel.body)):
            names[index] = f"i{number}" if plain else identifier(index.name, taken)
        for size in kernel.sizes:
            names[size] = identifier(str(size), taken)
        self.sizes = [names[s] for s in kernel.sizes]
        self.scalars = ScalarPrinter(names, own=vectorised, unsigned="U")
        self.names = names
        self.lines: list[str] = []
        self.sliced = sliced(kernel)
        for name, dim in self.sliced.items():
            own = names[name]
            self.line(1, f"{own} = {own}[{':, ' * dim}lo:hi]")

    def key(self) -> str:
        """The text without name and comments."""
        self.block(self.kernel.body, 1)
        return "\n".join([*self.sizes, *self.lines])

    def text(self) -> str:
        kernel = self.kernel
        arguments = ["lo", "hi", *self.sizes, *(self.names[n] for n in kernel.tensors)]
        head = ["@kernel", f"def {kernel.name}({', '.join(arguments)}):"]
        self.block(kernel.body, 1)
        return "\n".join([*head, *self.lines])

    def block(self, body: Iterable[Statement], depth: int) -> None:
        for node in body:
            self.statement(node, depth)

    def line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    @singledispatchmethod
    def statement(self, node: Statement, depth: int) -> None:
        raise AssertionError(f"no printer for {type(node).__name__}")

    @statement.register
    def _loop(self, node: Loop, depth: int) -> None:
        start, stop = self.scalars.index(node.start), self.scalars.index(node.stop)
        if self.sliced and node.index == self.kernel.part:
            start, stop = "0", "hi - lo"
        inner = any(isinstance(n, Loop) for n in statements(node.body))
        self.scalars.suspect, self.scalars.late = None if inner else node.index, start != "0"
        if node.down:
            extent = f"range({stop} - 1, {start} - 1, -1)"
        else:
            extent = f"range({stop})" if start == "0" else f"range({start}, {stop})"
        self.line(depth, f"for {self.names[node.index]} in {extent}:")
        self.block(node.body, depth + 1)
        self.scalars.suspect = None

    @statement.register
    def _let(self, node: Let, depth: int) -> None:
        name, value = node.symbol.name, self.scalars.value(node.value)
        if node.op in ("max", "min"):
            sign = ">" if node.op == "max" else "<"
            self.line(depth, f"_x = {value}")
            self.line(depth, f"{name} = _x if _x {sign} {name} or _x != _x else {name}")
        else:
            self.line(depth, f"{name} {node.op} {value}")

    @statement.register
    def _store(self, node: Store, depth: int) -> None:
        target = self.scalars.access(node.target)
        whole = isinstance(node.target, IntegerAccess)
        value = self.scalars.index(node.value) if whole else self.scalars.value(node.value)
        self.line(depth, f"{target} {node.op} {value}")

    @statement.register
    def _if(self, node: If, depth: int) -> None:
        self.line(depth, f"if {self.scalars.condition(node.condition)}:")
        self.block(node.yes, depth + 1)
        if node.no:
            self.line(depth, "else:")
            self.block(node.no, depth + 1)

    @statement.register
    def _product(self, node: Product, depth: int) -> None:
        matrices = [self._matrix(m) for m in (node.left, node.right, node.target)]
        alpha = self.scalars.value(node.alpha)
        rows, inner, columns = (
            self.scalars.index(e)
            for e in (node.target.rows, node.left.columns, node.target.columns)
        )
        self.line(depth, f"gemm({rows}, {columns}, {inner}, {alpha}, {matrices[0]}, "
                         f"{matrices[1]}, F({node.beta}), {matrices[2]})")

    def _matrix(self, matrix: Matrix) -> str:
        start, row, column = map(self.scalars.index, (matrix.start, matrix.row, matrix.column))
        return f"at({self.names[matrix.name]}, {start}), {row}, {column}"


def sliced(kernel: Kernel) -> dict[str, int]:
    """Tensors to cut to lo .. hi along a dim, where the split index is an innermost loop.

    LLVM makes vectors of a loop that begins at 0; of one that begins at lo it cannot rule out
    that the index is negative, which Python counts from the end. Nothing is cut where the split
    index stands anywhere but alone in one dim.
    """
    part = kernel.part
    found: dict[str, int] = {}
    innermost = any(isinstance(node, Loop) and node.index == part
                    and not any(isinstance(inner, Loop) for inner in statements(node.body))
                    for node in statements(kernel.body))
    if part is None or not innermost:
        return {}
    for node in statements(kernel.body):
        if isinstance(node, Product):
            return {}
        for expr in expressions(node):
            places = accesses(expr)
            rest = expr.xreplace({a: Symbol(f"_a{n}") for n, a in enumerate(places)})
            if expr not in (LO, HI) and {part, LO, HI} & rest.free_symbols:
                return {}
            for access in places:
                dims = [d for d, e in enumerate(access.where) if part in e.free_symbols]
                if len(dims) > 1 or (dims and access.where[dims[0]] != part):
                    return {}
                if found.setdefault(access.name, dims[0] if dims else -1) != (
                    dims[0] if dims else -1
                ):
                    return {}
    return {name: dim for name, dim in found.items() if dim >= 0}


def _indices(body: tuple[Statement, ...]) -> list[Index]:
    found: dict[Index, None] = {}
    for node in statements(body):
        if isinstance(node, Loop):
            found[node.index] = None
        for expr in expressions(node):
            found.update(dict.fromkeys(bound_indices(expr)))
            found.update(dict.fromkeys(
                sorted((s for s in expr.free_symbols if isinstance(s, Index)), key=str)))
    return list(found)


def function(name: str, arguments: Sequence[str], printer: ScalarPrinter, body: Expr) -> str:
    """A small function of scalars that kernels call."""
    return f"@inlined\ndef {name}({', '.join(arguments)}):\n    return {printer.value(body)}"


def polynomial(expr: Expr, names: dict[object, str] | None = None) -> str:
    """Text of a size or an offset, as a function of the run-time sizes."""
    return ScalarPrinter(names or {}).index(expr)


def shaped(buffer: str, offset: str, shape: Sequence[Expr], names: dict[object, str]) -> str:
    """``view(w, 16*B, (B, 32))``: a tensor as a part of its flat buffer."""
    sizes = [polynomial(e, names) for e in shape] or ["1"]
    return f"view({buffer}, {offset}, ({', '.join(sizes)}{',' if len(sizes) == 1 else ''}))"
