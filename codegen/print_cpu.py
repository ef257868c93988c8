"""Loop-nest trees → Python text for Numba on the CPU: the one printer of the CPU target."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from sympy import Expr, Symbol

from codegen.loops import (
    HI,
    LO,
    Kernel,
    Loop,
    Matrix,
    Nest,
    Product,
    Window,
    expressions,
    statements,
)
from codegen.print_statements import StatementPrinter, identifier, indices_of, polynomial
from codegen.scalars import ScalarPrinter
from codegen.small import Small, small, turned
from codegen.vector_math import vectorised
from derive.nodes import accesses


class KernelPrinter(StatementPrinter):
    """Prints one kernel. Tensors keep their names; indices get others where they would meet.

    ``plain`` numbers all names instead: kernels that differ in names only have the same text then.
    ``small``: products are loops with constant bounds (small.py), not calls of the general one.
    """

    def __init__(self, kernel: Kernel, tensors: dict[str, str], plain: bool = False,
                 small: bool = False) -> None:
        self.kernel, self.small = kernel, small
        if plain:
            tensors = {n: f"t{k}" for k, n in enumerate(kernel.tensors)}
        taken = {tensors[n] for n in kernel.tensors} | {"x", "setting"}
        names: dict[object, str] = {n: tensors[n] for n in kernel.tensors}
        names[LO], names[HI] = "lo", "hi"
        for number, index in enumerate(indices_of(kernel.body)):
            names[index] = f"i{number}" if plain else identifier(index.name, taken)
        for size in kernel.sizes:
            names[size] = identifier(str(size), taken)
        self.sizes = [names[s] for s in kernel.sizes]
        super().__init__(names, ScalarPrinter(names, own=vectorised, unsigned="U"))
        self.sliced = sliced(kernel)
        for name, dim in self.sliced.items():
            own = names[name]
            self.line(1, f"{own} = {own}[lo:hi]" if dim == 0 else
                      f"{own} = cut({own}, {dim}, lo, hi)")

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

    def limits(self, node: Loop) -> tuple[str, str]:
        if self.sliced and node.index == self.kernel.part:
            return "0", "hi - lo"
        return super().limits(node)

    def product(self, node: Product, depth: int) -> None:
        if node.nest is not None:
            name = nest_name(node.nest, node.beta)
            self.scalars.functions[name] = nest_text(name, node.nest, node.beta)
            starts = (self._start(m) for m in (node.target, node.left, node.right))
            self.line(depth, f"{name}({', '.join(starts)}, {self.scalars.value(node.alpha)})")
            return
        alpha = self.scalars.value(node.alpha)
        made = small(node) if self.small else None
        if made is not None:
            name = small_name(made)
            self.scalars.functions[name] = small_text(name, made)
            target, left, right = turned(node)
            sizes = (self.scalars.index(e) for e in (target.rows, left.columns))
            starts = (self._start(m) for m in (target, left, right))
            self.line(depth, f"{name}({', '.join(sizes)}, {', '.join(starts)}, {alpha})")
            return
        matrices = [self._matrix(m) for m in (node.left, node.right, node.target)]
        rows, inner, columns = (
            self.scalars.index(e)
            for e in (node.target.rows, node.left.columns, node.target.columns)
        )
        self.line(depth, f"gemm({rows}, {columns}, {inner}, {alpha}, {matrices[0]}, "
                         f"{matrices[1]}, F({node.beta}), {matrices[2]})")

    def _matrix(self, matrix: Matrix | Window) -> str:
        assert isinstance(matrix, Matrix)
        row, column = map(self.scalars.index, (matrix.row, matrix.column))
        return f"{self._start(matrix)}, {row}, {column}"

    def _start(self, matrix: Matrix | Window) -> str:
        assert isinstance(matrix, Matrix)
        return f"at({self.names[matrix.name]}, {self.scalars.index(matrix.start)})"


def nest_name(nest: Nest, beta: int) -> str:
    """The name of a function for such a nest: the same wherever it is the same nest."""
    rows, inner = (math.prod(n for n, *_ in loops) for loops in (nest.rows, nest.sums))
    key = hashlib.sha256(repr((nest, beta)).encode()).hexdigest()[:6]
    return f"direct_{rows}x{nest.columns}x{inner}_{key}"


def nest_text(name: str, nest: Nest, beta: int) -> str:
    """The function that runs a nest."""
    made = f"_nest({nest.loops}, {nest.rows}, {nest.columns}, {nest.sums}, {beta}"
    for axes, numbers in nest.tables:
        shown = ", ".join(str(int(n)) if n.is_integer() else repr(n) for n in numbers)
        made += f",\n    ({axes}, ({shown},))"
    made += ")"
    return _by_address(name, made, "_NEST", "target, left, right, alpha")


def small_name(product: Small) -> str:
    """The name of a function for such a product: the same wherever it is the same."""
    key = hashlib.sha256(product.told.encode()).hexdigest()[:6]
    sides = (product.height or "n", product.inner or "n", product.columns)
    return f"product_{'x'.join(map(str, sides))}_{key}"


def small_text(name: str, product: Small) -> str:
    """The function that computes a small product."""
    return _by_address(name, f"_small({product.told})", "_SMALL",
                       "rows, deep, target, left, right, alpha")


def _by_address(name: str, made: str, kind: str, arguments: str) -> str:
    return f"""_{name} = {made}
if numba.config.DISABLE_JIT:
    {name} = _{name}
else:

    @numba.cfunc({kind}, **OPTIONS)
    def _{name}_called({arguments}):
        _{name}({arguments})

    {name} = _symbol("{name}", _{name}_called, {kind})"""


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


def shaped(buffer: str, offset: str, shape: Sequence[Expr], names: dict[object, str]) -> str:
    """``view(w, 16*B, (B, 32))``: a tensor as a part of its flat buffer."""
    sizes = [polynomial(e, names) for e in shape] or ["1"]
    return f"view({buffer}, {offset}, ({', '.join(sizes)}{',' if len(sizes) == 1 else ''}))"
