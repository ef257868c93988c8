"""A NumPy gradient function run once on symbolic arrays: its statements become equations.

Each statement that assigns an array becomes an equation named like the variable, with its source
line. Sizes are small numbers while the function runs; a symbolic size stays a symbol if the
function computes the same equations at another number, else the claim holds at that number only.
Where the code branches on a size, the claim holds on that branch (`derive.verify.branches`).
What cannot become an equation (a branch on data, code that takes numbers only) ends the trace with
`NotTraced`, which names the line; the gradient is then checked by numbers alone.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from types import FrameType
from typing import Any

import numpy as np
import sympy
from sympy import Expr

from derive.errors import ChainruleError, Location
from derive.nodes import Access, Index
from derive.program import Equation, Program, Tensor
from derive.verify.bodies import as_number
from derive.verify.branches import OWN, Branches, holds, other_paths, witness
from derive.verify.claim import Claim, Line, claimed_name
from derive.verify.hand import Hand
from derive.verify.traced import Dim, NotTraced, Traced, number

_STATE = threading.local()
_LEN = len
_LONG = 60  # nodes of a body beyond which it gets an equation of its own
_EQUATIONS = 20_000
_PATHS = 8  # that are followed where code branches on sizes


def trace(hand: Hand, program: Program, sizes: Mapping[str, int] | None = None) -> Claim:
    """The claim that a NumPy function makes.

    Args:
        hand: the function.
        program: the derived program; its gradients are those that the function returns.
        sizes: at which it runs, where its code branches on them; small ones by default.

    Raises:
        NotTraced: the function does something that has no equation.
    """
    symbols = [s.name for s in program.sizes]
    at = {**trace_sizes(program), **(sizes or {})}
    claim, branches = _trace_at(hand, program, at)
    conditions = tuple(branches.conditions)
    fixed = {}
    for name in symbols:
        beside = witness(conditions, at, {name: at[name]})
        if beside is None or name in branches.plain:
            fixed[name] = at[name]
            continue
        other, others = _trace_at(hand, program, beside)
        if (other.program.equations != claim.program.equations
                or others.conditions != branches.conditions):
            fixed[name] = at[name]
    left = tuple(c for c in conditions if {s.name for s in c.free_symbols} - set(fixed))
    return replace(claim, sizes=fixed, conditions=left)


def size_paths(hand: Hand, program: Program) -> list[dict[str, int]]:
    """Sizes for each path that the function's code takes by its branches on sizes, those of the
    plain `trace` first; at most `_PATHS`, as far as it can be run on symbols."""
    found: list[dict[str, int]] = []
    seen: list[Branches] = []
    todo = [trace_sizes(program)]
    while todo and len(found) < _PATHS:
        sizes = todo.pop(0)
        if any(holds(b.conditions, sizes) for b in seen):
            continue
        tracer = Tracer(program, sizes)
        try:
            _run(tracer, hand)
        except NotTraced:
            pass  # what it asked before still counts
        found.append(sizes)
        seen.append(tracer.branches)
        todo += other_paths(tracer.branches, sizes)
    return found


def trace_sizes(program: Program) -> dict[str, int]:
    """Small numbers that no declared size has, so that sizes are told apart."""
    taken = {int(s) for t in program.tensors.values() for s in t.shape if s.is_Integer}
    free = (n for n in range(3, 10_000) if n not in taken)
    return {s.name: next(free) for s in program.sizes}


def _trace_at(hand: Hand, program: Program, sizes: Mapping[str, int]) -> tuple[Claim, Branches]:
    tracer = Tracer(program, sizes)
    return _run(tracer, hand), tracer.branches


def _run(tracer: Tracer, hand: Hand) -> Claim:
    try:
        with tracer.running():
            found = hand.call(tracer.given)
            return tracer.claim(hand.paired(found), hand.where)
    except ChainruleError:
        raise
    except RecursionError:
        raise NotTraced("the expressions nest too deep", where=hand.where) from None
    except Exception as error:  # what works on numbers and fails on symbols
        raise NotTraced(f"{type(error).__name__}: {error}", where=_line_of(error, hand)) from error


def _line_of(error: Exception, hand: Hand) -> Location | None:
    where, frames = hand.where, error.__traceback__
    while frames is not None:
        code = frames.tb_frame.f_code
        if not code.co_filename.startswith(OWN):
            where = Location(code.co_filename, frames.tb_lineno)
        frames = frames.tb_next
    return where


def running_trace() -> Tracer | None:
    """The trace that runs in this thread, if one does."""
    return getattr(_STATE, "tracer", None)


def active() -> Tracer:
    """The trace that runs in this thread.

    Raises:
        NotTraced: none runs.
    """
    tracer = running_trace()
    if tracer is None:
        raise NotTraced("a symbolic array is used after its function has returned")
    return tracer


class Tracer:
    """One run of a function on symbolic arrays."""

    def __init__(self, program: Program, sizes: Mapping[str, int]) -> None:
        self.program, self.sizes = program, dict(sizes)
        self.forward = program.forward
        self.numbers = {s: sizes[s.name] for s in program.sizes}
        self.equations: list[Equation] = []
        self.lines: list[Line] = []
        self.own: set[str] = set()
        self.branches = Branches()

    # -- running ----------------------------------------------------------------------------------
    @contextmanager
    def running(self) -> Iterator[None]:
        """Arrays that NumPy makes are symbolic in this thread, and `len` keeps a size's name."""
        from derive.verify.trace_functions import creators
        from derive.verify.trace_shaping import Joiner

        before = {name: getattr(np, name) for name in (*creators(), "c_", "r_")}
        _STATE.tracer = self
        try:
            for name, make in creators().items():
                setattr(np, name, _in_thread(before[name], make))
            np.c_, np.r_ = (Joiner(before[n], n == "c_") for n in ("c_", "r_"))  # type: ignore
            builtins.len = _in_thread(_LEN, _length)  # in every module that the function calls
            yield
        finally:
            for name, make in before.items():
                setattr(np, name, make)
            builtins.len = _LEN
            _STATE.tracer = None

    def given(self, name: str) -> Traced:
        """A tensor of the network, as the function gets it."""
        tensor = self.program.tensors[name]
        return Traced(self, tensor.indices, tensor.access,
                      "int" if tensor.dtype == "int" else "float")

    def dim(self, size: Expr) -> Dim:
        return Dim(int(size.xreplace(self.numbers)), size)

    def fresh_index(self, size: Expr, like: str = "n", taken: set[str] | None = None) -> Index:
        """An index of a size under a name that is free among ``taken``."""
        names = taken or set()
        name, count = like, 1
        while name in names:
            count += 1
            name = f"{like.rstrip('0123456789')}{count}"
        return Index(name, size)

    # -- equations --------------------------------------------------------------------------------
    def here(self) -> Location | None:
        frame = _user_frame()
        return _statement(frame.f_code.co_filename, frame.f_lineno) if frame else None

    def callers(self) -> tuple[Location, ...]:
        """The statements that called the function that `here` is in, the nearest first."""
        frame, found = _user_frame(), []
        while frame is not None and frame.f_back is not None:
            frame = frame.f_back
            if frame.f_code.co_filename.startswith((*OWN, "<frozen")):
                break
            found.append(_statement(frame.f_code.co_filename, frame.f_lineno))
        return tuple(found)

    def body_of(self, array: Traced) -> Any:
        """The body of an array in its own indices; an array that has a name, or comes from
        another statement, becomes an equation first."""
        if array.stored is not None:
            return Access(array.stored, *array.indices)
        if array.kind != "float" or array.masked is not None or _is_small(array.body):
            return array.body
        name = self._bound_name(array)
        if name is None and array.line == self.here() and _count(array.body) < _LONG:
            return array.body
        self.store(array, name or _assigned(array.line) or "v")
        return Access(array.stored or "", *array.indices)

    def store(self, array: Traced, stem: str) -> str:
        """The equation of an array; its name."""
        if len(self.equations) > _EQUATIONS:
            raise NotTraced("the function takes too many steps", where=self.here())
        name = self._name(stem)
        tensor = Tensor(name, array.indices, where=array.line)
        body = as_number(array.body)
        self.equations.append(Equation(tensor, array.indices, body, "claimed", array.line))
        self.lines.append(Line(name, None, array.line.source if array.line else "", array.line,
                               array.callers))
        array.stored = name
        return name

    def _name(self, stem: str) -> str:
        stem = claimed_name(stem, self.program.tensors.keys())
        name, count = stem, 1
        while name in self.own or name in self.program.tensors:
            count += 1
            name = f"{stem}_{count}"
        self.own.add(name)
        return name

    def _bound_name(self, array: Traced) -> str | None:
        """The variable that an array is bound to, in the frame that uses it."""
        frame = _user_frame()
        if frame is None:
            return None
        for name, value in frame.f_locals.items():
            if value is array:
                return name
        for name, value in frame.f_locals.items():
            if isinstance(value, dict):
                key = next((k for k, v in value.items() if v is array), None)
                if isinstance(key, str) and key.isidentifier():
                    return key
                if key is not None:
                    return name
            elif isinstance(value, list | tuple) and any(v is array for v in value):
                return name
        return None

    # -- the result -------------------------------------------------------------------------------
    def claim(self, results: Mapping[str, Any], where: Location | None) -> Claim:
        gradients = {}
        for parameter, value in results.items():
            array = self.array(value)
            array.refreshed()
            want = self.program.tensors[parameter].shape
            got = tuple(i.size for i in array.indices)
            if want != got:
                raise NotTraced(f"the gradient of {parameter!r} has the shape {got} as an "
                                f"equation, where {want} is declared", where=where)
            stored = array.stored
            if stored is None:
                stored = self.store(array, f"d{parameter}")
            gradients[parameter] = stored
        equations = tuple(self.equations)
        program = self.forward
        tensors = {**program.tensors, **{n: self.program.tensors[n] for eq in equations
                                         for n in eq.reads if n in self.program.tensors}}
        more = [eq for eq in self.program.equations
                if eq.name in tensors and eq.name not in program.defined]
        base = replace(program, tensors=tensors, equations=(*program.equations, *more))
        return Claim(base.with_equations(equations), gradients, tuple(self.lines))

    def array(self, value: Any) -> Traced:
        """A symbolic array, of a number or of a small array of numbers too."""
        if isinstance(value, Traced):
            return value
        if isinstance(value, list | tuple) and any(isinstance(v, Traced) for v in value):
            from derive.verify.trace_shaping import stacked

            return stacked([self.array(v) for v in value], 0)
        if not isinstance(value, Dim | np.ndarray | np.generic | int | float | list | tuple):
            raise NotTraced(f"an operand of type {type(value).__name__}", where=self.here())
        array = np.asarray(int(value) if isinstance(value, Dim) else value)
        if array.ndim == 0:
            expr = number(value if isinstance(value, Dim) else array.item())
            kind = "bool" if expr in (sympy.true, sympy.false) else (
                "int" if expr.is_integer else "float")
            return Traced(self, (), expr, kind)
        return self._of_numbers(array)

    def _of_numbers(self, array: np.ndarray) -> Traced:
        from derive.nodes import Select

        if array.dtype.kind not in "iufb" or (array.size > 64 and np.ptp(array) != 0):
            raise NotTraced(f"an array of {array.size} numbers that the function brings along",
                            where=self.here())
        indices: list[Index] = []
        for n in array.shape:
            indices.append(self.fresh_index(sympy.Integer(n), "n", {i.name for i in indices}))
        body = number(array.flat[-1].item())
        for place in reversed(list(np.ndindex(array.shape))[:-1]):
            at = sympy.And(*(sympy.Eq(i, p) for i, p in zip(indices, place, strict=True)))
            body = Select(at, number(array[place].item()), body)
        kind = {"i": "int", "u": "int", "b": "bool"}.get(array.dtype.kind, "float")
        return Traced(self, tuple(indices), body, kind)


def _in_thread(plain: Callable[..., Any], make: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy's that makes symbolic arrays for the running function alone."""
    def call(*args: Any, **options: Any) -> Any:
        frame = sys._getframe(1)
        own = frame.f_code.co_filename.startswith(OWN)
        if own or running_trace() is None:
            return plain(*args, **options)
        return make(plain, *args, **options)

    return call


def _length(plain: Callable[[Any], int], value: Any) -> Any:
    return value.shape[0] if isinstance(value, Traced) and value.indices else plain(value)


def _user_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((*OWN, "<frozen")):
        frame = frame.f_back
    return frame


@lru_cache(maxsize=64)
def _statements(file: str, count: int) -> dict[int, tuple[int, str | None]]:
    """For each line of a file the first line of its innermost statement, and what it assigns."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return {}
    found: dict[int, tuple[int, str | None]] = {}
    for node in ast.walk(tree):  # outer statements first
        if isinstance(node, ast.stmt):
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            name = target.id if isinstance(target, ast.Name) else None
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                found[line] = (node.lineno, name)
    return found


def _statement(file: str, line: int) -> Location:
    lines = _statements(file, len(linecache.getlines(file)))
    return Location(file, lines.get(line, (line, None))[0])


def _assigned(where: Location | None) -> str | None:
    if where is None:
        return None
    return _statements(where.file, len(linecache.getlines(where.file))).get(
        where.line, (0, None))[1]


def _is_small(body: Any) -> bool:
    return isinstance(body, Access) or not body.args


def _count(body: Any) -> int:
    total, stack = 0, [body]
    while stack and total <= _LONG:
        total += 1
        stack += stack.pop().args
    return total


__all__ = ["NotTraced", "Tracer", "active", "size_paths", "trace"]
