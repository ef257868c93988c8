"""Kinds of mistakes in a hand-written gradient, as changes of its syntax tree.

Each kind is a function of a node that yields replacements; it knows nothing of derivations, of the
network or of the checker.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator

Node = ast.AST
Edit = Callable[[Node], Iterator[Node]]
KINDS: dict[str, Edit] = {}
STATEMENTS: dict[str, Callable[[ast.stmt], Iterator[list[ast.stmt]]]] = {}


def expression(name: str) -> Callable[[Edit], Edit]:
    def register(edit: Edit) -> Edit:
        KINDS[name] = edit
        return edit

    return register


def statement(name: str) -> Callable[..., Callable[[ast.stmt], Iterator[list[ast.stmt]]]]:
    def register(edit: Callable[[ast.stmt], Iterator[list[ast.stmt]]]) -> Callable[
            [ast.stmt], Iterator[list[ast.stmt]]]:
        STATEMENTS[name] = edit
        return edit

    return register


# -- small readers ------------------------------------------------------------------------------
def is_op(node: Node, op: type) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, op)


def is_number(node: Node) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def called(node: Node) -> str:
    """``exp`` of ``np.exp(…)``, ``sum`` of ``a.sum(…)``, ``sigmoid`` of ``sigmoid(…)``."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            return node.func.attr
        if isinstance(node.func, ast.Name):
            return node.func.id
    return ""


def of_numpy(node: Node) -> bool:
    return (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name) and node.func.value.id == "np")


def expr(text: str, **parts: Node) -> ast.expr:
    """An expression in which names stand for other expressions."""
    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return copy.deepcopy(parts[node.id]) if node.id in parts else node

    return Fill().visit(ast.parse(text, mode="eval")).body


def _renamed(node: ast.Call, name: str) -> ast.Call:
    new = copy.deepcopy(node)
    if isinstance(new.func, ast.Attribute):
        new.func.attr = name
    else:
        new.func = ast.Name(name, ast.Load())
    return new


# -- factors and signs --------------------------------------------------------------------------
@expression("factor forgotten")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Mult):
        yield n.left
        yield n.right


@expression("divisor forgotten")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Div) and not is_number(n.left):
        yield n.left


@expression("times for divided by")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Div):
        yield ast.BinOp(n.left, ast.Mult(), n.right)


@expression("plus and minus exchanged")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Add) or is_op(n, ast.Sub):
        yield ast.BinOp(n.left, ast.Sub() if is_op(n, ast.Add) else ast.Add(), n.right)


@expression("minus forgotten")
def _(n: Node) -> Iterator[Node]:
    if isinstance(n, ast.UnaryOp) and isinstance(n.op, ast.USub):
        yield n.operand


@expression("term forgotten")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Add):
        yield n.left
        yield n.right
    if is_op(n, ast.Sub):
        yield ast.UnaryOp(ast.USub(), n.right)


@expression("subtrahend forgotten")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Sub):  # off-diagonal terms of a softmax, the paths through mean and variance
        yield n.left


@expression("term twice")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Add):
        yield ast.BinOp(n, ast.Add(), n.right)


@expression("power forgotten")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Pow):
        yield n.left
    if called(n) == "square":
        yield n.args[0]


@expression("power too high")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Pow):
        yield expr("a ** (b + 1)", a=n.left, b=n.right)


@expression("constant off by 1e-6")
def _(n: Node) -> Iterator[Node]:
    if is_number(n) and isinstance(n.value, float) and n.value:
        yield ast.Constant(n.value * (1 + 1e-6))


@expression("constant wrong")
def _(n: Node) -> Iterator[Node]:
    if is_number(n) and isinstance(n.value, float) and n.value:
        yield ast.Constant(2 * n.value)


@expression("eps forgotten")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Add) and is_number(n.right) and 0 < abs(n.right.value) < 1e-3:
        yield n.left


@expression("eps moved")
def _(n: Node) -> Iterator[Node]:
    if called(n) == "sqrt" and n.args and is_op(n.args[0], ast.Add) and is_number(n.args[0].right):
        yield expr("np.sqrt(v) + e", v=n.args[0].left, e=n.args[0].right)


# -- products, axes, shapes ---------------------------------------------------------------------
@expression("transpose forgotten")
def _(n: Node) -> Iterator[Node]:
    if isinstance(n, ast.Attribute) and n.attr == "T":
        yield n.value
    if called(n) == "transpose" and isinstance(n.func, ast.Attribute):
        yield n.func.value


@expression("product of the wrong side")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.MatMult):
        yield ast.BinOp(n.right, ast.MatMult(), n.left)
        yield expr("(a @ b).T", a=n.left, b=n.right)
        yield expr("a @ b.T", a=n.left, b=n.right)


@expression("operands exchanged")
def _(n: Node) -> Iterator[Node]:
    if called(n) in ("dot", "matmul", "outer") and of_numpy(n) and len(n.args) == 2:
        new = copy.deepcopy(n)
        new.args.reverse()
        yield new
    if is_op(n, ast.Sub) or is_op(n, ast.Div):
        yield ast.BinOp(n.right, n.op, n.left)


@expression("einsum letters")
def _(n: Node) -> Iterator[Node]:
    if called(n) != "einsum" or not isinstance(n.args[0], ast.Constant):
        return
    left, out = n.args[0].value.split("->")
    operands = left.split(",")
    for place in range(len(operands)):
        for k in range(len(operands[place]) - 1):
            word = operands[place]
            swapped = word[:k] + word[k + 1] + word[k] + word[k + 2:]
            text = ",".join([*operands[:place], swapped, *operands[place + 1:]]) + "->" + out
            yield ast.Call(n.func, [ast.Constant(text), *n.args[1:]], n.keywords)


@expression("wrong axis")
def _(n: Node) -> Iterator[Node]:
    if called(n) in ("sum", "mean", "max", "var") and isinstance(n, ast.Call):
        for place, word in enumerate(n.keywords):
            if word.arg == "axis" and isinstance(word.value, ast.Constant):
                new = copy.deepcopy(n)
                new.keywords[place].value = ast.Constant(0 if word.value.value else 1)
                yield new
        if not of_numpy(n) and n.args and is_number(n.args[0]):
            new = copy.deepcopy(n)
            new.args[0] = ast.Constant(0 if ast.literal_eval(n.args[0]) else 1)
            yield new


@expression("sum and mean exchanged")
def _(n: Node) -> Iterator[Node]:
    if called(n) in ("sum", "mean"):
        yield _renamed(n, "mean" if called(n) == "sum" else "sum")


@expression("keepdims forgotten")
def _(n: Node) -> Iterator[Node]:
    if isinstance(n, ast.Call) and any(k.arg == "keepdims" for k in n.keywords):
        new = copy.deepcopy(n)
        new.keywords = [k for k in new.keywords if k.arg != "keepdims"]
        yield new


@expression("wrong size")
def _(n: Node) -> Iterator[Node]:
    if called(n) == "len" and n.args:
        yield expr("a.shape[-1]", a=n.args[0])
        yield expr("a.size", a=n.args[0])
    if isinstance(n, ast.Attribute) and n.attr == "size":
        yield expr("len(a)", a=n.value)


# -- tensors and functions ----------------------------------------------------------------------
@expression("activation twice")
def _(n: Node) -> Iterator[Node]:
    if called(n) in ("tanh", "sigmoid"):
        new = copy.deepcopy(n)
        new.args = [copy.deepcopy(n)]
        yield new


@expression("activation forgotten")
def _(n: Node) -> Iterator[Node]:
    if called(n) in ("tanh", "sigmoid"):
        yield n.args[0]
    if called(n) == "maximum":
        yield n.args[0]


@expression("wrong function")
def _(n: Node) -> Iterator[Node]:
    other = {"exp": "expm1", "log": "log1p", "sign": "abs", "maximum": "minimum", "abs": "sign",
             "tanh": "sin", "sqrt": "square"}.get(called(n))
    if other and of_numpy(n):
        yield _renamed(n, other)


@expression("value for derivative")
def _(n: Node) -> Iterator[Node]:
    if is_op(n, ast.Sub) and isinstance(n.right, ast.Name) and n.right.id in ("t", "x"):
        yield expr("np.mean((a - b) ** 2) + 0 * (a - b)", a=n.left, b=n.right)


@expression("comparison turned")
def _(n: Node) -> Iterator[Node]:
    turned = {ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.Eq: ast.NotEq, ast.Lt: ast.Gt}
    if isinstance(n, ast.Compare) and type(n.ops[0]) in turned:
        yield ast.Compare(n.left, [turned[type(n.ops[0])]()], n.comparators)


@expression("comparison with another number")
def _(n: Node) -> Iterator[Node]:
    if isinstance(n, ast.Compare) and is_number(n.comparators[0]):
        yield ast.Compare(n.left, n.ops, [ast.Constant(n.comparators[0].value + 0.5)])


@expression("where swapped")
def _(n: Node) -> Iterator[Node]:
    if called(n) == "where" and len(n.args) == 3:
        yield ast.Call(n.func, [n.args[0], n.args[2], n.args[1]], [])


@expression("kernel not flipped")
def _(n: Node) -> Iterator[Node]:
    if isinstance(n, ast.Subscript):
        for part in ast.walk(n.slice):
            if isinstance(part, ast.Slice) and isinstance(part.step, ast.UnaryOp):
                yield n.value
                return


@expression("index shifted")
def _(n: Node) -> Iterator[Node]:
    if not isinstance(n, ast.Subscript):
        return
    parts = n.slice.elts if isinstance(n.slice, ast.Tuple) else [n.slice]
    for place, part in enumerate(parts):
        for k in (1, -1):
            if isinstance(part, ast.Slice):
                if part.lower is None or part.upper is None:
                    continue
                new: ast.expr = ast.Slice(expr(f"a + {k}", a=part.lower),
                                          expr(f"b + {k}", b=part.upper), part.step)
            elif isinstance(part, ast.BinOp | ast.Name) or is_number(part):
                new = expr(f"a + {k}", a=part)
            else:
                continue
            where: ast.expr = new
            if isinstance(n.slice, ast.Tuple):
                where = ast.Tuple([*parts[:place], new, *parts[place + 1:]], ast.Load())
            yield ast.Subscript(n.value, where, n.ctx)


@expression("range too short")
def _(n: Node) -> Iterator[Node]:
    if called(n) == "range" and len(n.args) == 1:
        yield expr("range(1, a)", a=n.args[0])
        yield expr("range(a - 1)", a=n.args[0])


@expression("order not reversed")
def _(n: Node) -> Iterator[Node]:
    if called(n) == "reversed":
        yield n.args[0]


# -- statements ---------------------------------------------------------------------------------
def _with_value(s: ast.stmt, text: str) -> list[ast.stmt]:
    new = copy.deepcopy(s)
    new.value = expr(text, v=s.value)  # type: ignore[attr-defined]
    return [new]


def _array(s: ast.stmt) -> bool:
    """An assignment of something computed to one name."""
    return (isinstance(s, ast.Assign | ast.AugAssign) and isinstance(s.value, ast.BinOp | ast.Call)
            and not isinstance(getattr(s, "targets", [None])[0], ast.Tuple)
            and called(s.value) not in ("len", "arange", "zeros", "zeros_like", "dict"))


def _on_values(name: str, text: str) -> None:
    @statement(name)
    def edit(s: ast.stmt) -> Iterator[list[ast.stmt]]:
        if _array(s):
            yield _with_value(s, text)


for _name, _text in (("sign of a line", "-v"), ("factor 2 too much", "2 * v"),
                     ("factor 1/2 too much", "v / 2"), ("line off by 1e-6", "v * (1 + 1e-6)"),
                     ("mean once more", "v / len(x)"), ("learning rate inside", "0.01 * v"),
                     ("float32", "v.astype(np.float32)")):
    _on_values(_name, _text)


@statement("overwritten instead of added")
def _(s: ast.stmt) -> Iterator[list[ast.stmt]]:
    if isinstance(s, ast.AugAssign):
        target = copy.deepcopy(s.target)
        yield [ast.Assign([target], s.value)]


@statement("in-place operator turned")
def _(s: ast.stmt) -> Iterator[list[ast.stmt]]:
    turned = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Div: ast.Mult, ast.Mult: ast.Div}
    if isinstance(s, ast.AugAssign) and type(s.op) in turned:
        yield [ast.AugAssign(s.target, turned[type(s.op)](), s.value)]


@statement("statement forgotten")
def _(s: ast.stmt) -> Iterator[list[ast.stmt]]:
    if isinstance(s, ast.AugAssign | ast.Expr) or (
            isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Subscript)):
        yield [ast.Pass()]


@statement("doubled in place before use")
def _(s: ast.stmt) -> Iterator[list[ast.stmt]]:
    if isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name) and _array(s):
        name = s.targets[0].id
        yield [s, *ast.parse(f"{name} *= {name}").body]
