"""Small changes of a hand-written function's text, each with its words and how large it is.

What is right is mostly near what was written, and made of what stands in the text already: of the
operands, functions, variables and numbers there (Debroy and Wong, ICST 2010; Barr et al., FSE
2014). So nodes are replaced by one of their parts, by another name or number, another operator or
function, or put into one; statements are left out, exchanged, or add up instead of assigning.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from derive.verify.source import Node

New = ast.AST | list[ast.stmt]


@dataclass(frozen=True)
class Rewrite:
    """What stands in the place of a node (of ``span`` statements); ``size`` is how much of a
    change it is."""

    size: int
    words: str
    new: New
    span: int = 1


@dataclass(frozen=True)
class Around:
    """What a node can be changed with: the sort of thing that each name is, the texts of the sizes
    (``len(x)``) and the functions that the network and the text apply."""

    kinds: Mapping[str, Mapping[str, Any]]
    sizes: tuple[str, ...]
    functions: tuple[str, ...]

    def kind(self, where: Node, name: str) -> Any:
        for known in (self.kinds.get(where.function, {}), *self.kinds.values()):
            if name in known:
                return known[name]
        return None


_SIGNS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**",
                           ast.MatMult: "@", ast.FloorDiv: "//"}
_OTHERS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub, ast.Mult, ast.Div), ast.Sub: (ast.Add, ast.Mult, ast.Div),
    ast.Mult: (ast.Div, ast.Add, ast.Sub, ast.MatMult), ast.Div: (ast.Mult, ast.Sub, ast.Add),
    ast.Pow: (ast.Mult, ast.Add), ast.MatMult: (ast.Mult,)}
_TESTS: dict[type, str] = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==",
                           ast.NotEq: "!="}
_ALIKE = (("sum", "mean", "max", "min", "prod", "std", "var"), ("zeros", "ones"),
          ("zeros_like", "ones_like"), ("maximum", "minimum", "add", "multiply"),
          ("exp", "log", "sqrt", "square", "tanh", "abs", "sign", "sin", "cos", "log1p", "expm1"),
          ("dot", "outer", "matmul"), ("argmax", "argmin"), ("tril", "triu"))


def text_of(new: New) -> str:
    parts = new if isinstance(new, list) else [new]
    return "; ".join(ast.unparse(ast.fix_missing_locations(p)) for p in parts)


def rewrites(where: Node, around: Around, size: int) -> Iterator[Rewrite]:
    """All changes of a node of one size."""
    found = _own(where.node, where, around)
    if size > 1 and isinstance(where.node, ast.expr) and not _inside_index(where):
        found = itertools.chain(found, _wrapped(where.node, where, around))
    yield from (rewrite for rewrite in found if rewrite.size == size)


def _inside_index(where: Node) -> bool:
    return where.path[1] == "slice" or isinstance(where.node, ast.Slice | ast.Constant)


def _parsed(text: str, **parts: ast.AST) -> ast.expr:
    """An expression in which names stand for others."""
    made: ast.expr = _Fill(parts).visit(ast.parse(text, mode="eval")).body
    return made


class _Fill(ast.NodeTransformer):
    """Puts other nodes in the place of names."""

    def __init__(self, parts: dict[str, ast.AST]) -> None:
        self.parts = parts

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.parts.get(node.id, node)


@singledispatch
def _own(node: ast.AST, where: Node, around: Around) -> Iterator[Rewrite]:
    """Changes that depend on what a node is."""
    yield from ()


# -- operators ------------------------------------------------------------------------------------
@_own.register
def _(node: ast.BinOp, where: Node, around: Around) -> Iterator[Rewrite]:
    left, right = ast.unparse(node.left), ast.unparse(node.right)
    sign = _SIGNS.get(type(node.op), "")
    kind = "the term" if sign in "+-" else "the factor"
    yield Rewrite(1, f"the division by {right} is too much" if sign == "/" else
                  f"the power {right} is too much" if sign == "**" else
                  f"{kind} {right} is too much", node.left)
    yield Rewrite(1, f"{kind} {left} is too much", node.right)
    if sign == "-":
        yield Rewrite(1, f"the term {left} is too much", ast.UnaryOp(ast.USub(), node.right))
    if sign == "/":
        yield Rewrite(2, f"the factor {left} is too much",
                      ast.BinOp(ast.Constant(1), ast.Div(), node.right))
    for other in _OTHERS.get(type(node.op), ()):
        yield Rewrite(1, f"{_SIGNS[other]} belongs where {sign} stands",
                      ast.BinOp(node.left, other(), node.right))
    if sign in ("-", "/", "@", "**"):
        yield Rewrite(2, "its operands are exchanged", ast.BinOp(node.right, node.op, node.left))
    if sign == "@":
        for text in ("a.T @ b", "a @ b.T", "b.T @ a", "b @ a.T", "b.T @ a.T"):
            new = _parsed(text, a=node.left, b=node.right)
            yield Rewrite(2, f"{ast.unparse(new)} belongs there", new)


@_own.register
def _(node: ast.UnaryOp, where: Node, around: Around) -> Iterator[Rewrite]:
    if isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        said = {ast.USub: "the sign", ast.Not: "the negation", ast.Invert: "the negation"}
        yield Rewrite(1, f"{said[type(node.op)]} is too much", node.operand)


@_own.register
def _(node: ast.Compare, where: Node, around: Around) -> Iterator[Rewrite]:
    if len(node.ops) == 1 and type(node.ops[0]) in _TESTS:
        for other, sign in _TESTS.items():
            if not isinstance(node.ops[0], other):
                yield Rewrite(1, f"{sign} belongs where {_TESTS[type(node.ops[0])]} stands",
                              ast.Compare(node.left, [other()], node.comparators))


@_own.register
def _(node: ast.IfExp, where: Node, around: Around) -> Iterator[Rewrite]:
    yield Rewrite(1, "its two branches are exchanged",
                  ast.IfExp(node.test, node.orelse, node.body))
    yield Rewrite(1, "there is nothing to choose", node.body)
    yield Rewrite(1, "there is nothing to choose", node.orelse)


# -- names and numbers ----------------------------------------------------------------------------
@_own.register
def _(node: ast.Name, where: Node, around: Around) -> Iterator[Rewrite]:
    kind = around.kind(where, node.id)
    number = kind in ("int", "float")
    for name in where.names:
        if name != node.id:
            same = around.kind(where, name) == kind
            yield Rewrite(1 if same else 2, f"{name} belongs where {node.id} stands",
                          ast.Name(name, ast.Load()))
    for size in around.sizes if number else ():
        yield Rewrite(2, f"{size} belongs where {node.id} stands",
                      ast.parse(size, mode="eval").body)
    if kind == "int":
        yield from _shifted(node, ast.unparse(node))


def _shifted(node: ast.expr, said: str) -> Iterator[Rewrite]:
    for sign, op in (("+", ast.Add()), ("-", ast.Sub())):
        yield Rewrite(2, f"{said} {sign} 1 belongs there",
                      ast.BinOp(node, op, ast.Constant(1)))


@_own.register
def _(node: ast.Constant, where: Node, around: Around) -> Iterator[Rewrite]:
    value = node.value
    if type(value) is int:
        near: tuple[Any, ...] = (value + 1, value - 1, 2 * value, -value, value // 2)
    elif type(value) is float and value:
        near = (value / 2, 2 * value, -value, value + 1, value - 1, 1 / value, 0.0,
                float(f"{value:.3g}"), float(f"{value:.1g}"))
    else:
        return
    for other in dict.fromkeys(near):
        if other != value:
            new: ast.expr = ast.Constant(abs(other))
            if other < 0:
                new = ast.UnaryOp(ast.USub(), new)
            yield Rewrite(1, f"{other:g} belongs where {value:g} stands", new)


@_own.register
def _(node: ast.Subscript, where: Node, around: Around) -> Iterator[Rewrite]:
    said = ast.unparse(node.value)
    yield Rewrite(1, f"the whole of {said} belongs there", node.value)
    parts = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    for n, part in enumerate(parts):
        for words, new in _other_index(part):
            where_: ast.expr = new
            if isinstance(node.slice, ast.Tuple):
                where_ = ast.Tuple([*parts[:n], new, *parts[n + 1:]], ast.Load())
            yield Rewrite(2, words, ast.Subscript(node.value, where_, node.ctx))
    if isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
        for size in around.sizes:
            yield Rewrite(2, f"{size} belongs where {ast.unparse(node)} stands",
                          ast.parse(size, mode="eval").body)


def _other_index(part: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(part, ast.Slice):
        if part.lower is not None and part.upper is not None:
            for sign, op in (("+", ast.Add()), ("-", ast.Sub())):
                ends = [ast.BinOp(e, op, ast.Constant(1)) for e in (part.lower, part.upper)]
                yield f"the slice is off by {'-' if sign == '+' else '+'}1", ast.Slice(
                    ends[0], ends[1], part.step)
        if part.step is not None:
            yield "the step of the slice is too much", ast.Slice(part.lower, part.upper)
        else:
            yield "the other way round belongs there", ast.Slice(
                part.lower, part.upper, ast.UnaryOp(ast.USub(), ast.Constant(1)))
        return
    yield "the whole axis belongs there", ast.Slice()
    for sign, op in (("+", ast.Add()), ("-", ast.Sub())):
        yield f"the index is {ast.unparse(part)} {sign} 1", ast.BinOp(part, op, ast.Constant(1))


@_own.register
def _(node: ast.Attribute, where: Node, around: Around) -> Iterator[Rewrite]:
    if node.attr == "T":
        yield Rewrite(1, "the transposition is too much", node.value)
    if node.attr == "size":
        for size in around.sizes:
            yield Rewrite(2, f"{size} belongs where {ast.unparse(node)} stands",
                          ast.parse(size, mode="eval").body)


# -- calls ----------------------------------------------------------------------------------------
@_own.register
def _(node: ast.Call, where: Node, around: Around) -> Iterator[Rewrite]:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
    for group in _ALIKE:
        for other in group if called in group else ():
            if other != called and isinstance(node.func, ast.Attribute):
                f = ast.Attribute(node.func.value, other, ast.Load())
                yield Rewrite(1, f"{other} belongs where {called} stands",
                              ast.Call(f, node.args, node.keywords))
    if called == "len":
        for size in around.sizes:
            yield Rewrite(2, f"{size} belongs where {ast.unparse(node)} stands",
                          ast.parse(size, mode="eval").body)
    module = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) \
        and node.func.value.id in ("np", "numpy", "math")
    if isinstance(node.func, ast.Attribute) and not module:
        yield Rewrite(1, f"{called} is too much", node.func.value)
    for part in node.args[:3]:
        yield Rewrite(1, f"{called} is too much", part)
    for n in range(len(node.keywords)):
        left = [*node.keywords[:n], *node.keywords[n + 1:]]
        yield Rewrite(2, f"{ast.unparse(node.keywords[n])} is too much",
                      ast.Call(node.func, node.args, left))
    if called in _ALIKE[0]:
        yield from _reduced(node, int(module))
    for n in range(len(node.args) - 1):
        args = [*node.args[:n], node.args[n + 1], node.args[n], *node.args[n + 2:]]
        yield Rewrite(2, "its arguments are exchanged", ast.Call(node.func, args, node.keywords))
    if called == "range":
        yield Rewrite(2, "it runs the other way", _parsed("reversed(a)", a=node))


def _reduced(node: ast.Call, first: int) -> Iterator[Rewrite]:
    """Other axes of a sum, and whether they are kept."""
    rest = [k for k in node.keywords if k.arg != "axis"]
    for text in ("0", "1", "-1", "None", "(0, 1)"):
        axis = ast.keyword("axis", ast.parse(text, mode="eval").body)
        yield Rewrite(2, f"axis={text} belongs there",
                      ast.Call(node.func, node.args[:first], [axis, *rest]))
    if not any(k.arg == "keepdims" for k in node.keywords):
        yield Rewrite(2, "keepdims=True is missing", ast.Call(
            node.func, node.args, [*node.keywords, ast.keyword("keepdims", ast.Constant(True))]))


def _wrapped(node: ast.expr, where: Node, around: Around) -> Iterator[Rewrite]:
    """A node inside of a function, a product, a sum."""
    whole = ast.unparse(node)
    yield Rewrite(2, "its sign is wrong", ast.UnaryOp(ast.USub(), node))
    for text, words in (("a.T", "it is to be transposed"), ("a ** 2", "it is to be squared"),
                        ("a ** 3", "its third power belongs there"),
                        ("1 / a", "one over it belongs there"),
                        ("1 - a", "1 minus it belongs there"),
                        ("1 - a ** 2", "1 minus its square belongs there"),
                        ("a * (1 - a)", "v (1 - v) of it belongs there"),
                        ("a / a.sum(axis=-1, keepdims=True)",
                         "the division by its sum is missing"),
                        ("a[:, None]", "an axis is missing"), ("a[::-1]", "it runs the other way")):
        yield Rewrite(2, words, _parsed(text, a=node))
    for function in around.functions:
        new = _parsed(function, a=node)
        yield Rewrite(2, f"{ast.unparse(new)} belongs there", new)
    names = [n for n in where.names if around.kind(where, n) not in ("list", "dict", "tuple", None)]
    for other in dict.fromkeys(("2", *around.sizes, *names)):
        if other == whole:
            continue
        b = ast.parse(other, mode="eval").body
        for text, words in (("a * b", "the factor {} is missing"),
                            ("a / b", "the division by {} is missing"),
                            ("a + b", "the term {} is missing"),
                            ("a - b", "the term -{} is missing")):
            yield Rewrite(3, words.format(other), _parsed(text, a=node, b=b))


# -- statements -----------------------------------------------------------------------------------
@_own.register
def _(node: ast.Assign, where: Node, around: Around) -> Iterator[Rewrite]:
    if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name | ast.Subscript):
        for op, sign in ((ast.Add(), "+="), (ast.Mult(), "*="), (ast.Sub(), "-=")):
            yield Rewrite(1, f"{sign} belongs where = stands",
                          ast.AugAssign(node.targets[0], op, node.value))
    if isinstance(node.targets[0], ast.Subscript):
        yield from _left_out(where)
        yield from _written(node, where, node.targets[0])
    yield from _moved(where)


@_own.register
def _(node: ast.AugAssign, where: Node, around: Around) -> Iterator[Rewrite]:
    sign = _SIGNS.get(type(node.op), "")
    yield from _left_out(where)
    yield Rewrite(1, f"= belongs where {sign}= stands", ast.Assign([node.target], node.value))
    for other in (ast.Add, ast.Sub, ast.Mult, ast.Div):
        if not isinstance(node.op, other):
            yield Rewrite(1, f"{_SIGNS[other]}= belongs where {sign}= stands",
                          ast.AugAssign(node.target, other(), node.value))
    if isinstance(node.target, ast.Subscript):
        yield from _written(node, where, node.target)
    yield from _moved(where)


def _written(node: ast.Assign | ast.AugAssign, where: Node, target: ast.Subscript
             ) -> Iterator[Rewrite]:
    """Other elements that a statement writes to."""
    parts = list(target.slice.elts) if isinstance(target.slice, ast.Tuple) else [target.slice]
    for n, part in enumerate(parts):
        for words, new in _other_index(part):
            index: ast.expr = new
            if isinstance(target.slice, ast.Tuple):
                index = ast.Tuple([*parts[:n], new, *parts[n + 1:]], ast.Load())
            changed = copy.copy(node)
            at = ast.Subscript(target.value, index, ast.Store())
            if isinstance(changed, ast.Assign):
                changed.targets = [at]
            else:
                changed.target = at
            yield Rewrite(2, words, changed)


@_own.register
def _(node: ast.Expr, where: Node, around: Around) -> Iterator[Rewrite]:
    if not isinstance(node.value, ast.Constant):
        yield from _left_out(where)
        yield from _moved(where)


def _left_out(where: Node) -> Iterator[Rewrite]:
    yield Rewrite(1, "this line is too much", [ast.Pass()])


def _moved(where: Node) -> Iterator[Rewrite]:
    """A statement behind the next one."""
    parent, field, number = where.path
    body = getattr(parent, field)
    if number is None or number + 1 >= len(body):
        return
    before, after = body[number], body[number + 1]
    if isinstance(after, ast.Assign | ast.AugAssign | ast.Expr):
        yield Rewrite(2, f"it belongs behind the next line, {ast.unparse(after)}",
                      [after, before], 2)
