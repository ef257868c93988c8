"""Mistakes as changes of the syntax tree of a hand-written gradient, at every place.

Each kind is a function of a node that yields replacements; it knows nothing of derivations, of the
network or of the checker.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Node = ast.AST
Edit = Callable[[Node], Iterator[Node]]
KINDS: dict[str, Edit] = {}
STATEMENTS: dict[str, Callable[[ast.stmt], Iterator[list[ast.stmt]]]] = {}
# never shown to whoever writes the localiser, not even as a reproduction of a miss
HELD_OUT_KINDS = ("einsum letters", "eps moved", "eps forgotten", "statement forgotten",
                  "two statements swapped", "range too short", "one entry off by 1e-6",
                  "one entry of the wrong sign", "float32", "1e-6 of another gradient",
                  "where swapped", "power too high")
HELD_OUT_NETWORKS = ("gru", "multi_head_attention", "rms_norm", "conv1d_with_a_flipped_kernel",
                     "focal", "silu_stack", "embedding")


@dataclass(frozen=True)
class Mutant:
    """A function with one mistake: ``line`` and the text ``before`` and ``after`` it."""

    kind: str
    tree: ast.Module
    line: int
    before: str
    after: str


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
def _is(node: Node, op: type) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, op)


def _number(node: Node) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _called(node: Node) -> str:
    """``exp`` of ``np.exp(…)``, ``sum`` of ``a.sum(…)``, ``sigmoid`` of ``sigmoid(…)``."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            return node.func.attr
        if isinstance(node.func, ast.Name):
            return node.func.id
    return ""


def _of_numpy(node: Node) -> bool:
    return (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name) and node.func.value.id == "np")


def _expr(text: str, **parts: Node) -> ast.expr:
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
    if _is(n, ast.Mult):
        yield n.left
        yield n.right


@expression("divisor forgotten")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.Div) and not _number(n.left):
        yield n.left


@expression("times for divided by")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.Div):
        yield ast.BinOp(n.left, ast.Mult(), n.right)


@expression("plus and minus exchanged")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.Add) or _is(n, ast.Sub):
        yield ast.BinOp(n.left, ast.Sub() if _is(n, ast.Add) else ast.Add(), n.right)


@expression("minus forgotten")
def _(n: Node) -> Iterator[Node]:
    if isinstance(n, ast.UnaryOp) and isinstance(n.op, ast.USub):
        yield n.operand


@expression("term forgotten")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.Add):
        yield n.left
        yield n.right
    if _is(n, ast.Sub):
        yield ast.UnaryOp(ast.USub(), n.right)


@expression("subtrahend forgotten")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.Sub):  # off-diagonal terms of a softmax, the paths through mean and variance
        yield n.left


@expression("term twice")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.Add):
        yield ast.BinOp(n, ast.Add(), n.right)


@expression("power forgotten")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.Pow):
        yield n.left
    if _called(n) == "square":
        yield n.args[0]


@expression("power too high")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.Pow):
        yield _expr("a ** (b + 1)", a=n.left, b=n.right)


@expression("constant off by 1e-6")
def _(n: Node) -> Iterator[Node]:
    if _number(n) and isinstance(n.value, float) and n.value:
        yield ast.Constant(n.value * (1 + 1e-6))


@expression("constant wrong")
def _(n: Node) -> Iterator[Node]:
    if _number(n) and isinstance(n.value, float) and n.value:
        yield ast.Constant(2 * n.value)


@expression("eps forgotten")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.Add) and _number(n.right) and 0 < abs(n.right.value) < 1e-3:
        yield n.left


@expression("eps moved")
def _(n: Node) -> Iterator[Node]:
    if _called(n) == "sqrt" and n.args and _is(n.args[0], ast.Add) and _number(n.args[0].right):
        yield _expr("np.sqrt(v) + e", v=n.args[0].left, e=n.args[0].right)


# -- products, axes, shapes ---------------------------------------------------------------------
@expression("transpose forgotten")
def _(n: Node) -> Iterator[Node]:
    if isinstance(n, ast.Attribute) and n.attr == "T":
        yield n.value
    if _called(n) == "transpose" and isinstance(n.func, ast.Attribute):
        yield n.func.value


@expression("product of the wrong side")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.MatMult):
        yield ast.BinOp(n.right, ast.MatMult(), n.left)
        yield _expr("(a @ b).T", a=n.left, b=n.right)
        yield _expr("a @ b.T", a=n.left, b=n.right)


@expression("operands exchanged")
def _(n: Node) -> Iterator[Node]:
    if _called(n) in ("dot", "matmul", "outer") and _of_numpy(n) and len(n.args) == 2:
        new = copy.deepcopy(n)
        new.args.reverse()
        yield new
    if _is(n, ast.Sub) or _is(n, ast.Div):
        yield ast.BinOp(n.right, n.op, n.left)


@expression("einsum letters")
def _(n: Node) -> Iterator[Node]:
    if _called(n) != "einsum" or not isinstance(n.args[0], ast.Constant):
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
    if _called(n) in ("sum", "mean", "max", "var") and isinstance(n, ast.Call):
        for place, word in enumerate(n.keywords):
            if word.arg == "axis" and isinstance(word.value, ast.Constant):
                new = copy.deepcopy(n)
                new.keywords[place].value = ast.Constant(0 if word.value.value else 1)
                yield new
        if not _of_numpy(n) and n.args and _number(n.args[0]):
            new = copy.deepcopy(n)
            new.args[0] = ast.Constant(0 if ast.literal_eval(n.args[0]) else 1)
            yield new


@expression("sum and mean exchanged")
def _(n: Node) -> Iterator[Node]:
    if _called(n) in ("sum", "mean"):
        yield _renamed(n, "mean" if _called(n) == "sum" else "sum")


@expression("keepdims forgotten")
def _(n: Node) -> Iterator[Node]:
    if isinstance(n, ast.Call) and any(k.arg == "keepdims" for k in n.keywords):
        new = copy.deepcopy(n)
        new.keywords = [k for k in new.keywords if k.arg != "keepdims"]
        yield new


@expression("wrong size")
def _(n: Node) -> Iterator[Node]:
    if _called(n) == "len" and n.args:
        yield _expr("a.shape[-1]", a=n.args[0])
        yield _expr("a.size", a=n.args[0])
    if isinstance(n, ast.Attribute) and n.attr == "size":
        yield _expr("len(a)", a=n.value)


# -- tensors and functions ----------------------------------------------------------------------
@expression("activation twice")
def _(n: Node) -> Iterator[Node]:
    if _called(n) in ("tanh", "sigmoid"):
        new = copy.deepcopy(n)
        new.args = [copy.deepcopy(n)]
        yield new


@expression("activation forgotten")
def _(n: Node) -> Iterator[Node]:
    if _called(n) in ("tanh", "sigmoid"):
        yield n.args[0]
    if _called(n) == "maximum":
        yield n.args[0]


@expression("wrong function")
def _(n: Node) -> Iterator[Node]:
    other = {"exp": "expm1", "log": "log1p", "sign": "abs", "maximum": "minimum", "abs": "sign",
             "tanh": "sin", "sqrt": "square"}.get(_called(n))
    if other and _of_numpy(n):
        yield _renamed(n, other)


@expression("value for derivative")
def _(n: Node) -> Iterator[Node]:
    if _is(n, ast.Sub) and isinstance(n.right, ast.Name) and n.right.id in ("t", "x"):
        yield _expr("np.mean((a - b) ** 2) + 0 * (a - b)", a=n.left, b=n.right)


@expression("comparison turned")
def _(n: Node) -> Iterator[Node]:
    turned = {ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.Eq: ast.NotEq, ast.Lt: ast.Gt}
    if isinstance(n, ast.Compare) and type(n.ops[0]) in turned:
        yield ast.Compare(n.left, [turned[type(n.ops[0])]()], n.comparators)


@expression("comparison with another number")
def _(n: Node) -> Iterator[Node]:
    if isinstance(n, ast.Compare) and _number(n.comparators[0]):
        yield ast.Compare(n.left, n.ops, [ast.Constant(n.comparators[0].value + 0.5)])


@expression("where swapped")
def _(n: Node) -> Iterator[Node]:
    if _called(n) == "where" and len(n.args) == 3:
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
                new: ast.expr = ast.Slice(_expr(f"a + {k}", a=part.lower),
                                          _expr(f"b + {k}", b=part.upper), part.step)
            elif isinstance(part, ast.BinOp | ast.Name) or _number(part):
                new = _expr(f"a + {k}", a=part)
            else:
                continue
            where: ast.expr = new
            if isinstance(n.slice, ast.Tuple):
                where = ast.Tuple([*parts[:place], new, *parts[place + 1:]], ast.Load())
            yield ast.Subscript(n.value, where, n.ctx)


@expression("range too short")
def _(n: Node) -> Iterator[Node]:
    if _called(n) == "range" and len(n.args) == 1:
        yield _expr("range(1, a)", a=n.args[0])
        yield _expr("range(a - 1)", a=n.args[0])


@expression("order not reversed")
def _(n: Node) -> Iterator[Node]:
    if _called(n) == "reversed":
        yield n.args[0]


# -- statements ---------------------------------------------------------------------------------
def _with_value(s: ast.stmt, text: str) -> list[ast.stmt]:
    new = copy.deepcopy(s)
    new.value = _expr(text, v=s.value)  # type: ignore[attr-defined]
    return [new]


def _array(s: ast.stmt) -> bool:
    """An assignment of something computed to one name."""
    return (isinstance(s, ast.Assign | ast.AugAssign) and isinstance(s.value, ast.BinOp | ast.Call)
            and not isinstance(getattr(s, "targets", [None])[0], ast.Tuple)
            and _called(s.value) not in ("len", "arange", "zeros", "zeros_like", "dict"))


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


# -- all mutants --------------------------------------------------------------------------------
class _Swap(ast.NodeTransformer):
    def __init__(self, number: int, new: Node | list[ast.stmt]) -> None:
        self.number, self.new = number, new

    def visit(self, node: Node) -> object:
        if getattr(node, "_number", None) == self.number:
            return copy.deepcopy(self.new)
        return self.generic_visit(node)


def _numbered(tree: ast.Module) -> ast.Module:
    tree = copy.deepcopy(tree)
    for number, node in enumerate(ast.walk(tree)):
        node._number = number  # type: ignore[attr-defined]
    return tree


def _text(new: Node | list[ast.stmt]) -> str:
    parts = new if isinstance(new, list) else [new]
    return "; ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(p))) for p in parts)


def _indexing(tree: ast.Module) -> set[int]:
    """Nodes in which a change makes another index, not another formula."""
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            inside |= {n._number for n in ast.walk(node.slice)}  # type: ignore[attr-defined]
        if _called(node) == "range":
            inside |= {n._number for a in node.args  # type: ignore[attr-defined]
                       for n in ast.walk(a)}
    return inside


def mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Every kind at every place of a function and of the functions that it calls."""
    base = _numbered(tree)
    inside = _indexing(base)
    for node in ast.walk(base):
        number = node._number  # type: ignore[attr-defined]
        edits: list[tuple[str, Node | list[ast.stmt]]] = []
        if isinstance(node, ast.expr) and number not in inside:
            edits = [(k, new) for k, edit in KINDS.items() for new in edit(node)]
        elif isinstance(node, ast.stmt):
            edits = [(k, new) for k, each in STATEMENTS.items() for new in each(node)]
        for kind, new in edits:
            yield _made(kind, base, node, number, new)
    yield from _swapped_statements(base)
    yield from _wrong_tensors(base)
    yield from _returned(base)


def _made(kind: str, base: ast.Module, node: Node, number: int,
          new: Node | list[ast.stmt]) -> Mutant:
    changed = _Swap(number, new).visit(copy.deepcopy(base))
    return Mutant(kind, ast.fix_missing_locations(changed), getattr(node, "lineno", 0),
                  ast.unparse(node), _text(new))


def _swapped_statements(base: ast.Module) -> Iterator[Mutant]:
    """A statement before the one that it should follow."""
    for node in ast.walk(base):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for n in range(len(body) - 1):
            first, second = body[n], body[n + 1]
            if not isinstance(second, ast.Assign | ast.AugAssign):
                continue
            changed = copy.deepcopy(base)
            twin = next(m for m in ast.walk(changed)
                        if getattr(m, "_number", None) == node._number)  # type: ignore[attr-defined]
            twin.body[n], twin.body[n + 1] = twin.body[n + 1], twin.body[n]  # type: ignore[attr-defined]
            yield Mutant("two statements swapped", changed, first.lineno,
                         ast.unparse(first) + "; " + ast.unparse(second), "the other way round")


def _wrong_tensors(base: ast.Module) -> Iterator[Mutant]:
    """A variable where another of the function belongs: the output for the input, a layer on."""
    for function in base.body:
        assert isinstance(function, ast.FunctionDef)
        known = [a.arg for a in function.args.args if a.arg != "t"]
        known += [n.id for s in ast.walk(function) if isinstance(s, ast.Assign)
                  for t in s.targets for n in ast.walk(t)
                  if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        known = list(dict.fromkeys(known))
        for node in ast.walk(function):
            if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
                    and node.id in known):
                at = known.index(node.id)
                for other in dict.fromkeys((known[at - 1], known[(at + 1) % len(known)])):
                    number = node._number  # type: ignore[attr-defined]
                    yield _made("wrong tensor", base, node, number, ast.Name(other, ast.Load()))


_RETURNED = {
    "one entry off by 1e-6": "_v.flat[-1] *= 1 + 1e-6",
    "one entry of the wrong sign": "_v.flat[0] *= -1",
    "one entry 0": "_v.flat[_v.size // 2] = 0",
    "gradient transposed": "_v = np.array(_v.T)",
    "gradient reversed": "_v = np.array(_v[::-1])",
    "1e-6 of another gradient": "_v += 1e-6 * np.cos(np.arange(_v.size)).reshape(_v.shape) "
                                "* np.abs(_v).max()",
}


def _returned(base: ast.Module) -> Iterator[Mutant]:
    """Mistakes in what is returned: single entries, transposes, gradients exchanged."""
    main = base.body[-1]
    assert isinstance(main, ast.FunctionDef)
    last = main.body[-1]
    assert isinstance(last, ast.Return)
    if not isinstance(last.value, ast.Dict | ast.Tuple):
        return
    parts = last.value.values if isinstance(last.value, ast.Dict) else last.value.elts
    for place, part in enumerate(parts):
        for kind, text in _RETURNED.items():
            if part is None:
                continue
            changed = copy.deepcopy(base)
            end = changed.body[-1]
            value = end.body[-1].value  # type: ignore[attr-defined]
            held = value.values if isinstance(value, ast.Dict) else value.elts
            before = [*ast.parse("_v = np.array(_)").body, *ast.parse(text).body]
            before[0].value.args[0] = held[place]  # type: ignore[attr-defined]
            held[place] = ast.Name("_v", ast.Load())
            end.body[-1:] = [*before, end.body[-1]]  # type: ignore[attr-defined]
            yield Mutant(kind, ast.fix_missing_locations(changed), part.lineno,
                         ast.unparse(part), text)
        for other in range(place + 1, len(parts)):
            changed = copy.deepcopy(base)
            value = changed.body[-1].body[-1].value  # type: ignore[attr-defined]
            held = value.values if isinstance(value, ast.Dict) else value.elts
            held[place], held[other] = held[other], held[place]
            yield Mutant("gradients exchanged", changed, part.lineno,
                         ast.unparse(part), ast.unparse(parts[other]))


ALL_KINDS = (*KINDS, *STATEMENTS, "two statements swapped", "wrong tensor", *_RETURNED,
             "gradients exchanged")
