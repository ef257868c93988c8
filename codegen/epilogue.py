"""What is done with each element of a matrix product while its tile is in registers.

    a product, and the nest of elements behind it → statements about one element

The element's value is the scalar `VALUE`. Bias, activation, mask, residual and the derivative of an
activation behind an adjoint are elementwise nests behind a product like any other: where such a
nest goes through exactly the product's elements, each thread does it for the elements that it has.
What is stored on the way is taken on from the register, not read again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sympy import Expr, Symbol

from codegen.fuse import substituted
from codegen.loops import If, Let, Loop, Product, Statement, Store, expressions, statements
from derive.nodes import Index, IntegerAccess, accesses

VALUE = Symbol("_sum", extended_real=True)


def stored(product: Product) -> tuple[Statement, ...]:
    """A product with nothing behind it stores its elements."""
    return (Store(product.places[0], VALUE, "+=" if product.beta else "="),)


def behind(product: Product, over: Sequence[Index], nest: Sequence[Index],
           body: tuple[Statement, ...]) -> tuple[Statement, ...] | None:
    """The statements about one element of a product inside the loops ``over``, with those of
    the nest of loops behind it; None where that nest is of another kind."""
    target = product.places[0]
    own = (*over, *product.rows, *product.columns)
    if any(isinstance(n, Loop | Product) for n in statements(body)):
        return None
    places = {a for n in statements(body) for e in expressions(n) for a in accesses(e)
              if a.name == target.name}
    written = {n.target.name for n in statements(body) if isinstance(n, Store)}
    if len(places) != 1 or written & {product.left.name, product.right.name}:
        return None
    place = places.pop()
    if not (set(target.where) == set(own) and set(place.where) == set(nest)
            and len(nest) == len(own) == len(target.where)):
        return None
    if any(a.size != b.size for a, b in zip(place.where, target.where, strict=True)):
        return None
    return _forwarded(product, substituted(
        tuple(body), dict(zip(place.where, target.where, strict=True))))


def _forwarded(product: Product, body: tuple[Statement, ...]) -> tuple[Statement, ...] | None:
    """The statements, with scalars for what is stored before it is read."""
    target = product.places[0]
    known: dict[Expr, Expr] = {target: VALUE}
    out: list[Statement] = []
    last = max((n for n, node in enumerate(body)
                if isinstance(node, Store) and node.target == target), default=-1)
    if product.beta:
        out.append(Let(VALUE, VALUE + target))
    if last < 0:
        out.append(Store(target, VALUE))
    for number, node in enumerate(body):
        if isinstance(node, If) and _writes(node, known):
            return None
        if not isinstance(node, Store) or isinstance(node.target, IntegerAccess):
            out.append(substituted(node, known))
            continue
        value = node.value.xreplace(known)
        before = known.get(node.target)
        if node.op in ("+=", "*=") and before is not None:
            value = before + value if node.op == "+=" else before * value
        elif node.op != "=":
            out.append(Store(node.target, value, node.op))
            continue
        scalar = VALUE if node.target == target else Symbol(f"_w{number}", extended_real=True)
        out.append(Let(scalar, value))
        known[node.target] = scalar
        if node.target != target or number == last:
            out.append(Store(node.target, scalar))
    return tuple(out)


def _writes(node: If, known: Mapping[Expr, Expr]) -> bool:
    return any(isinstance(n, Store) and n.target in known for n in statements((node,)))
