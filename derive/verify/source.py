"""A hand-written function's text as a tree in which one node can be changed, and run again.

Numbers, sizes, the order of lines and calls of functions of one's own are no operations on arrays,
so a watched run (`derive.verify.probe`) cannot change them; the text can. Changed is a copy of the
tree, which is compiled under the same names and closure: the user's function stays what it is. Only
texts of arithmetic are changed (NumPy, mathematics, loops over known ranges): what reads or writes
files, or may not end, is left alone.
"""

from __future__ import annotations

import ast
import copy
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

Path = tuple[ast.AST, str, int | None]  # the parent, its field, and the place in a list
_PLAIN = {"abs", "bool", "dict", "divmod", "enumerate", "float", "int", "isinstance", "len", "list",
          "map", "max", "min", "pow", "range", "reversed", "round", "set", "slice", "sorted", "str",
          "sum", "tuple", "zip", "any", "all"}
_MODULES = ("numpy", "math", "scipy.special", "operator", "functools", "itertools")
_FILES = {"save", "savez", "savez_compressed", "savetxt", "load", "loadtxt", "genfromtxt",
          "fromfile", "fromregex", "memmap", "tofile", "dump", "dumps", "setflags", "seterr",
          "set_printoptions", "DataSource", "open_memmap"}
_METHODS = {*dir(np.ndarray), *dir(list), *dir(dict), *dir(str)} - _FILES
_REFUSED = (ast.While, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.With, ast.Delete,
            ast.ClassDef, ast.Yield, ast.YieldFrom, ast.Await, ast.AsyncFunctionDef, ast.Try)


class NoText(Exception):
    """There is no text of the function, or it is not one that is safe to change and run."""


@dataclass(frozen=True)
class Node:
    """A node of a function's tree: where it hangs, the statement that it is in, and the names that
    the code can use there."""

    path: Path
    node: ast.AST
    statement: ast.stmt
    function: str
    names: tuple[str, ...]


@lru_cache(maxsize=8)
def _tree(file: str, text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# -- what may be changed and run ------------------------------------------------------------------
def _definition(function: FunctionType) -> ast.FunctionDef:
    file, first = function.__code__.co_filename, function.__code__.co_firstlineno
    text = "".join(linecache.getlines(file))
    tree = _tree(file, text) if text else None
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.FunctionDef) and node.name == function.__code__.co_name \
                and first in (node.lineno, *(d.lineno for d in node.decorator_list)):
            return node
    raise NoText


def _check(function: FunctionType, seen: frozenset[str]) -> None:
    """Refuse a function that does more than arithmetic, or may not end."""
    tree = _definition(function)
    own = set(_locals(tree)) | {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    for inner in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        own |= set(_locals(inner))  # functions among them are of this text: arrays come in
    for node in ast.walk(tree):
        if isinstance(node, _REFUSED):
            raise NoText
        if isinstance(node, ast.Call) and not (
                isinstance(node.func, ast.Name) and node.func.id in own | seen):
            _check_call(node.func, function, seen)


def _check_call(called: ast.expr, function: FunctionType, seen: frozenset[str]) -> None:
    root = called
    while isinstance(root, ast.Attribute):
        root = root.value
    found = _outside(function, root.id) if isinstance(root, ast.Name) else None
    if isinstance(called, ast.Attribute):
        known = found.__name__.startswith(_MODULES) if isinstance(found, ModuleType) \
            else called.attr in _METHODS
        if called.attr in _FILES or not known:
            raise NoText
    elif found is None:
        if not isinstance(root, ast.Name) or root.id not in _PLAIN:
            raise NoText
    elif not isinstance(found, np.ufunc) \
            and not str(getattr(found, "__module__", "")).startswith(_MODULES):
        of_class = vars(type(found)).get("__call__")
        inner = found if isinstance(found, FunctionType) else of_class
        if not isinstance(inner, FunctionType):
            raise NoText
        _check(inner, seen | {inner.__name__})


def _outside(function: FunctionType, name: str) -> Any:
    """What a name means outside of a function; None for builtins."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return cells[name].cell_contents if name in cells else function.__globals__.get(name)


class Source:
    """The text of a function and of those of the same file that it calls.

    Raises:
        NoText: there is none, or it is not to be changed.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not isinstance(function, FunctionType):
            raise NoText
        self.main = function
        self.file = function.__code__.co_filename
        self.functions: dict[str, FunctionType] = {}
        self.trees: dict[str, ast.FunctionDef] = {}
        self.codes: dict[str, CodeType] = {}  # of functions that were changed for good
        self._collect(function)
        for name in self.functions:
            _check(self.functions[name], frozenset(self.functions))

    def _collect(self, function: FunctionType) -> None:
        node = copy.deepcopy(_definition(function))
        self.functions[node.name], self.trees[node.name] = function, node
        for name in _names(function.__code__):
            other = function.__globals__.get(name)
            if isinstance(other, FunctionType) and name not in self.functions \
                    and other.__code__.co_filename == self.file:
                self._collect(other)

    # -- nodes ------------------------------------------------------------------------------------
    def nodes(self) -> Iterator[Node]:
        """Every expression that is computed and every statement, in the order of the text."""
        for name, tree in self.trees.items():
            for n, statement in enumerate(tree.body):
                yield from self._statement((tree, "body", n), statement, name, _locals(tree))

    def _statement(self, path: Path, statement: ast.stmt, function: str, names: tuple[str, ...]
                   ) -> Iterator[Node]:
        yield Node(path, statement, statement, function, names)
        inner = names
        if isinstance(statement, ast.FunctionDef):
            inner = tuple(dict.fromkeys((*_locals(statement), *names)))
        for field, value in ast.iter_fields(statement):
            if isinstance(statement, ast.FunctionDef) and field != "body":
                continue
            for n, child in enumerate(value) if isinstance(value, list) else ((None, value),):
                if isinstance(child, ast.stmt):
                    yield from self._statement((statement, field, n), child, function, inner)
                elif isinstance(child, ast.expr):
                    yield from _expressions((statement, field, n), child, statement, function,
                                            names)

    # -- running ----------------------------------------------------------------------------------
    def compiled(self, where: Node, new: ast.AST | list[ast.stmt], span: int = 1) -> FunctionType:
        """The function with something else in the place of a node (of ``span`` statements).

        Raises:
            SyntaxError, ValueError: that is no program.
        """
        with _put(where, new, span):
            code = _code(self.trees[where.function], self.functions[where.function])
        return self._with(where.function, code)

    def changed(self, where: Node, new: ast.AST | list[ast.stmt], span: int = 1) -> None:
        """Keep a change: what is compiled from now on has it."""
        _put(where, copy.deepcopy(new), span).__enter__()
        name = where.function
        self.codes[name] = _code(self.trees[name], self.functions[name])

    def statement(self, where: Node, new: ast.AST) -> str:
        """The statement that a node is in, with another in its place, as a tree in text."""
        with _put(where, new):
            return ast.dump(where.statement)

    def _with(self, name: str, code: CodeType) -> FunctionType:
        space = dict(self.main.__globals__)
        made = {}
        for other, f in self.functions.items():
            own = self.codes.get(other, f.__code__)
            made[other] = _function(code if other == name else own, f, space)
            if f.__globals__.get(other) is f:
                space[other] = made[other]
        return made[self.main.__name__]


class _put:
    """A node in the place of another, for a while."""

    def __init__(self, where: Node, new: ast.AST | list[ast.stmt], span: int = 1) -> None:
        self.parent, self.field, self.number = where.path
        self.new, self.span = new, span
        for node in new if isinstance(new, list) else [new]:
            if not hasattr(node, "lineno"):  # a node of the tree stays where it is
                ast.copy_location(node, where.node)
            ast.fix_missing_locations(node)

    def __enter__(self) -> None:
        self.before = getattr(self.parent, self.field)
        now = self.new
        if self.number is not None:
            parts = self.new if isinstance(self.new, list) else [self.new]
            now = [*self.before[:self.number], *parts, *self.before[self.number + self.span:]]
        setattr(self.parent, self.field, now)

    def __exit__(self, *_: object) -> None:
        setattr(self.parent, self.field, self.before)


def _expressions(path: Path, node: ast.expr, statement: ast.stmt, function: str,
                 names: tuple[str, ...]) -> Iterator[Node]:
    if isinstance(node, ast.JoinedStr | ast.Lambda | ast.Starred):
        return
    if isinstance(getattr(node, "ctx", None), ast.Load | None):
        yield Node(path, node, statement, function, names)
    if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp):
        names = (*names, *(n.id for g in node.generators for n in ast.walk(g.target)
                           if isinstance(n, ast.Name)))
    for parent in (node, *getattr(node, "generators", ()), *getattr(node, "keywords", ())):
        for field, value in ast.iter_fields(parent):
            if field == "func" and isinstance(value, ast.Name):
                continue
            for n, child in enumerate(value) if isinstance(value, list) else ((None, value),):
                if isinstance(child, ast.expr):
                    yield from _expressions((parent, field, n), child, statement, function, names)


def _locals(tree: ast.FunctionDef) -> tuple[str, ...]:
    """What a function's own code gives names to, its arguments first."""
    taken = [a.arg for a in (*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs)]
    inside: list[ast.AST] = list(tree.body)
    while inside:
        node = inside.pop(0)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            taken.append(node.id)
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ListComp | ast.GeneratorExp):
            inside[:0] = ast.iter_child_nodes(node)
    return tuple(dict.fromkeys(taken))


def own_numbers(function: Callable[..., Any]) -> dict[str, float]:
    """The numbers that a function has names for: given to a variable in its text, as a default, or
    outside of it. 0 and 1 are left out."""
    if not isinstance(function, FunctionType):
        return {}
    found: dict[str, Any] = {n: _outside(function, n) for n in (
        *function.__code__.co_names, *function.__code__.co_freevars)}
    found |= {n: p.default for n, p in inspect.signature(function).parameters.items()}
    try:
        statements = list(ast.walk(_definition(function)))
    except NoText:
        statements = []
    for node in statements:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                found |= _given_to(target, node.value)
    return {n: float(v) for n, v in found.items()
            if isinstance(v, int | float | np.number) and v not in (0, 1)}


def _given_to(target: ast.expr, value: ast.expr) -> dict[str, Any]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = zip(target.elts, value.elts, strict=False)
        return {n: v for pair in pairs for n, v in _given_to(*pair).items()}
    if isinstance(target, ast.Name) and isinstance(value, ast.Constant):
        return {target.id: value.value}
    return {}


def lines_reading(function: Callable[..., Any], name: str) -> list[int]:
    """The lines of a function that read a variable."""
    try:
        tree = _definition(function) if isinstance(function, FunctionType) else ast.Pass()
    except NoText:
        return []
    return sorted({n.lineno for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == name
                   and isinstance(n.ctx, ast.Load)})


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)


def _code(tree: ast.FunctionDef, function: FunctionType) -> CodeType:
    """The code of a changed tree; its free variables are those of the function."""
    body = tree.body or [ast.copy_location(ast.Pass(), tree)]
    bare = ast.copy_location(ast.FunctionDef(tree.name, tree.args, body, [], None), tree)
    outer: ast.stmt = bare
    if function.__code__.co_freevars:
        around = ast.parse(f"def _around({', '.join(function.__code__.co_freevars)}): pass").body[0]
        assert isinstance(around, ast.FunctionDef)
        around.body = [bare]
        outer = around
    flags = function.__code__.co_flags & 0x1FFFE00  # of `from __future__ import …`
    module = compile(ast.Module([outer], []), function.__code__.co_filename, "exec",
                     flags=flags & ~inspect.CO_NESTED, dont_inherit=True)
    parts: list[Any] = list(module.co_consts)
    while parts:
        part = parts.pop(0)
        if isinstance(part, CodeType):
            if part.co_name == tree.name:
                return part
            parts += part.co_consts
    raise NoText


def _function(code: CodeType, like: FunctionType, space: dict[str, Any]) -> FunctionType:
    cells = dict(zip(like.__code__.co_freevars, like.__closure__ or (), strict=True))
    try:
        closure = tuple(cells[n] for n in code.co_freevars)
    except KeyError:
        raise NoText from None
    made = FunctionType(code, space, like.__name__, like.__defaults__, closure)
    made.__kwdefaults__ = like.__kwdefaults__
    return made


def kinds(source: Source, call: Callable[[], Any]) -> Mapping[str, Mapping[str, Any]]:
    """What sort of thing each name of each function was when it returned: a shape, or a type."""
    codes = {f.__code__: n for n, f in source.functions.items()}
    found: dict[str, dict[str, Any]] = {}

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "return" and frame.f_code.co_filename == source.file:
            known = found.setdefault(codes.get(frame.f_code, frame.f_code.co_name), {})
            for n, v in frame.f_locals.items():
                known[n] = (np.shape(v) if isinstance(v, np.ndarray) else type(v).__name__)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found
