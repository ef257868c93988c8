"""Loop-nest trees → Python text: what the printers of all targets share.

A target says how a tensor is read (its `ScalarPrinter`), how a matrix product is called, and what
the range of a loop is.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Sequence
from functools import singledispatchmethod

from sympy import Expr

from codegen.loops import If, Let, Loop, Product, Statement, Store, expressions, statements
from codegen.scalars import ScalarPrinter
from derive.functions import REGISTRY
from derive.nodes import Index, IntegerAccess, bound_indices

# Names that the module itself uses: a tensor or an index of that name gets another one.
RESERVED = frozenset(
    """np math os sys time json F DTYPE numba njit prange range len min max abs float int bool
    print part parts lo hi p d s n w o batch order step settings flat total loss gradient forward
    update epoch gemm at mix pick main exact inlined I U kernel thin view first rows block blocks
    most True False None cuda launch carray stream owner device member members team turn joint meet
    wait half scales up down take put partial cut train update_rows update_rest update_piece
    own_piece settle PIECE address address_of call_team call_part""".split()
)
_OWN = re.compile(r"(k\d+_|gather_|power\d|moment_|fast_|math_|block_|tiles_|behind_|direct_"
                  r"|product_|factor_|one_factor_).*"
                  r"|.*_(phase.*|flat|all|at|batch|split|team|launch)")


def identifier(name: str, taken: set[str]) -> str:
    """A Python identifier for a declared or generated name, unlike those taken; takes it."""
    made = f"own_{name}_" if _OWN.fullmatch(name) else name
    while made in taken or made in RESERVED or made in REGISTRY or keyword.iskeyword(made):
        made += "_"
    taken.add(made)
    return made


class StatementPrinter:
    """Prints statements as one thread runs them; ``names`` are the identifiers of tensors,
    indices and sizes."""

    def __init__(self, names: dict[object, str], scalars: ScalarPrinter) -> None:
        self.names, self.scalars = names, scalars
        self.lines: list[str] = []

    def block(self, body: Iterable[Statement], depth: int) -> None:
        for node in body:
            self.statement(node, depth)

    def line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def limits(self, node: Loop) -> tuple[str, str]:
        """First value of a loop's index, and one past the last."""
        return self.scalars.index(node.start), self.scalars.index(node.stop)

    def product(self, node: Product, depth: int) -> None:
        """The call that computes a matrix product."""
        raise NotImplementedError

    @singledispatchmethod
    def statement(self, node: Statement, depth: int) -> None:
        raise AssertionError(f"no printer for {type(node).__name__}")

    @statement.register
    def _loop(self, node: Loop, depth: int) -> None:
        start, stop = self.limits(node)
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
        self.store(node, target, value, depth)

    def store(self, node: Store, target: str, value: str, depth: int) -> None:
        """Puts a value into an element of a tensor."""
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
        self.product(node, depth)


def indices_of(body: tuple[Statement, ...]) -> list[Index]:
    """Every index of a tree, in order of first use."""
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
    return str(expr) if expr.is_Integer else ScalarPrinter(names or {}).index(expr)
