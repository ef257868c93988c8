"""Declaring a network: the only mutable object, which ends in a frozen `Program`."""

from __future__ import annotations

import keyword
import unicodedata
from collections.abc import Sequence
from typing import Any

import sympy
from sympy import Expr, S

from derive.affine import implied, inside
from derive.differentiate import derive
from derive.errors import DeclarationError, nearest, unknown_name, user_location
from derive.functions import native
from derive.nodes import (
    Access,
    Index,
    IntegerAccess,
    MaxOver,
    MinOver,
    ProdOver,
    Reduction,
    Select,
    SumOver,
    accesses,
    contains,
    exact,
    size_symbol,
)
from derive.program import DType, Equation, Program, Role, Step, Tensor

_LETTERS = "ijklmnopqrsuvwxyz"


def check_name(name: str, kind: str) -> str:
    """A plain identifier without a leading underscore (those are for generated names)."""
    if not isinstance(name, str):
        raise DeclarationError(f"a {kind} needs a name", expected="a string", got=repr(name))
    name = unicodedata.normalize("NFKC", name)
    if not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name):
        raise DeclarationError(
            f"{name!r} cannot be the name of a {kind}",
            expected="letters, digits and underscores, a letter first, no Python keyword",
            got=repr(name),
            mend='a plain name such as "W1" or "y_hat"',
        )
    return name


def as_size(size: Expr | int | str) -> Expr:
    """A size: a whole number of at least 1, or a name such as "B" for a run-time size."""
    if isinstance(size, str):
        return sympy.Integer(int(size)) if size.isdigit() else size_symbol(check_name(size, "size"))
    value = sympy.sympify(size)
    if value.is_integer is not True or value.is_positive is not True:
        raise DeclarationError(
            "a size must be a whole number of at least 1, or a name", got=repr(size)
        )
    return value


def indices(text: str) -> Any:
    """Indices from ``"b:B i:64 j:32"``: a name, a colon, a size (a number or a name).

    Returns:
        One `Index`, or a tuple of them where several are named.

    Raises:
        DeclarationError: a part is not ``name:size``, or a name stands twice.
    """
    made: list[Index] = []
    for part in text.replace(",", " ").split():
        name, colon, size = part.partition(":")
        if not colon or not size:
            raise DeclarationError(
                f"cannot read the index {part!r}", expected='name:size, as in "b:B i:64"',
                got=repr(text),
            )
        check_name(name, "index")
        if name in {i.name for i in made}:
            raise DeclarationError(f"index {name!r} is declared twice", got=repr(text))
        made.append(Index(name, as_size(size)))
    if not made:
        raise DeclarationError("no index is named", expected='for example "b:B i:64"')
    return made[0] if len(made) == 1 else tuple(made)


class Handle:
    """A tensor of a network under construction: ``x[b, i]`` is an access of it."""

    def __init__(self, network: Network, tensor: Tensor) -> None:
        self.network, self.tensor = network, tensor

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def indices(self) -> tuple[Index, ...]:
        return self.tensor.indices

    @property
    def shape(self) -> tuple[Expr, ...]:
        return self.tensor.shape

    def __getitem__(self, where: object) -> Access:
        exprs = where if isinstance(where, tuple) else (where,)
        if len(exprs) != self.tensor.rank:
            raise DeclarationError(
                f"{self.name!r} is indexed with {len(exprs)} indices",
                expected=f"{self.tensor.rank}: {self.name}[{_names(self.indices)}], "
                f"shape {_shape(self.shape)}",
                got=f"{self.name}[{', '.join(map(str, exprs))}]",
            )
        return self.tensor.at(*(self._index(e, d) for d, e in enumerate(exprs)))

    def _index(self, given: object, dim: int) -> Expr:
        if isinstance(given, str | float | slice | list) or given is None or given is Ellipsis:
            raise DeclarationError(
                f"{given!r} cannot index dim {dim} of {self.name!r}",
                expected="an index, an affine expression of indices, a whole number, or an "
                "element of an integer tensor",
                mend='declare indices with dr.indices("b:B i:64")',
            )
        expr, size = sympy.sympify(given), self.shape[dim]
        if isinstance(expr, Access) and not isinstance(expr, IntegerAccess):
            raise DeclarationError(
                f"{expr.name!r} is a float tensor, so it cannot index {self.name!r}",
                mend=f'declare it with dtype=int: net.input("{expr.name}", …, dtype=int)',
            )
        if expr.is_integer is not True:
            raise DeclarationError(f"{expr} cannot index {self.name!r}: it is not whole")
        if isinstance(expr, Index) and expr.size != size:
            raise _no_fit(self.tensor, expr, dim)
        if expr.is_Integer and size.is_Integer and not 0 <= expr < size:
            raise DeclarationError(
                f"element {expr} of dim {dim} of {self.name!r} does not exist",
                expected=f"0 to {size - 1}",
            )
        return expr

    def __iter__(self) -> object:
        raise TypeError(f"tensor {self.name!r} is no sequence; index it: {self}")

    def _sympy_(self) -> Expr:
        if self.tensor.rank:
            raise DeclarationError(
                f"{self.name!r} is used without its indices",
                expected=f"{self.name}[{_names(self.indices)}]",
            )
        return self.tensor.access

    def __str__(self) -> str:
        return f"{self.name}[{_names(self.indices)}]"

    def __repr__(self) -> str:
        return f"<{self.tensor.role} {self} of shape {_shape(self.shape)}>"


def _arithmetic(name: str) -> None:
    def operate(self: Handle, *others: object) -> Expr:
        return getattr(self._sympy_(), name)(*(sympy.sympify(o) for o in others))

    setattr(Handle, name, operate)


for _operator in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "neg"):
    _arithmetic(f"__{_operator}__")


def _names(indices: Sequence[Index]) -> str:
    return ", ".join(i.name for i in indices)


def _shape(shape: Sequence[Expr]) -> str:
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


class Network:
    """A network being declared: inputs, parameters, equations, losses.

    ``program()`` gives the frozen `Program` that everything else works on.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._handles: dict[str, Handle] = {}
        self._equations: list[Equation] = []
        self._initial: dict[str, Expr | Handle] = {}
        self._losses: list[str] = []
        self._subjects: dict[str, tuple[str, ...]] = {}
        self._steps: tuple[Step, ...] = ()
        self._updates: dict[str, str] = {}
        self._defined: set[str] = set()
        self._counters: dict[str, int] = {}

    # -- tensors ----------------------------------------------------------------------------
    def input(self, name: str, *dims: Index | int | str, dtype: type = float,
              distribution: bool = False) -> Handle:
        """Data handed in at each step; ``dtype=int`` for labels and tokens (they may index);
        ``distribution=True`` promises that the last dim sums to 1."""
        return self._tensor(name, dims, "input", dtype=_dtype(dtype), distribution=distribution)

    def parameter(self, name: str, *dims: Index | int | str,
                  initial: str | float | Expr = "auto") -> Handle:
        """A trained tensor. ``initial``: "auto" (normal with variance 1/fan-in for weights, zero
        for what is only added), "zeros", "ones", or the standard deviation of a normal."""
        value = initial if isinstance(initial, str) else exact(initial)
        return self._tensor(name, dims, "parameter", initial=value)

    def state(self, name: str, *dims: Index | int | str, initial: str = "zeros") -> Handle:
        """A tensor kept from step to step; `update` gives its next value."""
        return self._tensor(name, dims, "state", initial=initial)

    def constant(self, name: str, *dims: Index | int | str, dtype: type = float) -> Handle:
        """A tensor that is set once and never trained."""
        return self._tensor(name, dims, "constant", dtype=_dtype(dtype))

    def random(self, name: str = "seed") -> Handle:
        """A whole number that is new at each step: the seed of dropout and noise."""
        return self._tensor(name, (), "random", dtype="int")

    def declare(self, name: str, *dims: Index | int | str,
                initial: Handle | float | None = None) -> Handle:
        """A tensor that an equation below will define, so that a recurrence can name it.

        ``initial`` is its value outside the range of the loop index (``h[-1]``): a number, or a
        tensor with the other dims.
        """
        handle = self._tensor(name, dims, "intermediate")
        if initial is not None:
            self._initial[name] = initial if isinstance(initial, Handle) else exact(initial)
        return handle

    def _tensor(self, name: str, dims: Sequence[Index | int | str], role: Role,
                dtype: DType = "float", initial: str | Expr = "auto",
                distribution: bool = False) -> Handle:
        name = check_name(name, "tensor")
        if name in self._handles:
            old = self._handles[name].tensor
            raise DeclarationError(
                f"the name {name!r} is used twice",
                expected="a new name",
                got=f"{name!r} is the {old.role} of shape {_shape(old.shape)} declared at "
                f"{old.where}",
            )
        tensor = Tensor(name, self._dims(dims), dtype, role, None, initial, distribution,
                        user_location())
        self._handles[name] = Handle(self, tensor)
        return self._handles[name]

    def _dims(self, dims: Sequence[Index | int | str]) -> tuple[Index, ...]:
        made: list[Index] = []
        taken = {d.name for d in dims if isinstance(d, Index)}
        if len(taken) < sum(isinstance(d, Index) for d in dims):
            raise DeclarationError(
                "a tensor is declared with the same index twice",
                got=_names([d for d in dims if isinstance(d, Index)]),
                mend="give each dim an index of its own",
            )
        for dim in dims:
            if isinstance(dim, Index):
                made.append(dim)
                continue
            if isinstance(dim, Handle) or not isinstance(dim, int | str | Expr):
                raise DeclarationError(
                    f"{dim!r} is no dim", expected='an index, a whole number, or a name like "B"'
                )
            size = as_size(dim)
            own = str(size).lower()
            free = [c for c in _LETTERS if c not in taken]
            name = own if size.is_Symbol and own not in taken and own.isidentifier() else free[0]
            taken.add(name)
            made.append(Index(name, size))
        return tuple(made)

    # -- equations --------------------------------------------------------------------------
    def define(self, name: str | Handle, indices: Sequence[Index], body: Expr) -> Handle:
        """``name[indices] = body``: one equation.

        Args:
            name: a new name, or the handle that `declare` gave.
            indices: the free indices, one per dim of the new tensor (or of the declared one).
            body: a scalar expression over accesses; every other index in it must be bound by a
                reduction such as ``dr.sum(…, i)``.

        Raises:
            DeclarationError: names the index or tensor that does not fit.
        """
        free = tuple(indices) if isinstance(indices, tuple | list) else (indices,)
        for index in free:
            if not isinstance(index, Index):
                raise DeclarationError(f"{index!r} is no index", expected="indices of dr.indices")
        if isinstance(name, Handle):
            handle = name
            if handle.shape != tuple(i.size for i in free):
                raise DeclarationError(
                    f"the indices of {handle.name!r} do not fit its declaration",
                    expected=f"shape {_shape(handle.shape)}",
                    got=f"{_names(free)} of shape {_shape([i.size for i in free])}",
                )
        else:
            handle = self._tensor(name, free, "intermediate")
        if handle.name in self._defined:
            raise DeclarationError(f"{handle.name!r} already has an equation")
        try:
            expr = self._checked(handle.name, free, body)
        except DeclarationError:
            if not isinstance(name, Handle):
                del self._handles[handle.name]
            raise
        self._equations.append(Equation(handle.tensor, free, expr, where=user_location()))
        self._defined.add(handle.name)
        return handle

    def _checked(self, name: str, free: tuple[Index, ...], body: object) -> Expr:
        expr = _as_expression(name, body)
        known = {i.name: i for i in free}
        self._check_binding(name, expr, known)
        for access in accesses(expr):
            if access.name not in self._handles:
                raise unknown_name("tensor", access.name, self._handles)
        return self._guard(name, expr)

    def _check_binding(self, name: str, expr: Expr, scope: dict[str, Index]) -> None:
        """Every index is free in the target or bound exactly once around its use."""
        if isinstance(expr, Index):
            known = scope.get(expr.name)
            if known is None:
                guess = nearest(expr.name, scope)
                raise DeclarationError(
                    f"index {expr.name!r} in the equation of {name!r} is neither free nor bound",
                    expected=f"the free indices {', '.join(scope) or 'none'}, or a reduction over "
                    f"{expr.name}",
                    mend=f"sum over it, dr.sum(…, {expr.name}), or add it to the target"
                    + (f"; did you mean {guess!r}?" if guess else ""),
                )
            if known != expr:
                raise DeclarationError(
                    f"index {expr.name!r} has two sizes in the equation of {name!r}",
                    expected=f"{known.size}", got=f"{expr.size}",
                )
            return
        if isinstance(expr, Reduction):
            inner = dict(scope)
            for index in expr.bound:
                if index.name in inner:
                    raise DeclarationError(
                        f"index {index.name!r} is bound twice in the equation of {name!r}",
                        expected="a reduction over an index that is not in use around it",
                        got=f"{expr.op} over {index.name}, which is already "
                        + ("free" if scope.get(index.name) == index else "bound"),
                        mend="use an index of another name for one of them",
                    )
                inner[index.name] = index
                if index not in expr.body.free_symbols:
                    raise DeclarationError(
                        f"{expr.op} over {index.name!r} in the equation of {name!r}, but "
                        f"{index.name!r} does not occur in what is reduced",
                        mend=f"multiply by the size {index.size} if that is what you mean",
                    )
            self._check_binding(name, expr.body, inner)
            return
        for arg in expr.args:
            self._check_binding(name, arg, scope)

    def _guard(self, name: str, expr: Expr, given: tuple[Expr, ...] = ()) -> Expr:
        """Accesses that can leave their bounds read 0 there, or the recurrence's first value;
        ``given`` are conditions that hold around ``expr``."""
        if isinstance(expr, Access):
            guarded: Expr = expr
            for access in reversed(accesses(expr)):  # a gather inside guards the whole
                guarded = self._guard_access(name, access, guarded, given)
            return guarded
        if isinstance(expr, Select):
            holds = sympy.And.make_args(expr.condition)
            fails = sympy.And.make_args(sympy.Not(expr.condition))
            return Select(
                self._guard(name, expr.condition, given),
                self._guard(name, expr.yes, (*given, *holds)),
                self._guard(name, expr.no, (*given, *fails)),
            )
        if not contains(expr, Access):
            return expr
        new = [self._guard(name, arg, given) for arg in expr.args]
        if isinstance(expr, Reduction):
            return _reduced(type(expr), *new)
        return expr if all(a is n for a, n in zip(expr.args, new)) else expr.func(*new)

    def _guard_access(
        self, name: str, access: Access, guarded: Expr, given: tuple[Expr, ...]
    ) -> Expr:
        tensor = self._handles[access.name].tensor
        for axis, (where, size) in enumerate(zip(access.where, tensor.shape, strict=True)):
            if isinstance(where, IntegerAccess) or (
                isinstance(where, Index) and where.size == size
            ):
                continue
            conditions = [c for c in inside(where, size) if not implied(c, given)]
            if conditions and isinstance(where, Index):
                raise _no_fit(tensor, where, axis)
            if conditions:
                outside = self._outside(name, tensor, access, axis)
                guarded = Select(sympy.And(*conditions), guarded, outside)
        return guarded

    def _outside(self, name: str, tensor: Tensor, access: Access, axis: int) -> Expr:
        initial = self._initial.get(tensor.name)
        if initial is None and (tensor.role != "intermediate" or tensor.name in self._defined):
            return S.Zero
        if initial is None:
            raise DeclarationError(
                f"the recurrence {access} in the equation of {name!r} has no first value",
                expected=f"the value of {tensor.name!r} outside its range",
                mend=f'net.declare("{tensor.name}", …, initial=0) or initial=h0',
            )
        if isinstance(initial, Handle):
            rest = [w for d, w in enumerate(access.where) if d != axis]
            return initial[tuple(rest)] if rest else initial.tensor.access
        return initial

    def loss(
        self, body: Expr | Handle, name: str = "L", wrt: Sequence[Handle] | None = None
    ) -> Handle:
        """The scalar that training makes small. Several may be declared under names, each with
        the tensors that it is to change (``wrt``; by default all parameters)."""
        if isinstance(body, Handle):
            if body.tensor.rank:
                raise _no_scalar(body.name, body.indices)
            handle = body
        else:
            expr = _as_expression(name, body)
            free = sorted(
                (s for s in expr.free_symbols if isinstance(s, Index)), key=lambda s: s.name
            )
            if free:
                raise _no_scalar(name, free)
            handle = self.define(name, (), expr)
        self._losses.append(handle.name)
        if wrt is not None:
            self._subjects[handle.name] = tuple(tensor.name for tensor in wrt)
        return handle

    def gradient(self, of: Handle, wrt: Handle) -> Handle:
        """The gradient of a scalar with respect to a tensor, to be used in further equations
        (a gradient penalty, a differential equation): its equations join the network."""
        derived = derive(self.program(), wrt=[wrt.name], of=of.name)
        self._equations, self._steps = list(derived.equations), derived.steps
        for name, tensor in derived.tensors.items():
            self._handles.setdefault(name, Handle(self, tensor))
        self._defined.update(derived.defined)
        return self._handles[derived.gradients[wrt.name]]

    def update(self, state: Handle, body: Expr) -> Handle:
        """The next value of a state, in the state's own indices: ``m' = …``."""
        new = self.define(f"{state.name}_next", state.indices, body)
        self._updates[state.name] = new.name
        return new

    def program(self) -> Program:
        """The frozen program.

        Raises:
            DeclarationError: a declared tensor has no equation, or equations form a cycle that
                is no recurrence.
        """
        open_names = [
            h.name for h in self._handles.values()
            if h.tensor.role == "intermediate" and h.name not in self._defined
        ]
        if open_names:
            tensor = self._handles[open_names[0]].tensor
            raise DeclarationError(
                f"{open_names[0]!r} is declared but no equation defines it",
                mend=f"net.define({open_names[0]}, (…), …)", where=tensor.where,
            )
        program = Program(
            self.name,
            {n: h.tensor for n, h in self._handles.items()},
            tuple(self._equations),
            tuple(self._losses),
            updates=dict(self._updates),
            steps=self._steps,
            subjects=dict(self._subjects),
        )
        _ = program.groups  # a cycle shows now, at the user's own line
        return program

    def __str__(self) -> str:
        return str(self.program())

    def _repr_latex_(self) -> str:
        return self.program()._repr_latex_()

    def __getitem__(self, name: str) -> Handle:
        if name not in self._handles:
            raise unknown_name("tensor", name, self._handles)
        return self._handles[name]

    def fresh_stream(self) -> int:
        """A number that no other dropout or noise of this network has."""
        self._counters["stream"] = self._counters.get("stream", 0) + 1
        return self._counters["stream"]

    def fresh_name(self, stem: str) -> str:
        """``stem`` with the smallest number that makes it new: W1, W2, …"""
        number = self._counters.get(stem, 0) + 1
        while f"{stem}{number}" in self._handles:
            number += 1
        self._counters[stem] = number
        return f"{stem}{number}"


def _reduced(node: type[Reduction], body: Expr, *bound: Index) -> Expr:
    """A reduction whose body lost an index, because it reads nothing but what lies outside."""
    used = [i for i in bound if i in body.free_symbols]
    count = sympy.Mul(*(i.size for i in bound if i not in used))
    inner = node(body, *used)
    if count == 1 or node in (MaxOver, MinOver):
        return inner
    if node is SumOver:
        return count * inner
    return inner**count if node is ProdOver else inner + sympy.log(count)


def _no_fit(tensor: Tensor, index: Index, dim: int) -> DeclarationError:
    return DeclarationError(
        f"index {index.name!r} does not fit dim {dim} of {tensor.name!r}",
        expected=f"size {tensor.shape[dim]}: {tensor.name} has shape {_shape(tensor.shape)}",
        got=f"{index.name} ranges over {index.size}",
    )


def _dtype(dtype: object) -> DType:
    if dtype in (float, "float", "float32", "float64"):
        return "float"
    if dtype in (int, "int", "int32", "int64"):
        return "int"
    raise DeclarationError(f"unknown dtype {dtype!r}", expected="float or int")


def _as_expression(name: str, body: object) -> Expr:
    if isinstance(body, Handle):
        return body._sympy_()
    if isinstance(body, str):
        raise DeclarationError(
            f"the body of {name!r} is a string; strings are never evaluated",
            expected="an expression such as dr.sum(x[b, i]*W[i, j], i)",
        )
    try:
        return native(exact(body))
    except (sympy.SympifyError, TypeError) as error:
        raise DeclarationError(
            f"the body of {name!r} is no expression", got=repr(body)
        ) from error


def _no_scalar(name: str, free: Sequence[Index]) -> DeclarationError:
    return DeclarationError(
        f"the loss {name!r} is not a scalar",
        expected="no free index",
        got=f"free: {_names(free)} of shape {_shape([i.size for i in free])}",
        mend=f"average or sum it: dr.mean(…, {_names(free)})",
    )

