"""Equations as one line of ASCII: for the terminal, errors, golden files and kernel comments.

    z1[b, j] = sum over i of ( x[b, i] * W1[i, j] ) + c1[j]

The names are those of the program, so that a line says which array it is about.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

from derive import notation as n
from derive.notate import notation, statement
from derive.notation import Node

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sympy import Expr

    from derive.nodes import Index
    from derive.program import Equation, Program

# how strongly a printed form binds: what binds less than asked is put in parentheses
_CHOICE, _SUM, _PRODUCT, _POWER, _ATOM = range(5)


def equation_text(eq: Equation) -> str:
    """``z1[b, j] = sum over i of ( x[b, i] * W1[i, j] ) + c1[j]``: one line."""
    made = statement(eq.target, eq.indices, eq.body)
    return f"{node_text(made.left)} = {node_text(made.right)}"


def expression_text(expr: Expr, indices: Iterable[Index] = ()) -> str:
    """A scalar body on one line."""
    return node_text(notation(expr, indices))


def program_text(program: Program) -> str:
    """Every equation of a program, one to a line, in order."""
    return "\n".join(map(equation_text, program.equations))


def node_text(node: Node, binding: int = _CHOICE) -> str:
    """A node as text, in parentheses where it binds less than ``binding``."""
    text, own = _text(node)
    return f"({text})" if own < binding else text


@singledispatch
def _text(node: Node) -> tuple[str, int]:
    raise TypeError(f"no text for {type(node).__name__}")


@_text.register
def _(node: n.Number) -> tuple[str, int]:
    return "pi" if node.text == "π" else node.text, _ATOM


@_text.register
def _(node: n.Name) -> tuple[str, int]:
    return node.code, _ATOM


@_text.register
def _(node: n.Element) -> tuple[str, int]:
    where = f"[{', '.join(index_text(w) for w in node.where)}]" if node.where else ""
    return node.name.code + where, _ATOM


def index_text(node: Node) -> str:
    """An index expression, closely set: ``2*p + r - 1``."""
    return node_text(node).replace(" * ", "*")


@_text.register
def _(node: n.Sum) -> tuple[str, int]:
    first, *rest = node.terms
    text = ("-" if first[0] else "") + node_text(first[1], _PRODUCT)
    for negative, term in rest:
        text += (" - " if negative else " + ") + node_text(term, _PRODUCT)
    return text, _SUM


@_text.register
def _(node: n.Product) -> tuple[str, int]:
    # a quotient that is not the first factor would bind the division to all before it
    parts = [
        node_text(f, _PRODUCT if k == 0 or not isinstance(f, n.Fraction) else _ATOM)
        for k, f in enumerate(node.factors)
    ]
    return " * ".join(parts), _PRODUCT


@_text.register
def _(node: n.Fraction) -> tuple[str, int]:
    return f"{node_text(node.above, _PRODUCT)}/{node_text(node.below, _POWER)}", _PRODUCT


@_text.register
def _(node: n.Power) -> tuple[str, int]:
    return f"{node_text(node.base, _ATOM)}**{node_text(node.exponent, _ATOM)}", _POWER


@_text.register
def _(node: n.Root) -> tuple[str, int]:
    return f"sqrt({node_text(node.body)})", _ATOM


@_text.register
def _(node: n.Call) -> tuple[str, int]:
    name = "abs" if node.function == "absolute" else node.function
    return f"{name}({', '.join(map(node_text, node.args))})", _ATOM


@_text.register
def _(node: n.Big) -> tuple[str, int]:
    over = ", ".join(b.code for b in node.bound)
    where = f" where {node_text(node.condition)}" if node.condition else ""
    return f"{node.op} over {over}{where} of ( {node_text(node.body)} )", _ATOM


@_text.register
def _(node: n.Choice) -> tuple[str, int]:
    yes, no = node_text(node.yes, _SUM), node_text(node.no, _SUM)
    return f"{yes} if {node_text(node.condition)} else {no}", _CHOICE


@_text.register
def _(node: n.Bracket) -> tuple[str, int]:
    return f"[{node_text(node.condition)}]", _ATOM


@_text.register
def _(node: n.Relation) -> tuple[str, int]:
    text = index_text(node.parts[0])
    for op, part in zip(node.ops, node.parts[1:], strict=True):
        text += f" {'==' if op == '=' else op} {index_text(part)}"
    return text, _CHOICE


@_text.register
def _(node: n.Congruent) -> tuple[str, int]:
    body = index_text(node.body)
    closed = f"({body})" if isinstance(node.body, n.Sum) else body
    return f"{closed} mod {node_text(node.modulus)} == {node_text(node.rest)}", _CHOICE


@_text.register
def _(node: n.Junction) -> tuple[str, int]:
    parts = [
        f"({node_text(p)})" if isinstance(p, n.Junction) else node_text(p) for p in node.parts
    ]
    return f" {node.op} ".join(parts), _CHOICE


@_text.register
def _(node: n.Negation) -> tuple[str, int]:
    return f"not ({node_text(node.body)})", _CHOICE


# -- whole arrays: as NumPy would be written, vectors being columns ------------------------------
@_text.register
def _(node: n.Whole) -> tuple[str, int]:
    parts = [":" if w is None else index_text(w) for w in node.at]
    while parts and parts[-1] == ":":
        parts.pop()
    return node.name.code + (f"[{', '.join(parts)}]" if parts else ""), _ATOM


@_text.register
def _(node: n.Transposed) -> tuple[str, int]:
    return f"{node_text(node.body, _ATOM)}.T", _ATOM


@_text.register
def _(node: n.Chain) -> tuple[str, int]:
    return " @ ".join(node_text(f, _POWER) for f in node.factors), _PRODUCT


@_text.register
def _(node: n.Hadamard) -> tuple[str, int]:
    return " * ".join(node_text(f, _POWER) for f in node.factors), _PRODUCT


@_text.register
def _(node: n.Convolved) -> tuple[str, int]:
    sign = "correlate" if node.op == "⋆" else "convolve"
    return f"{sign}({node_text(node.left)}, {node_text(node.right)})", _ATOM


@_text.register
def _(node: n.Ones) -> tuple[str, int]:
    return f"ones({node_text(node.size)})", _ATOM
