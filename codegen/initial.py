"""How parameters start, from the equations that read them.

"auto" looks at the first use of a parameter: inside a sum over n values it is drawn from a normal
with variance g/n, with g = 2 where a relu-like function follows (He et al. 2015), else 1 (LeCun et
al. 1998); what is only added starts at zero; what only scales starts at one; what is looked up by
a gather starts with variance 1.
"""

from __future__ import annotations

import math

import sympy
from sympy import Add, Expr, Mul

from derive import functions as f
from derive.nodes import Access, IntegerAccess, SumOver
from derive.program import Equation, Program, Tensor

Readers = dict[str, list[Equation]]  # by the tensor that is read
_RELU_LIKE = (f.relu, f.leaky_relu, f.elu, f.gelu, f.silu)


def initial_values(program: Program) -> dict[str, float | str]:
    """For each parameter the standard deviation of its start (0.0 for zeros), or "ones"."""
    readers: dict[str, list[Equation]] = {}
    for eq in program.forward.equations:
        for name in eq.reads:
            readers.setdefault(name, []).append(eq)
    return {t.name: _one(readers, t) for t in program.parameters}


def _one(readers: Readers, tensor: Tensor) -> float | str:
    how = tensor.initial
    if how == "zeros":
        return 0.0
    if how == "ones":
        return "ones"
    if how != "auto":
        return float(how)
    for eq in readers.get(tensor.name, ()):
        if _uses(eq.body, tensor.name)[0].atoms(IntegerAccess):
            return 1.0
        fan_in = _fan_in(eq.body, tensor.name)
        if fan_in is not None:
            gain = 2 if _feeds_relu(readers, eq.name, eq.body) else 1
            return math.sqrt(gain / fan_in)
        return _alone(eq.body, tensor.name)
    return 0.0


def _fan_in(body: Expr, name: str) -> int | None:
    """How many values are summed up in the first sum that multiplies by the parameter."""
    for node in sympy.preorder_traversal(body):
        if not isinstance(node, SumOver):
            continue
        for access in _uses(node.body, name):
            own = [i for i in node.bound if i in access.free_symbols and i.size.is_Integer]
            if own and node.body.has(Mul):
                return int(Mul(*(i.size for i in own)))
    return None


def _uses(body: Expr, name: str) -> list[Access]:
    return [a for a in sympy.preorder_traversal(body) if isinstance(a, Access) and a.name == name]


def _alone(body: Expr, name: str) -> float | str:
    access = _uses(body, name)[0]
    for node in sympy.preorder_traversal(body):
        if isinstance(node, Mul) and access in node.args:
            return "ones"
        if isinstance(node, Add) and access in node.args:
            return 0.0
    return 0.0


def _feeds_relu(readers: Readers, name: str, body: Expr) -> bool:
    if any(_uses(node, own) for node in body.atoms(*_RELU_LIKE) for own in _read(node)):
        return True
    return any(
        _uses(node, name)
        for eq in readers.get(name, ())
        for node in eq.body.atoms(*_RELU_LIKE)
    )


def _read(node: Expr) -> set[str]:
    return {a.name for a in node.atoms(Access) if a.name} if node.has(SumOver) else set()
