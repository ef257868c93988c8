"""A symbolic array: it behaves as a NumPy array does and keeps the equation of its elements.

NumPy hands every ufunc and function on it to `derive.verify.trace_ops` through its dispatch
protocols; indexing, views and assignment in place are in `derive.verify.trace_index`.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy
from sympy import Expr, Integer

from derive.errors import ChainruleError, Location
from derive.nodes import Index
from derive.verify.bodies import as_number, exact, put
from derive.verify.branches import OWN, Branches

if TYPE_CHECKING:
    from derive.verify.trace import Tracer


class NotTraced(ChainruleError):
    """Something in the function cannot become an equation."""


class Dim:
    """A size that remembers its name: ``x.shape[0]`` counts as 3 and reads as B.

    No `int`, for ``1.0 / n`` of an int forgets where n came from before anyone is asked.
    """

    def __init__(self, value: int, expr: Expr) -> None:
        self.value, self.expr = value, expr

    def __index__(self) -> int:
        _noted(lambda branches: branches.taken_as_number(self.expr))
        return self.value

    __int__ = __index__

    def __neg__(self) -> Dim:
        return Dim(-self.value, -self.expr)

    def __float__(self) -> float:
        _noted(lambda branches: branches.taken_as_number(self.expr))
        return float(self.value)

    def __bool__(self) -> bool:
        true = self.value != 0
        _noted(lambda branches: branches.came_out(sympy.Ne(self.expr, 0), true))
        return true

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return str(self.value)

    def __format__(self, form: str) -> str:
        return format(self.value, form)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(x, Traced) for x in inputs) or method != "__call__":
            return NotImplemented
        from derive.verify.trace_ops import call_ufunc

        work = {np.multiply: operator.mul, np.add: operator.add, np.subtract: operator.sub}
        if ufunc in work and not options and all(isinstance(x, int | Dim) for x in inputs):
            return work[ufunc](*inputs)  # a size again
        plain = [Traced.scalar(x.expr) if isinstance(x, Dim) else x for x in inputs]
        return call_ufunc(ufunc, method, plain, options)

    if TYPE_CHECKING:  # set below
        def __mul__(self, other: Any) -> Any: ...


def _sized(name: str, work: Callable[[Any, Any], Any], whole: bool) -> None:
    """An operator of `Dim`: with whole numbers a size again, else a symbolic number."""
    def operate(one: Any, two: Any) -> Any:
        pair = [x.value if isinstance(x, Dim) else x for x in (one, two)]
        if not all(isinstance(x, int | float | np.number) for x in pair):
            return NotImplemented
        found = work(number(one), number(two))
        if whole and all(isinstance(x, int | np.integer) for x in pair):
            return Dim(work(*(int(x) for x in pair)), sympy.expand(found))
        return Traced.scalar(found)

    def forward(self: Dim, other: Any) -> Any:
        return operate(self, other)

    def backward(self: Dim, other: Any) -> Any:
        return operate(other, self)

    setattr(Dim, f"__{name}__", forward)
    setattr(Dim, f"__r{name}__", backward)


def _noted(note: Callable[[Branches], None]) -> None:
    """Tell the trace what the user's own code asks of a size (what this package asks is of no
    consequence: it goes by the size's name)."""
    from derive.verify.trace import running_trace

    tracer = running_trace()
    if tracer is not None and not sys._getframe(2).f_code.co_filename.startswith(OWN):
        note(tracer.branches)


def _compared(name: str, relation: Callable[[Expr, Expr], Any]) -> None:
    def compare(self: Dim, other: Any) -> Any:
        plain = other.value if isinstance(other, Dim) else other
        found = getattr(self.value, name)(plain)
        if found in (True, False) and isinstance(plain, int | float | np.number):
            _noted(lambda branches: branches.came_out(relation(self.expr, number(other)), found))
        return found

    setattr(Dim, name, compare)


for _name, _work, _whole in (
        ("add", operator.add, True), ("sub", operator.sub, True), ("mul", operator.mul, True),
        ("floordiv", operator.floordiv, True), ("mod", operator.mod, True),
        ("truediv", operator.truediv, False), ("pow", operator.pow, False)):
    _sized(_name, _work, _whole)
for _name, _relation in (("__eq__", sympy.Eq), ("__ne__", sympy.Ne), ("__lt__", sympy.Lt),
                         ("__le__", sympy.Le), ("__gt__", sympy.Gt), ("__ge__", sympy.Ge)):
    _compared(_name, _relation)


class Traced:
    """``array[indices] = body`` while it is made.

    ``kind`` is "float", "int" or "bool"; ``masked`` a condition under which alone the elements
    belong to the array (``z[z < 0]``); ``base``, ``again`` and ``back`` tie a view to the array
    that it was taken from.
    """

    __array_priority__ = 1000

    def __init__(self, tracer: Tracer | None, indices: tuple[Index, ...], body: Any,
                 kind: str = "float") -> None:
        self.tracer, self.indices, self.body, self.kind = tracer, indices, body, kind
        self.masked: Any = None
        self.stored: str | None = None
        self.version = 0
        self.base: Traced | None = None
        self.base_version = 0
        self.again: Callable[[], Traced] | None = None
        self.back: Callable[[Any], None] | None = None
        self.line: Location | None = tracer.here() if tracer else None
        self.callers: tuple[Location, ...] = tracer.callers() if tracer else ()

    @classmethod
    def scalar(cls, expr: Expr) -> Traced:
        from derive.verify.trace import active

        return cls(active(), (), expr)

    # -- what it is -------------------------------------------------------------------------------
    @property
    def shape(self) -> tuple[Dim, ...]:
        return tuple(self._tracer.dim(i.size) for i in self.indices)

    @property
    def _tracer(self) -> Tracer:
        from derive.verify.trace import active

        return self.tracer or active()

    @property
    def ndim(self) -> int:
        return len(self.indices)

    @property
    def size(self) -> Any:
        total: Any = 1
        for n in self.shape:
            total = n * total
        return total

    @property
    def dtype(self) -> np.dtype:
        return np.dtype({"float": np.float64, "int": np.int64, "bool": np.bool_}[self.kind])

    @property
    def T(self) -> Traced:
        return self.transpose()

    def __len__(self) -> int:
        if not self.indices:
            raise TypeError("len() of an array without dims")
        _noted(lambda branches: branches.taken_as_number(self.indices[0].size))
        return int(self.shape[0])

    def __repr__(self) -> str:
        shape = ", ".join(str(i.size) for i in self.indices)
        return f"<symbolic {self.kind} array of shape ({shape})>"

    # -- reading it -------------------------------------------------------------------------------
    def refreshed(self) -> Traced:
        """Itself; a view of an array that has changed since is read anew."""
        if self.base is not None and self.again is not None:
            self.base.refreshed()
            if self.base.version != self.base_version:
                new = self.again()
                self.indices, self.body, self.kind = new.indices, new.body, new.kind
                self.stored, self.base_version = None, self.base.version
                self.version += 1
        return self

    def at(self, *places: Expr) -> Any:
        """The body at index expressions."""
        body = self._tracer.body_of(self.refreshed())
        return put(body, dict(zip(self.indices, places, strict=True)))

    def change(self, new: Traced) -> None:
        """Another value, in place: views of it follow, and so does what it is a view of."""
        if [i.size for i in new.indices] != [i.size for i in self.indices]:
            raise ValueError(f"could not broadcast {new!r} into {self!r}")
        if self.base is not None and self.back is None:
            raise NotTraced("an array is changed through a view of it", where=self._tracer.here())
        self.indices, self.body, self.stored = new.indices, new.body, None
        self.line, self.callers = self._tracer.here(), self._tracer.callers()
        self.version += 1
        if self.base is not None and self.back is not None:
            self.back(self)
            self.base_version = self.base.version

    # -- what Python may not know of it -----------------------------------------------------------
    def _no(self, what: str) -> NotTraced:
        return NotTraced(f"{what} depends on data", where=self._tracer.here())

    def __bool__(self) -> bool:
        if self.body in (sympy.true, sympy.false):
            return bool(self.body)
        raise self._no("a branch")

    def __float__(self) -> float:
        raise self._no("float()")

    def __int__(self) -> int:
        raise self._no("int()")

    def __index__(self) -> int:
        raise self._no("a position")

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise NotTraced("a symbolic array is handed to code that takes numbers only",
                        where=self._tracer.here())

    def __iter__(self) -> Iterator[Any]:
        return (self[n] for n in range(len(self)))

    __hash__ = object.__hash__

    # -- NumPy's protocols ------------------------------------------------------------------------
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        from derive.verify.trace_ops import call_ufunc

        return call_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        from derive.verify.trace_functions import call_function

        return call_function(function, args, options)

    def __getitem__(self, key: Any) -> Any:
        from derive.verify.trace_index import get_item

        return get_item(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        from derive.verify.trace_index import set_item

        set_item(self, key, value)

    # -- methods ----------------------------------------------------------------------------------
    if TYPE_CHECKING:  # the operators are set below, one for each ufunc
        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any) -> Traced: ...
        def __sub__(self, other: Any) -> Traced: ...
        def __mul__(self, other: Any) -> Traced: ...
        def __truediv__(self, other: Any) -> Traced: ...
        def __pow__(self, other: Any) -> Traced: ...

    def transpose(self, *axes: Any) -> Traced:
        if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], tuple | list)):
            axes = tuple(axes[0] or ())
        return np.transpose(self, axes or None)  # type: ignore[call-overload, return-value]

    def reshape(self, *shape: Any, order: str = "C") -> Traced:
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        return np.reshape(self, wanted, order=order)  # type: ignore[call-overload]

    def copy(self, order: str = "C") -> Traced:
        return Traced(self._tracer, self.indices, self.at(*self.indices), self.kind)

    def astype(self, dtype: Any, **options: Any) -> Traced:
        kind = {"f": "float", "i": "int", "u": "int", "b": "bool"}.get(np.dtype(dtype).kind)
        if kind == "bool" and self.kind != "bool":
            return self != 0  # type: ignore[return-value]
        if kind is None or (kind == "int" and self.kind == "float"):
            raise NotTraced(f"a conversion to {dtype}", where=self._tracer.here())
        body = self.at(*self.indices)
        return Traced(self._tracer, self.indices,
                      as_number(body) if kind != "bool" else body, kind)

    def fill(self, value: Any) -> None:
        self[...] = value

    def item(self, *args: Any) -> Any:
        if args or any(i.size != 1 for i in self.indices):
            raise NotTraced("item() of an array", where=self._tracer.here())
        return Traced(self._tracer, (), self.at(*(Integer(0) for _ in self.indices)), self.kind)

    def tolist(self) -> Any:
        return list(self)


def _method(name: str) -> Callable[..., Any]:
    def call(self: Traced, *args: Any, **options: Any) -> Any:
        return getattr(np, name)(self, *args, **options)

    call.__name__ = name
    return call


for _name in ("sum", "mean", "max", "min", "prod", "var", "std", "dot", "ravel", "squeeze",
              "swapaxes", "repeat", "clip", "argmax", "diagonal", "trace", "take", "cumsum", "all",
              "any", "round"):
    setattr(Traced, _name, _method(_name))
Traced.flatten = _method("ravel")  # type: ignore[attr-defined]

_OPERATORS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide,
    "pow": np.power, "matmul": np.matmul, "and": np.logical_and, "or": np.logical_or,
    "floordiv": np.floor_divide, "mod": np.remainder, "xor": np.logical_xor,
}
_COMPARISONS = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
                "eq": np.equal, "ne": np.not_equal}


def _operator(ufunc: Any) -> tuple[Callable[..., Any], ...]:
    def forward(self: Traced, other: Any) -> Any:
        return ufunc(self, other)

    def backward(self: Traced, other: Any) -> Any:
        return ufunc(other, self)

    def in_place(self: Traced, other: Any) -> Traced:
        new = ufunc(self, other)
        new.indices = tuple(new.indices)
        self.change(new)
        return self

    return forward, backward, in_place


def _unary(ufunc: Any) -> Callable[..., Any]:
    def call(self: Traced) -> Any:
        return ufunc(self)

    return call


for _name, _ufunc in _OPERATORS.items():
    _forward, _backward, _in_place = _operator(_ufunc)
    setattr(Traced, f"__{_name}__", _forward)
    setattr(Traced, f"__r{_name}__", _backward)
    setattr(Traced, f"__i{_name}__", _in_place)
for _name, _ufunc in _COMPARISONS.items():
    setattr(Traced, f"__{_name}__", _operator(_ufunc)[0])
for _name, _ufunc in (("neg", np.negative), ("pos", np.positive), ("abs", np.absolute),
                      ("invert", np.logical_not)):
    setattr(Traced, f"__{_name}__", _unary(_ufunc))


def number(value: Any) -> Expr:
    """What a number means, exactly."""
    if isinstance(value, Dim):
        return value.expr
    if isinstance(value, bool | np.bool_):
        return sympy.true if value else sympy.false
    if isinstance(value, int | np.integer):
        return Integer(int(value))
    return exact(float(value))
