"""Declaring a network: the only mutable object, which ends in a frozen `Program`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import sympy
from sympy import Expr, S

from derive.affine import whole_conditions
from derive.bodies import check_binding, check_reach, guarded, no_fit, no_scalar
from derive.differentiate import derive
from derive.errors import DeclarationError, unknown_name, user_location
from derive.functions import native
from derive.initialisation import checked_initial
from derive.naming import as_size, check_name, names_text, shape_text
from derive.nodes import Access, Index, IntegerAccess, accesses, exact
from derive.program import DType, Equation, Inner, Program, Role, Step, Tensor

_LETTERS = "ijklmnopqrsuvwxyz"


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
                expected=f"{self.tensor.rank}: {self.name}[{names_text(self.indices)}], "
                f"shape {shape_text(self.shape)}",
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
            raise no_fit(self.tensor, expr, dim)
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
                expected=f"{self.name}[{names_text(self.indices)}]",
            )
        return self.tensor.access

    def __str__(self) -> str:
        return f"{self.name}[{names_text(self.indices)}]"

    def __repr__(self) -> str:
        return f"<{self.tensor.role} {self} of shape {shape_text(self.shape)}>"


def _arithmetic(name: str) -> None:
    def operate(self: Handle, *others: object) -> Expr:
        return getattr(self._sympy_(), name)(*(sympy.sympify(o) for o in others))

    setattr(Handle, name, operate)


for _operator in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "neg"):
    _arithmetic(f"__{_operator}__")


class Network:
    """A network being declared: inputs, parameters, equations, losses.

    ``program()`` gives the frozen `Program` that everything else works on.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._handles: dict[str, Handle] = {}
        self._equations: list[Equation] = []
        self._declared: list[Equation | Inner] = []
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
        for what is only added), "zeros", "ones", the standard deviation of a normal, or what
        `derive.initialisation` names ("he", "xavier_uniform", "orthogonal", "constant 0.1")."""
        value = checked_initial(initial) if isinstance(initial, str) else exact(initial)
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
                got=f"{name!r} is the {old.role} of shape {shape_text(old.shape)} declared at "
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
                got=names_text([d for d in dims if isinstance(d, Index)]),
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
                    expected=f"shape {shape_text(handle.shape)}",
                    got=f"{names_text(free)} of shape {shape_text([i.size for i in free])}",
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
        self._declared.append(self._equations[-1])
        self._defined.add(handle.name)
        return handle

    def _checked(self, name: str, free: tuple[Index, ...], body: object) -> Expr:
        expr = _as_expression(name, body)
        check_binding(name, expr, {i.name: i for i in free})
        tensors = {}  # those that it reads: a deep network has many
        for access in accesses(expr):
            if access.name not in self._handles:
                raise unknown_name("tensor", access.name, self._handles)
            tensors[access.name] = self._handles[access.name].tensor
        # a sequence of one step reads first values only: recurrences may miss their own tensor
        check_reach(name, expr, {n: t for n, t in tensors.items()
                                 if t.role != "intermediate" or n in self._defined})
        return whole_conditions(guarded(expr, tensors, partial(self._outside, name)))

    def _outside(self, name: str, tensor: Tensor, access: Access, axis: int) -> Expr:
        if isinstance(access.where[axis], Index):  # a mistake, which a guard would hide
            raise no_fit(tensor, access.where[axis], axis)
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
                raise no_scalar(body.name, body.indices)
            handle = body
        else:
            expr = _as_expression(name, body)
            free = sorted(
                (s for s in expr.free_symbols if isinstance(s, Index)), key=lambda s: s.name
            )
            if free:
                raise no_scalar(name, free)
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
        name = derived.gradients[wrt.name]
        self._declared.append(Inner(name, of.name, wrt.name))
        return self._handles[name]

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
            declared=tuple(self._declared) if self._steps else (),
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
