"""How parameters start, from the equations that read them.

"auto" looks at the first use of a parameter: inside a sum over n values it is drawn from a normal
with variance g/n, with g = 2 where a relu-like function follows (He et al. 2015), else 1 (LeCun et
al. 1998); what is only added starts at zero; what only scales starts at one; what is looked up by
a gather starts with variance 1. Schemes by name take their scale from the same sum.
"""

from __future__ import annotations

import math

from sympy import Add, Expr, Mul

from derive import functions as f
from derive.errors import DeclarationError
from derive.initialisation import SCHEMES, WITH_NUMBER, Scheme
from derive.nodes import Access, IntegerAccess, SumOver, walk
from derive.program import Equation, Program, Tensor

Readers = dict[str, list[Equation]]  # by the tensor that is read
_RELU_LIKE = (f.relu, f.leaky_relu, f.elu, f.gelu, f.silu)


Start = float | str | tuple[str, float]


def initial_values(program: Program) -> dict[str, Start]:
    """For each parameter the standard deviation of its start (0.0 for zeros), "ones", or a kind
    with a number: ("uniform", bound), ("constant", value), ("orthogonal", length of a column)."""
    readers: dict[str, list[Equation]] = {}
    for eq in program.forward.equations:
        for name in eq.reads:
            readers.setdefault(name, []).append(eq)
    return {t.name: _one(readers, t) for t in program.parameters}


def _one(readers: Readers, tensor: Tensor) -> Start:
    how = tensor.initial
    scheme = SCHEMES.get(str(how))
    if scheme is not None:
        return _scheme(readers, tensor, scheme)
    word, _, number = str(how).partition(" ")
    if word in WITH_NUMBER:
        return word, float(number)
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


def _scheme(readers: Readers, tensor: Tensor, scheme: Scheme) -> Start:
    """A scheme of `SCHEMES` from the fans of the first sum with the parameter."""
    fans = next(filter(None, (_fans(eq.body, tensor) for eq in readers.get(tensor.name, ()))),
                None)
    if fans is None:
        raise DeclarationError(
            f"the parameter {tensor.name!r} starts by a scheme for weights, but no sum multiplies "
            "by it", expected='"zeros", "ones", "constant 0.1" or a number')
    inside, outside = fans
    if scheme.kind == "orthogonal":
        return "orthogonal", float(inside)
    deviation = math.sqrt(scheme.variance(inside, outside))
    return ("uniform", math.sqrt(3) * deviation) if scheme.kind == "uniform" else deviation


def _fans(body: Expr, tensor: Tensor) -> tuple[int, int] | None:
    """How many values the sum adds up, and how many sums an element of the other factor enters:
    the dims that stay, and bound ones that another access shifts by (a convolution's window)."""
    for node in walk(body):
        uses = _uses(node.body, tensor.name) if isinstance(node, SumOver) else []
        if not uses or not node.body.has(Mul) or not all(s.is_Integer for s in tensor.shape):
            continue
        bound = {i for i in node.bound if i in uses[0].free_symbols}
        others = [w for a in node.body.atoms(Access) if a.name != tensor.name for w in a.where]
        inside = outside = 1
        for where, size in zip(uses[0].where, tensor.shape, strict=True):
            shifted = any(where in w.free_symbols and w != where for w in others)
            inside *= int(size) if where in bound else 1
            outside *= int(size) if where not in bound or shifted else 1
        return inside, outside
    return None


def _fan_in(body: Expr, name: str) -> int | None:
    """How many values are summed up in the first sum that multiplies by the parameter."""
    for node in walk(body):
        if not isinstance(node, SumOver):
            continue
        for access in _uses(node.body, name):
            own = [i for i in node.bound if i in access.free_symbols and i.size.is_Integer]
            if own and node.body.has(Mul):
                return int(Mul(*(i.size for i in own)))
    return None


def _uses(body: Expr, name: str) -> list[Access]:
    return [a for a in walk(body) if isinstance(a, Access) and a.name == name]


def _alone(body: Expr, name: str) -> float | str:
    access = _uses(body, name)[0]
    for node in walk(body):
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
