"""The part of an optimizer that works on matrices → one function of two-dimensional arrays.

Each equation is a scalar, a sum over all elements, a product of two matrices, or a loop over
elements. A matrix with more rows than columns is handed in turned, where products are smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from sympy import Expr, Mul, Symbol

from codegen.hoist import Hoist
from codegen.memory import Layout
from codegen.scalars import ScalarPrinter
from derive.errors import DeclarationError
from derive.nodes import Access, Index, SumOver
from derive.optimizers import Optimizer
from derive.program import Equation

MULTIPLY = """\
@kernel
def multiply(a, b, c):
    (ar, ac), (br, bc), (cr, cc) = a.strides, b.strides, c.strides
    gemm(a.shape[0], b.shape[1], a.shape[1],
         F(1), at(a, 0), ar//a.itemsize, ac//a.itemsize, at(b, 0), br//b.itemsize, bc//b.itemsize,
         F(0), at(c, 0), cr//c.itemsize, cc//c.itemsize)"""


def matrices(optimizer: Optimizer, layout: Layout, trained: int) -> tuple[str, ...]:
    """The trained parameters that the optimizer's matrix program works on."""
    if optimizer.matrix is None:
        return ()
    return tuple(n for n, slot in layout.slots.items()
                 if int(slot.offset) < trained and len(slot.shape) >= 2
                 and fnmatchcase(n, optimizer.matrices))


def matrix_texts(optimizer: Optimizer, layout: Layout, trained: int
                 ) -> tuple[str, dict[str, Any], list[str]]:
    """The function, functions that it uses, and a call of it for each matrix."""
    printer = _MatrixPrinter(optimizer)
    text = f"{MULTIPLY}\n\n\n{printer.text()}"
    flat = ["p", "d", *(f"moment_{m}" for m in printer.states)]
    calls = []
    for name in matrices(optimizer, layout, trained):
        slot = layout.slots[name]
        at, first, size = int(slot.offset), int(slot.shape[0]), int(slot.elements)
        shape = f"({first}, {size // first})"
        turn = ".T" if first > size // first else ""
        arrays = [f"{a}[{at}:{at + size}].reshape({shape}){turn}" for a in flat]
        calls += [f"# {name}", f"update_matrix(step, settings, {arrays[0]},",
                  *(f"              {a}," for a in arrays[1:-1]),
                  f"              {arrays[-1]})"]
    return text, printer.functions, calls


class _MatrixPrinter:
    def __init__(self, optimizer: Optimizer) -> None:
        assert optimizer.matrix is not None
        self.optimizer, self.program = optimizer, optimizer.matrix
        self.states = [t.name for t in self.program.role("state")]
        self.names: dict[object, str] = {"p": "p", "g": "d"}
        self.names |= {m: f"moment_{m}" for m in self.states}
        self.double = ScalarPrinter(self.names, cast="float")
        self.double.bare = {*optimizer.settings, "t", *(
            eq.name for eq in self.program.equations if not eq.indices)}
        self.functions: dict[str, Any] = {}
        self.constants = 0

    def text(self) -> str:
        flat = ["p", "d", *(f"moment_{m}" for m in self.states)]
        lines = [*(f"# {eq}" for eq in self.program.equations), "@kernel",
                 f"def update_matrix(step, settings, {', '.join(flat)}):",
                 "    R, C = p.shape"]
        lines += [f"    {name} = settings[{n}]" for n, name in enumerate(self.optimizer.settings)]
        lines.append("    t = float(step)")
        for group in self.program.groups:
            for eq in group.equations:
                lines += self.equation(eq)
        for old, new in self.program.updates.items():
            lines.append(f"    {self.names[old]}[:, :] = {new}")
        self.functions.update(self.double.functions)
        return "\n".join(lines)

    def equation(self, eq: Equation) -> list[str]:
        sums = eq.body.atoms(SumOver)
        if not sums and not eq.indices:
            return [f"    {eq.name} = {self.double.value(eq.body)}"]
        if not eq.indices:
            (node,) = sums
            inner = self.loops(node.bound, "total += float({})", node.body)
            result = self.double.value(eq.body.xreplace({node: Symbol("total", real=True)}))
            return ["    total = 0.0", *inner, f"    {eq.name} = {result}"]
        if sums:
            left, right = self.factors(eq)
            return [f"    {eq.name} = np.empty(({left}.shape[0], {right}.shape[1]), DTYPE)",
                    f"    multiply({left}, {right}, {eq.name})"]
        shape = ", ".join(self.double.index(i.size) for i in eq.indices)
        target = ", ".join(i.name for i in eq.indices)
        return [f"    {eq.name} = np.empty(({shape}), DTYPE)",
                *self.loops(eq.indices, f"{eq.name}[{target}] = {{}}", eq.body)]

    def loops(self, where: Sequence[Index], statement: str, body: Expr) -> list[str]:
        """Nested loops over elements, and before them what no element enters."""
        hoist = Hoist()
        element = ScalarPrinter({**self.names, **{i: i.name for i in where}})
        value = element.value(hoist(body).xreplace(
            {s: Symbol(f"_c{self.constants + n}", real=True)
             for n, s in enumerate(hoist.known.values(), 1)}))
        head = []
        for expr in hoist.known:
            self.constants += 1
            head.append(f"    _c{self.constants} = F({self.double.value(expr)})")
        self.functions.update(element.functions)
        lines = [f"    {'    ' * n}for {i.name} in range({self.double.index(i.size)}):"
                 for n, i in enumerate(where)]
        return [*head, *lines, f"    {'    ' * len(where)}{statement.format(value)}"]

    def factors(self, eq: Equation) -> list[str]:
        """The two matrices of a product, each with the summed index inside.

        Raises:
            DeclarationError: the equation is no product of two matrices.
        """
        node = eq.body
        if isinstance(node, SumOver) and len(node.bound) == 1 and isinstance(node.body, Mul):
            (inner,), pair = node.bound, node.body.args
            if len(pair) == 2 and all(isinstance(f, Access) and len(f.where) == 2 for f in pair):
                ways = [(f, g) for f, g in (pair, pair[::-1])
                        if eq.indices[0] in f.where and eq.indices[1] in g.where]
                if ways:
                    left, right = ways[0]
                    return [self.matrix(left, left.where[1] == inner),
                            self.matrix(right, right.where[0] == inner)]
        raise DeclarationError(f"the rule's equation of {eq.name!r} cannot be compiled",
                               expected="a product of two matrices by itself", got=str(eq))

    def matrix(self, access: Access, straight: bool) -> str:
        name = self.names.get(access.name, access.name)
        return name if straight else f"{name}.T"


