"""Right gradients written differently: rewrites of the syntax tree that change no value.

Every rewrite holds in real arithmetic where the shapes fit; where they do not, the 50-digit
comparison of `mutation_support.effect` throws the variant out, so that only right ones count.
"""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator

from mutation_catalogue import Swap, indexing, numbered
from mutation_kinds import Node, called, expr, is_number, is_op

_TEXTS = {  # by operator: the expression again, from its two operands
    ast.Add: ("b + a", "a - (-b)", "-(-a - b)", "(2 * a + 2 * b) / 2"),
    ast.Sub: ("a + (-b)", "-(b - a)", "(a / 2 - b / 2) * 2", "-b + a"),
    ast.Mult: ("b * a", "-(a * -b)", "(2 * a) * (b / 2)", "np.multiply(a, b)"),
    ast.Div: ("a * (1 / b)", "-(a / -b)", "1 / b * a", "np.divide(a, b)"),
    ast.MatMult: ("np.dot(a, b)", "(b.T @ a.T).T", "np.einsum('ij,jk->ik', a, b)",
                  "np.matmul(a, b)", "sum(np.outer(a[:, k], b[k]) for k in range(len(b)))",
                  "np.tensordot(a, b, 1)"),
    ast.Pow: ("a ** b * 1.0", "1 / a ** (-b)"),
}


def _of_operands(n: ast.BinOp) -> Iterator[Node]:
    a, b = n.left, n.right
    for text in _TEXTS.get(type(n.op), ()):
        yield expr(text, a=a, b=b)
    if is_op(n, ast.Mult):
        for one, other in ((a, b), (b, a)):
            if isinstance(other, ast.BinOp) and isinstance(other.op, ast.Add | ast.Sub):
                yield ast.BinOp(expr("a * b", a=one, b=other.left), other.op,
                                expr("a * b", a=one, b=other.right))  # distributed
        if is_op(a, ast.Mult):
            yield expr("a * (b * c)", a=a.left, b=a.right, c=b)
    if is_op(n, ast.Add) and is_op(a, ast.Add):
        yield expr("a + (b + c)", a=a.left, b=a.right, c=b)
    if is_op(n, ast.Sub) and is_op(b, ast.Pow) and is_number(a) and a.value == 1 \
            and is_number(b.right) and b.right.value == 2:
        yield expr("(1 - h) * (1 + h)", h=b.left)
    if is_op(n, ast.Pow) and is_number(b) and b.value == 2:
        yield expr("a * a", a=a)
    if is_op(n, ast.Div):
        if is_op(a, ast.Mult):
            yield expr("a * (b / c)", a=a.left, b=a.right, c=b)
        if isinstance(a, ast.BinOp) and isinstance(a.op, ast.Add | ast.Sub):
            yield ast.BinOp(expr("a / b", a=a.left, b=b), a.op, expr("a / b", a=a.right, b=b))
    if is_op(n, ast.MatMult) and isinstance(b, ast.BinOp) and isinstance(b.op, ast.Add | ast.Sub):
        yield ast.BinOp(expr("a @ b", a=a, b=b.left), b.op, expr("a @ b", a=a, b=b.right))


def _of_call(n: ast.Call) -> Iterator[Node]:
    name, method = called(n), isinstance(n.func, ast.Attribute)
    owner = n.func.value if isinstance(n.func, ast.Attribute) else None
    numpy = isinstance(owner, ast.Name) and owner.id == "np"
    a = (n.args[0] if numpy and n.args else owner)
    first = [k.value for k in n.keywords if k.arg == "axis"] or n.args[int(numpy):]
    zero = len(first) == 1 and isinstance(first[0], ast.Constant) and first[0].value == 0
    if name in ("sum", "mean") and method and a is not None:
        if zero and not any(k.arg == "keepdims" for k in n.keywords):
            yield expr("sum(a[k] for k in range(len(a)))" if name == "sum" else
                        "a.sum(axis=0) / len(a)", a=a)
            if name == "sum":
                yield expr("np.ones(len(a)) @ a", a=a)
                yield expr("a.mean(axis=0) * len(a)", a=a)
                yield expr("np.add.reduce(a, axis=0)", a=a)
        if not numpy:  # np.sum(a, …) for a.sum(…)
            yield ast.Call(expr(f"np.{name}"), [a, *n.args], n.keywords)
        yield expr("v / 2 + v / 2", v=n)
    if name == "exp" and numpy:
        yield expr("1 / np.exp(-a)", a=n.args[0])
        yield expr("np.exp(a / 2) * np.exp(a / 2)", a=n.args[0])
    if name == "sigmoid":
        yield expr("1 - f", f=_with(n, expr("-a", a=n.args[0])))
        yield expr("(1 + np.tanh(a / 2)) / 2", a=n.args[0])
        yield expr("np.exp(a) / (1 + np.exp(a))", a=n.args[0])
    if name == "tanh" and numpy:
        yield expr("-np.tanh(-a)", a=n.args[0])
        yield expr("(np.exp(a) - np.exp(-a)) / (np.exp(a) + np.exp(-a))", a=n.args[0])
    if name == "sqrt" and numpy:
        yield expr("a ** 0.5", a=n.args[0])
    if name == "square" and numpy:
        yield expr("a * a", a=n.args[0])
    if name == "maximum" and numpy:
        yield expr("np.where(a > b, a, b)", a=n.args[0], b=n.args[1])
        yield expr("a * (a > b)", a=n.args[0], b=n.args[1])
    if name == "dot" and numpy:
        yield expr("a @ b", a=n.args[0], b=n.args[1])
    if name == "einsum" and len(n.args) == 3 and isinstance(n.args[0], ast.Constant):
        left, out = n.args[0].value.split("->")
        one, other = left.split(",")
        yield ast.Call(n.func, [ast.Constant(f"{other},{one}->{out}"), n.args[2], n.args[1]], [])
        renamed = str.maketrans("bijkl", "vwxyz")
        yield ast.Call(n.func, [ast.Constant(n.args[0].value.translate(renamed)), *n.args[1:]], [])


def _with(call: ast.Call, argument: ast.expr) -> ast.Call:
    new = copy.deepcopy(call)
    new.args = [argument]
    return new


def _of_statement(s: ast.stmt) -> Iterator[list[ast.stmt]]:
    if isinstance(s, ast.AugAssign) and isinstance(s.target, ast.Name):
        yield [ast.Assign([copy.deepcopy(s.target)],
                          ast.BinOp(ast.Name(s.target.id, ast.Load()), s.op, s.value))]
    if isinstance(s, ast.Assign) and isinstance(s.value, ast.BinOp) \
            and isinstance(s.targets[0], ast.Name):
        yield [ast.Assign([ast.Name("_part", ast.Store())], s.value.left),
               ast.Assign(s.targets, ast.BinOp(ast.Name("_part", ast.Load()), s.value.op,
                                               s.value.right))]


def rewritten(tree: ast.Module, seed: int) -> ast.Module:
    """A variant by one to four rewrites, chosen by a seed."""
    choose = random.Random(seed)
    for _ in range(choose.randint(1, 4)):
        base = numbered(tree)
        inside = indexing(base)
        places: list[tuple[int, Node | list[ast.stmt]]] = []
        for node in ast.walk(base):
            number = node._number  # type: ignore[attr-defined]
            if isinstance(node, ast.BinOp) and number not in inside:
                places += [(number, new) for new in _of_operands(node)]
            elif isinstance(node, ast.Call) and number not in inside:
                places += [(number, new) for new in _of_call(node)]
            elif isinstance(node, ast.stmt):
                places += [(number, list(new)) for new in _of_statement(node)]
        if not places:
            break
        number, new = choose.choice(places)
        tree = ast.fix_missing_locations(Swap(number, new).visit(base))
    return ast.parse(ast.unparse(tree))
