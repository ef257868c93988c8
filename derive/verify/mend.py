"""Changes of a hand-written function's text that make its gradients right, by running them.

The text is changed node by node (`derive.verify.rewrites`), the smallest changes first, and of
these first where the values are not the derivation's. What makes the gradients right at one point
is run at another one of other sizes.
"""

from __future__ import annotations

import ast
import copy
import linecache
import tokenize
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from io import StringIO
from types import FunctionType
from typing import Any

import numpy as np
import sympy
from sympy.printing.numpy import NumPyPrinter

from derive.functions import Elementary
from derive.nodes import Select, accesses
from derive.program import Program
from derive.verify.deadline import Deadline
from derive.verify.hand import Hand
from derive.verify.rewrites import Around, Rewrite, rewrites, text_of
from derive.verify.source import Node, Source, kinds

Gradients = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Mend:
    """A change of the text after which the gradients are right: the function with it, its words,
    and the line as it is and as it should be ("": it is to be left out, or to stand elsewhere)."""

    function: FunctionType
    file: str
    line: int
    words: str
    operation: str
    source: str
    corrected: str
    where: Node
    rewrite: Rewrite

    @property
    def cost(self) -> int:
        return cost(self.source, self.corrected, self.file)

    def hand(self, before: Hand) -> Hand:
        """The function with the change, to be handed in."""
        made = copy.copy(before)
        made.function = self.function
        return made


class _NumPy(NumPyPrinter):
    """A function of scalars as a person writes it with NumPy."""

    def _print_Select(self, expr: Select) -> str:
        condition, yes, no = expr.condition, expr.yes, expr.no
        if isinstance(condition, sympy.Gt) and condition.args == (yes, no):
            return f"np.maximum({self._print(yes)}, {self._print(no)})"
        return f"np.where({', '.join(map(self._print, (condition, yes, no)))})"

    def _print_Relational(self, expr: sympy.core.relational.Relational) -> str:
        return f"{self._print(expr.lhs)} {expr.rel_op} {self._print(expr.rhs)}"

    def _print_Pow(self, expr: sympy.Pow, rational: bool = False) -> str:
        if expr.exp == -1:
            return f"1 / ({self._print(expr.base)})"
        return super()._print_Pow(expr, rational)


def _function_texts(program: Program) -> list[str]:
    """The functions of one argument that a program applies, of ``a``, where NumPy has them."""
    a = sympy.Symbol("a", real=True)
    applied = {f.func(a, *f.args[1:]) for eq in program.equations
               for f in eq.body.atoms(sympy.Function) if accesses(f)}
    texts = [_NumPy({"strict": False}).doprint(
        f.define(*f.args) if isinstance(f, Elementary) else f) for f in applied]
    return sorted(text.replace("numpy.", "np.") for text in texts
                  if text != "a" and "Not supported" not in text and "math." not in text)


def mender(hand: Hand, derived: Program, points: Sequence[Mapping[str, np.ndarray]]
           ) -> Mender | None:
    """What runs a function's changed texts; None where there is no text to change."""
    sizes: dict[str, str] = {}
    for name in hand.arguments or ():
        for axis, size in enumerate(derived.tensors[name].shape):
            sizes.setdefault(str(size), f"{name}.shape[{axis}]" if axis else f"len({name})")
    try:
        return Mender(hand, points, tuple(sizes.values()), _function_texts(derived.forward))
    except Exception:  # no text, or a function that cannot be watched
        return None


class Mender:
    """Runs a function's changed texts at some points."""

    def __init__(self, hand: Hand, points: Sequence[Mapping[str, np.ndarray]],
                 sizes: Sequence[str], functions: Sequence[str]) -> None:
        self.source = Source(hand.function)
        self.hand = copy.copy(hand)
        self.points = [hand.given(p) for p in points]
        seen = kinds(self.source, lambda: hand.call(self._reader(0)))
        own = [f"{n}(a)" for n, f in self.source.functions.items()
               if n != hand.function.__name__ and f.__code__.co_argcount == 1]
        self.around = Around(seen, tuple(sizes), tuple(dict.fromkeys((*own, *functions))))
        self.nodes = list(self.source.nodes())

    def _reader(self, at: int) -> Callable[[str], Any]:
        return lambda name: np.array(self.points[at][name])

    def gradients(self, function: FunctionType, at: int) -> Gradients | None:
        """What a changed function returns at a point; None where it raises or returns no arrays."""
        self.hand.function = function
        try:
            found = self.hand.paired(self.hand.call(self._reader(at)))
            return {n: np.asarray(a, dtype=float) for n, a in found.items()}
        except Exception:  # the function's own, or no gradients
            return None

    def mends(self, right: Callable[[Gradients, int], bool], size: int,
              order: Callable[[int], int], deadline: Deadline) -> Iterator[Mend]:
        """The changes of one size that make the gradients right, lines in an order."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for where in sorted(self.nodes, key=lambda n: order(getattr(n.node, "lineno", 0))):
                for rewrite in rewrites(where, self.around, size):
                    if deadline.passed():
                        return
                    function = self._tried(where, rewrite, right)
                    if function is not None:
                        before, after = _lines(self.source, where, rewrite)
                        yield Mend(function, self.source.file, getattr(where.node, "lineno", 0),
                                   rewrite.words, _operation(where, before), before, after, where,
                                   rewrite)

    def after(self, mend: Mend) -> Mender:
        """This, with a change made for good, so that another one can be looked for."""
        self.source.changed(mend.where, mend.rewrite.new, mend.rewrite.span)
        self.nodes = list(self.source.nodes())
        return self

    def run(self, function: FunctionType) -> Hand:
        """A changed function, to be handed in."""
        self.hand.function = function
        return self.hand

    def _tried(self, where: Node, rewrite: Rewrite, right: Callable[[Gradients, int], bool]
               ) -> FunctionType | None:
        try:
            function = self.source.compiled(where, rewrite.new, rewrite.span)
        except (SyntaxError, ValueError, TypeError, RecursionError):
            return None
        for at in range(len(self.points)):
            found = self.gradients(function, at)
            if found is None or not right(found, at):
                return None
        return function


# -- text -----------------------------------------------------------------------------------------
def _operation(where: Node, line: str) -> str:
    return line if isinstance(where.node, ast.stmt) else ast.unparse(where.node)


def _lines(source: Source, where: Node, rewrite: Rewrite) -> tuple[str, str]:
    """The line as it is and as it should be ("": there is no such line any more)."""
    node: Any = where.node
    lines = [text.rstrip("\n") for text in
             linecache.getlines(source.file)[node.lineno - 1:node.end_lineno]]
    if isinstance(node, ast.stmt):
        before = " ".join(text.strip() for text in lines)
        gone = rewrite.span > 1 or isinstance(rewrite.new, list)
        return before, "" if gone else text_of(rewrite.new)
    head = lines[0].encode()[:node.col_offset].decode()
    tail = lines[-1].encode()[node.end_col_offset:].decode()
    before = " ".join(text.strip() for text in lines)
    new = text_of(rewrite.new)
    loose = isinstance(rewrite.new, ast.BinOp | ast.UnaryOp | ast.Compare | ast.IfExp)
    if loose and isinstance(where.path[0], ast.BinOp | ast.UnaryOp | ast.Attribute | ast.Subscript
                            | ast.Compare) and not (head.endswith("(") and tail.startswith(")")):
        new = f"({new})"
    return before, (head + new + tail).strip()


@lru_cache(maxsize=4096)
def _tokens(text: str) -> tuple[str, ...]:
    try:
        return tuple(t.string for t in tokenize.generate_tokens(StringIO(text).readline)
                     if t.string.strip())
    except (tokenize.TokenError, IndentationError, SyntaxError):
        return tuple(text.split())


@lru_cache(maxsize=16)
def _vocabulary(file: str) -> frozenset[str]:
    return frozenset(t for line in linecache.getlines(file) for t in _tokens(line.strip()))


def cost(old: str, new: str, file: str) -> int:
    """How much of a text a person would have to write anew: words more, twice those that stand
    nowhere in the file; stretches that are left out count little."""
    a, b = ([t for t in _tokens(text) if t not in ("(", ")")] for text in (old, new))
    total = 0
    for what, _, _, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if what == "delete":
            total += 1
        elif what != "equal":
            words = [t for t in b[k:m] if t not in _vocabulary(file) | {"np"}]
            total += max(1, m - k) + 2 * len(words)
    return total
