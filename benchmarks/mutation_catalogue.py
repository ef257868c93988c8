"""All mutants of a hand-written gradient: every kind of mistake at every place."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

from mutation_kinds import KINDS, STATEMENTS, Node, called

# no miss of these is looked at while the localiser is written, not even as a reproduction; float32
# was one of them until its misses were
HELD_OUT_KINDS = ("einsum letters", "eps moved", "eps forgotten", "statement forgotten",
                  "two statements swapped", "range too short", "one entry off by 1e-6",
                  "one entry of the wrong sign", "1e-6 of another gradient", "where swapped",
                  "power too high")
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


class Swap(ast.NodeTransformer):
    def __init__(self, number: int, new: Node | list[ast.stmt]) -> None:
        self.number, self.new = number, new

    def visit(self, node: Node) -> object:
        if getattr(node, "_number", None) == self.number:
            return copy.deepcopy(self.new)
        return self.generic_visit(node)


def numbered(tree: ast.Module) -> ast.Module:
    tree = copy.deepcopy(tree)
    for number, node in enumerate(ast.walk(tree)):
        node._number = number  # type: ignore[attr-defined]
    return tree


def _text(new: Node | list[ast.stmt]) -> str:
    parts = new if isinstance(new, list) else [new]
    return "; ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(p))) for p in parts)


def indexing(tree: ast.Module) -> set[int]:
    """Nodes in which a change makes another index, not another formula."""
    inside = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            inside |= {n._number for n in ast.walk(node.slice)}  # type: ignore[attr-defined]
        if called(node) == "range":
            inside |= {n._number for a in node.args  # type: ignore[attr-defined]
                       for n in ast.walk(a)}
    return inside


def mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Every kind at every place of a function and of the functions that it calls."""
    base = numbered(tree)
    inside = indexing(base)
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
    changed = Swap(number, new).visit(copy.deepcopy(base))
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
