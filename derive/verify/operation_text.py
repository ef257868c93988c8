"""The text of an operation: its operands as they were written, and texts made of them."""

from __future__ import annotations

import ast
import copy
from functools import lru_cache


@lru_cache(maxsize=4096)
def parsed(text: str) -> ast.expr | None:
    try:
        statement = ast.parse(text).body[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError, IndexError):
        return None
    if isinstance(statement, ast.AugAssign):  # p /= n computes p / n
        place = copy.copy(statement.target)
        node = ast.BinOp(place, statement.op, statement.value)
        return ast.copy_location(node, statement)
    return statement.value if isinstance(statement, ast.Expr) else None


def assigned_to(text: str) -> str:
    """``p = `` of an operation in place such as ``p /= n``, which is put before what is right;
    "" of an expression."""
    try:
        statement = ast.parse(text).body[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError, IndexError):
        return ""
    if not isinstance(statement, ast.AugAssign):
        return ""
    return f"{ast.get_source_segment(text, statement.target)} = "


def whole_text(text: str) -> str:
    """The text as an operand of a product."""
    node = parsed(text)
    if node is None:
        return ""
    if assigned_to(text):
        text = f"{ast.unparse(node)}"
    loose = isinstance(node, ast.BinOp | ast.UnaryOp | ast.Compare | ast.IfExp | ast.Lambda)
    return f"({text})" if loose else text


@lru_cache(maxsize=4096)
def operand_texts(text: str) -> tuple[str, ...]:
    """The operands of an operation as they were written, in the order of its arguments."""
    node = parsed(text)
    parts: list[ast.expr] = []
    if isinstance(node, ast.BinOp):
        parts = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp):
        parts = [node.operand]
    elif isinstance(node, ast.Compare) and len(node.comparators) == 1:
        parts = [node.left, node.comparators[0]]
    elif isinstance(node, ast.Call):
        f = node.func
        parts = list(node.args)
        if isinstance(f, ast.Attribute) and not (isinstance(f.value, ast.Name)
                                                 and f.value.id in ("np", "numpy")):
            parts = [f.value, *parts]
    elif isinstance(node, ast.Attribute | ast.Subscript):
        parts = [node.value]
    return tuple(ast.get_source_segment(text, p) or "" for p in parts)


def operand_said(text: str, n: int) -> str:
    """An operand in words."""
    parts = operand_texts(text)
    return parts[n] if n < len(parts) and parts[n] else ("the first operand", "the second operand",
                                                        "an operand")[min(n, 2)]


def joined(left: str, sign: str, right: str) -> str:
    return f"{left} {sign} {right}" if left and right else ""
